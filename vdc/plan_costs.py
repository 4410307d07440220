"""What an act costs, before it is done: what is charged of the things it is about, now and afterwards.

Each function is asked within the transaction of a plan (a claim that is rolled back), and gives one Cost for
each thing. What is charged now, usage events say; what afterwards, is said here. A tariff knows no hosts and
no datastores: a machine that moves costs what it cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.claims.attach import Plug, without
from vdc.claims.hold import Released
from vdc.claims.persistent_disks import image_of
from vdc.claims.power import BECOMES
from vdc.claims.resize import NOW, Resize, resized
from vdc.claims.saving import SavingClaim
from vdc.claims.snapshot import DELETE, MAKE, SnapshotClaim
from vdc.claims.snapshot_sweep import Due
from vdc.errors import Invalid
from vdc.model import CdromSpec, DiskSpec, Size, VmSpec
from vdc.pricing import Cost, Level, cost_of, per_month
from vdc.schema import Disk, Image, Snapshot, Template, Tenant, Vm, Vnet, Volume
from vdc.states import Desired, VmState
from vdc.tariff import NOTHING, Tariff
from vdc.tariffs import in_force
from vdc.usage_events import site_addresses
from vdc.usage_levels import image_levels, vm_levels, volume_levels

CHARGED_AS = {
    Desired.RUNNING: "running",
    Desired.PAUSED: "running",
    Desired.STOPPED: "stopped",
    Desired.SUSPENDED: "suspended",
}
"""What a machine is to be -> in which of vdc.tariff.STATES it pays."""

UNCHANGED = "A tariff knows no hosts and no datastores."
IMAGE_SIZE = "By the size that the image has when it is stored; at most this."
KEPT_IMAGE = "Its disk, a persistent image, stays, and is charged as an image of the size that it has then."
MEMORY_SIZE = "By what the memory takes when it is written; at most this."


@dataclass(frozen=True, slots=True)
class Prices:
    """The tariffs in force, of each tenant its own; `otherwise` are the list prices."""

    session: Session
    otherwise: Tariff
    _known: dict[str, Tariff | Invalid] = field(default_factory=dict)

    def cost(
        self,
        tenant_id: str,
        before: Iterable[Level | None],
        after: Iterable[Level | None],
        *,
        at_most: bool = False,
        note: str = "",
    ) -> Cost:
        """For one tenant; None is what is not there. Where no tariff covers the tenant, that is the note."""
        tariff = self._tariff(tenant_id)
        if isinstance(tariff, Invalid):
            return Cost(None, None, self.otherwise.currency, note=str(tariff))
        sides = ([level for level in side if level] for side in (before, after))
        return cost_of(tariff, *sides, at_most=at_most, note=note)

    def free(self, note: str) -> Cost:
        return Cost(NOTHING, NOTHING, self.otherwise.currency, note=note)

    def _tariff(self, tenant_id: str) -> Tariff | Invalid:
        if tenant_id not in self._known:
            tenant = self.session.get_one(Tenant, tenant_id)
            try:
                self._known[tenant_id] = in_force(self.session, tenant, self.otherwise)
            except Invalid as error:
                self._known[tenant_id] = error
        return self._known[tenant_id]


def _tenants(session: Session, ids: Sequence[str]) -> dict[str, str]:
    return dict(session.execute(select(Vm.id, Vm.tenant_id).where(Vm.id.in_(ids))).all())


def _sized(level: Level | None, spec: VmSpec, state: str) -> Level | None:
    """Of a machine that is charged: with the size of `spec`."""
    if level is None:
        return None
    disk_mib = sum(d.size_mib for d in spec.disks)
    return replace(level, state=state, vcpu=spec.vcpu, memory_mib=spec.memory_mib, disk_mib=disk_mib)


def power_costs(prices: Prices, verb: str, machines: Sequence[VmSpec]) -> list[Cost]:
    """Of machines that are switched; `machines` with the sizes that they have afterwards."""
    ids, state = [spec.vm_id for spec in machines], CHARGED_AS[BECOMES[verb]]
    now, whose = vm_levels(prices.session, ids), _tenants(prices.session, ids)
    return [
        prices.cost(whose[s.vm_id], [now.get(s.vm_id)], [_sized(now.get(s.vm_id), s, state)])
        for s in machines
    ]


def moving_costs(prices: Prices, machines: Sequence[VmSpec]) -> list[Cost]:
    """Of machines that go to other hosts."""
    ids = [spec.vm_id for spec in machines]
    now, whose = vm_levels(prices.session, ids), _tenants(prices.session, ids)
    sides = ([now.get(vm_id)] for vm_id in ids)
    return [prices.cost(whose[i], side, side, note=UNCHANGED) for i, side in zip(ids, sides, strict=True)]


def ending_costs(prices: Prices, ids: Sequence[str]) -> list[Cost]:
    """Of machines that are removed, with their disks, snapshots and addresses."""
    now, whose = vm_levels(prices.session, ids), _tenants(prices.session, ids)
    return [_ending(prices, whose[vm_id], vm_id, now.get(vm_id)) for vm_id in ids]


def _ending(prices: Prices, tenant_id: str, vm_id: str, level: Level | None) -> Cost:
    image = image_of(prices.session, vm_id)
    if image is None or level is None:
        return prices.cost(tenant_id, [level], [])
    stored = _image(tenant_id, image.virtual_size_mib)
    return prices.cost(tenant_id, [level], [stored], at_most=True, note=KEPT_IMAGE)


def marking_costs(prices: Prices, ids: Sequence[str], was: Mapping[str, Level]) -> list[Cost]:
    """Of machines whose events are written already in the plan's transaction; `was` was read before."""
    now, whose = vm_levels(prices.session, ids), _tenants(prices.session, ids)
    return [prices.cost(whose[vm_id], [was.get(vm_id)], [now.get(vm_id)]) for vm_id in ids]


def giving_costs(prices: Prices, giver_id: str, vm: Vm, was: Level | None) -> list[Cost]:
    """Two: of who had the machine, and of who has it (in the plan's transaction) now."""
    now = vm_levels(prices.session, [vm.id]).get(vm.id)
    return [prices.cost(giver_id, [was], []), prices.cost(vm.tenant_id, [], [now])]


def release_costs(prices: Prices, released: Released) -> list[Cost]:
    """Of the machines that are made by a release; nothing was charged for their place."""
    made = [m.spec for m in released.batch.machines]
    whose = _tenants(prices.session, [spec.vm_id for spec in made])
    return [prices.cost(whose[s.vm_id], [], [_new(prices.session, s)]) for s in made]


def _new(session: Session, spec: VmSpec) -> Level:
    """What a machine is charged by when it was made of its spec."""
    query = (
        select(Image.name, site_addresses(Vm.id).scalar_subquery())
        .select_from(Vm)
        .outerjoin(Template, Template.id == Vm.template_id)
        .outerjoin(Image, Image.id == Template.image_id)
        .where(Vm.id == spec.vm_id)
    )
    image, addresses = session.execute(query).one()
    state = "stopped" if spec.start == "stopped" else "running"
    disk_mib = sum(d.size_mib for d in spec.disks)
    return Level("local", state, spec.vcpu, spec.memory_mib, disk_mib, 0, addresses, image or "")


def resize_cost(prices: Prices, asked: Resize, changes: Sequence[Mapping[str, Any]]) -> Cost:
    """Of what the machine has at once; the note says what comes with its next start.

    `changes` as vdc.claims.resize.foresee has them.
    """
    vm_id = asked.spec.vm_id
    now, tenant_id = vm_levels(prices.session, [vm_id]).get(vm_id), _tenants(prices.session, [vm_id])[vm_id]
    has = {what: getattr(asked.wanted, what) for what in ("vcpu", "memory_mib", "disk_mib")}
    has |= {row["what"]: row["from"] for row in changes if row["when"] != NOW}
    state = now.state if now else "stopped"
    at_once, then = (_sized(now, resized(asked.spec, size), state) for size in (Size(**has), asked.wanted))
    note = ""
    if at_once != then:
        started = replace(then, state="running") if then else None
        later = prices.cost(tenant_id, [], [started]).after
        if later is not None:
            note = f"From its next start on: {later:.4f} an hour, {per_month(later)} a month."
    return prices.cost(tenant_id, [now], [at_once], note=note)


def plug_cost(prices: Prices, asked: Plug) -> Cost:
    """Of a machine that gets a device or loses one, and of the disk that is kept without a machine."""
    session, vm_id, device = prices.session, asked.spec.vm_id, asked.device
    now, tenant_id = vm_levels(session, [vm_id]).get(vm_id), _tenants(session, [vm_id])[vm_id]
    then = now
    kept_now: Level | None = None
    kept_then: Level | None = None
    if isinstance(device, DiskSpec):
        spec = asked.spec if asked.attaches else without(asked.spec, device)
        then = _sized(now, spec, now.state) if now else None
        volume_id = session.get_one(Disk, asked.device_id).volume_id
        assert volume_id is not None, "only those are plugged"
        kept_now = volume_levels(session, [volume_id]).get(volume_id)
        if not asked.attaches and asked.keep:
            kept_then = Level(state="stopped", disk_mib=device.size_mib)
    elif not isinstance(device, CdromSpec) and now is not None:
        vnet = session.scalars(select(Vnet).where(Vnet.name == device.vnet.name)).one()
        if vnet.tenant_id is None:
            then = replace(now, addresses=now.addresses + (1 if asked.attaches else -1))
    return prices.cost(tenant_id, [now, kept_now], [then, kept_then])


def snapshot_cost(prices: Prices, asked: SnapshotClaim) -> Cost:
    """Of a machine of which a snapshot is made, gone back to, or removed."""
    session, vm_id = prices.session, asked.spec.vm_id
    now, tenant_id = vm_levels(session, [vm_id]).get(vm_id), _tenants(session, [vm_id])[vm_id]
    if now is None:
        return prices.cost(tenant_id, [], [])
    if asked.act == MAKE:
        with_memory = asked.snapshot.kind == "memory"
        more_mib = asked.spec.memory_mib if with_memory else 0
        then = replace(now, snapshot_mib=now.snapshot_mib + more_mib)
        return prices.cost(
            tenant_id, [now], [then], at_most=with_memory, note=MEMORY_SIZE if with_memory else ""
        )
    if asked.act == DELETE:
        size_mib = session.get_one(Snapshot, asked.snapshot.snapshot_id).size_mib or 0
        return prices.cost(tenant_id, [now], [replace(now, snapshot_mib=now.snapshot_mib - size_mib)])
    state = "stopped" if asked.becomes is VmState.STOPPED else "running"
    return prices.cost(tenant_id, [now], [replace(now, state=state)])


def due_costs(prices: Prices, due: Sequence[Due]) -> list[Cost]:
    """Of snapshots that are swept: what each takes alone."""
    ids = list({one.vm_id for one in due})
    now, whose = vm_levels(prices.session, ids), _tenants(prices.session, ids)
    costs = []
    for one in due:
        level = now.get(one.vm_id)
        alone = level and Level(state=level.state, snapshot_mib=one.size_mib or 0, instances=0)
        costs.append(prices.cost(whose[one.vm_id], [alone], []))
    return costs


def _image(tenant_id: str | None, size_mib: int) -> Level | None:
    """The site's own images are not charged."""
    return Level("image", disk_mib=size_mib) if tenant_id else None


def image_cost(prices: Prices, tenant_id: str | None, size_mib: int, *, exact: bool = False) -> Cost:
    """Of a new image that takes `size_mib` when it is stored, or at most that."""
    if tenant_id is None:
        return prices.free("An image of the site is not charged.")
    at_most = not exact
    return prices.cost(
        tenant_id, [], [_image(tenant_id, size_mib)], at_most=at_most, note=IMAGE_SIZE if at_most else ""
    )


def saving_cost(prices: Prices, asked: SavingClaim) -> Cost:
    """Of an image that is made of a disk or of another image. The machine costs what it cost."""
    made = prices.session.get_one(Image, asked.made.image.image_id)
    return image_cost(prices, made.tenant_id, made.size_mib or made.virtual_size_mib)


def image_end_cost(prices: Prices, image: Image) -> Cost:
    if image.tenant_id is None:
        return image_cost(prices, None, 0)
    return prices.cost(image.tenant_id, [image_levels(prices.session, [image.id]).get(image.id)], [])


def unchanged_image_cost(prices: Prices, image: Image) -> Cost:
    """Of an image that is called otherwise: what is charged of it stays."""
    level = image_levels(prices.session, [image.id]).get(image.id)
    return prices.cost(image.tenant_id, [level], [level]) if image.tenant_id else image_cost(prices, None, 0)


def volume_end_cost(prices: Prices, volume: Volume) -> Cost:
    return prices.cost(volume.tenant_id, [volume_levels(prices.session, [volume.id]).get(volume.id)], [])


def tenant_end_cost(prices: Prices, tenant_id: str) -> Cost:
    """Of all that a tenant has."""
    session = prices.session
    of = [
        read(session, session.scalars(select(table.id).where(table.tenant_id == tenant_id)).all())
        for read, table in ((vm_levels, Vm), (volume_levels, Volume), (image_levels, Image))
    ]
    return prices.cost(tenant_id, [level for levels in of for level in levels.values()], [])

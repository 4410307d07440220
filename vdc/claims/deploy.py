"""The claim of a deployment: names, quota, hosts, addresses, rows and operations, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from vdc import model, operations, specs
from vdc.access import asking, shared_with, usable_by
from vdc.addresses import free_addresses, mac_of
from vdc.claims.batch import Batch, adopt_batch, open_batch
from vdc.claims.burst import PROVIDER, Burst, choose
from vdc.claims.context import told
from vdc.claims.hold import instant
from vdc.claims.persistent_disks import check_deployable
from vdc.errors import Conflict, Forbidden, Invalid, InvalidState, NoCapacity, Unsupported
from vdc.model import (
    Abilities,
    ContextSpec,
    DiskSpec,
    HostRef,
    ImageSpec,
    NicSpec,
    Rule,
    VmSpec,
    VnetSpec,
)
from vdc.names import check_name, find
from vdc.operations import owner
from vdc.placement import Shape, parse_rank, place
from vdc.pricing import Cost, Level, ListPrices, cost_per_hour, per_month
from vdc.rendering import Renderer
from vdc.requests import DeployRequest
from vdc.schema import (
    Datastore,
    Disk,
    Host,
    Image,
    Nic,
    Operation,
    PlacementGroup,
    SecurityGroup,
    SecurityGroupMember,
    Site,
    Template,
    Tenant,
    Vm,
    Vnet,
    new_id,
    utc_now,
)
from vdc.security_groups import check_filtering, find_group, merged, rules_by_machine, rules_in
from vdc.states import Desired, VmState
from vdc.storage import check_shared_room
from vdc.tariff import NOTHING, Tariff
from vdc.tariffs import in_force
from vdc.usage import Use, check_quota, check_vm_limits, group_of, host_loads

MAX_COUNT = 10_000
MIN_MEMORY_MIB = 16


@dataclass(frozen=True, slots=True)
class DeployPlan:
    """What a deployment would take.

    `placement` has a line a host, `quota_left` a phrase a limit; `cost` is of all machines together.
    """

    placement: tuple[str, ...]
    burst: tuple[str, ...]
    """What goes to a cloud, to which type, at what price, and why; empty: nothing."""
    quota_left: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True, slots=True)
class DeployClaim:
    """A deployment that may begin; without a plan where a repeated run adopted its operation."""

    batch: Batch
    """What is to be made now: of machines on hold, none."""
    plan: DeployPlan | None
    claimed: tuple[VmSpec, ...] = ()
    """All machines of the claim."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Of a machine that is to be a router: the network that it serves, and the addresses of its cards that
    are given, by id of their network."""

    vnet_id: str
    addresses: Mapping[str, IPv4Address]


@dataclass(frozen=True, slots=True)
class _Resolved:
    template: Template
    image: Image
    datastore: Datastore
    tenant: Tenant
    vnets: list[Vnet]
    group: PlacementGroup | None
    vcpu: int
    memory_mib: int
    disk_mib: int


def _resolve(session: Session, request: DeployRequest) -> _Resolved:
    if not 1 <= request.count <= MAX_COUNT:
        raise Invalid(f"Count {request.count} is refused: ask for 1 to {MAX_COUNT} machines.")
    if request.name:
        check_name("Machine", request.name)
    template = find(session, Template, "template", request.template)
    image = session.get_one(Image, template.image_id)
    tenant = find(session, Tenant, "tenant", request.tenant)
    if tenant.state != "active":
        raise InvalidState(f"Tenant {tenant.name} is {tenant.state}: it gets no new machines.")
    if request.vnets is None:
        vnets = [session.get_one(Vnet, vnet_id) for vnet_id in template.vnet_ids]
    else:
        vnets = [find(session, Vnet, "virtual network", name) for name in request.vnets]
    _check_owners(session, tenant, template, vnets)
    check_usable(session, image, tenant)
    check_deployable(session, request, image, tenant)
    if (request.hold or request.at) and request.burst != "never":
        raise Invalid("A machine on hold has its place on a host of ours: it cannot burst.")
    vcpu = template.vcpu if request.vcpu is None else request.vcpu
    memory_mib = template.memory_mib if request.memory_mib is None else request.memory_mib
    disk_mib = template.disk_mib if request.disk_mib is None else request.disk_mib
    if image.persistent:
        disk_mib = image.virtual_size_mib
    check_sizes(vcpu, memory_mib, disk_mib, image)
    return _Resolved(
        template=template,
        image=image,
        datastore=session.get_one(Datastore, image.datastore_id),
        tenant=tenant,
        vnets=vnets,
        group=find(session, PlacementGroup, "placement group", request.group) if request.group else None,
        vcpu=vcpu,
        memory_mib=memory_mib,
        disk_mib=disk_mib,
    )


def _check_owners(session: Session, tenant: Tenant, template: Template, vnets: list[Vnet]) -> None:
    owned: list[tuple[str, Template | Vnet]] = [("Template", template)]
    owned += [("Network", vnet) for vnet in vnets]
    for what, row in owned:
        if not usable_by(session, row, tenant.id):
            raise Forbidden(f"{what} {row.name} belongs to another tenant than {tenant.name}.")


def check_usable(session: Session, image: Image, tenant: Tenant | None = None) -> None:
    """Raise InvalidState where an image is not ready, Forbidden where `tenant` may not use it."""
    if image.state != "ready":
        raise InvalidState(f"Image {image.name} is {image.state}, not ready.")
    if tenant is None or image.published or image.tenant_id == tenant.id:
        return
    if not shared_with(session, image.id, tenant.id):
        raise Forbidden(
            f"Image {image.name} belongs to another tenant than {tenant.name}, and is not published."
        )


def _check_scale_test(session: Session, request: DeployRequest) -> None:
    """Only the process that runs the test may add machines: nobody removes those that come after its end."""
    if request.scale_test:
        test = session.get(Operation, request.scale_test)
        if test is None or test.kind != "scale-test" or test.finished_at or test.owner != owner():
            raise Invalid(f"Scale test {request.scale_test!r} does not run here: leave that field empty.")


def check_sizes(vcpu: int, memory_mib: int, disk_mib: int, image: Image) -> None:
    """Raise Invalid where no machine can have these sizes."""
    if vcpu < 1:
        raise Invalid(f"{vcpu} vCPU is refused: a machine needs at least 1.")
    if memory_mib < MIN_MEMORY_MIB:
        raise Invalid(f"{memory_mib} MiB of memory is refused: a machine needs at least {MIN_MEMORY_MIB}.")
    if disk_mib < image.virtual_size_mib:
        raise Invalid(
            f"A disk of {disk_mib} MiB is refused: image {image.name} has {image.virtual_size_mib} MiB."
        )


def _groups(
    session: Session, request: DeployRequest, what: _Resolved, abilities: Abilities
) -> list[SecurityGroup]:
    """The security groups that the machines are to be in. Raises NotFound, Unsupported."""
    groups = [find_group(session, name, what.tenant.name) for name in dict.fromkeys(request.security_groups)]
    if groups and request.burst != "never":
        raise Unsupported("Machines with security groups cannot burst: in a cloud its provider filters.")
    if groups:
        check_filtering(what.vnets, abilities, "The machine")
    return groups


def _names(session: Session, request: DeployRequest, tenant: Tenant, vm_ids: Sequence[str]) -> list[str]:
    if not request.name:
        names = [check_name("Machine", f"{request.template[:54]}-{vm_id[:8]}") for vm_id in vm_ids]
    elif request.count == 1:
        names = [request.name]
    else:
        names = [check_name("Machine", f"{request.name}-{n}") for n in range(1, request.count + 1)]
    keys = {f"{tenant.id}/{name}": name for name in names}
    taken = session.scalars(
        select(Vm.live_name).where(Vm.live_name.in_(list(keys))).order_by(Vm.live_name)
    ).first()
    if taken is not None:
        raise Conflict(f"Machine name {keys[taken]!r} is taken in tenant {tenant.name}: choose another.")
    return names


def _place(
    session: Session, request: DeployRequest, what: _Resolved, clouds: Mapping[str, str]
) -> tuple[list[str], tuple[str, ...], Burst | None]:
    """Hosts of the first machines, what the plan says of them, and the cloud of the others."""
    networks = frozenset(v.uri for v in what.vnets)
    shape = Shape(what.vcpu, what.memory_mib, what.datastore.id, networks, what.disk_mib)
    hosts = host_loads(session)
    if not hosts and request.burst == "never":
        raise NoCapacity("There is no host yet: enroll one with `vdc host enroll`.")
    group = group_of(session, what.group) if what.group else None
    check_shared_room(session, what.datastore, request.count, what.disk_mib)
    placement = place(request.count, shape, hosts, parse_rank(request.policy), group)
    host_ids = [host_id for host_id in placement.host_ids if host_id is not None]
    if len(host_ids) < request.count:
        some = f"only {len(host_ids)} of {request.count} machines fit" if host_ids else "no host can take it"
        full = f"Not placed: {some}. {'; '.join(placement.said)}."
        if request.burst == "never":
            raise NoCapacity(full)
        try:
            burst = choose(
                session,
                request,
                what.tenant,
                what.image,
                vcpu=what.vcpu,
                memory_mib=what.memory_mib,
                count=request.count - len(host_ids),
                answers=clouds,
            )
        except NoCapacity as error:
            raise NoCapacity(f"{full} {error}") from error
        return host_ids, placement.said, burst
    return host_ids, placement.said, None


def lease(session: Session, vnet: Vnet, count: int) -> list[IPv4Address]:
    """Addresses of the network that nobody has. Raises NoCapacity where there are fewer."""
    taken = set(session.scalars(select(Nic.address).where(Nic.vnet_id == vnet.id)))
    if vnet.gateway:
        taken.add(vnet.gateway)
    free = free_addresses(IPv4Address(vnet.first_address), IPv4Address(vnet.last_address), taken, count)
    if len(free) < count:
        raise NoCapacity(
            f"Network {vnet.name} ({vnet.cidr}) is exhausted: "
            f"{len(free)} of the {count} addresses asked are free."
        )
    return free


def _disk(what: _Resolved, vm_id: str) -> DiskSpec:
    image = what.image
    if image.persistent:
        uri, size_mib = what.datastore.uri, image.virtual_size_mib
        return DiskSpec(0, uri, image.file, image.format, size_mib, persistent=True)
    return DiskSpec(
        index=0,
        datastore_uri=what.datastore.uri,
        file=model.disk_file(vm_id, 0, what.datastore.disk_format),
        format=what.datastore.disk_format,
        size_mib=what.disk_mib,
        image=ImageSpec(image.id, image.file, image.format, image.virtual_size_mib, image.sha256),
    )


def host_ref(host: Host) -> HostRef:
    return HostRef(host.name, host.uri, host.domain_type, host.arch, host.migration_address)


def vnet_spec(vnet: Vnet) -> VnetSpec:
    return VnetSpec(vnet.id, vnet.name, vnet.uri, vnet.vlan_id, vnet.cidr, vnet.gateway, tuple(vnet.dns))


def _cloud_spec(what: _Resolved, burst: Burst, site: str, vm_id: str, name: str) -> VmSpec:
    return VmSpec(
        vm_id=vm_id,
        name=name,
        tenant=what.tenant.name,
        site=site,
        host=burst.host,
        vcpu=what.vcpu,
        memory_mib=what.memory_mib,
        disks=(),
        nics=(),
        context=ContextSpec(name),
        seed_datastore_uri="",
        seed_file="",
        cloud=burst.place,
    )


def _specs(
    session: Session,
    request: DeployRequest,
    what: _Resolved,
    vm_ids: list[str],
    host_ids: list[str],
    burst: Burst | None,
    rules: tuple[Rule, ...] | None,
    gateway: Gateway | None,
) -> list[VmSpec]:
    """Of the machines on hosts first: as many as there are `host_ids`. What they are told is not in yet."""
    site = session.scalars(select(Site.id)).one()
    hosts = {h.id: host_ref(h) for h in session.scalars(select(Host).where(Host.id.in_(set(host_ids))))}
    names = _names(session, request, what.tenant, vm_ids)
    here = list(zip(vm_ids, names, strict=True))[: len(host_ids)]
    given = gateway.addresses if gateway else {}
    leases = [
        (vnet_spec(vnet), [given[vnet.id]] if vnet.id in given else lease(session, vnet, len(here)))
        for vnet in what.vnets
    ]
    elsewhere = [
        _cloud_spec(what, burst, site, vm_id, name)
        for vm_id, name in list(zip(vm_ids, names, strict=True))[len(host_ids) :]
        if burst is not None
    ]
    return [
        VmSpec(
            vm_id=vm_id,
            name=name,
            tenant=what.tenant.name,
            site=site,
            host=hosts[host_ids[n]],
            vcpu=what.vcpu,
            memory_mib=what.memory_mib,
            disks=(_disk(what, vm_id),),
            nics=tuple(
                NicSpec(
                    i,
                    vnet,
                    model.nic_device(vm_id, i),
                    mac_of(addresses[n], i),
                    str(addresses[n]),
                    rules,
                    routes=gateway is not None and vnet.vnet_id == gateway.vnet_id,
                )
                for i, (vnet, addresses) in enumerate(leases)
            ),
            context=ContextSpec(name),
            seed_datastore_uri=what.datastore.uri,
            seed_file=model.seed_file(vm_id),
            start=request.start,
        )
        for n, (vm_id, name) in enumerate(here)
    ] + elsewhere


def _cloud_columns(burst: Burst | None) -> dict[str, object]:
    if burst is None:
        return {"cloud_id": None, "instance_type": None, "zone": None, "hourly_price": None}
    first = burst.first
    return {
        "cloud_id": burst.cloud_id,
        "instance_type": first.instance_type,
        "zone": first.zone,
        "hourly_price": first.price_per_hour,
    }


def _insert(
    session: Session,
    what: _Resolved,
    made: list[VmSpec],
    host_ids: list[str],
    burst: Burst | None,
    request: DeployRequest,
) -> None:
    now = utc_now()
    state = VmState.HELD if request.hold or request.at else VmState.DEPLOYING
    hold_until = instant(request.at) if request.at else None
    places = [*host_ids, *[None] * (len(made) - len(host_ids))]
    session.execute(
        insert(Vm),
        [
            {
                "id": spec.vm_id,
                "name": spec.name,
                "live_name": f"{what.tenant.id}/{spec.name}",
                "tenant_id": what.tenant.id,
                "owner_id": asking(session).user_id or None,
                "template_id": what.template.id,
                "host_id": host_id,
                "group_id": what.group.id if what.group else None,
                "desired": Desired(spec.start),
                "state": state,
                "hold_until": hold_until,
                "vcpu": spec.vcpu,
                "memory_mib": spec.memory_mib,
                "spec": specs.dump(spec),
                "created_at": now,
                **_cloud_columns(burst if spec.cloud else None),
            }
            for spec, host_id in zip(made, places, strict=True)
        ],
    )
    session.execute(
        insert(Disk),
        [
            {
                "vm_id": spec.vm_id,
                "index": 0,
                # In a cloud the disk is the provider's: it counts in the quota alone.
                "datastore_id": None if spec.cloud else what.datastore.id,
                "image_id": None if spec.cloud else what.image.id,
                "file": "" if spec.cloud else spec.disks[0].file,
                "format": "" if spec.cloud else spec.disks[0].format,
                "size_mib": what.disk_mib,
            }
            for spec in made
        ],
    )
    nics = [
        {
            "vm_id": spec.vm_id,
            "vnet_id": nic.vnet.vnet_id,
            "index": nic.index,
            "address": nic.address,
            "mac": nic.mac,
            "device": nic.device,
        }
        for spec in made
        for nic in spec.nics
    ]
    if nics:
        session.execute(insert(Nic), nics)


def _with_peers(session: Session, made: Sequence[VmSpec]) -> list[VmSpec]:
    """The machines with rules that name groups too: they may be in these themselves, with their addresses."""
    session.flush()
    rules = rules_by_machine(session, [spec.vm_id for spec in made])
    ruled = [
        replace(spec, nics=tuple(replace(nic, rules=rules[spec.vm_id]) for nic in spec.nics)) for spec in made
    ]
    for spec in ruled:
        session.execute(update(Vm).where(Vm.id == spec.vm_id).values(spec=specs.dump(spec)))
    return ruled


def _check_quota(session: Session, request: DeployRequest, what: _Resolved) -> list[str]:
    n, owner_id = request.count, asking(session).user_id
    one = Use(1, what.vcpu, what.memory_mib, what.disk_mib)
    check_vm_limits(session, what.tenant, one, owner_id)
    runs = request.start != "stopped" and not (request.hold or request.at)
    adding = Use(
        vms=n,
        vcpu=one.vcpu * n,
        memory_mib=one.memory_mib * n,
        disk_mib=one.disk_mib * n,
        running_vcpu=one.vcpu * n * runs,
        addresses=sum(vnet.tenant_id is None for vnet in what.vnets) * n,
    )
    return check_quota(session, what.tenant, adding, owner_id)


def claim_deploy(
    session: Session,
    request: DeployRequest,
    *,
    actor: str,
    prices: ListPrices,
    clouds: Mapping[str, str] | None = None,
    abilities: Abilities | None = None,
    context: Mapping[str, Any] | None = None,
    renderer: Renderer | None = None,
    flow_run_id: str | None = None,
    gateway: Gateway | None = None,
) -> DeployClaim:
    """Reserve all that the request needs and open its operations.

    `clouds` has those that were asked before: empty where one answered, else what is wrong with it.
    `abilities` are needed for machines with security groups. `context` is the machines' own level of it;
    `renderer`: one that has begun already, so that nobody waits for it in here.
    Raises Refused where it cannot be; the session must then be rolled back.
    """
    if adopted := adopt_batch(session, "deploy", flow_run_id):
        return DeployClaim(adopted, None)
    _check_scale_test(session, request)
    what = _resolve(session, request)
    groups = _groups(session, request, what, abilities or Abilities())
    vm_ids = [new_id() for _ in range(request.count)]
    n = request.count
    quota_left = _check_quota(session, request, what)
    host_ids, said, burst = _place(session, request, what, clouds or {})
    rules = merged([r for group in groups for r in rules_in(group) if not r.peer]) if groups else None
    made = _specs(session, request, what, vm_ids, host_ids, burst, rules, gateway)
    if gateway is None:  # what the tenant's machines are told at their start is not for a router
        made = told(session, what.template, what.tenant, made, context or {}, renderer or Renderer())
    _insert(session, what, made, host_ids, burst, request)
    session.add_all(
        SecurityGroupMember(vm_id=spec.vm_id, group_id=group.id) for spec in made for group in groups
    )
    if any(rule.peer for group in groups for rule in rules_in(group)):
        made = _with_peers(session, made)
    batch = open_batch(
        session,
        "deploy",
        f"{what.tenant.name}/{what.template.name} x{n}",
        request.model_dump(mode="json"),
        made,
        actor=actor,
        flow_run_id=flow_run_id,
    )
    if request.hold or request.at:
        for machine in batch.machines:
            operations.close(session, machine.claim)
        batch = Batch(batch.claim, ())
    here = len(host_ids)
    cost = _cost(in_force(session, what.tenant, prices), request, what, here, burst)
    plan = DeployPlan(said, burst.said if burst else (), tuple(quota_left), cost)
    return DeployClaim(batch, plan, tuple(made))


def _cost(tariff: Tariff, request: DeployRequest, what: _Resolved, here: int, burst: Burst | None) -> Cost:
    """Of all machines of a request, `here` of them on hosts of ours; on hold they pay when they are made."""
    one = Level(
        state="stopped" if request.start == "stopped" else "running",
        vcpu=what.vcpu,
        memory_mib=what.memory_mib,
        disk_mib=what.disk_mib,
        addresses=sum(vnet.tenant_id is None for vnet in what.vnets),
        image=what.image.name,
    )
    hourly = cost_per_hour(tariff, one) * here
    # While a machine has it, a persistent image is charged as that one's disk.
    stored = Level("image", disk_mib=what.image.size_mib) if what.image.persistent else None
    before = cost_per_hour(tariff, stored) if stored else NOTHING
    if burst is not None:
        instance = Level(PROVIDER, hourly_price=burst.first.price_per_hour)
        hourly += cost_per_hour(tariff, instance) * (request.count - here)
    if not (request.hold or request.at):
        return Cost(before, hourly, tariff.currency)
    note = f"From the release on: {hourly:.4f} {tariff.currency} an hour, {per_month(hourly)} a month."
    return Cost(before, before, tariff.currency, note=note)

"""Machines as the reading commands show them, with the stable keys of docs/cli.md.

Plain SQL (vdc/reading.py): a list of thousands of machines must answer at once.
"""

from __future__ import annotations

from typing import Any

from vdc.access import condition
from vdc.identity import acting
from vdc.model import ROOT, domain_name
from vdc.reading import instant, reader
from vdc.settings import load
from vdc.states import HOLDING, VmState

Rows = list[dict[str, Any]]

_WHICH = """
WHERE (:tenant = '' OR tenants.name = :tenant)
  AND (:vm_id = '' OR vms.id = :vm_id)
  AND (:batch = '' OR vms.id IN (SELECT object_id FROM operations WHERE parent_id = :batch))
  AND (:ended = 1 OR vms.state NOT IN (:failed, :gone))
  AND {visible}
"""

_VMS = f"""
SELECT vms.id, vms.name, tenants.name, vms.state, vms.desired,
       coalesce(hosts.name, clouds.name || '/' || vms.zone), vms.vcpu, vms.memory_mib,
       templates.name, vms.created_at, vms.observed, vms.observed_at, vms.ended_at,
       clouds.name, vms.instance_id, vms.instance_type, vms.zone, vms.hourly_price, vms.cloud_address,
       vms.protected, vms.hold_until, vms.next_vcpu, vms.next_memory_mib
FROM vms JOIN tenants ON tenants.id = vms.tenant_id LEFT JOIN hosts ON hosts.id = vms.host_id
LEFT JOIN clouds ON clouds.id = vms.cloud_id LEFT JOIN templates ON templates.id = vms.template_id
{_WHICH}
ORDER BY vms.name, vms.created_at
"""  # noqa: S608 (fixed text)

_NICS = f"""
SELECT nics.vm_id, vnets.name, nics.address, nics.mac
FROM nics JOIN vnets ON vnets.id = nics.vnet_id JOIN vms ON vms.id = nics.vm_id
JOIN tenants ON tenants.id = vms.tenant_id
{_WHICH}
ORDER BY nics.vm_id, nics."index"
"""  # noqa: S608

_DISKS = f"""
SELECT disks.vm_id, volumes.name, datastores.name, disks.file, disks.format, disks.size_mib
FROM disks LEFT JOIN volumes ON volumes.id = disks.volume_id
JOIN datastores ON datastores.id = disks.datastore_id JOIN vms ON vms.id = disks.vm_id
JOIN tenants ON tenants.id = vms.tenant_id
{_WHICH}
ORDER BY disks.vm_id, disks."index"
"""  # noqa: S608


_CDROMS = f"""
SELECT cdroms.vm_id, images.name
FROM cdroms JOIN images ON images.id = cdroms.image_id JOIN vms ON vms.id = cdroms.vm_id
JOIN tenants ON tenants.id = vms.tenant_id
{_WHICH}
ORDER BY cdroms.vm_id, cdroms."index"
"""  # noqa: S608


def machines(*, tenant: str = "", ended: bool = False, vm_id: str = "", batch: str = "") -> Rows:
    """Machines by name; with `ended` also those that failed or are gone.

    `vm_id` and `batch` (an operation) narrow them down. Raises Unready where there is no inventory.
    """
    given: dict[str, object] = {
        "tenant": tenant,
        "vm_id": vm_id,
        "batch": batch,
        "ended": int(ended),
        "failed": VmState.FAILED.value,
        "gone": VmState.GONE.value,
    }
    settings = load()
    sql, asking = condition(acting(settings), "vm")
    with reader(settings.inventory_url) as select:
        vms, nics, disks, cdroms = (
            select(query.replace("{visible}", sql), given | asking)
            for query in (_VMS, _NICS, _DISKS, _CDROMS)
        )
    addresses: dict[str, Rows] = {}
    for of, vnet, address, mac in nics:
        addresses.setdefault(of, []).append({"vnet": vnet, "address": address, "mac": mac})
    files: dict[str, Rows] = {}
    for of, name, datastore, file, kind, size in disks:
        told = {"datastore": datastore, "file": file, "format": kind, "size_mib": size}
        files.setdefault(of, []).append({"name": name or ROOT} | told)
    isos: dict[str, list[str]] = {}
    for of, image in cdroms:
        isos.setdefault(of, []).append(image)
    return [
        _row(vm, addresses.get(vm[0], []), files.get(vm[0], [])) | {"isos": isos.get(vm[0], [])} for vm in vms
    ]


def _row(vm: tuple[Any, ...], addresses: Rows, disks: Rows) -> dict[str, Any]:
    id_, name, tenant, state, desired, host, vcpu, memory, template, created, seen, seen_at, end = vm[:13]
    cloud, instance, kind, zone, price, address, protected, hold_until, next_vcpu, next_memory = vm[13:]
    live = state in HOLDING
    if cloud and live and address:
        # It has no card of ours: the address is the provider's.
        addresses = [{"vnet": cloud, "address": address, "mac": None}]
    return {
        "id": id_,
        "name": name,
        "tenant": tenant,
        "state": state,
        "desired": desired,
        "hold_until": instant(hold_until),
        "protected": bool(protected),
        "host": host if live else None,
        "domain": domain_name(id_) if live and not cloud else None,
        "instance": {"cloud": cloud, "id": instance, "type": kind, "zone": zone, "hourly_price": price}
        if cloud
        else None,
        "vcpu": vcpu,
        "memory_mib": memory,
        "next_vcpu": next_vcpu,
        "next_memory_mib": next_memory,
        "template": template,
        "addresses": addresses,
        "disks": disks,
        "created_at": instant(created),
        "observed": seen,
        "observed_at": instant(seen_at),
        "ended_at": instant(end),
    }

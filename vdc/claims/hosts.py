"""What decides whether a host may be put into service, and the row and the journal of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import check
from vdc.claims.deploy import host_ref
from vdc.errors import Conflict, Invalid
from vdc.model import HostFacts, HostRef, StorageUse
from vdc.names import find, require_new
from vdc.operations import Claim, Opening
from vdc.requests import EnrollHostRequest
from vdc.schema import Datastore, Host, HostDatastore, new_id, utc_now
from vdc.storage import record_use


@dataclass(frozen=True, slots=True)
class HostChecked:
    """What the checks of an enrolment saw. `storage` maps a datastore's name to what is free there."""

    facts: HostFacts
    storage: Mapping[str, StorageUse]


def check_enrolment(session: Session, request: EnrollHostRequest) -> list[tuple[str, str]]:
    """The (name, URI) of the datastores that the host must mount. Raises Refused."""
    check(session, "host.enroll", request.name)
    require_new(session, Host, "Host", request.name)
    taken = session.scalars(select(Host.name).where(Host.uri == request.uri)).first()
    if taken is not None:
        raise Conflict(f"The host at {request.uri} is enrolled already, as {taken}.")
    for name in ("cpu_overcommit", "memory_overcommit"):
        if not 0.1 <= getattr(request, name) <= 64:
            raise Invalid(f"{name} {getattr(request, name)} is refused: give a factor from 0.1 to 64.")
    if request.reserved_memory_mib < 0:
        raise Invalid(f"Reserved memory {request.reserved_memory_mib} MiB is refused: it cannot be negative.")
    if request.datastores is None:
        rows: Sequence[Datastore] = session.scalars(select(Datastore).order_by(Datastore.name)).all()
    else:
        rows = [find(session, Datastore, "datastore", name) for name in request.datastores]
    return [(row.name, row.uri) for row in rows]


def domain_type_of(request: EnrollHostRequest, facts: HostFacts) -> str:
    """The domain type that machines on the host will have. Raises Invalid where it does not offer it."""
    if not facts.domain_types:
        raise Invalid(f"Host {request.name} offers no virtualisation: install qemu, or load the kvm module.")
    wanted = request.domain_type or ("kvm" if "kvm" in facts.domain_types else "qemu")
    if wanted not in facts.domain_types:
        raise Invalid(
            f"Host {request.name} does not offer domain type {wanted}: "
            f"it has {', '.join(facts.domain_types)}."
        )
    return wanted


def claim_enrolment(
    session: Session,
    request: EnrollHostRequest,
    seen: HostChecked,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Claim:
    """Put the host into service: nothing is done on it, so that claim and record are one. Raises Refused."""
    check_enrolment(session, request)
    facts = seen.facts
    if request.reserved_memory_mib >= facts.memory_mib:
        raise Invalid(
            f"Host {request.name} has {facts.memory_mib} MiB of memory, "
            f"{request.reserved_memory_mib} MiB are reserved: nothing is left for machines."
        )
    twin = session.scalars(select(Host.name).where(Host.host_uuid == facts.host_uuid)).first()
    if twin is not None:
        raise Conflict(f"The host at {request.uri} is the one enrolled as {twin}: they have one UUID.")
    host = Host(
        id=new_id(),
        name=request.name,
        uri=request.uri,
        migration_address=request.migration_address,
        state="enabled",
        domain_type=domain_type_of(request, facts),
        arch=facts.arch,
        host_uuid=facts.host_uuid,
        vcpu=facts.vcpu,
        memory_mib=facts.memory_mib,
        reserved_memory_mib=request.reserved_memory_mib,
        cpu_overcommit=request.cpu_overcommit,
        memory_overcommit=request.memory_overcommit,
        networks=list(request.networks),
        labels=dict(request.labels),
        hypervisor_version=facts.hypervisor_version,
        load_1m=facts.load_1m,
        observed_at=utc_now(),
    )
    session.add(host)
    session.flush()
    for name, use in seen.storage.items():
        datastore = find(session, Datastore, "datastore", name)
        session.execute(insert(HostDatastore).values(host_id=host.id, datastore_id=datastore.id))
        record_use(session, datastore.uri, [host.name], use)
    opening = Opening("enroll", "host", host.id, host.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    operations.close(session, claim)
    return claim


def hosts_to_mount(session: Session, datastore: str, names: Sequence[str]) -> tuple[str, list[HostRef]]:
    """The datastore's URI, and the hosts of these names (none: all) that are not known to mount it.

    Raises NotFound, Forbidden.
    """
    check(session, "datastore.mount", datastore)
    store = find(session, Datastore, "datastore", datastore)
    wanted: Sequence[Host] = [find(session, Host, "host", name) for name in names]
    if not names:
        wanted = session.scalars(select(Host).order_by(Host.name)).all()
    query = select(HostDatastore.host_id).where(HostDatastore.datastore_id == store.id)
    mounting = set(session.scalars(query))
    return store.uri, [host_ref(host) for host in wanted if host.id not in mounting]


def record_mounted(session: Session, datastore: str, seen: Mapping[str, StorageUse], *, actor: str) -> None:
    """Write down that the hosts of these names mount the datastore, as was proved."""
    check(session, "datastore.mount", datastore)
    store = find(session, Datastore, "datastore", datastore)
    opening = Opening("mount", "datastore", store.id, store.name, {"hosts": sorted(seen)})
    claim = operations.open_one(session, opening, actor=actor)
    for name, use in seen.items():
        host = find(session, Host, "host", name)
        session.execute(insert(HostDatastore).values(host_id=host.id, datastore_id=store.id))
        record_use(session, store.uri, [name], use)
    operations.close(session, claim)


def set_enabled(session: Session, name: str, enabled: bool, *, actor: str) -> bool:
    """Let a host take new machines, or not. Returns whether that changed anything."""
    host = find(session, Host, "host", name)
    wanted = "enabled" if enabled else "disabled"
    if host.state == wanted:
        return False
    spec: dict[str, Any] = {"state": wanted}
    opening = Opening("enable" if enabled else "disable", "host", host.id, host.name, spec)
    operations.close(session, operations.open_one(session, opening, actor=actor))
    host.state = wanted
    return True

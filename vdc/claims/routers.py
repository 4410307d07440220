"""The claims of routers: making, telling, redeploying and removing one.

What a router is to know is derived from rows, and its digest compared with that of what it was told. So
whoever tells it last has told it all; one telling at a time, and who finds another one at work leaves it to
that: it looks again before it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.attach import address_in
from vdc.claims.batch import Batch, Machine, adopt_batch, open_batch
from vdc.claims.deploy import DeployClaim, Gateway, check_usable, claim_deploy, vnet_spec
from vdc.claims.terminate import claim_terminate, find_vm
from vdc.errors import Conflict, Invalid, InvalidState, NotFound
from vdc.model import ContextSpec, ImageSpec, VmSpec
from vdc.names import check_name, find
from vdc.operations import Claim, Opening
from vdc.pricing import ListPrices
from vdc.reconciliation import REDEPLOY
from vdc.records import Outcome, held
from vdc.requests import (
    CreateRouterRequest,
    DeleteRouterRequest,
    DeployRequest,
    ForwardPortRequest,
    RedeployRouterRequest,
    TerminateRequest,
)
from vdc.routers import bring_up_to_date, find_router, routing, serving
from vdc.schema import Disk, Image, Nic, Operation, PortForward, Router, Template, Tenant, Vm, Vnet, new_id
from vdc.states import VmState, check_allowed
from vdc.usage_events import vm_event

TELL = "tell"


@dataclass(frozen=True, slots=True)
class Telling:
    """The right to tell a router what it is to know: what is in `spec`, by its seed."""

    claim: Claim
    router_id: str
    vnet: str
    spec: VmSpec
    running: bool
    """Else it reads the seed when it is started."""


def claim_create(
    session: Session,
    request: CreateRouterRequest,
    *,
    actor: str,
    prices: ListPrices,
    time_servers: Sequence[str] = (),
    flow_run_id: str | None = None,
) -> DeployClaim:
    """Reserve the gateway's address, a public one, and all that a machine needs. Raises Refused."""
    if adopted := adopt_batch(session, "deploy", flow_run_id):
        return DeployClaim(adopted, None)
    vnet = find(session, Vnet, "virtual network", request.vnet)
    public = check_routable(session, request, vnet)
    if there := serving(session, [vnet.id]):
        vm = session.get_one(Vm, there[0].vm_id)
        raise Conflict(f"Network {vnet.name} has a router already: machine {vm.name}.")
    gateway = IPv4Address(str(vnet.gateway))
    tenant = session.get_one(Tenant, vnet.tenant_id)
    addresses = {vnet.id: gateway, public.id: address_in(session, public, request.address)}
    name = check_name("Machine", f"{vnet.name}-router")
    asked = DeployRequest(
        template=request.template, tenant=tenant.name, name=name, vnets=[public.name, vnet.name]
    )
    claim = claim_deploy(
        session,
        asked,
        actor=actor,
        prices=prices,
        flow_run_id=flow_run_id,
        gateway=Gateway(vnet.id, addresses),
    )
    machine = claim.batch.machines[0]
    router = Router(id=new_id(), tenant_id=tenant.id, vnet_id=vnet.id, vm_id=machine.spec.vm_id)
    session.add(router)
    vnet.dns = vnet.dns or [str(gateway)]
    _journal(session, router, vnet, "create", request.model_dump(mode="json"), actor)
    known = routing(session, router, vnet_spec(public), str(addresses[public.id]), tuple(time_servers))
    # Its seed has it: who was not told otherwise since knows all.
    router.told = known.digest
    spec = replace(machine.spec, context=ContextSpec(name, router=known))
    session.get_one(Vm, spec.vm_id).spec = specs.dump(spec)
    machines = (Machine(machine.claim, spec),)
    return replace(claim, batch=replace(claim.batch, machines=machines), claimed=(spec,))


def check_routable(session: Session, request: CreateRouterRequest, vnet: Vnet) -> Vnet:
    """The public network of the router that is asked for. Raises NotFound, and Invalid where none can be."""
    if vnet.tenant_id is None:
        raise Invalid(f"Network {vnet.name} is the site's: routers serve networks of tenants.")
    if vnet.gateway is None:
        raise Invalid(f"Network {vnet.name} was made without a gateway: its router would have no address.")
    template = find(session, Template, "template", request.template)
    vnets = [session.get_one(Vnet, vnet_id) for vnet_id in template.vnet_ids]
    if len(vnets) != 1 or not vnets[0].public:
        raise Invalid(
            f"Template {template.name} is none of a router: it must have one card, on a public network "
            "(`vdc vnet create NAME --public`)."
        )
    if IPv4Network(vnets[0].cidr).overlaps(IPv4Network(vnet.cidr)):
        raise Invalid(
            f"Network {vnet.name} ({vnet.cidr}) and the public network {vnets[0].name} ({vnets[0].cidr}) "
            "have addresses in common: nothing could be routed between them."
        )
    return vnets[0]


def _journal(
    session: Session, router: Router, vnet: Vnet, kind: str, spec: dict[str, object], actor: str
) -> None:
    """What the machine's own operation does not say: that it is, or was, a router."""
    session.flush()
    claim = operations.open_one(session, Opening(kind, "router", router.id, vnet.name, spec), actor=actor)
    operations.close(session, claim)


def claim_forward(
    session: Session, request: ForwardPortRequest, *, actor: str, flow_run_id: str | None = None
) -> Telling:
    """Write down the forward, or that it is no more; open the telling of the router. Raises Refused."""
    kind = f"{request.verb}-forward"
    if begun := operations.open_of_run(session, kind, flow_run_id):
        return _telling(
            session, session.get_one(Router, begun.object_id), operations.take_over(session, begun)
        )
    router, vnet = find_router(session, request.vnet)
    opening = Opening(kind, "router", router.id, vnet.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    (_add if request.verb == "add" else _remove)(session, request, router, vnet)
    session.flush()
    return _telling(session, router, claim)


def _of_port(session: Session, router: Router, request: ForwardPortRequest) -> PortForward | None:
    return session.scalars(
        select(PortForward).where(
            PortForward.router_id == router.id,
            PortForward.protocol == request.protocol,
            PortForward.port == request.port,
        )
    ).first()


def _add(session: Session, request: ForwardPortRequest, router: Router, vnet: Vnet) -> None:
    to_port = request.port if request.to_port is None else request.to_port
    for port in (request.port, to_port):
        if not 1 <= port <= 65535:
            raise Invalid(f"Port {port} is refused: there are 1 to 65535.")
    if not request.vm:
        raise Invalid("Say to which machine of the network the port leads.")
    tenant = session.get_one(Tenant, router.tenant_id)
    vm = find_vm(session, request.vm, tenant.name)
    on_it = select(Nic.id).where(Nic.vm_id == vm.id, Nic.vnet_id == vnet.id)
    if vm.id == router.vm_id or session.scalars(on_it).first() is None:
        raise Invalid(
            f"Machine {vm.name} has no card on network {vnet.name}: nothing can be forwarded to it."
        )
    if there := _of_port(session, router, request):
        holder = session.get_one(Vm, there.vm_id)
        raise Conflict(
            f"Port {request.port}/{request.protocol} of the router of {vnet.name} leads to "
            f"{holder.name}:{there.to_port} already: `vdc router forward remove` first."
        )
    session.add(
        PortForward(
            router_id=router.id,
            protocol=request.protocol,
            port=request.port,
            vm_id=vm.id,
            to_port=to_port,
        )
    )


def _remove(session: Session, request: ForwardPortRequest, router: Router, vnet: Vnet) -> None:
    there = _of_port(session, router, request)
    if there is None:
        query = select(PortForward).where(PortForward.router_id == router.id).order_by(PortForward.port)
        known = ", ".join(f"{one.port}/{one.protocol}" for one in session.scalars(query))
        raise NotFound(
            f"The router of {vnet.name} forwards no port {request.port}/{request.protocol}. "
            f"It forwards {known or 'none'}."
        )
    session.delete(there)


def _telling(session: Session, router: Router, claim: Claim) -> Telling:
    vm = session.get_one(Vm, router.vm_id)
    vnet = session.get_one(Vnet, router.vnet_id)
    running = vm.state == VmState.RUNNING
    return Telling(claim, router.id, vnet.name, bring_up_to_date(session, router), running)


def claim_telling(session: Session, vnet_ids: Iterable[str], *, actor: str) -> list[Telling]:
    """Open an operation on those networks' routers that do not know all.

    Passed over are those that are being told, or whose machine something else is done to.
    """
    found = []
    for router in serving(session, vnet_ids):
        vm = session.get_one(Vm, router.vm_id)
        keys = (f"router:{router.id}", f"vm:{vm.id}")
        busy = session.scalars(select(Operation.id).where(Operation.open_key.in_(keys))).first()
        if busy or vm.state not in (VmState.RUNNING, VmState.STOPPED):
            continue
        known = bring_up_to_date(session, router).context.router
        if known and known.digest == router.told:
            continue
        vnet = session.get_one(Vnet, router.vnet_id)
        opening = Opening(TELL, "router", router.id, vnet.name, {})
        found.append(_telling(session, router, operations.open_one(session, opening, actor=actor)))
    return found


@dataclass(frozen=True, slots=True)
class Known:
    """A router that runs, and what it was told last."""

    router_id: str
    vnet_id: str
    vnet: str
    spec: VmSpec
    told: str


def read_known(session: Session) -> list[Known]:
    """Routers that run, and that nothing is done to."""
    busy = set(session.scalars(select(Operation.open_key).where(Operation.open_key.is_not(None))))
    query = (
        select(Router, Vnet.name, Vm).join(Vnet, Vnet.id == Router.vnet_id).join(Vm, Vm.id == Router.vm_id)
    )
    return [
        Known(router.id, router.vnet_id, vnet, specs.load(vm.spec), router.told)
        for router, vnet, vm in session.execute(query.where(Vm.state == VmState.RUNNING).order_by(Vnet.name))
        if not {f"router:{router.id}", f"vm:{vm.id}"} & busy
    ]


def record_unsure(session: Session, router_ids: Sequence[str]) -> None:
    """It is not known what these know."""
    session.execute(update(Router).where(Router.id.in_(router_ids)).values(told=""))


def record_told(session: Session, told: Telling) -> Telling | None:
    """Write down what the router knows. Returns what it is to be told next, if that is something else by
    now; the operation is over only where it is not."""
    router = session.get(Router, told.router_id)
    if router is None:  # it was removed meanwhile
        operations.close(session, told.claim)
        return None
    assert told.spec.context.router is not None, "what is told"
    # In other states it is not known when it reads its seed: reconcile asks it.
    state = session.get_one(Vm, router.vm_id).state
    knows = state == (VmState.RUNNING if told.running else VmState.STOPPED)
    router.told = told.spec.context.router.digest if knows else ""
    again = _telling(session, router, told.claim)
    if again.spec.context.router != told.spec.context.router:
        return again
    operations.close(session, told.claim)
    return None


def record_untold(session: Session, telling: Telling, error: str) -> None:
    """It is not known what the router knows: reconcile asks it."""
    if router := session.get(Router, telling.router_id):
        router.told = ""
    operations.close(session, telling.claim, error=error)


def claim_redeploy(
    session: Session,
    request: RedeployRouterRequest,
    *,
    actor: str,
    time_servers: Sequence[str] = (),
    flow_run_id: str | None = None,
) -> Batch:
    """Open an operation on the router's machine, whose disk is to be that of its template. Raises Refused."""
    if adopted := adopt_batch(session, REDEPLOY, flow_run_id):
        return adopted
    router, vnet = find_router(session, request.vnet)
    vm = session.get_one(Vm, router.vm_id)
    check_allowed(REDEPLOY, vm.name, VmState(vm.state))
    _journal(session, router, vnet, REDEPLOY, {}, actor)
    spec = _with_present_image(session, vm, bring_up_to_date(session, router, time_servers))
    assert spec.context.router is not None, "it is a router's"
    vm.spec, router.told = specs.dump(spec), spec.context.router.digest
    label, asked = vnet.name, request.model_dump(mode="json")
    return open_batch(
        session,
        REDEPLOY,
        label,
        asked,
        [replace(spec, start="running")],
        actor=actor,
        flow_run_id=flow_run_id,
    )


def _with_present_image(session: Session, vm: Vm, spec: VmSpec) -> VmSpec:
    template = session.get(Template, vm.template_id) if vm.template_id else None
    if template is None:
        return spec
    image = session.get_one(Image, template.image_id)
    check_usable(session, image, session.get_one(Tenant, vm.tenant_id))
    row = session.scalars(select(Disk).where(Disk.vm_id == vm.id, Disk.index == 0)).one()
    if image.datastore_id != row.datastore_id or image.virtual_size_mib > row.size_mib:
        raise InvalidState(
            f"Image {image.name} is in another datastore, or larger, than the disk of {vm.name}: delete the "
            "router and create it again."
        )
    row.image_id = image.id
    made_of = ImageSpec(image.id, image.file, image.format, image.virtual_size_mib, image.sha256)
    return replace(spec, disks=(replace(spec.disks[0], image=made_of), *spec.disks[1:]))


def record_redeployed(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Routers that are back, or (with an error) lost: reconcile makes those again, as it does any machine.

    One that is back was charged all the time: its place and its addresses were its own.
    """
    ours = held(session, outcomes)
    for outcome in ours:
        vm = session.get_one(Vm, outcome.spec.vm_id)
        if outcome.error:
            session.add(vm_event(vm, outcome.claim, "lost", outcome.at, outcome.spec.host.name))
            vm.state = VmState.MISSING
        else:
            vm.observed, vm.observed_at = VmState.RUNNING.value, outcome.at
        operations.close(session, outcome.claim, error=outcome.error or None)
    return ours


def claim_delete(
    session: Session, request: DeleteRouterRequest, *, actor: str, flow_run_id: str | None = None
) -> Batch:
    """Open the termination of the router's machine. Raises Refused."""
    if adopted := adopt_batch(session, "terminate", flow_run_id):
        return adopted
    router, vnet = find_router(session, request.vnet)
    _journal(session, router, vnet, "delete", {}, actor)
    asked = TerminateRequest(vms=[router.vm_id])
    return claim_terminate(session, asked, actor=actor, flow_run_id=flow_run_id, routers=True)

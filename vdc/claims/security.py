"""The claims of what changes how machines are filtered: which groups they are in, and what is in a group.

The rules are in a machine's spec from the claim on: whatever is made of it afterwards, on whichever host, has
them. Where the process dies before it has put them into force, reconcile finds that they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.batch import Batch, adopt_batch, open_batch
from vdc.claims.power import chosen, label_of
from vdc.errors import Conflict, Invalid, NotFound, Unsupported
from vdc.model import Abilities, Rule, VmSpec
from vdc.operations import Opening
from vdc.requests import AssignGroupsRequest, ChangeGroupRequest
from vdc.routers import check_no_router
from vdc.schema import Nic, Operation, SecurityGroup, SecurityGroupMember, Tenant, Vm, Vnet
from vdc.security_groups import (
    check_filtering,
    check_peers,
    describe,
    dumped,
    find_group,
    members_of,
    parse_rule,
    rules_by_machine,
    rules_in,
    rules_of,
    set_members,
)
from vdc.states import CHARGED, OPERATIONS, VmState, check_allowed

ASSIGN = "assign-groups"
CHANGE = "change"
"""Kinds of the operations: of machines, and of a group."""
FOLLOW = "follow-groups"
"""Of machines whose rules name a group that others have come into, or left."""


@dataclass(frozen=True, slots=True)
class Filtering:
    """The right to put the rules of some machines into force. `running`: those that have to have them now."""

    batch: Batch
    running: frozenset[str] = frozenset()
    """Ids."""


def claim_assign(
    session: Session,
    request: AssignGroupsRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Filtering:
    """Put machines into groups of their tenant, or take them out. Raises Refused."""
    if adopted := adopt_batch(session, ASSIGN, flow_run_id):
        return _filtering(session, adopted)
    if not request.groups:
        raise Invalid("No security group was named.")
    vms = chosen(session, request.vms, request.tenant)
    changed: list[Vm] = []
    for vm in vms:
        _check(session, vm, abilities, entering=request.verb == "assign")
        tenant = session.get_one(Tenant, vm.tenant_id)
        named = [find_group(session, name, tenant.name).id for name in request.groups]
        query = select(SecurityGroupMember.group_id).where(SecurityGroupMember.vm_id == vm.id)
        present = set(session.scalars(query))
        wanted = present | set(named) if request.verb == "assign" else present - set(named)
        if wanted != present:
            set_members(session, vm.id, sorted(wanted))
            changed.append(vm)
    if not changed:
        there = "in there already" if request.verb == "assign" else "not in there"
        raise Invalid(f"{label_of(vms)}: {there}: nothing to change.")
    batch = open_batch(
        session,
        ASSIGN,
        label_of(changed),
        request.model_dump(mode="json"),
        _ruled(session, changed),
        actor=actor,
        flow_run_id=flow_run_id,
    )
    return _filtering(session, batch)


def claim_change(
    session: Session,
    request: ChangeGroupRequest,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Filtering:
    """Add a rule to a group, or remove it, for all machines in it. Raises Refused."""
    if adopted := adopt_batch(session, ASSIGN, flow_run_id):
        return _filtering(session, adopted)
    group = find_group(session, request.group, request.tenant)
    rule = parse_rule(request.direction, request.protocol, request.ports, request.cidr, request.peer)
    rules = rules_in(group)
    if (rule in rules) is (request.verb == "add"):
        if request.verb == "add":
            raise Conflict(f"Security group {group.name} has the rule already: {describe(rule)}.")
        known = "; ".join(describe(one) for one in rules)
        raise NotFound(
            f"Security group {group.name} has no rule {describe(rule)!r}. It has: {known or 'none'}."
        )
    _write(session, group, rule, request.verb, actor)
    vms = members_of(session, group.id)
    batch = open_batch(
        session,
        ASSIGN,
        f"{request.tenant}/{group.name}",
        request.model_dump(mode="json"),
        _ruled(session, vms),
        actor=actor,
        flow_run_id=flow_run_id,
    )
    return _filtering(session, batch)


def _write(session: Session, group: SecurityGroup, rule: Rule, verb: str, actor: str) -> None:
    spec = {verb: describe(rule)}
    claim = operations.open_one(session, Opening(CHANGE, "sg", group.id, group.name, spec), actor=actor)
    rules = rules_in(group)
    group.rules = dumped([*rules, rule] if verb == "add" else [one for one in rules if one != rule])
    session.flush()
    check_peers(session, group)
    operations.close(session, claim)


def claim_follow(session: Session, *, actor: str) -> Filtering | None:
    """Let machines follow who has come into, or has left, the groups that their rules name.

    Of those that nobody is busy with: the others follow when that is over. None where there is none.
    """
    rules = rules_by_machine(session)
    busy = select(Operation.object_id).where(Operation.finished_at.is_(None))
    query = select(Vm).where(Vm.id.in_(list(rules)), Vm.id.not_in(busy)).order_by(Vm.name)
    old = [
        vm
        for vm in session.scalars(query)
        if vm.state in OPERATIONS["sg assign"]
        and any(nic.rules != rules[vm.id] for nic in specs.load(vm.spec).nics)
    ]
    if not old:
        return None
    batch = open_batch(
        session, FOLLOW, label_of(old), {}, _ruled(session, old), actor=actor, flow_run_id=None
    )
    return _filtering(session, batch)


def _check(session: Session, vm: Vm, abilities: Abilities, *, entering: bool) -> None:
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: its provider filters there.")
    if entering:
        check_no_router(session, vm, "filtered")
        query = select(Vnet).join(Nic, Nic.vnet_id == Vnet.id).where(Nic.vm_id == vm.id)
        check_filtering(session.scalars(query).all(), abilities, f"Machine {vm.name}")


def _ruled(session: Session, vms: Sequence[Vm]) -> list[VmSpec]:
    """The machines as they are to be from now on. Raises InvalidState for one that is just made or moved."""
    for vm in vms:
        check_allowed("sg assign", vm.name, VmState(vm.state))
    return [ruled(session, vm) for vm in vms]


def ruled(session: Session, vm: Vm) -> VmSpec:
    """The machine with the rules that it is to have now, which are written down."""
    spec, rules = specs.load(vm.spec), rules_of(session, vm.id)
    spec = replace(spec, nics=tuple(replace(nic, rules=rules) for nic in spec.nics))
    vm.spec = specs.dump(spec)
    return spec


def _filtering(session: Session, batch: Batch) -> Filtering:
    ids = [machine.spec.vm_id for machine in batch.machines]
    running = session.scalars(select(Vm.id).where(Vm.id.in_(ids), Vm.state.in_(CHARGED)))
    return Filtering(batch, frozenset(running))

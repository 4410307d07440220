"""Security groups: named lists of rules, and which machines are in which.

A machine in one or more is let through what any of them says, and nothing else; one in none is not filtered.
Rules are of connections: what belongs to one that was let through passes both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError, collapse_addresses
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import visible
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, Unsupported
from vdc.model import Abilities, Rule
from vdc.names import check_name, find
from vdc.operations import Opening
from vdc.schema import Nic, SecurityGroup, SecurityGroupMember, Tenant, Vm, Vnet, new_id

DIRECTIONS = ("in", "out")
PROTOCOLS = ("tcp", "udp", "icmp", "any")
WITH_PORTS = ("tcp", "udp")
MAX_RULES = 100
"""Of one group."""
EVERYWHERE = "0.0.0.0/0"
ALL_OUT = Rule("out", "any")


def parse_rule(
    direction: str, protocol: str, ports: str = "", cidr: str = EVERYWHERE, peer: str = ""
) -> Rule:
    """A rule from what somebody typed: `in tcp 80-90 10.0.0.0/8`. Raises Invalid."""
    if direction not in DIRECTIONS:
        raise Invalid(f"Direction {direction!r} is refused: it is {' or '.join(DIRECTIONS)}.")
    if protocol not in PROTOCOLS:
        raise Invalid(f"Protocol {protocol!r} is refused: it is one of {', '.join(PROTOCOLS)}.")
    if ports and protocol not in WITH_PORTS:
        raise Invalid(f"Ports {ports} are refused: only {' and '.join(WITH_PORTS)} have any.")
    try:
        network = IPv4Network(cidr)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise Invalid(f"CIDR {cidr!r} is no IPv4 network: {error}.") from error
    if peer and str(network) != EVERYWHERE:
        raise Invalid(f"The other side is the group {peer} or {cidr}, not both.")
    first, last = _ports(ports) if ports else (0, 0)
    return Rule(direction, protocol, first, last, str(network), peer)


def _ports(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise Invalid(f"Ports {text!r} are refused: give one, or a range such as 8000-8080.")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise Invalid(f"Ports {text!r} are refused: they go from 1 to 65535, the lower one first.")
    return low, high


def parse_line(text: str) -> Rule:
    """A rule in one line, as `describe` has it; ports and the other side may be left out. Raises Invalid."""
    words = text.split()
    direction, protocol, *rest = words if len(words) >= 2 else ("", "", "")
    ports = rest.pop(0) if rest and rest[0] not in ("from", "to") else ""
    side = "from" if direction == "in" else "to"
    match rest:
        case [] if protocol:
            return parse_rule(direction, protocol, ports)
        case [word, "group", peer] if word == side:
            return parse_rule(direction, protocol, ports, peer=peer)
        case [word, cidr] if word == side and cidr != "group":
            return parse_rule(direction, protocol, ports, cidr)
    raise Invalid(
        f"Rule {text!r} is refused: write it like `in tcp 80-90 from 10.0.0.0/8`, or `from group NAME`."
    )


def describe(rule: Rule) -> str:
    """As it is typed: `in tcp 80-90 from 10.0.0.0/8`, `out tcp 5432 to group db`."""
    ports = ""
    if rule.last_port:
        ports = f" {rule.first_port}" + (f"-{rule.last_port}" if rule.last_port != rule.first_port else "")
    side = f"group {rule.peer}" if rule.peer else rule.cidr
    return f"{rule.direction} {rule.protocol}{ports} {'from' if rule.direction == 'in' else 'to'} {side}"


def rules_in(group: SecurityGroup) -> list[Rule]:
    return [Rule(**rule) for rule in group.rules]


def find_group(session: Session, name: str, tenant: str) -> SecurityGroup:
    """The tenant's group of that name. Raises NotFound."""
    owner = find(session, Tenant, "tenant", tenant)
    theirs = select(SecurityGroup).where(SecurityGroup.tenant_id == owner.id, visible(session, SecurityGroup))
    group = session.scalars(theirs.where(SecurityGroup.name == name)).first()
    if group is None:
        known = [one.name for one in session.scalars(theirs.order_by(SecurityGroup.name).limit(8))]
        raise NotFound(
            f"Tenant {tenant} has no security group {name!r}. "
            + (f"Known: {', '.join(known)}." if known else "Make one: `vdc sg create`.")
        )
    return group


def create_group(
    session: Session, name: str, tenant: str, rules: Sequence[Rule] = (ALL_OUT,), *, actor: str
) -> SecurityGroup:
    """Raises Invalid, NotFound, Conflict, Forbidden."""
    check_name("Security group", name)
    owner = find(session, Tenant, "tenant", tenant)
    if owner.state != "active":
        raise InvalidState(f"Tenant {owner.name} is {owner.state}: it gets no new security groups.")
    same = select(SecurityGroup.id).where(SecurityGroup.tenant_id == owner.id, SecurityGroup.name == name)
    if session.scalars(same).first() is not None:
        raise Conflict(f"Security group name {name!r} is taken in tenant {tenant}.")
    group = SecurityGroup(id=new_id(), name=name, tenant_id=owner.id, rules=dumped(rules))
    session.add(group)
    session.flush()
    check_peers(session, group)
    _journal(session, "create", group, {"rules": group.rules}, actor)
    return group


def delete_group(session: Session, name: str, tenant: str, *, actor: str) -> None:
    """Raises NotFound, Forbidden, InvalidState where machines are in it."""
    group = find_group(session, name, tenant)
    if members := members_of(session, group.id):
        shown = ", ".join(vm.name for vm in members[:8])
        raise InvalidState(f"Security group {name} has machines in it ({shown}): take them out first.")
    theirs = select(SecurityGroup).where(SecurityGroup.tenant_id == group.tenant_id)
    naming = [g.name for g in session.scalars(theirs) if g.id != group.id and _names(g, name)]
    if naming:
        raise InvalidState(f"Security group {name} is named by rules of {', '.join(sorted(naming)[:8])}.")
    _journal(session, "delete", group, {}, actor)
    session.delete(group)


def _names(group: SecurityGroup, peer: str) -> bool:
    return any(rule.peer == peer for rule in rules_in(group))


def check_peers(session: Session, group: SecurityGroup) -> None:
    """Raise NotFound where a rule names a group that its tenant has not."""
    theirs = select(SecurityGroup.name).where(SecurityGroup.tenant_id == group.tenant_id)
    known = set(session.scalars(theirs))
    for rule in rules_in(group):
        if rule.peer and rule.peer not in known:
            raise NotFound(
                f"Rule {describe(rule)!r} of security group {group.name} names a group that its tenant "
                "has not."
            )


def _journal(session: Session, kind: str, group: SecurityGroup, spec: dict[str, Any], actor: str) -> None:
    claim = operations.open_one(session, Opening(kind, "sg", group.id, group.name, spec), actor=actor)
    operations.close(session, claim)


def dumped(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Each once, in a fixed order."""
    unique = sorted(set(rules), key=_order)
    if len(unique) > MAX_RULES:
        raise Invalid(f"{len(unique)} rules are refused: a security group has {MAX_RULES} at most.")
    return [asdict(rule) for rule in unique]


def _order(rule: Rule) -> tuple[str, str, int, int, str, str]:
    return rule.direction, rule.protocol, rule.first_port, rule.last_port, rule.cidr, rule.peer


def members_of(session: Session, group_id: str) -> list[Vm]:
    query = select(Vm).join(SecurityGroupMember, SecurityGroupMember.vm_id == Vm.id)
    return list(session.scalars(query.where(SecurityGroupMember.group_id == group_id).order_by(Vm.name)))


def groups_of(session: Session, vm_id: str) -> list[str]:
    """Names of the groups that a machine is in."""
    query = select(SecurityGroup.name).join(
        SecurityGroupMember, SecurityGroupMember.group_id == SecurityGroup.id
    )
    return list(session.scalars(query.where(SecurityGroupMember.vm_id == vm_id).order_by(SecurityGroup.name)))


def rules_of(session: Session, vm_id: str) -> tuple[Rule, ...] | None:
    """What a machine's groups let through; None: it is in none."""
    return rules_by_machine(session, [vm_id]).get(vm_id)


def rules_by_machine(session: Session, vm_ids: Sequence[str] | None = None) -> dict[str, tuple[Rule, ...]]:
    """Rules of machines that are in a group, each rule once; None: of all of them.

    Instead of a group that a rule names they have the addresses of the machines that are in it now.
    """
    query = select(SecurityGroupMember.vm_id, SecurityGroup.tenant_id, SecurityGroup.rules).join(
        SecurityGroup, SecurityGroup.id == SecurityGroupMember.group_id
    )
    if vm_ids is not None:
        query = query.where(SecurityGroupMember.vm_id.in_(vm_ids))
    found: dict[str, list[Rule]] = {}
    peers: dict[tuple[str, str], list[str]] = {}
    for vm_id, tenant_id, rules in session.execute(query).all():
        for rule in (Rule(**one) for one in rules):
            if not rule.peer:
                found.setdefault(vm_id, []).append(rule)
                continue
            key = tenant_id, rule.peer
            if key not in peers:
                peers[key] = _addresses(session, *key)
            found.setdefault(vm_id, []).extend(replace(rule, peer="", cidr=cidr) for cidr in peers[key])
        found.setdefault(vm_id, [])
    return {vm_id: merged(rules) for vm_id, rules in found.items()}


def _addresses(session: Session, tenant_id: str, group: str) -> list[str]:
    """The addresses of a group's machines, in as few networks as they make up."""
    query = (
        select(Nic.address)
        .join(SecurityGroupMember, SecurityGroupMember.vm_id == Nic.vm_id)
        .join(SecurityGroup, SecurityGroup.id == SecurityGroupMember.group_id)
        .where(SecurityGroup.tenant_id == tenant_id, SecurityGroup.name == group)
    )
    return [str(one) for one in collapse_addresses(IPv4Network(a) for a in session.scalars(query))]


def name_peers(session: Session) -> bool:
    """Whether any rule names a group: only then what is in force depends on who is in which."""
    return any(rule.get("peer") for rules in session.scalars(select(SecurityGroup.rules)) for rule in rules)


def merged(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Each once, in an order that does not depend on the groups'."""
    return tuple(sorted(set(rules), key=_order))


def check_filtering(vnets: Sequence[Vnet], abilities: Abilities, what: str) -> None:
    """Raise Unsupported where one of the networks cannot hold anything back."""
    for vnet in vnets:
        if vnet.uri not in abilities.filtering:
            raise Unsupported(
                f"{what} has a card on network {vnet.name} ({vnet.uri}), which does not follow connections: "
                "security groups are for machines on networks of Open vSwitch alone (vlan://, vxlan://)."
            )


def set_members(session: Session, vm_id: str, group_ids: Sequence[str]) -> None:
    """The machine is in these groups and in no others."""
    session.execute(delete(SecurityGroupMember).where(SecurityGroupMember.vm_id == vm_id))
    session.add_all(SecurityGroupMember(vm_id=vm_id, group_id=group_id) for group_id in group_ids)
    session.flush()


def listing(session: Session, tenant: str = "") -> list[dict[str, Any]]:
    """Groups that who asks may see, with their rules as they are typed and how many machines are in them."""
    query = (
        select(SecurityGroup, Tenant.name, func.count(SecurityGroupMember.vm_id))
        .join(Tenant, Tenant.id == SecurityGroup.tenant_id)
        .join(SecurityGroupMember, SecurityGroupMember.group_id == SecurityGroup.id, isouter=True)
        .where(visible(session, SecurityGroup))
        .group_by(SecurityGroup.id, Tenant.name)
        .order_by(Tenant.name, SecurityGroup.name)
    )
    if tenant:
        query = query.where(Tenant.name == tenant)
    return [
        {
            "id": group.id,
            "name": group.name,
            "tenant": owner,
            "rules": [describe(rule) for rule in rules_in(group)],
            "vms": count,
            "created_at": group.created_at,
        }
        for group, owner, count in session.execute(query)
    ]

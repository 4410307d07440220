"""Who may do what to which object: one table, asked by every flow, listing and show.

A session knows who asks (`bind`). Whatever opens an operation asks the table (`permit`, called by
vdc/operations.py), so that no flow can forget to; whatever finds or lists asks it by `visible`. What the
table does not name is for administrators alone. An object that somebody may not see is reported as one that
there is not. Roles are policy, not yet a security boundary: whoever runs `vdc` can read database and keys.

Read by commands that must answer at once: SQLAlchemy is imported where it is needed.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vdc.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from sqlalchemy import TextClause
    from sqlalchemy.orm import Session

SCHEDULE = "schedule"
PREFECT_UI = "prefect-ui"
"""Whoever reaches Prefect's UI or API; see the setting prefect_ui_user."""


class Role(StrEnum):
    ADMINISTRATOR = "administrator"
    """Everything."""
    SUPERVISOR = "supervisor"
    """Sees everything, changes nothing."""
    TENANT_ADMINISTRATOR = "tenant-administrator"
    """What is of the tenant."""
    USER = "user"
    """What is the user's own."""


class Relation(StrEnum):
    """What an object is to somebody; it may be several of the first three."""

    OWN = "own"
    TENANT = "tenant"
    """Of the same tenant."""
    SHARED = "shared"
    """Shared with the user or the tenant, published, or the site's for everybody to use."""
    OTHER = "other"
    """None of these."""


Relations = frozenset[Relation]

NONE: Relations = frozenset()
OWN = frozenset({Relation.OWN})
OWN_SHARED = frozenset({Relation.OWN, Relation.SHARED})
TENANT = frozenset({Relation.OWN, Relation.TENANT})
TENANT_SHARED = TENANT | {Relation.SHARED}
ANY = frozenset(Relation)


@dataclass(frozen=True, slots=True)
class Rule:
    """To which objects of a kind the roles may do these operations; administrators may to any."""

    kind: str
    operations: tuple[str, ...]
    supervisor: Relations = NONE
    tenant_administrator: Relations = NONE
    user: Relations = NONE


_SWITCH = ("start", "stop", "reboot", "reset", "pause", "resume", "suspend")
_KEEP = ("snapshot", "revert", "delete-snapshot", "keep-snapshot", "save-as")
_PLUG = ("attach-disk", "detach-disk", "attach-nic", "detach-nic")
_FILTER = ("assign-groups",)
_MARK = ("hold", "release", "protect", "unprotect", "rename")

RULES = (
    Rule("vm", ("see",), ANY, TENANT_SHARED, OWN_SHARED),
    Rule("vm", ("see-context",), ANY, TENANT, OWN),
    Rule("vm", (*_SWITCH, "console", "vnc"), NONE, TENANT_SHARED, OWN_SHARED),
    Rule("vm", ("deploy", "terminate", "resize", *_PLUG, *_FILTER, *_KEEP, *_MARK), NONE, TENANT, OWN),
    Rule("vm", ("share", "unshare"), NONE, TENANT, OWN),
    Rule("disk", ("see",), ANY, TENANT, OWN),
    Rule("disk", ("remove",), NONE, TENANT, OWN),
    Rule("image", ("see",), ANY, TENANT_SHARED, TENANT_SHARED),
    Rule("image", ("clone",), NONE, TENANT_SHARED, TENANT_SHARED),
    Rule("image", ("delete", "share", "unshare", "persistent", "nonpersistent"), NONE, TENANT, OWN),
    Rule("image", ("publish", "unpublish"), NONE, TENANT, NONE),
    Rule("template", ("see",), ANY, TENANT_SHARED, TENANT_SHARED),
    Rule("template", ("create", "delete", "share", "unshare", "context"), NONE, TENANT, OWN),
    Rule("template", ("see-context",), ANY, TENANT_SHARED, TENANT_SHARED),
    Rule("vnet", ("see",), ANY, TENANT_SHARED, TENANT_SHARED),
    Rule("sg", ("see",), ANY, TENANT, TENANT),
    Rule("sg", ("create", "delete", "change"), NONE, TENANT, NONE),
    Rule("router", ("see",), ANY, TENANT, TENANT),
    Rule("router", ("create", "redeploy", "delete", "add-forward", "remove-forward"), NONE, TENANT, NONE),
    Rule("vm", ("redeploy",), NONE, TENANT, NONE),
    Rule("tenant", ("see",), ANY, TENANT, TENANT),
    Rule("tenant", ("context", "secret"), NONE, TENANT, NONE),
    Rule("tenant", ("see-context", "see-secrets"), ANY, TENANT, TENANT),
    Rule("user", ("see",), ANY, TENANT, OWN),
    Rule("user", ("create", "disable", "enable", "unlock"), NONE, TENANT, NONE),
    Rule("user", ("quota",), NONE, TENANT, NONE),
    Rule("user", ("passwd",), OWN, TENANT, OWN),
    Rule("user", ("token",), OWN, OWN, OWN),
    Rule("operation", ("see",), ANY, TENANT, OWN),
    Rule("bill", ("see",), ANY, TENANT, NONE),
    Rule("bill", ("check",), ANY),
    Rule("report", ("see",), ANY),
    Rule("host", ("see",), ANY),
    Rule("datastore", ("see",), ANY),
    Rule("cloud", ("see",), ANY),
    Rule("group", ("see",), ANY),
)

TABLE: Mapping[str, Mapping[Role, Relations]] = {
    f"{rule.kind}.{operation}": {
        Role.ADMINISTRATOR: ANY,
        Role.SUPERVISOR: rule.supervisor,
        Role.TENANT_ADMINISTRATOR: rule.tenant_administrator,
        Role.USER: rule.user,
    }
    for rule in RULES
    for operation in rule.operations
}
"""`<kind>.<operation>` -> role -> relations in which it is allowed."""

GRANTS: Mapping[Role, frozenset[Role]] = {
    Role.ADMINISTRATOR: frozenset(Role),
    Role.TENANT_ADMINISTRATOR: frozenset({Role.TENANT_ADMINISTRATOR, Role.USER}),
}
"""Role -> the roles that it may give to a user."""

BY_PARTS = frozenset({"batch"})
"""Kinds of objects that are several others: it is decided for each of these."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. Without `user_id`: the operating-system administrator, a schedule, the platform itself."""

    name: str
    role: Role
    user_id: str = ""
    tenant_id: str = ""
    tenant: str = ""

    @property
    def of_site(self) -> bool:
        """One who works for the site, not for a tenant."""
        return self.role in (Role.ADMINISTRATOR, Role.SUPERVISOR)

    @property
    def house(self) -> str:
        """Name of the one tenant for which what this actor makes can be; empty: any, or the site."""
        return "" if self.of_site else self.tenant


SYSTEM = Actor("system", Role.ADMINISTRATOR)
"""Who acts in a session that is bound to nobody: what a flow records once it was permitted."""


def allowed(role: Role, operation: str, relations: Relations) -> bool:
    """Whether `role` may do `operation` (`vm.terminate`) to an object that is in these relations to it."""
    if role is Role.ADMINISTRATOR:
        return True
    return bool(TABLE.get(operation, {}).get(role, NONE) & relations)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the rows of a kind tell what they are to somebody; a column that there is not is empty."""

    table: str
    tenant: str = ""
    owner: str = ""
    for_all: str = ""
    """Condition under which everybody may use one."""
    shares: bool = False
    """Whether one can be shared (`vdc share`)."""
    key: str = "id"
    """The column that an operation names one by; empty: what is done to one is for administrators."""


KINDS: Mapping[str, _Kind] = {
    "vm": _Kind("vms", "tenant_id", "owner_id", shares=True),
    "image": _Kind("images", "tenant_id", "owner_id", "images.published OR images.tenant_id IS NULL", True),
    "template": _Kind("templates", "tenant_id", "owner_id", "templates.tenant_id IS NULL", True),
    "disk": _Kind("volumes", "tenant_id", "owner_id"),
    "vnet": _Kind("vnets", "tenant_id", "", "vnets.tenant_id IS NULL"),
    "sg": _Kind("security_groups", "tenant_id"),
    "router": _Kind("routers", "tenant_id"),
    "tenant": _Kind("tenants", "id"),
    "user": _Kind("users", "tenant_id", "id"),
    "operation": _Kind("operations", "tenant_id", "user_id"),
    "bill": _Kind("bills", "tenant_id", key=""),
    "host": _Kind("hosts"),
    "datastore": _Kind("datastores"),
    "cloud": _Kind("clouds"),
    "group": _Kind("placement_groups"),
}

_KIND_OF = {kind.table: name for name, kind in KINDS.items()}


def _conditions(kind: _Kind) -> dict[Relation, str]:
    """SQL that tells whether a row is in a relation to `:asking_user`, who is of `:asking_tenant`."""
    found = {}
    if kind.owner:
        found[Relation.OWN] = f"{kind.table}.{kind.owner} = :asking_user"
    if kind.tenant:
        found[Relation.TENANT] = f"{kind.table}.{kind.tenant} = :asking_tenant"
    for_some = (
        f"EXISTS (SELECT 1 FROM shares WHERE shares.object_id = {kind.table}.id "  # noqa: S608 (our names)
        "AND (shares.user_id = :asking_user OR shares.tenant_id = :asking_tenant))"
    )
    shared = [sql for sql, there in ((for_some, kind.shares), (kind.for_all, kind.for_all)) if there]
    if shared:
        found[Relation.SHARED] = f"({' OR '.join(shared)})"
    return found


def _given(actor: Actor) -> dict[str, object]:
    return {"asking_user": actor.user_id, "asking_tenant": actor.tenant_id}


def condition(actor: Actor, kind: str, operation: str = "") -> tuple[str, dict[str, object]]:
    """SQL and its parameters: the rows of a kind's table to which `actor` may do that; empty: see them."""
    operation = operation or f"{kind}.see"
    may = ANY if actor.role is Role.ADMINISTRATOR else TABLE.get(operation, {}).get(actor.role, NONE)
    if Relation.OTHER in may:
        return "1 = 1", {}
    parts = [sql for relation, sql in _conditions(KINDS[kind]).items() if relation in may]
    if not parts:
        return "1 = 0", {}
    sql = f"({' OR '.join(parts)})"
    return sql, {name: value for name, value in _given(actor).items() if f":{name}" in sql}


def visible(session: Session, table: Any, operation: str = "") -> TextClause:
    """The condition of a SELECT from `table` for whom the session is bound to: rows that they may see.

    With `operation` (`bill.see`): rows that are to them what an object of that must be.
    """
    from sqlalchemy import text

    sql, given = condition(asking(session), _KIND_OF[table.__tablename__], operation)
    return text(sql).bindparams(**given)


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation on an object: `vm`, `terminate`, its id and its name."""

    kind: str
    operation: str
    object_id: str
    name: str


def permit(session: Session, asked: Iterable[Asked]) -> dict[str, str | None]:
    """Let the actor of the session do all of this; returns object id -> id of its tenant.

    Raises Forbidden, or NotFound for an object that the actor may not even see.
    """
    session.flush()  # what is asked for may just have been made
    actor = asking(session)
    by_kind: dict[str, list[Asked]] = {}
    for one in asked:
        if one.kind not in BY_PARTS:
            by_kind.setdefault(one.kind, []).append(one)
    tenants: dict[str, str | None] = {}
    for kind, some in by_kind.items():
        rows = _read_relations(session, actor, kind, [one.object_id for one in some])
        for one in some:
            tenant_id, relations = rows.get(one.object_id, (None, frozenset({Relation.OTHER})))
            tenants[one.object_id] = tenant_id
            _check(actor, one, relations)
    return tenants


def check(session: Session, operation: str, name: str = "", object_id: str = "") -> None:
    """As `permit` for one operation (`vm.console`) that opens none; without id: of the site itself."""
    kind, _, verb = operation.partition(".")
    permit(session, [Asked(kind, verb, object_id, name)])


_SAID = {
    "token": "make a token of",
    "quota": "change the quota of",
    "passwd": "change the password of",
    "see": "see the",
    "assign-groups": "change the security groups of",
    "context": "change the context of",
    "see-context": "see the context of",
    "secret": "change the secrets of",
    "see-secrets": "see the secrets of",
    "add-forward": "forward ports of",
    "remove-forward": "forward ports of",
}
"""Operations that are no verbs."""


def _check(actor: Actor, asked: Asked, relations: Relations) -> None:
    if allowed(actor.role, f"{asked.kind}.{asked.operation}", relations):
        return
    what = f"{asked.kind}/{asked.name}" if asked.name else asked.kind
    hidden = asked.kind in KINDS and not allowed(actor.role, f"{asked.kind}.see", relations)
    if hidden and asked.object_id and KINDS[asked.kind].tenant:
        raise NotFound(f"There is no {asked.kind} {asked.name!r}.")
    verb = _SAID.get(asked.operation, asked.operation)
    raise Forbidden(f"{actor.name} ({actor.role}) may not {verb} {what}.")


def _read_relations(
    session: Session, actor: Actor, kind: str, ids: list[str]
) -> dict[str, tuple[str | None, Relations]]:
    """Object id -> its tenant's id and what it is to the actor."""
    known = KINDS.get(kind)
    if known is None or not known.tenant or not known.key:
        return {}
    from sqlalchemy import bindparam, text

    conditions = _conditions(known)
    columns = ", ".join(f"({sql}) AS {relation.value}_" for relation, sql in conditions.items())
    sql = f"SELECT id, {known.tenant} AS tenant, {columns} FROM {known.table} WHERE id IN :ids"  # noqa: S608
    query = text(sql).bindparams(bindparam("ids", expanding=True))
    found = {}
    for start in range(0, len(ids), 10_000):
        given = {name: value for name, value in _given(actor).items() if f":{name}" in sql}
        for row in session.execute(query, {"ids": ids[start : start + 10_000], **given}):
            relations = {r for r, value in zip(conditions, row[2:], strict=True) if value}
            found[row[0]] = (row[1], frozenset(relations or {Relation.OTHER}))
    return found


def shared_with(session: Session, object_id: str, tenant_id: str) -> bool:
    """Whether an object is shared with a tenant, or with who asks."""
    from sqlalchemy import or_, select

    from vdc.schema import Share

    with_whom = or_(Share.tenant_id == tenant_id, Share.user_id == asking(session).user_id)
    return (
        session.scalars(select(Share.id).where(Share.object_id == object_id, with_whom)).first() is not None
    )


def usable_by(session: Session, row: Any, tenant_id: str) -> bool:
    """Whether a tenant may use a network or a template: it is the site's, its own, or shared with it."""
    return row.tenant_id in (None, tenant_id) or shared_with(session, row.id, tenant_id)


def bind(session: Session, actor: Actor) -> None:
    """From now on `actor` asks in this session."""
    session.info["actor"] = actor


def asking(session: Session) -> Actor:
    actor: Actor = session.info.get("actor", SYSTEM)
    return actor


_acting: list[Actor] = []


def act_as(actor: Actor) -> None:
    """Tell for whom this process works: see vdc/identity.py."""
    _acting[:] = [actor]


def actor() -> str:
    """The name of whom this process works for, as the journal has it."""
    return _acting[0].name if _acting else of_system()


def of_system() -> str:
    """The operating-system user, or whom `VDC_ACTOR` names (see deployments/control/engine)."""
    return os.environ.get("VDC_ACTOR") or getpass.getuser()

"""Users: making them, what they may prove themselves by, and with whom objects are shared.

In the inventory alone: audited functions, no flows. Each asks vdc/access.py through the operation it opens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vdc import identity, operations, passwords
from vdc.access import GRANTS, PREFECT_UI, SCHEDULE, SYSTEM, Role, asking, visible
from vdc.claims.terminate import find_vm
from vdc.errors import Conflict, Forbidden, Invalid, NotFound
from vdc.names import check_name, find
from vdc.operations import Opening
from vdc.schema import Base, Image, LoginFailure, Share, Template, Tenant, Token, User, new_id, utc_now
from vdc.ssh_keys import check_ssh_key

RESERVED = frozenset({SCHEDULE, PREFECT_UI, SYSTEM.name, "root"})
"""Names by which the journal knows others than users."""

MAX_TOKEN_HOURS = 24 * 366
MOST_NAME = 63

SHARED_TABLES: dict[str, type[Base]] = {"image": Image, "template": Template}
"""What else than machines can be shared."""


def create_user(
    session: Session,
    name: str,
    *,
    role: str,
    tenant: str = "default",
    password: str | None = None,
    ssh_keys: Sequence[str] = (),
    actor: str,
) -> User:
    """Without a password nobody logs in by one: a token is made by `issue_token`. Raises Refused."""
    user = add_user(session, name, role, find(session, Tenant, "tenant", tenant), ssh_keys)
    if password is not None:
        user.password_hash = passwords.hash_password(password)
    _journal(session, "create", user, {"role": role, "tenant": tenant}, actor)
    return user


def add_user(session: Session, name: str, role: str, tenant: Tenant, ssh_keys: Sequence[str]) -> User:
    """The row alone. Raises Invalid, Conflict, or Forbidden where who asks may not give that role."""
    check_name("User", name)
    if name in RESERVED:
        raise Invalid(f"User name {name!r} is refused: the journal means something else by it.")
    given = check_grant(session, role)
    for key in ssh_keys:
        check_ssh_key(key)
    if session.scalars(select(User.id).where(User.name == name)).first():
        raise Conflict(f"User name {name!r} is taken: choose another.")
    if tenant.state != "active":
        raise Conflict(f"Tenant {tenant.name} is {tenant.state}: it gets no new users.")
    user = User(
        id=new_id(), name=name, tenant_id=tenant.id, role=given, ssh_keys=[key.strip() for key in ssh_keys]
    )
    session.add(user)
    session.flush()
    return user


def check_grant(session: Session, role: str) -> Role:
    """The role, if who asks may give it. Raises Invalid or Forbidden."""
    if role not in list(Role):
        raise Invalid(f"Role {role!r} is none: {', '.join(Role)}.")
    actor = asking(session)
    if Role(role) not in GRANTS.get(actor.role, frozenset()):
        raise Forbidden(f"{actor.name} ({actor.role}) may not make somebody {role}.")
    return Role(role)


def _journal(session: Session, kind: str, user: User, spec: dict[str, Any], actor: str) -> None:
    opening = Opening(kind, "user", user.id, user.name, spec)
    operations.close(session, operations.open_one(session, opening, actor=actor))


def set_enabled(session: Session, name: str, enabled: bool, *, actor: str) -> bool:
    """Let a user in, or not: then its tokens are gone too. Returns whether that changed anything."""
    user = find(session, User, "user", name)
    wanted = "enabled" if enabled else "disabled"
    if user.id == asking(session).user_id:
        raise Invalid("Nobody disables their own account: ask another administrator.")
    if user.state == wanted:
        return False
    tenant = session.get_one(Tenant, user.tenant_id)
    if enabled and tenant.state != "active":
        raise Conflict(f"Tenant {tenant.name} is {tenant.state}: its users stay out.")
    _journal(session, wanted.removesuffix("d"), user, {}, actor)
    user.state = wanted
    if not enabled:
        revoke_tokens(session, user)
    return True


def set_password(session: Session, name: str, password: str, *, actor: str) -> None:
    """Whoever knew the old one is out: tokens are gone. Raises Refused."""
    user = find(session, User, "user", name)
    hashed = passwords.hash_password(password)
    _journal(session, "passwd", user, {}, actor)
    _forget_failures(session, name)
    user.password_hash = hashed
    revoke_tokens(session, user)


def revoke_tokens(session: Session, user: User) -> None:
    session.execute(delete(Token).where(Token.user_id == user.id))


def issue_token(session: Session, name: str, hours: float, *, actor: str) -> tuple[str, datetime]:
    """A token for a user who is here already, and when it expires. Raises Refused."""
    user = find(session, User, "user", name)
    return _issue(session, "token", user, hours, actor)


def login(session: Session, name: str, password: str, hours: float) -> tuple[str, datetime] | Forbidden:
    """A token for whoever knows the password, and when it expires.

    Else why not, in the same words whatever is wrong, and whether there is such a user or not: the error is
    returned, not raised, as the session has counted it. After a few in a row nobody is asked for a while.
    """
    if wait := _locked_for(session, name):
        return Forbidden(
            f"{name!r} is locked for {math.ceil(wait.total_seconds())} s, after too many logins that failed. "
            f"An administrator unlocks a user: `vdc user unlock {name}`."
        )
    user = session.scalars(select(User).where(User.name == name, User.state == "enabled")).first()
    # Also for a user that there is not: the time that it takes must not tell.
    if not passwords.verify(password, user.password_hash if user else None) or user is None:
        _count_failure(session, name)
        return Forbidden(f"Name or password is wrong, or {name!r} may not log in.")
    _forget_failures(session, name)
    session.execute(delete(Token).where(Token.user_id == user.id, Token.expires_at <= utc_now()))
    return _issue(session, "login", user, hours, name)


FREE_FAILURES = 5
"""So many logins may fail in a row."""
LOCK_S, MOST_LOCK_S = 30, 15 * 60
"""How long nobody is asked after that; it doubles with each further one, up to the most."""
FORGOTTEN_AFTER = timedelta(days=1)


def _locked_for(session: Session, name: str) -> timedelta | None:
    row = session.get(LoginFailure, name[:MOST_NAME])
    if row is None or row.count < FREE_FAILURES:
        return None
    lock_s = min(LOCK_S * 2 ** min(row.count - FREE_FAILURES, 10), MOST_LOCK_S)
    left = row.at + timedelta(seconds=lock_s) - utc_now()
    return left if left > timedelta() else None


def _count_failure(session: Session, name: str) -> None:
    now = utc_now()
    session.execute(delete(LoginFailure).where(LoginFailure.at < now - FORGOTTEN_AFTER))
    row = session.get(LoginFailure, name[:MOST_NAME])
    if row is None:
        session.add(LoginFailure(name=name[:MOST_NAME], count=1, at=now))
    else:
        row.count, row.at = row.count + 1, now
    session.flush()


def _forget_failures(session: Session, name: str) -> None:
    session.execute(delete(LoginFailure).where(LoginFailure.name == name[:MOST_NAME]))


def unlock(session: Session, name: str, *, actor: str) -> bool:
    """Let a user try to log in again at once; returns whether any login had failed. Raises Refused."""
    user = find(session, User, "user", name)
    _journal(session, "unlock", user, {}, actor)
    failed = session.get(LoginFailure, name) is not None
    _forget_failures(session, name)
    return failed


def _issue(session: Session, kind: str, user: User, hours: float, actor: str) -> tuple[str, datetime]:
    if not 0 < hours <= MAX_TOKEN_HOURS:
        raise Invalid(f"A token for {hours:g} hours is refused: above 0, up to {MAX_TOKEN_HOURS}.")
    if user.state != "enabled":
        raise Invalid(f"User {user.name} is disabled: `vdc user enable {user.name}` first.")
    token, expires = identity.new_token(), utc_now() + timedelta(hours=hours)
    session.add(Token(user_id=user.id, sha256=identity.token_sha256(token), expires_at=expires))
    _journal(session, kind, user, {"expires_at": expires.isoformat()}, actor)
    return token, expires


def logout(session: Session, token: str) -> bool:
    """Forget a token; False where it was none."""
    row = session.scalars(select(Token).where(Token.sha256 == identity.token_sha256(token))).first()
    if row is None:
        return False
    user = session.get_one(User, row.user_id)
    session.delete(row)
    _journal(session, "logout", user, {}, user.name)
    return True


def users(session: Session, tenant: str = "") -> list[dict[str, Any]]:
    """Users by name, with the keys of `vdc user list`."""
    query = select(User, Tenant.name).join(Tenant, Tenant.id == User.tenant_id)
    query = query.where(visible(session, User)).order_by(User.name)
    if tenant:
        query = query.where(User.tenant_id == find(session, Tenant, "tenant", tenant).id)
    now = utc_now()
    valid: dict[str, datetime] = {}
    for token in session.scalars(select(Token).where(Token.expires_at > now).order_by(Token.expires_at)):
        valid[token.user_id] = token.expires_at
    return [
        {
            "id": user.id,
            "name": user.name,
            "tenant": tenant_name,
            "role": user.role,
            "state": user.state,
            "password": user.password_hash is not None,
            "ssh_keys": len(user.ssh_keys),
            "token_until": valid.get(user.id),
            "created_at": user.created_at,
        }
        for user, tenant_name in session.execute(query)
    ]


def share(session: Session, what: str, *, user: str, tenant: str, actor: str) -> bool:
    """Let a user, or a tenant, use an object (`vm/web-1`); False where they could already. Raises Refused."""
    kind, row = _shared_object(session, what)
    with_user, with_tenant = _grantee(session, user, tenant)
    opening = Opening("share", kind, row.id, row.name, {"user": user or None, "tenant": tenant or None})
    claim = operations.open_one(session, opening, actor=actor)
    there = session.scalars(_shares(row.id, with_user, with_tenant)).first()
    if there is None:
        session.add(Share(object_kind=kind, object_id=row.id, user_id=with_user, tenant_id=with_tenant))
    operations.close(session, claim)
    return there is None


def unshare(session: Session, what: str, *, user: str, tenant: str, actor: str) -> bool:
    """The opposite; False where it was not shared so."""
    kind, row = _shared_object(session, what)
    with_user, with_tenant = _grantee(session, user, tenant)
    opening = Opening("unshare", kind, row.id, row.name, {"user": user or None, "tenant": tenant or None})
    claim = operations.open_one(session, opening, actor=actor)
    there = session.scalars(_shares(row.id, with_user, with_tenant)).first()
    if there is not None:
        session.delete(there)
    operations.close(session, claim)
    return there is not None


def _shares(object_id: str, user_id: str | None, tenant_id: str | None) -> Any:
    return select(Share).where(
        Share.object_id == object_id, Share.user_id == user_id, Share.tenant_id == tenant_id
    )


def _shared_object(session: Session, what: str) -> tuple[str, Any]:
    kind, _, name = what.partition("/")
    if kind == "vm" and name:
        return kind, find_vm(session, name)
    if kind in SHARED_TABLES and name:
        return kind, find(session, SHARED_TABLES[kind], kind, name)
    raise Invalid(
        f"{what!r} cannot be shared: give vm/NAME, {', '.join(f'{k}/NAME' for k in SHARED_TABLES)}."
    )


def _grantee(session: Session, user: str, tenant: str) -> tuple[str | None, str | None]:
    """Whoever shares knows the name: it need not be of the own tenant."""
    if bool(user) == bool(tenant):
        raise Invalid("Say with whom: either a user or a tenant.")
    table: Any = User if user else Tenant
    found = session.scalars(select(table.id).where(table.name == (user or tenant))).first()
    if found is None:
        raise NotFound(f"There is no {'user' if user else 'tenant'} {user or tenant!r}.")
    return (found, None) if user else (None, found)

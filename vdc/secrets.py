"""Secrets that contexts name: nobody is shown one again once it is there.

In the inventory they are encrypted (Fernet: AES-128-CBC with HMAC-SHA256); the key is a file apart,
`$VDC_HOME/secrets.key`, mode 0600. A machine's spec has a mark with the secret's id where it belongs; the
secret comes in when the machine's seed is built, and is in no parameter, log, plan, listing or export.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from sqlalchemy import String, cast, delete, select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.access import asking, check
from vdc.errors import DriverFailure, Invalid, InvalidState, NotFound, Unready
from vdc.model import ContextSpec, GuestFile, GuestUser
from vdc.names import check_name, find
from vdc.operations import Opening
from vdc.rendering import SECRET
from vdc.schema import Secret, Site, Tenant, Vm, new_id
from vdc.states import HOLDING

MAX_BYTES = 16 * 1024
_MARK = re.compile(f"{SECRET[0]}([^{SECRET[1]}]*){SECRET[1]}")


def key(file: Path, *, make: bool = False) -> bytes:
    """The key in `file`; with `make` it is made where there is none yet. Raises Unready."""
    from cryptography.fernet import Fernet

    try:
        if make and not file.exists():
            _make_key(file, Fernet.generate_key())
        return file.read_bytes().strip()
    except OSError as error:
        raise Unready(
            f"The key of the secrets cannot be read: {error}. Copy it from the control machine where they "
            "were set, or set them again."
        ) from error


def _make_key(file: Path, content: bytes) -> None:
    """Whole or not at all, and never over another one: whoever else makes one now may be first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
        with suppress(FileExistsError):
            os.link(name, file)
    finally:
        os.unlink(name)


def _whose(session: Session, tenant: str, act: str, name: str) -> Tenant | None:
    """The tenant, or None for the site: that is the administrators'. Raises NotFound, Forbidden."""
    tenant = tenant or asking(session).house
    if not tenant:
        check(session, f"site.{act}", name)
        return None
    owner = find(session, Tenant, "tenant", tenant)
    check(session, f"tenant.{act}", owner.name, owner.id)
    return owner


def _named(session: Session, owner: Tenant | None, name: str) -> Secret | None:
    query = select(Secret).where(Secret.tenant_id == (owner.id if owner else None), Secret.name == name)
    return session.scalars(query).first()


def set_secret(
    session: Session, name: str, value: str, tenant: str = "", *, with_key: bytes, actor: str
) -> bool:
    """Keep a secret of a tenant, or of the site where `tenant` is empty; returns whether it is a new one.

    Machines that are there get it with their next seed, not before. Raises Refused.
    """
    from cryptography.fernet import Fernet

    check_name("Secret", name)
    owner = _whose(session, tenant, "secret", name)
    if owner is not None and owner.state != "active":
        raise InvalidState(f"Tenant {owner.name} is {owner.state}: it gets no new secrets.")
    if not value or len(value.encode()) > MAX_BYTES or any(mark in value for mark in (*SECRET, "\0")):
        raise Invalid(f"Secret {name} is refused: give text of 1 byte to {MAX_BYTES // 1024} KiB.")
    sealed = _sealing(lambda: Fernet(with_key).encrypt(value.encode()).decode())
    secret = _named(session, owner, name)
    new = secret is None
    if secret is None:
        secret = Secret(id=new_id(), tenant_id=owner.id if owner else None, name=name, sealed=sealed)
        session.add(secret)
    secret.sealed = sealed
    _journal(session, owner, {"secret": name, "new": new}, actor)
    return new


def remove_secret(session: Session, name: str, tenant: str = "", *, actor: str) -> None:
    """Raises NotFound, and InvalidState while a machine was told it: its seed could not be built again."""
    owner = _whose(session, tenant, "secret", name)
    secret = _named(session, owner, name)
    if secret is None:
        known = [row["name"] for row in listing(session, tenant)]
        raise NotFound(f"There is no secret {name!r}. Known: {', '.join(known) or 'none'}.")
    if vms := sorted(vm.name for vm in _told(session, secret.id) if vm.state in HOLDING):
        raise InvalidState(
            f"Secret {name} is in what machines were told ({', '.join(vms[:8])}): it can go when they are "
            "gone."
        )
    _journal(session, owner, {"secret": name, "removed": True}, actor)
    session.delete(secret)


def listing(session: Session, tenant: str = "") -> list[dict[str, Any]]:
    """Names of the secrets of a tenant, or of the site; what they are is not in it."""
    owner = _whose(session, tenant, "see-secrets", "")
    query = select(Secret).where(Secret.tenant_id == (owner.id if owner else None)).order_by(Secret.name)
    return [
        {"name": secret.name, "tenant": owner.name if owner else None, "created_at": secret.created_at}
        for secret in session.scalars(query)
    ]


def _journal(session: Session, owner: Tenant | None, spec: dict[str, Any], actor: str) -> None:
    if owner is None:
        site = session.scalars(select(Site)).one()
        opening = Opening("secret", "site", site.id, "site", spec)
    else:
        opening = Opening("secret", "tenant", owner.id, owner.name, spec)
    operations.close(session, operations.open_one(session, opening, actor=actor))


def _told(session: Session, secret_id: str) -> list[Vm]:
    return list(session.scalars(select(Vm).where(cast(Vm.spec, String).contains(secret_id))))


def forget_all(session: Session, tenant_id: str) -> None:
    """Remove a tenant's secrets; machines that it gave to others are told nothing in their place."""
    for secret in session.scalars(select(Secret).where(Secret.tenant_id == tenant_id)).all():
        mark = f"{SECRET[0]}{secret.id}{SECRET[1]}"
        for vm in _told(session, secret.id):
            spec = specs.load(vm.spec)
            context = _mapped(spec.context, partial(_without, mark))
            vm.spec = specs.dump(replace(spec, context=context))
    session.execute(delete(Secret).where(Secret.tenant_id == tenant_id))


def _without(mark: str, text: str) -> str:
    return text.replace(mark, "")


def ids_in(context: ContextSpec) -> set[str]:
    """Ids of the secrets that a context has marks of."""
    found: set[str] = set()

    def look(text: str) -> str:
        found.update(_MARK.findall(text))
        return text

    _mapped(context, look)
    return found


def read_sealed(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Secrets by their ids, as they are kept."""
    return dict(session.execute(select(Secret.id, Secret.sealed).where(Secret.id.in_(ids))).all())


def shown(session: Session, context: ContextSpec) -> ContextSpec:
    """With a secret's name, `<secret db>`, where it belongs: to be looked at."""
    names = dict(session.execute(select(Secret.id, Secret.name).where(Secret.id.in_(ids_in(context)))).all())
    return _mapped(context, lambda text: _MARK.sub(lambda m: f"<secret {names.get(m[1], '?')}>", text))


def revealed(context: ContextSpec, sealed: Mapping[str, str], with_key: bytes) -> ContextSpec:
    """With the secrets themselves, for the seed alone. `sealed`: as of `read_sealed`.

    Raises DriverFailure where one is gone, or was set with another key.
    """
    from cryptography.fernet import Fernet

    def secret(found: re.Match[str]) -> str:
        if found[1] not in sealed:
            raise DriverFailure(f"A secret that machine {context.hostname} is to be told is gone.")
        return _sealing(lambda: Fernet(with_key).decrypt(sealed[found[1]]).decode())

    return _mapped(context, lambda text: _MARK.sub(secret, text))


def _sealing(act: Callable[[], str]) -> str:
    from cryptography.fernet import InvalidToken

    try:
        return act()
    except (InvalidToken, ValueError):
        raise DriverFailure(
            "A secret cannot be read with the key in $VDC_HOME/secrets.key: it was set with another one. Put "
            "that back, or set the secret again (`vdc secret set`)."
        ) from None


def _mapped(context: ContextSpec, change: Callable[[str], str]) -> ContextSpec:
    """The context with each text in it changed."""
    changed = {f.name: _each(getattr(context, f.name), change) for f in fields(context)}
    if context.cloud_init:
        changed["cloud_init"] = json.dumps(_each(json.loads(context.cloud_init), change), sort_keys=True)
    return ContextSpec(**changed)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_each(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _each(part, change) for key, part in value.items()}
    if isinstance(value, (GuestUser, GuestFile)):
        return replace(value, **{f.name: _each(getattr(value, f.name), change) for f in fields(value)})
    return value

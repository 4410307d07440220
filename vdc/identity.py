"""Who asks: by the token that a login gave, or as the operating-system user who owns the datacenter.

In this order: `VDC_TOKEN`; `VDC_ACTOR`, by which the worker says for whom it runs (see
deployments/control/engine); what `vdc login` kept; and without any of these the operating-system
administrator: root, or the owner of `VDC_HOME`. A command that has begun goes on when its token expires.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from vdc import access
from vdc.access import Actor, Role
from vdc.errors import Forbidden
from vdc.reading import Select, instant, reader
from vdc.settings import Settings

AS_USER = "user/"
"""`VDC_ACTOR` that begins so names a user of the inventory, with that user's rights."""

PREFIX = "vdc_"
"""How a token begins, so that one that was left somewhere is known for what it is."""

_USER = """
SELECT users.id, users.name, users.role, users.state, users.tenant_id, tenants.name
FROM users JOIN tenants ON tenants.id = users.tenant_id
"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What this process shows. At most one of `token` and `declared`."""

    token: str = ""
    declared: str = ""
    of_system: bool = False
    """The operating-system user is root, or owns `VDC_HOME`."""


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def token_sha256(token: str) -> str:
    """What is kept of a token. It is random, so that a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode()).hexdigest()


def credentials(settings: Settings) -> Credentials:
    of_system = _owns(settings.home)
    if token := os.environ.get("VDC_TOKEN", ""):
        return Credentials(token=token, of_system=of_system)
    if declared := os.environ.get("VDC_ACTOR", ""):
        return Credentials(declared=declared, of_system=of_system)
    return Credentials(token=Login(settings.home).read(), of_system=of_system)


def _owns(home: Path) -> bool:
    me = os.geteuid()
    return me == 0 or not home.exists() or home.stat().st_uid == me


def acting(settings: Settings) -> Actor:
    """For whom this process works.

    Raises Forbidden for a token that is expired, revoked or none, and for an operating-system user who is
    not the administrator and has none.
    """
    actor = _identify(settings.inventory_url, credentials(settings))
    access.act_as(actor)
    return actor


def acting_or_none(settings: Settings) -> Actor:
    """As `acting`; of somebody who is not let in, an actor without any right, for the audit."""
    try:
        return acting(settings)
    except Forbidden:
        return Actor(f"{access.of_system()}, not logged in"[:127], Role.USER)


@lru_cache(maxsize=8)
def _identify(url: str, shown: Credentials) -> Actor:
    if shown.token:
        with reader(url) as select:
            return by_token(select, shown.token, datetime.now(UTC))
    if not shown.of_system:
        raise Forbidden("Nobody is logged in: `vdc login NAME`, or put a token into VDC_TOKEN.")
    if shown.declared.startswith(AS_USER):
        with reader(url) as select:
            return _by_name(select, shown.declared.removeprefix(AS_USER))
    return Actor(access.of_system(), Role.ADMINISTRATOR)


def by_token(select: Select, token: str, now: datetime) -> Actor:
    """Whose token it is. Raises Forbidden, in one sentence for all that is wrong but its age."""
    known = "JOIN tokens ON tokens.user_id = users.id WHERE tokens.sha256 = :sha256"
    rows = select(f"{_USER} {known}", {"sha256": token_sha256(token)})
    if not rows or rows[0][3] != "enabled":
        raise Forbidden("The token is not known: log in again with `vdc login NAME`.")
    expires = instant(
        select("SELECT expires_at FROM tokens WHERE sha256 = :sha256", {"sha256": token_sha256(token)})[0][0]
    )
    if expires is None or expires <= now:
        raise Forbidden(f"The token expired at {expires:%Y-%m-%d %H:%M} UTC: `vdc login {rows[0][1]}`.")
    return _actor(rows[0])


def _by_name(select: Select, name: str) -> Actor:
    rows = select(f"{_USER} WHERE users.name = :name", {"name": name})
    if not rows or rows[0][3] != "enabled":
        raise Forbidden(f"The setting prefect_ui_user names {name!r}, who is no enabled user.")
    return _actor(rows[0])


def _actor(row: tuple[Any, ...]) -> Actor:
    user_id, name, role, _, tenant_id, tenant = row
    return Actor(name, Role(role), user_id, tenant_id, tenant)


class Login:
    """The token that `vdc login` got, in a file that only its owner can read; one for each `VDC_HOME`."""

    def __init__(self, home: Path) -> None:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        self.file = state / "vdc" / "logins.json"
        self._home = str(home)

    def _all(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise Forbidden(f"{self.file} cannot be read ({error}): remove it, and log in again.") from error
        return found

    def read(self) -> str:
        """Empty where nobody is logged in."""
        return self._all().get(self._home, "")

    def write(self, token: str) -> None:
        """Keep `token`; empty: forget it."""
        logins = {home: kept for home, kept in self._all().items() if home != self._home}
        if token:
            logins[self._home] = token
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as written:
            json.dump(logins, written)
        new.replace(self.file)

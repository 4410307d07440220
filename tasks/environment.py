"""What every task of this process works with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from drivers.contract import Access
from vdc.settings import Settings, load


@dataclass(frozen=True)
class Environment:
    settings: Settings
    access: Access

    @property
    def url(self) -> str:
        """The inventory."""
        return self.settings.inventory_url


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Settings and access of this process, read once."""
    settings = load()
    access = Access(
        key_file=settings.ssh_dir / "id_ed25519",
        known_hosts_file=settings.ssh_dir / "known_hosts",
        connect_timeout_s=settings.connect_timeout_s,
        call_timeout_s=settings.call_timeout_s,
        peer_scheme=settings.peer_scheme,
    )
    return Environment(settings, access)

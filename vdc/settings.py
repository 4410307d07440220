"""Where things are and how patient we are: from the environment and `$VDC_HOME/vdc.toml`, nowhere else.

The environment (`VDC_DATABASE_URL`, ...) wins over the file (`database_url = ...`), the file over the
defaults. A database URL may hold a password: it comes from the environment or the file, never from a
command line.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vdc.documents import Party
from vdc.errors import Invalid
from vdc.tariff import LIST_PRICES, Tariff, make_tariff

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """All settings; every field but `home` can be set as `VDC_<NAME>` or in `vdc.toml`."""

    home: Path
    database_url: str = ""
    """SQLAlchemy URL of the inventory; empty: SQLite in `home`."""
    prefect_port: int = 4200
    """Port of the Prefect server that `vdc up` starts on 127.0.0.1."""
    prefect_api_url: str = ""
    """Set to use a Prefect server of one's own instead."""
    worker_limit: int = 4
    """How many flow runs from the Prefect UI and from schedules run at once; 0: `vdc up` starts no worker."""
    per_host_concurrency: int = 4
    """How many machines are made or removed on one host at the same time, per process."""
    operation_lease_s: float = 60.0
    """An operation without heartbeat for this long may be taken over, also from an owner not proved dead."""
    connect_timeout_s: float = 10.0
    call_timeout_s: float = 60.0
    migration_timeout_s: float = 600.0
    """A migration that takes longer is aborted: the machine stays where it is."""
    drain_concurrency: int = 2
    """How many machines are moved at the same time when a host is drained."""
    suspend_timeout_s: float = 600.0
    """Saving a machine's memory that takes longer is aborted: the machine runs on."""
    snapshot_timeout_s: float = 600.0
    """How long making a snapshot, or going back to one, may take: a machine's memory is written or read."""
    max_snapshots: int = 10
    """How many snapshots a machine may have."""
    snapshot_days: int = 0
    """How old a snapshot may become before the flow sweep-snapshots removes it; 0: as old as it likes."""
    download_timeout_s: float = 3600.0
    """How long fetching an image by its URL may take."""
    download_max_mib: int = 102_400
    """How large an image may be that is fetched by its URL."""
    peer_scheme: str = "qemu+ssh"
    """How one host's libvirt reaches another's: qemu+ssh, qemu+tls, or qemu+tcp on a closed network."""
    retries: int = 3
    """How often a task retries a transient failure."""
    retry_delay_s: float = 1.0
    """First pause before a retry; doubles each time."""
    tenant_uplink: str = "vlan://ovsbr0"
    tenant_vlans: str = "1000-1999"
    """Uplink and range of VLAN ids from which a tenant's private network is drawn."""
    time_servers: str = ""
    """Addresses of time servers that routers ask, separated by commas; empty: they have their host's time."""
    token_hours: float = 12.0
    """How long a login, or a token, is good."""
    prefect_ui_user: str = ""
    """The user for whom flows run that the Prefect UI asks for; empty: an administrator `prefect-ui`."""
    price_vcpu_hour: str = "0.0080"
    price_memory_gib_hour: str = "0.0040"
    price_disk_gib_month: str = "0.0500"
    price_ec2_margin: str = "1.20"
    """Factor on what EC2 asks for an instance."""
    currency: str = "EUR"
    """The site's list prices, shown by every plan."""
    budget_alert_percent: str = "50,80,100"
    """How much of a tenant's monthly budget is used up when an alert is due, once each."""
    seller_name: str = ""
    seller_address: str = ""
    seller_tax_id: str = ""
    """Who sends the bills, as they are to print it; lines of the address are separated by newlines."""
    seller_contact: str = ""
    """How customers reach the seller; on their welcome sheet."""
    sample_retention_days: int = 90
    """How long counters that were sampled from machines are kept."""

    @property
    def inventory_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'inventory.db'}"

    @property
    def prices(self) -> Tariff:
        """The site's list prices: what plans show, and bills charge unless another tariff is named."""
        values = {name: getattr(self, f"price_{name}") for name in LIST_PRICES}
        return make_tariff(values | {"currency": self.currency}, "Settings price_*")

    @property
    def time_server_addresses(self) -> tuple[str, ...]:
        return tuple(address for one in self.time_servers.split(",") if (address := one.strip()))

    @property
    def seller(self) -> Party:
        return Party(self.seller_name, self.seller_address, self.seller_tax_id)

    @property
    def api_url(self) -> str:
        return self.prefect_api_url or f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def ssh_dir(self) -> Path:
        """`id_ed25519`, `known_hosts`, and `ssh`: the command that a host's URI names."""
        return self.home / "ssh"

    @property
    def secrets_key(self) -> Path:
        """With which secrets are encrypted in the inventory."""
        return self.home / "secrets.key"

    @property
    def server_pid_file(self) -> Path:
        """Of the Prefect server that `vdc up` starts."""
        return self.home / "run" / "prefect-server.json"

    @property
    def prefect_home(self) -> Path:
        return self.home / "prefect"


def load() -> Settings:
    """Read the settings afresh.

    Raises Invalid for an unknown key in `vdc.toml` or a value of the wrong type.
    """
    home = Path(os.environ.get("VDC_HOME") or CHECKOUT / ".vdc").resolve()
    file = home / "vdc.toml"
    try:
        from_file = tomllib.loads(file.read_text()) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{file} is not TOML: {error}.") from error
    known = {f.name: f for f in fields(Settings) if f.name != "home"}
    unknown = sorted(set(from_file) - set(known))
    if unknown:
        raise Invalid(f"{file} has unknown settings: {', '.join(unknown)}. Known: {', '.join(known)}.")
    values: dict[str, Any] = {}
    for name, field in known.items():
        raw = os.environ.get(f"VDC_{name.upper()}", from_file.get(name))
        if raw is None:
            continue
        kind: type = type(field.default)
        try:
            values[name] = kind(raw)
        except (TypeError, ValueError) as error:
            raise Invalid(f"Setting {name}: {raw!r} is not {kind.__name__}.") from error
    return Settings(home=home, **values)

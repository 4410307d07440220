"""A simulated cloud: instances that run at once, and tokens that are honoured."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from drivers.contract import Access
from drivers.simulated.store import Call, datacenter, parse_uri
from vdc.errors import NotFound
from vdc.model import InstanceSeen, LaunchSpec

SEEN = "SELECT id, state, type, zone, address, vm_id, site, token FROM instances WHERE cloud = ?"


class SimulatedCloud:
    """The instances of one cloud. Any image is there whose name begins with `ami-`."""

    def __init__(self, uri: str, access: Access) -> None:
        self._path, self._cloud = parse_uri(uri, "cloud")
        self._timeout_s = access.call_timeout_s

    def _call(self, name: str, subject: str = "") -> AbstractContextManager[Call]:
        return datacenter(self._path).call(self._cloud, f"cloud.{name}", subject, self._timeout_s)

    def _rows(self, call: Call, where: str, *values: str) -> list[InstanceSeen]:
        sql = f"{SEEN} AND {where} ORDER BY id"
        return [InstanceSeen(*row) for row in call.execute(sql, (self._cloud, *values))]

    def check_image(self, ami: str) -> None:
        with self._call("check_image", ami):
            if not ami.startswith("ami-"):
                raise NotFound(f"{self._cloud} has no image {ami}.")

    def ensure_launched(self, spec: LaunchSpec) -> InstanceSeen:
        with self._call("ensure_launched", spec.vm_name) as call:
            known: Any = call.one(
                "SELECT id, spec FROM instances WHERE cloud = ? AND token = ?", (self._cloud, spec.token)
            )
            if known and known[1] != repr(spec):
                raise call.failure(f"IdempotentParameterMismatch: token {spec.token}")
            if not known:
                (n,) = call.one("SELECT count(*) FROM instances")
                call.execute(
                    "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?)",
                    (
                        self._cloud,
                        f"i-{n:017x}",
                        spec.token,
                        repr(spec),
                        spec.instance_type,
                        spec.zone,
                        f"198.51.{100 + n // 250}.{n % 250 + 1}",
                        spec.vm_id,
                        spec.site,
                    ),
                )
            return self._rows(call, "token = ?", spec.token)[0]

    def read_instances(self, site: str) -> list[InstanceSeen]:
        with self._call("read_instances") as call:
            return self._rows(call, "site = ? AND state <> 'gone'", site)

    def find_instances(self, vm_id: str) -> list[InstanceSeen]:
        with self._call("find_instances", vm_id) as call:
            return self._rows(call, "vm_id = ? AND state <> 'gone'", vm_id)

    def read_instance(self, instance_id: str) -> InstanceSeen | None:
        with self._call("read_instance", instance_id) as call:
            return next(iter(self._rows(call, "id = ?", instance_id)), None)

    def ensure_terminated(self, instance_id: str) -> bool:
        with self._call("ensure_terminated", instance_id) as call:
            changed = call.execute(
                "UPDATE instances SET state = 'gone' WHERE cloud = ? AND id = ? AND state <> 'gone'",
                (self._cloud, instance_id),
            )
            return changed.rowcount > 0


def cloud(uri: str, access: Access) -> SimulatedCloud:
    """The driver of `simulated:///path/dc.db?cloud=NAME`."""
    return SimulatedCloud(uri, access)

"""A machine's cloud-init seed: what it is told about itself, as a NoCloud image (ISO 9660, label `cidata`).

Every value is written as a quoted string, so nothing that a user gives can end its field or begin another;
the start script is a file of its own. The same input gives the same bytes, so that a seed can be compared
with what is there. docs/guest.md says what real cloud-init and our tiny guest make of it.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from ipaddress import ip_interface, ip_network
from typing import Any

import pycdlib
import pycdlib.dates
import pycdlib.headervd
import pycdlib.pycdlib
import pycdlib.utils

from drivers import router
from vdc.errors import Invalid
from vdc.model import ContextSpec, GuestFile, GuestUser, NicSpec

VOLUME = "cidata"
EPOCH_S = 1_577_836_800.0
"""Time stamp of every seed: 2020-01-01 UTC."""


class _StoppedClock:
    """Stands in for the `time` module in pycdlib, which would write the present time and zone."""

    struct_time = time.struct_time
    strptime = staticmethod(time.strptime)
    strftime = staticmethod(time.strftime)
    gmtime = staticmethod(time.gmtime)
    localtime = staticmethod(time.gmtime)

    @staticmethod
    def time() -> float:
        return EPOCH_S


for _module in (pycdlib.dates, pycdlib.headervd, pycdlib.pycdlib, pycdlib.utils):
    vars(_module)["time"] = _StoppedClock


def build_seed(context: ContextSpec, instance_id: str, nics: tuple[NicSpec, ...]) -> bytes:
    """The image's bytes (about 60 KiB).

    A card without an address asks DHCP; the first whose network has a gateway gets the default route.
    Raises Invalid for a value with control characters where only a line makes sense, or an address outside
    its network.
    """
    return _iso(seed_files(context, instance_id, nics))


def seed_files(context: ContextSpec, instance_id: str, nics: Sequence[NicSpec]) -> dict[str, str]:
    """Name -> content of the seed's files."""
    files = {
        "meta-data": _meta_data(context, instance_id),
        "network-config": _network_config(nics),
        "user-data": cloud_config(context),
    }
    if context.start_script:
        files["vendor-data"] = script(context.start_script)
    if context.router:
        files |= router.files(context.router)
    return files


def _meta_data(context: ContextSpec, instance_id: str) -> str:
    return (
        f"instance-id: {_line(instance_id, 'instance id')}\n"
        f"local-hostname: {_line(context.hostname, 'hostname')}\n"
    )


_GROW = """\
growpart:
  mode: "auto"
  devices: ["/"]
resize_rootfs: true"""
"""Said, not left to the image: cloud-init does both at each boot, so that a disk which was grown is used."""


def cloud_config(context: ContextSpec, files: Sequence[GuestFile] = (), run: Sequence[str] = ()) -> str:
    """Cloud-init's user-data; `files` and commands to `run` come besides those of the context.

    `disable_root: false` gives the keys to root as well as to the image's default user.
    """
    hostname = _line(context.hostname, "hostname")
    lines = ["#cloud-config", f"hostname: {hostname}", "disable_root: false", "ssh_pwauth: false", _GROW]
    if context.ssh_keys:
        lines.append("ssh_authorized_keys:")
        lines.extend(f"  - {_line(key, 'SSH key')}" for key in context.ssh_keys)
    fields: dict[str, Any] = json.loads(context.cloud_init) if context.cloud_init else {}
    if context.users:
        fields["users"] = ["default", *map(_user, context.users)]
    if context.packages:
        fields["packages"] = list(context.packages)
    if told := (*context.files, *files):
        fields["write_files"] = [_file(file) for file in told]
    if run:
        fields["runcmd"] = [*fields.get("runcmd", []), *([command] for command in run)]
    lines.extend(f"{name}: {_flow(value)}" for name, value in sorted(fields.items()))
    return "\n".join(lines) + "\n"


def _user(user: GuestUser) -> dict[str, Any]:
    told: dict[str, Any] = {"name": user.name, "shell": user.shell}
    if user.ssh_keys:
        told["ssh_authorized_keys"] = list(user.ssh_keys)
    if user.groups:
        told["groups"] = ", ".join(user.groups)
    if user.sudo:
        told["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    if user.password_hash:
        told |= {"passwd": user.password_hash, "lock_passwd": False}
    return told


def _file(file: GuestFile) -> dict[str, Any]:
    # Packages come first in cloud-init's order where a file is deferred: they may make its owner.
    return {
        "path": file.path,
        "content": file.content,
        "permissions": file.permissions,
        "owner": file.owner,
        "defer": True,
    }


def _flow(value: Any) -> str:
    """A value in a line that JSON and YAML read the same."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    return json.dumps(value)


def _network_config(nics: Sequence[NicSpec]) -> str:
    if not nics:
        return "version: 2\nethernets: {}\n"
    routed = next((nic.index for nic in nics if nic.address and nic.vnet.gateway), None)
    lines = ["version: 2", "ethernets:"]
    for nic in nics:
        lines.append(f"  nic{nic.index}:")
        lines.append(f'    match: {{"macaddress": {_line(nic.mac.lower(), "MAC address")}}}')
        lines.append(f'    set-name: "eth{nic.index}"')
        if not nic.address:
            lines.append("    dhcp4: true")
            continue
        lines.append("    dhcp4: false")
        lines.append(f"    addresses: [{_line(_cidr(nic), 'address')}]")
        if nic.index == routed:
            gateway = _line(nic.vnet.gateway or "", "gateway")
            everywhere = "::/0" if ":" in nic.address else "0.0.0.0/0"
            lines.append(f'    routes: [{{"to": "{everywhere}", "via": {gateway}}}]')
        if nic.vnet.dns:
            servers = ", ".join(_line(server, "name server") for server in nic.vnet.dns)
            lines.append(f'    nameservers: {{"addresses": [{servers}]}}')
    return "\n".join(lines) + "\n"


def _cidr(nic: NicSpec) -> str:
    try:
        network = ip_network(nic.vnet.cidr)
        inside = ip_interface(nic.address).ip in network
    except ValueError as error:
        raise Invalid(f"Network card {nic.index}: {error}.") from error
    if not inside:
        raise Invalid(f"Network card {nic.index}: address {nic.address} is not in {nic.vnet.cidr}.")
    return f"{nic.address}/{network.prefixlen}"


def script(text: str) -> str:
    """Begins with `#!`, by which cloud-init tells a script from its other formats."""
    return text if text.startswith("#!") else f"#!/bin/sh\n{text}"


def _line(value: str, what: str) -> str:
    """A one-line string quoted so that JSON and YAML read the same; everything but ASCII as an escape."""
    if not value.isprintable():
        raise Invalid(f"The {what} has control characters: {value!r}.")
    return _quoted(value)


def _quoted(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(char if " " <= char <= "~" else _escape(ord(char)) for char in quoted)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _iso(files: dict[str, str]) -> bytes:
    """ISO 9660 with Joliet and Rock Ridge: either gives the long names in lower case."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
    for name, text in sorted(files.items()):
        content = text.encode()
        plain = name.upper().replace("-", "_")
        image.add_fp(io.BytesIO(content), len(content), f"/{plain}.;1", rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()

"""The guest's reader of YAML: it sees in a seed what a real YAML parser sees there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.guests.recipes import HERE
from drivers.seed import seed_files
from tests.requires import missing
from vdc.model import ContextSpec, NicSpec, VnetSpec

BY_HAND = """\
# as a person would write it
version: 2
ethernets:
  nic0:
    match: {macaddress: 52:54:00:AA:00:00, note: 'it''s'}   # a comment
    set-name: eth0
    addresses: [10.0.0.2/24, "fe80::1/64"]
    routes:
    - to: default
      via: 10.0.0.1
    - {to: 10.9.0.0/16, via: 10.0.0.9}
    nameservers:
      addresses:
        - 1.1.1.1
        - 2.2.2.2 # another
  "nic1":
    dhcp4: true
keys:
  - ssh-rsa AAA me@here
  - "a \\"b\\" \\u00eb \\\\ : # {"
url: http://example.test:80/
"""


@pytest.fixture(scope="module", autouse=True)
def _busybox() -> None:
    if not Path("/bin/busybox").exists() and not shutil.which("busybox"):
        missing("the guest's scripts need busybox (Debian package: busybox-static)")


def as_the_guest_reads(text: str) -> dict[str, str]:
    argv = ["busybox", "awk", "-f", str(HERE / "tiny" / "flatten.awk")]
    out = subprocess.run(argv, input=text.encode(), capture_output=True, check=True, timeout=10).stdout
    return dict(line.split("\t", 1) for line in out.decode().split("\n") if line)


def flattened(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return {path: str(value).lower() if isinstance(value, bool) else str(value)}
    found: dict[str, str] = {}
    for key, inner in parts:
        found |= flattened(inner, f"{path}.{key}" if path else str(key))
    return found


def test_what_a_person_writes() -> None:
    assert as_the_guest_reads(BY_HAND) == flattened(yaml.load(BY_HAND, yaml.BaseLoader))


printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(str.isprintable)


@settings(deadline=None)
@given(hostname=printable, keys=st.lists(printable, max_size=3))
def test_what_the_seed_says_in_any_letters(hostname: str, keys: list[str]) -> None:
    vnet = VnetSpec("n", "n", "vlan://ovsbr0", 100, "10.1.0.0/24", "10.1.0.1", ("10.1.0.53",))
    nics = (
        NicSpec(0, vnet, "d", "52:54:00:00:00:01", "10.1.0.2"),
        NicSpec(1, vnet, "e", "52:54:00:00:00:02", ""),
    )
    files = seed_files(ContextSpec(hostname, tuple(keys)), "id", nics)
    for name in ("meta-data", "user-data", "network-config"):
        assert as_the_guest_reads(files[name]) == flattened(yaml.safe_load(files[name])), name

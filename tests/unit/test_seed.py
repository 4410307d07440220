"""The cloud-init seed: readable by what reads it, the same bytes each time, and closed to what users type."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pycdlib
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drivers import seed
from vdc.errors import Invalid
from vdc.model import ContextSpec, NicSpec, VnetSpec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1 \"Zoë\" # 'quoted' {x}: [y]"


def vnet(name: str, cidr: str, gateway: str | None = None, dns: tuple[str, ...] = ()) -> VnetSpec:
    return VnetSpec(name, name, "vlan://ovsbr0", 100, cidr, gateway, dns)


def nic(index: int, address: str, network: VnetSpec) -> NicSpec:
    return NicSpec(index, network, f"vdx-{index}", f"52:54:00:AA:00:0{index}", address)


FRONT = vnet("front", "10.1.0.0/24", "10.1.0.1", ("10.1.0.53", "10.1.0.54"))
BACK = vnet("back", "10.2.0.0/16", "10.2.0.1")
CONTEXT = ContextSpec("web-1", (KEY, "ssh-rsa AAAA second"), "echo started")
NICS = (nic(0, "10.1.0.2", FRONT), nic(1, "10.2.3.4", BACK), nic(2, "", BACK))


def read(image: bytes, facade: str) -> dict[str, str]:
    """Files of the image as a guest sees them by Joliet or by Rock Ridge names."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    found = {}
    for child in iso.list_children(**{f"{facade}_path": "/"}):
        if child.is_dot() or child.is_dotdot():
            continue
        ident = child.rock_ridge.name() if facade == "rr" else child.file_identifier().decode("utf-16-be")
        name = ident.decode() if isinstance(ident, bytes) else ident
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, **{f"{facade}_path": f"/{name}"})
        found[name] = out.getvalue().decode()
    iso.close()
    return found


def parsed(context: ContextSpec = CONTEXT, nics: tuple[NicSpec, ...] = NICS) -> dict[str, Any]:
    files = read(seed.build_seed(context, "id-1", nics), "joliet")
    return {name: yaml.safe_load(text) if name != "vendor-data" else text for name, text in files.items()}


@pytest.mark.parametrize("facade", ["joliet", "rr"])
def test_the_image_holds_the_files_that_cloud_init_looks_for(facade: str) -> None:
    files = read(seed.build_seed(CONTEXT, "id-1", NICS), facade)
    assert sorted(files) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert files["user-data"].startswith("#cloud-config\n")


def test_identity_and_keys() -> None:
    told = parsed()
    assert told["meta-data"] == {"instance-id": "id-1", "local-hostname": "web-1"}
    assert told["user-data"]["hostname"] == "web-1"
    assert told["user-data"]["ssh_authorized_keys"] == [KEY, "ssh-rsa AAAA second"]
    assert told["user-data"]["disable_root"] is False


def test_the_root_file_system_grows_with_the_disk() -> None:
    """As cloud-init's modules growpart and resizefs read it."""
    told = parsed()["user-data"]
    assert told["growpart"] == {"mode": "auto", "devices": ["/"]}
    assert told["resize_rootfs"] is True


def test_cards_are_matched_by_mac_and_only_one_gets_the_default_route() -> None:
    cards = parsed()["network-config"]["ethernets"]
    assert cards["nic0"] == {
        "match": {"macaddress": "52:54:00:aa:00:00"},
        "set-name": "eth0",
        "dhcp4": False,
        "addresses": ["10.1.0.2/24"],
        "routes": [{"to": "0.0.0.0/0", "via": "10.1.0.1"}],
        "nameservers": {"addresses": ["10.1.0.53", "10.1.0.54"]},
    }
    assert cards["nic1"]["addresses"] == ["10.2.3.4/16"]
    assert "routes" not in cards["nic1"]
    assert cards["nic2"]["dhcp4"] is True
    assert "addresses" not in cards["nic2"]


def test_a_start_script_is_always_a_script_whatever_it_looks_like() -> None:
    assert parsed(ContextSpec("a", (), "#cloud-config\nusers: []"))["vendor-data"].startswith(
        "#!/bin/sh\n#cloud"
    )
    assert parsed(ContextSpec("a", (), "#!/usr/bin/python3\n1"))["vendor-data"].startswith(
        "#!/usr/bin/python3\n"
    )
    assert "vendor-data" not in parsed(ContextSpec("a"))


def test_the_same_input_gives_the_same_bytes_at_any_time_and_in_any_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = seed.build_seed(CONTEXT, "id-1", NICS)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert seed.build_seed(CONTEXT, "id-1", NICS) == first
    finally:
        monkeypatch.undo()
        time.tzset()
    assert seed.build_seed(CONTEXT, "id-2", NICS) != first


printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(str.isprintable)


@given(hostname=printable, key=printable)
def test_nothing_printable_breaks_out_of_its_field(hostname: str, key: str) -> None:
    files = seed.seed_files(ContextSpec(hostname, (key,)), "i", NICS)
    user = yaml.safe_load(files["user-data"])
    keys = {"hostname", "disable_root", "ssh_pwauth", "growpart", "resize_rootfs", "ssh_authorized_keys"}
    assert set(user) == keys
    assert user["ssh_authorized_keys"] == [key]
    assert yaml.safe_load(files["meta-data"]) == {"instance-id": "i", "local-hostname": hostname}


@pytest.mark.parametrize(
    ("context", "nics"),
    [
        (ContextSpec("a\nb"), ()),
        (ContextSpec("a", ("ssh-rsa A\nssh-rsa B",)), ()),
        (ContextSpec("a"), (nic(0, "10.9.0.2", FRONT),)),
        (ContextSpec("a"), (nic(0, "ten", FRONT),)),
    ],
)
def test_what_can_never_be_right_is_refused(context: ContextSpec, nics: tuple[NicSpec, ...]) -> None:
    with pytest.raises(Invalid):
        seed.build_seed(context, "i", nics)


def test_the_values_are_json_too() -> None:
    line = seed.seed_files(CONTEXT, "id-1", ())["meta-data"].splitlines()[0]
    assert json.loads(line.partition(": ")[2]) == "id-1"

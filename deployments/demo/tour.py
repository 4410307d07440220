"""What one does with a datacenter that runs: a chapter an operation, each proved from a machine's inside."""

from __future__ import annotations

import json
import time
from pathlib import Path

from deployments.demo.commands import ensure, listed, machine, say, vdc
from deployments.lab import state as lab_state
from deployments.lab.ec2.endpoint import AMI, PRICES
from deployments.lab.probe import Probe, open_probe
from deployments.lab.stream import LATE_S, PERIOD_S, watch
from vdc.errors import OperationFailed
from vdc.settings import load

TENANT = "acme"
SHOP = "shop"
BIG = [f"big-{n}" for n in range(1, 4)]
BIG_VCPU = 4
SCALE = 8
LABEL = "before-the-change"
ANSWER_DEADLINE_S = 180.0
LATER_S = 5.0
"""How long a machine runs on before it is taken back: longer than its first answer takes then."""

TENANT_FILE = """\
tenant: acme
time_zone: Europe/Madrid
quota: {{vms: 8, vcpu: 16, memory_mib: 2048, disk_mib: 10240}}
burst: {{allowed: true, max_vms: 2, max_price_per_hour: "0.25"}}
user:
  name: alice
  ssh_keys: ["{key}"]
network: {{cidr: 10.20.0.0/24, gateway: 10.20.0.1}}
template: {{name: web, image: tiny, memory_mib: 96}}
"""


def tour(lab: str, web_probe: Probe) -> None:
    """All chapters, in order. Raises OperationFailed where a proof fails."""
    onboard()
    migrate(lab)
    snapshot(web_probe)
    scale_test()
    burst(lab)
    bills()


def says(probe: Probe, address: str) -> dict[str, str]:
    """What the machine at an address tells of itself. Raises OperationFailed where it never does."""
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    while not (body := probe.fetch(address)):
        if time.monotonic() > deadline:
            raise OperationFailed(f"http://{address}/ did not answer within {ANSWER_DEADLINE_S:g} s.", "")
    return dict(line.split("=", 1) for line in body.splitlines() if "=" in line)


def onboard() -> None:
    say("\nA customer: quota, first user, a VLAN of its own and a template, from one file.")
    file = load().home / "acme.yaml"
    file.write_text(TENANT_FILE.format(key=_public_key()))
    vdc("tenant", "onboard", str(file))
    if machine(SHOP) is None:
        vdc("vm", "deploy", "--template", "acme-web", "--tenant", TENANT, "--name", SHOP)


def _public_key() -> str:
    return (load().ssh_dir / "id_ed25519.pub").read_text().strip()


def _tenant_probe(lab: str) -> Probe:
    (network,) = [row for row in listed("vnet") if row["cidr"] == "10.20.0.0/24"]
    return open_probe(lab, network["vlan_id"], "10.20.0.250/24")


def migrate(lab: str) -> None:
    say(f"\nIt moves to the other host while its web page is asked for every {PERIOD_S * 1000:.0f} ms.")
    probe, shop = _tenant_probe(lab), machine(SHOP)
    assert shop is not None, "it was deployed"
    address = shop["addresses"][0]["address"]
    before = says(probe, address)
    with watch(probe, address) as stream:
        vdc("vm", "migrate", SHOP)
    after = says(probe, address)
    if after["boot_id"] != before["boot_id"]:
        raise OperationFailed(f"{SHOP} was started again instead of being moved.", "")
    say(
        f"  {len(stream.answers)} requests: {len(stream.noticed)} lost or later than {LATE_S:g} s, "
        f"the slowest took {stream.longest_s:.2f} s; the same boot, up for {after['uptime']} s"
    )


def snapshot(probe: Probe) -> None:
    say("\nA state to come back to: memory and disk, at an instant.")
    name = "web-1"
    address = _address(name)
    old_enough_s = 0.0
    if LABEL not in {row["label"] for row in _snapshots(name)}:
        vdc("vm", "snapshot", "create", name, "--label", LABEL)
        old_enough_s = float(says(probe, address)["uptime"]) + LATER_S
    vdc("vm", "snapshot", "list", name)
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    while float((before := says(probe, address))["uptime"]) < old_enough_s:
        if time.monotonic() > deadline:
            raise OperationFailed(f"The clock of {name} does not go on: it says {before}.", "")
        time.sleep(0.2)
    vdc("vm", "snapshot", "revert", name, LABEL)
    after = says(probe, address)
    clocks = [float(told["uptime"]) for told in (before, after)]
    if after["boot_id"] != before["boot_id"] or clocks[1] >= clocks[0]:
        raise OperationFailed(f"{name} was not taken back: it said {before}, then {after}.", "")
    say(f"  the same boot, and back in time: up for {clocks[0]:.0f} s before, {clocks[1]:.0f} s after")


def _address(name: str) -> str:
    found = machine(name)
    assert found is not None, "it was deployed"
    return str(found["addresses"][0]["address"])


def _snapshots(name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(vdc("vm", "snapshot", "list", name, "--json", quiet=True))
    return rows


def scale_test() -> None:
    say(f"\nHow fast is this datacenter? {SCALE} machines made and removed, beside bare libvirt.")
    out = str(reports_dir() / "scale-test")
    if machine(BIG[0]) is not None:
        say(f"  measured before the rack was filled: {out}")
        return
    options = ["--template", "tiny", "--count", str(SCALE), "--start", "paused", "--repetitions", "1"]
    vdc("scale-test", "run", *options, "--out", out)


def burst(lab: str) -> None:
    say(f"\nThe rack is full: {len(BIG)} machines of {BIG_VCPU} vCPU, of which one finds no room here.")
    uri = lab_state.load(lab).ec2_uri
    ensure("cloud", "aws", "add", "aws", "--uri", uri, "--prices", str(PRICES))
    vdc("image", "map-ami", "tiny", "--cloud", "aws", "--ami", AMI)
    if machine(BIG[0]) is not None:
        return
    options = ["--template", "acme-web", "--tenant", TENANT, "--name", "big", "--count", str(len(BIG))]
    options += ["--vcpu", str(BIG_VCPU), "--burst", "when-full"]
    vdc("vm", "deploy", *options, "--plan")
    vdc("vm", "deploy", *options)


def bills() -> None:
    say("\nWhat the customer owes until now, line by line.")
    vdc("usage")
    vdc("bill", "preview", "--tenant", TENANT, "--out", str(reports_dir() / "bills"))


def reports_dir() -> Path:
    return load().home / "reports"

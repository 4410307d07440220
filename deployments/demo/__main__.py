"""What `make demo` runs: the commands that a person would type, shown; then each thing is proved.

The first chapter is here: hosts, image, network, template, four machines. The others are in tour.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from deployments.control.server import ui_url
from deployments.demo.commands import ensure, listed, program, say, vdc
from deployments.demo.tour import SHOP, TENANT, reports_dir, says, tour
from deployments.lab import control as lab_control
from deployments.lab import state as lab_state
from deployments.lab.probe import Probe, open_probe
from vdc.errors import OperationFailed, Refused, VdcError
from vdc.settings import load

VLAN = 100
PROBE = "10.1.0.250/24"
MACHINES = [f"web-{n}" for n in range(1, 5)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--lab", default="demo", help="id of its lab (default: demo)")
    parser.add_argument("--clean", action="store_true", help="take the demo down, to the last process")
    arguments = parser.parse_args()
    try:
        if arguments.clean:
            clean(arguments.lab)
        else:
            demo(arguments.lab)
    except VdcError as error:
        print(f"{'Refused' if isinstance(error, Refused) else 'Failed'}: {error}", file=sys.stderr)
        return 3 if isinstance(error, Refused) else 1
    return 0


def demo(lab: str) -> None:
    began = time.monotonic()
    _take_home()
    _first_chapter(lab)
    _deploy()
    machines = [m for m in listed("vm") if m["name"] in MACHINES]
    probe = open_probe(lab, VLAN, PROBE)
    _prove(probe, machines)
    tour(lab, probe)
    say()
    vdc("vm", "list")
    _say_what_next(machines, time.monotonic() - began)


def _first_chapter(lab: str) -> None:
    image = vdc("image", "build", "tiny").strip()
    vdc("lab", "up", "--lab", lab, "--hosts", "2")
    vdc("up")
    ensure("datastore", "shared", "create", "shared", "--uri", "qcow2:///srv/vdc/shared")
    for host in lab_state.load(lab).hosts:
        # The lab's CPUs are shared by both hosts and emulated: four tiny machines on each do no harm.
        options = ["--host-key", host.fingerprint, "--domain-type", "qemu", "--cpu-overcommit", "4"]
        options += ["--migration-address", host.migration_address]
        ensure("host", host.name, "enroll", host.name, "--uri", host.uri, *options)
    ensure("image", "tiny", "import", image, "--name", "tiny", "--datastore", "shared")
    network = ["--vlan", str(VLAN), "--cidr", "10.1.0.0/24", "--gateway", "10.1.0.1", "--last", "10.1.0.199"]
    network += ["--first", "10.1.0.10"]
    ensure("vnet", "blue", "create", "blue", *network)
    key = str(load().ssh_dir / "id_ed25519.pub")
    template = ["--image", "tiny", "--memory-mib", "96", "--vnet", "blue", "--ssh-key", key]
    ensure("template", "tiny", "create", "tiny", *template)
    vdc("reconcile")


def clean(lab: str) -> None:
    """Take down what the demo started and remove what it wrote. Raises Refused for a home not its own."""
    home = load().home
    if home.exists() and not _marker(home).exists():
        raise Refused(f"{home} was not made by the demo, so it is left alone: take it down by hand.")
    vdc("down")
    lab_control.down(lab, purge=True)
    if home.exists():
        shutil.rmtree(home)
    say("The demo is gone: no process, namespace or file of it is left but the cached guest image.")


def _marker(home: Path) -> Path:
    return home / "made-by-demo"


def _take_home() -> None:
    home = load().home
    if home.exists() and any(home.iterdir()) and not _marker(home).exists():
        raise Refused(f"{home} is in use for something else: set VDC_HOME to a directory for the demo.")
    home.mkdir(parents=True, exist_ok=True)
    _marker(home).touch()


def _deploy() -> None:
    there = {m["name"]: m for m in listed("vm")}
    broken = [n for n in MACHINES if n in there and there[n]["state"] != "running"]
    if broken:
        vdc("vm", "terminate", *broken)
    missing = [n for n in MACHINES if n not in there or n in broken]
    if missing == MACHINES:
        options = ["--template", "tiny", "--name", "web", "--count", str(len(MACHINES))]
        vdc("vm", "deploy", *options, "--plan")
        vdc("vm", "deploy", *options)
    else:
        for name in missing:
            vdc("vm", "deploy", "--template", "tiny", "--name", name)


def _prove(probe: Probe, machines: list[dict[str, Any]]) -> None:
    """Each machine answers HTTP on its VLAN with its own name. Raises OperationFailed where one does not."""
    say(f"\nAsking each machine, from a probe on VLAN {VLAN}:")
    for machine in machines:
        address = machine["addresses"][0]["address"]
        name = says(probe, address).get("hostname")
        if name != machine["name"]:
            raise OperationFailed(
                f"{machine['name']} at {address} on {machine['host']} says that it is {name!r}. "
                f"Look at its console: virsh -c URI console {machine['domain']}",
                "",
            )
        say(f"  http://{address}/  on {machine['host']}:  hostname={name}")


def _say_what_next(machines: list[dict[str, Any]], seconds: float) -> None:
    address, typed, reports = machines[0]["addresses"][0]["address"], program(), reports_dir()
    say(
        f"""
Up in {seconds:.0f} s. Look at:
  {ui_url(load())}    the Prefect UI: every flow run, forms to start one
  {reports}/scale-test/report.html
  {reports}/bills/    the bill's preview as a page, CSV and JSON

Type next:
  {typed} vm show web-1
  {typed} lab probe --vlan {VLAN} --address {PROBE} -- curl -s http://{address}/
  {typed} vm deploy --template acme-web --tenant {TENANT} --count 9 --plan
  {typed} vm migrate {SHOP} --plan
  {typed} vm terminate web-4
  {typed} operation list
  make clean-demo"""
    )


if __name__ == "__main__":
    sys.exit(main())

"""A datacenter on this machine, from nothing: what `make demo` runs, and what it takes down again.

It types the commands that a person would type and shows them; then it asks each machine, from a probe on
the machines' own VLAN, who it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deployments.control.server import ui_url
from deployments.lab import control as lab_control
from deployments.lab import state as lab_state
from deployments.lab.probe import open_probe
from vdc.errors import OperationFailed, Refused, VdcError
from vdc.settings import load

VLAN = 100
PROBE = "10.1.0.250/24"
MACHINES = [f"web-{n}" for n in range(1, 5)]
ANSWER_DEADLINE_S = 180.0


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
    image = _vdc("image", "build", "tiny").strip()
    _vdc("lab", "up", "--lab", lab, "--hosts", "2")
    _vdc("up")
    _ensure("datastore", "shared", "create", "shared", "--uri", "qcow2:///srv/vdc/shared")
    for host in lab_state.load(lab).hosts:
        # The lab's CPUs are shared by both hosts and emulated: four tiny machines on each do no harm.
        options = ["--host-key", host.fingerprint, "--domain-type", "qemu", "--cpu-overcommit", "4"]
        options += ["--migration-address", host.migration_address]
        _ensure("host", host.name, "enroll", host.name, "--uri", host.uri, *options)
    _ensure("image", "tiny", "import", image, "--name", "tiny", "--datastore", "shared")
    network = ["--vlan", str(VLAN), "--cidr", "10.1.0.0/24", "--gateway", "10.1.0.1", "--last", "10.1.0.199"]
    network += ["--first", "10.1.0.10"]
    _ensure("vnet", "blue", "create", "blue", *network)
    key = str(load().ssh_dir / "id_ed25519.pub")
    template = ["--image", "tiny", "--memory-mib", "96", "--vnet", "blue", "--ssh-key", key]
    _ensure("template", "tiny", "create", "tiny", *template)
    _vdc("reconcile")
    _deploy()
    machines = [m for m in _listed("vm") if m["name"] in MACHINES]
    _prove(lab, machines)
    _vdc("vm", "list")
    _say_what_next(machines, time.monotonic() - began)


def clean(lab: str) -> None:
    """Take down what the demo started and remove what it wrote. Raises Refused for a home not its own."""
    home = load().home
    if home.exists() and not _marker(home).exists():
        raise Refused(f"{home} was not made by the demo, so it is left alone: take it down by hand.")
    _vdc("down")
    lab_control.down(lab, purge=True)
    if home.exists():
        shutil.rmtree(home)
    print("The demo is gone: no process, namespace or file of it is left but the cached guest image.")


def _marker(home: Path) -> Path:
    return home / "made-by-demo"


def _take_home() -> None:
    home = load().home
    if home.exists() and any(home.iterdir()) and not _marker(home).exists():
        raise Refused(f"{home} is in use for something else: set VDC_HOME to a directory for the demo.")
    home.mkdir(parents=True, exist_ok=True)
    _marker(home).touch()


def _deploy() -> None:
    there = {m["name"]: m for m in _listed("vm")}
    broken = [n for n in MACHINES if n in there and there[n]["state"] != "running"]
    if broken:
        _vdc("vm", "terminate", *broken)
    missing = [n for n in MACHINES if n not in there or n in broken]
    if missing == MACHINES:
        options = ["--template", "tiny", "--name", "web", "--count", str(len(MACHINES))]
        _vdc("vm", "deploy", *options, "--plan")
        _vdc("vm", "deploy", *options)
    else:
        for name in missing:
            _vdc("vm", "deploy", "--template", "tiny", "--name", name)


def _prove(lab: str, machines: list[dict[str, Any]]) -> None:
    """Each machine answers HTTP on its VLAN with its own name. Raises OperationFailed where one does not."""
    print(f"\nAsking each machine, from a probe on VLAN {VLAN}:", flush=True)
    probe = open_probe(lab, VLAN, PROBE)
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    for machine in machines:
        address = machine["addresses"][0]["address"]
        body = None
        while not body and time.monotonic() < deadline:
            body = probe.fetch(address)
        name = (body or "").partition("\n")[0].removeprefix("hostname=")
        if name != machine["name"]:
            raise OperationFailed(
                f"{machine['name']} at {address} on {machine['host']} answered {body!r}. "
                f"Look at its console: virsh -c URI console {machine['domain']}",
                "",
            )
        print(f"  http://{address}/  on {machine['host']}:  hostname={name}", flush=True)
    print()


def _say_what_next(machines: list[dict[str, Any]], seconds: float) -> None:
    address = machines[0]["addresses"][0]["address"]
    vdc = Path(sys.executable).with_name("vdc")
    try:
        vdc = vdc.relative_to(Path.cwd())
    except ValueError:
        pass
    print(
        f"""
Up in {seconds:.0f} s. The Prefect UI, with every flow run: {ui_url(load())}

Type next:
  {vdc} vm show web-1
  {vdc} lab probe --vlan {VLAN} --address {PROBE} -- curl -s http://{address}/
  {vdc} vm deploy --template tiny --count 2 --plan
  {vdc} vm terminate web-4
  {vdc} operation list
  make clean-demo"""
    )


def _ensure(noun: str, name: str, *verb: str) -> None:
    if name not in {row["name"] for row in _listed(noun)}:
        _vdc(noun, *verb)


def _listed(noun: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(_vdc(noun, "list", "--json", quiet=True))
    return rows


def _vdc(*arguments: str, quiet: bool = False) -> str:
    """Run a `vdc` command, shown as one would type it. Raises OperationFailed where it fails."""
    if not quiet:
        shown = [a if len(a) < 60 else f"{a[:57]}..." for a in arguments]
        print("$ vdc " + " ".join(shown), flush=True)
    command = [sys.executable, "-m", "interfaces.cli.main", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not quiet and done.stdout:
        print(done.stdout.rstrip(), flush=True)
    if done.returncode:
        raise OperationFailed(f"`vdc {' '.join(arguments)}` ended with exit code {done.returncode}.", "")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

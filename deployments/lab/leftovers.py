"""Proof that a lab is gone."""

from __future__ import annotations

import os
from pathlib import Path

from deployments.lab.layout import Layout
from deployments.lab.processes import members, namespaces, select_lab
from deployments.lab.registry import CLAIMS


def leftovers(lab_id: str) -> list[str]:
    """What is left of a lab of the present VDC_HOME outside its state directory; empty after `down`.

    Looks for processes, network namespaces (all interfaces of a lab are in them), mounts of any process, and
    the machine-wide claim.
    """
    layout = Layout.of(lab_id)
    found = [f"process {pid}: {_command(pid)}" for pid in members(select_lab(layout))]
    found += [f"network namespace {name}" for name in namespaces(layout)]
    found += sorted({f"mount {target}" for target in _mounts(layout)})
    if (CLAIMS / f"{lab_id}.json").exists():
        found.append(f"claim {CLAIMS / lab_id}.json")
    return found


def _mounts(layout: Layout) -> list[str]:
    """Mounts of the lab's directories or namespaces, seen from any process on the machine."""
    directory = f"/{layout.home.name}/lab/{layout.lab_id}/"
    seen = []
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            lines = table.read_text().splitlines()
        except OSError:  # that process has just ended
            continue
        for line in lines:
            if directory in line or f"/netns/{layout.namespace_prefix}" in line:
                seen.append(" ".join(line.split()[3:5]))
    return seen


def interfaces() -> frozenset[str]:
    """Interfaces of the namespace that we are in: the same before `up` and after `down`."""
    return frozenset(os.listdir("/sys/class/net"))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"

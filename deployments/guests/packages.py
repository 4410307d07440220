"""Debian packages as apt knows them: their versions, and their files without installing them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from deployments.programs import run
from vdc.errors import DriverFailure, Refused

Log = Callable[[str], None]

DOWNLOAD_TIMEOUT_S = 900.0


def show(*names: str) -> str:
    """What apt says of the newest version of each package. Raises Refused for one that it does not know."""
    try:
        return run(["apt-cache", "show", "--no-all-versions", *names])
    except DriverFailure as error:
        raise Refused(f"apt knows no package {' or '.join(names)}. Type: apt-get update") from error


def candidates(*names: str) -> Mapping[str, str]:
    """Name -> the version that would be fetched now. Raises Refused."""
    shown = show(*names)
    found = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)", shown, re.MULTILINE))
    if missing := [name for name in names if name not in found]:
        raise Refused(f"apt knows no package {', '.join(missing)}. Type: apt-get update")
    return {name: found[name] for name in names}


def candidate(name: str) -> str:
    return candidates(name)[name]


def download(name: str, number: str, scratch: Path, log: Log) -> Path:
    """Fetch one package's file; as root, since apt's own user cannot write to `scratch`."""
    log(f"guest image: fetching {name} {number}")
    _fetch({name: number}, scratch)
    return next(scratch.glob(f"{name}_*.deb"))


def unpack(versions: Mapping[str, str], scratch: Path, tree: Path, log: Log) -> None:
    """Fetch packages, and unpack all of them into `tree`; nothing of them is installed, or run."""
    log(f"guest image: fetching {', '.join(versions)}")
    fetched = scratch / "packages"
    fetched.mkdir()
    _fetch(versions, fetched)
    for file in sorted(fetched.glob("*.deb")):
        run(["dpkg-deb", "--extract", file, tree])


def _fetch(versions: Mapping[str, str], directory: Path) -> None:
    wanted = [f"{name}={number}" for name, number in versions.items()]
    fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *wanted]
    try:
        run(fetch, cwd=directory, timeout_s=DOWNLOAD_TIMEOUT_S)
    except DriverFailure as error:
        raise DriverFailure(
            f"{', '.join(wanted)} could not be fetched: {error.stderr}. If the list of packages is old, "
            "type: apt-get update",
            command=error.command,
            stderr=error.stderr,
        ) from error

"""A guest's root file system: busybox, guest agent, what else its recipe has, and our scripts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from deployments.guests.kernel import EARLY_MODULES, LATE_MODULES, Kernel
from deployments.guests.recipes import HERE, Recipe
from deployments.programs import run
from vdc.errors import DriverFailure

PACKAGES = ("busybox-static", "libc6")
"""What every guest is made from, as installed: their versions are part of an image's key."""

BUSYBOX = "/bin/busybox"

TEXTS = {
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/profile": "export PATH=/sbin:/bin:/usr/sbin:/usr/bin PS1='\\h:\\w# '\n",
}

LINKS = {
    "bin/sh": "busybox",
    "sbin/poweroff": "shutdown",
    "sbin/reboot": "shutdown",
    "etc/acpi/PWRF/00000080": "/sbin/shutdown",
}
"""The last is what busybox's acpid runs for the power button."""


def modules_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the kernel's modules that the guest gets, in the order in which they are loaded."""
    return (*EARLY_MODULES, *recipe.modules, *LATE_MODULES)


def build(recipe: Recipe, kernel: Kernel, fetched: Path, scratch: Path, target: Path) -> None:
    """Write the compressed archive to `target`; `fetched` is where the recipe's packages are unpacked."""
    root = scratch / "root"
    for script, place in recipe.scripts.items():
        _put(HERE / script, root / place, 0o755)
    for name, text in TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _put(Path(BUSYBOX), root / "bin/busybox", 0o755)
    applets = {f"bin/{name}": "busybox" for name in run([BUSYBOX, "--list"]).split() if name != "busybox"}
    for link, goal in (applets | LINKS).items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(goal)
    for program in recipe.programs:
        _put_program(Path(program), Path("/"), root)
    for program in recipe.fetched_programs:
        _put_program(fetched / program.lstrip("/"), fetched, root)
    for module in kernel.modules:
        _put(module, root / "lib/modules" / module.name, 0o644)
    early = (*EARLY_MODULES, *recipe.modules)
    for when, wanted in (("early", early), ("late", LATE_MODULES)):
        present = [module.stem for module in kernel.modules if module.stem in wanted]
        (root / f"lib/modules.{when}").write_text("".join(f"{name}\n" for name in present))
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    archive = scratch / "archive"
    run(["cpio", "--create", "--format=newc", "--owner=0:0", "--quiet", "-O", archive], cwd=root, stdin=names)
    # An emulated processor unpacks this in half of gzip's time; the kernel knows the legacy frame only.
    run(["lz4", "-l", "-9", "-q", archive, target])


def _put_program(program: Path, tree: Path, root: Path) -> None:
    """Copy a program of `tree` with its shared libraries and the loader, to the same places."""
    _put(program, root / program.relative_to(tree), 0o755)
    for library in map(Path, _libraries(program, tree)):
        inside = library.relative_to(tree if library.is_relative_to(tree) else "/")
        _put(library, root / inside, 0o755)


def _libraries(program: Path, tree: Path) -> list[str]:
    """Paths of shared libraries and of the loader: those in `tree`, else those of this machine."""
    search = ":".join(str(tree / place / "x86_64-linux-gnu") for place in ("lib", "usr/lib"))
    told = run(["env", f"LD_LIBRARY_PATH={search}", "ldd", program])
    if lost := re.findall(r"(\S+) => not found", told):
        raise DriverFailure(f"{program} is linked with {', '.join(lost)}: no package of the recipe has it.")
    return re.findall(r"(/\S+\.so\S*)", told)


def _put(source: Path, target: Path, mode: int) -> None:
    if not source.exists():
        raise DriverFailure(f"{source} is missing: is its package installed?")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)

"""The tiny guest's root file system: busybox, SSH server, guest agent, and our scripts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from deployments.guests.kernel import EARLY_MODULES, LATE_MODULES, Kernel
from deployments.programs import run
from vdc.errors import DriverFailure

SCRIPTS = Path(__file__).with_name("tiny")

PACKAGES = ("busybox-static", "dropbear-bin", "qemu-guest-agent", "libc6")
"""What the root file system is made from: their versions are part of the image's key."""

PROGRAMS = {"/usr/sbin/dropbear": "dropbear-bin", "/usr/sbin/qemu-ga": "qemu-guest-agent"}
BUSYBOX = "/bin/busybox"

PLACES = {
    "init": "init",
    "shutdown": "sbin/shutdown",
    "index.cgi": "var/www/cgi-bin/index.cgi",
    "configure": "usr/lib/tiny/configure",
    "addresses": "usr/lib/tiny/addresses",
    "dhcp": "usr/lib/tiny/dhcp",
    "flatten.awk": "usr/lib/tiny/flatten.awk",
    "hotplug": "usr/lib/tiny/hotplug",
    "start-script": "usr/lib/tiny/start-script",
}
"""Script -> where it goes in the guest."""

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


def build(kernel: Kernel, scratch: Path, target: Path) -> None:
    """Write the compressed archive to `target`."""
    root = scratch / "root"
    for script, place in PLACES.items():
        _put(SCRIPTS / script, root / place, 0o755)
    for name, text in TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _put(Path(BUSYBOX), root / "bin/busybox", 0o755)
    applets = {f"bin/{name}": "busybox" for name in run([BUSYBOX, "--list"]).split() if name != "busybox"}
    for link, goal in (applets | LINKS).items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(goal)
    for program in PROGRAMS:
        _put(Path(program), root / program.lstrip("/"), 0o755)
        for library in _libraries(program):
            _put(Path(library), root / library.lstrip("/"), 0o755)
    for module in kernel.modules:
        _put(module, root / "lib/modules" / module.name, 0o644)
    for when, wanted in (("early", EARLY_MODULES), ("late", LATE_MODULES)):
        present = [module.stem for module in kernel.modules if module.stem in wanted]
        (root / f"lib/modules.{when}").write_text("".join(f"{name}\n" for name in present))
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    archive = scratch / "archive"
    run(["cpio", "--create", "--format=newc", "--owner=0:0", "--quiet", "-O", archive], cwd=root, stdin=names)
    # An emulated processor unpacks this in half of gzip's time; the kernel knows the legacy frame only.
    run(["lz4", "-l", "-9", "-q", archive, target])


def _libraries(program: str) -> list[str]:
    """Shared libraries, and the loader, by the paths under which the program asks for them."""
    return re.findall(r"(/\S+\.so\S*)", run(["ldd", program]))


def _put(source: Path, target: Path, mode: int) -> None:
    if not source.exists():
        package = PROGRAMS.get(str(source), "busybox-static")
        raise DriverFailure(f"{source} is missing: is the package {package} installed?")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)

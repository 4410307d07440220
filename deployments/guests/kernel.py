"""Kernels for guests: Debian's own for clouds, or a tiny one built from Debian's source.

`vmlinuz` and the modules that a guest needs, in the order in which they are loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.guests import packages
from deployments.programs import require_programs, run
from vdc.errors import DriverFailure, Refused

Log = packages.Log

EARLY_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "scsi_common",
    "scsi_mod",
    "libata",
    "ata_piix",
    "cdrom",
    "sr_mod",
    "isofs",
)
"""For the network and the seed, each after those that it needs.

Debian's cloud kernel has no AHCI: CD-ROMs are IDE.
"""

LATE_MODULES = (
    "virtio_console",
    "evdev",
    "button",
    "virtio_blk",
    "virtio_scsi",
    "virtio_balloon",
)
"""What can wait until the guest answers: serial ports of the agent, power button, further disks."""

ROUTING_MODULES = (
    "libcrc32c",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nfnetlink",
    "nf_tables",
    "nft_ct",
    "nf_nat",
    "nft_chain_nat",
    "nft_nat",
)
"""What a router needs besides: nftables, the following of connections, translation of addresses."""

FRAGMENT = Path(__file__).with_name("tiny") / "kernel.config"
SOURCE_PACKAGE = "linux-source-6.1"
BUILD_PROGRAMS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "make": "make",
    "xz": "xz-utils",
}
LIBELF = Path("/usr/include/libelf.h")
BUILD_TIMEOUT_S = 3600.0


ARGUMENTS = "console=ttyS0 quiet panic=1 nokaslr mitigations=off no_timer_check cryptomgr.notests"
UNUSED_INITCALLS = ("crypto_kdf108_init", "init_kprobe_trace", "trace_eval_init", "tracer_init_tracefs")
DEBIAN_ARGUMENTS = (
    f"init_on_alloc=0 audit=0 lsm= lpj=10000000 initcall_blacklist={','.join(UNUSED_INITCALLS)}"
)
"""What Debian's kernel does by default, costs an emulated processor almost half of a boot, and nobody misses.

Memory is cleared twice, a key derivation tests itself, tables and files for tracing are made, three security
modules set themselves up, and the length of a loop is measured.
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    vmlinuz: Path
    modules: tuple[Path, ...]
    arguments: str


def version(kind: str) -> str:
    """What the kernel of this kind would be built from now: part of an image's key.

    Raises Refused if apt knows no such package.
    """
    if kind == "debian":
        return "=".join(_debian_package())
    fragment = hashlib.sha256(FRAGMENT.read_bytes()).hexdigest()[:12]
    return f"{SOURCE_PACKAGE}={packages.candidate(SOURCE_PACKAGE)}+{fragment}"


def provide(kind: str, names: Sequence[str], scratch: Path, cache: Path, log: Log) -> Kernel:
    """Fetch or build the kernel, with the modules of these names where it has any.

    Files in `scratch` last as long as it does, those in `cache` stay.
    """
    return _debian(names, scratch, log) if kind == "debian" else _tiny(scratch, cache, log)


def _debian(names: Sequence[str], scratch: Path, log: Log) -> Kernel:
    package, number = _debian_package()
    log(f"guest image: kernel {package} {number}")
    tree = scratch / "kernel"
    run(["dpkg-deb", "--extract", packages.download(package, number, scratch, log), tree])
    vmlinuz = next((tree / "boot").glob("vmlinuz-*"))
    found = {file.stem: file for file in tree.rglob("*.ko")}
    missing = [name for name in names if name not in found]
    if missing:
        raise DriverFailure(f"{package} {number} has no module {', '.join(missing)}.")
    for name in names:
        # Signatures cost an RSA operation each, type information a parse, and nothing here asks for them.
        run(["strip", "--strip-debug", "--remove-section=.BTF", found[name]])
    modules = tuple(found[name] for name in names)
    return Kernel(vmlinuz, modules, f"{ARGUMENTS} {DEBIAN_ARGUMENTS}")


def _tiny(scratch: Path, cache: Path, log: Log) -> Kernel:
    """Everything built in, nothing that a guest does not need: boots in half the time and memory."""
    kept = cache / f"vmlinuz-tiny-{hashlib.sha256(version('tiny').encode()).hexdigest()[:12]}"
    if kept.exists():
        return Kernel(kept, (), ARGUMENTS)
    require_programs(BUILD_PROGRAMS, "Building the tiny kernel")
    if not LIBELF.exists():
        raise Refused("Building the tiny kernel needs libelf. Type: apt-get install libelf-dev")
    log(f"guest image: building a kernel from {SOURCE_PACKAGE}: 7 to 15 minutes, once")
    archive = packages.download(SOURCE_PACKAGE, packages.candidate(SOURCE_PACKAGE), scratch, log)
    run(["dpkg-deb", "--extract", archive, scratch / "package"], timeout_s=300)
    tarball = next((scratch / "package" / "usr" / "src").glob("*.tar.xz"))
    run(["tar", "--extract", "--xz", f"--file={tarball}", f"--directory={scratch}"], timeout_s=600)
    source = next(path for path in scratch.glob("linux-source-*") if path.is_dir())
    build_log = cache / "kernel-build.log"
    build_log.unlink(missing_ok=True)
    log(f"guest image: compiling, log in {build_log}")
    make = ["make", f"--jobs={os.cpu_count() or 1}"]
    run([*make, "tinyconfig"], cwd=source, log=build_log, timeout_s=300)
    run(["scripts/kconfig/merge_config.sh", "-m", ".config", FRAGMENT], cwd=source, log=build_log)
    run([*make, "olddefconfig"], cwd=source, log=build_log, timeout_s=300)
    _check_config(source / ".config")
    run([*make, "bzImage"], cwd=source, log=build_log, timeout_s=BUILD_TIMEOUT_S)
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as temporary:
        shutil.copyfile(source / "arch/x86/boot/bzImage", temporary.name)
    Path(temporary.name).replace(kept)
    return Kernel(kept, (), ARGUMENTS)


def _check_config(config: Path) -> None:
    """`olddefconfig` drops silently what cannot be had: say it."""
    got = set(config.read_text().splitlines())
    wanted = [
        line
        for line in FRAGMENT.read_text().splitlines()
        if line.startswith("CONFIG_") and line.endswith("=y")
    ]
    dropped = [line for line in wanted if line not in got]
    if dropped:
        raise DriverFailure(f"The kernel's configuration does not take {', '.join(dropped)}: see {FRAGMENT}.")


def _debian_package() -> tuple[str, str]:
    """The package that linux-image-cloud-amd64 stands for, and its version."""
    meta = "linux-image-cloud-amd64"
    shown = packages.show(meta)
    found = re.search(r"^Depends:.*?(linux-image-\S+-cloud-amd64) \(= ([^)]+)\)", shown, re.MULTILINE)
    if not found:
        raise Refused(f"apt knows no {meta} with a kernel behind it. Type: apt-get update")
    return found[1], found[2]

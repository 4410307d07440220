"""A self-booting disk without partitions or loop mounts: FAT, syslinux, kernel and initramfs."""

from __future__ import annotations

from pathlib import Path

from deployments.guests.kernel import Kernel
from deployments.programs import run

SIZE_MIB = 32
PROGRAMS = {
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "qemu-img": "qemu-utils",
    "syslinux": "syslinux",
}
PACKAGES = ("syslinux",)

SECTORS_PER_CLUSTER = 16
"""Large clusters, and a qcow2 without compression: the boot loader reads through the BIOS, call by call."""

CONFIG = """\
DEFAULT tiny
PROMPT 0
LABEL tiny
  KERNEL vmlinuz
  INITRD initrd
  APPEND {arguments}
"""


def build(kernel: Kernel, initramfs: Path, scratch: Path, target: Path) -> None:
    """Write a qcow2 of SIZE_MIB to `target`."""
    raw, config = scratch / "disk.raw", scratch / "syslinux.cfg"
    config.write_text(CONFIG.format(arguments=kernel.arguments))
    with raw.open("wb") as disk:
        disk.truncate(SIZE_MIB * 1024 * 1024)
    run(["mkfs.vfat", "-F", "16", "-s", str(SECTORS_PER_CLUSTER), "-n", "TINY", raw])
    for source, name in ((kernel.vmlinuz, "vmlinuz"), (initramfs, "initrd"), (config, "syslinux.cfg")):
        run(["mcopy", "-i", raw, source, f"::{name}"])
    run(["syslinux", "--install", raw])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target])

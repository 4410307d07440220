"""Look at an image that a user brings, on the control machine, before anything opens it.

An image is untrusted: a qcow2 may name a file of the host as its backing file or data file, a header may
claim absurd sizes, and qemu-img takes any text for a raw disk. So its kind is decided here by signature,
never guessed by qemu-img, the dangerous header fields are read before qemu-img opens the file, and
qemu-img runs under limits.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vdc.errors import DriverFailure, Invalid, Unready

MIB = 2**20
MAX_VIRTUAL_MIB = 64 * 2**20
"""64 TiB: more is a broken or malicious header."""
MAX_METADATA_BYTES = 64 * MIB
"""Of a qcow2's first-level table; 32 MiB serves 2 PiB."""
_MEMORY_BYTES = 1024 * MIB
_CPU_S = 20
_CHUNK = 4 * MIB

_QCOW2 = b"QFI\xfb"
_DIRTY, _CORRUPT, _DATA_FILE = 1 << 0, 1 << 1, 1 << 2

# offset, signature, what it is
_OTHER_FORMATS = (
    (0, b"KDMV", "a VMware (vmdk) image"),
    (0, b"# Disk DescriptorFile", "a VMware (vmdk) description"),
    (0, b"COWD", "a VMware (vmdk) image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox (vdi) image"),
    (0, b"vhdxfile", "a Hyper-V (vhdx) image"),
    (0, b"conectix", "a Virtual PC (vhd) image"),
    (0, b"QED\0", "a qed image"),
    (0, b"LUKS\xba\xbe", "an encrypted (LUKS) volume"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar archive (or an OVA)"),
)
_ISO = (32769, b"CD001")  # ISO 9660
_ISO_NAME = slice(32808, 32840)
_SEED_NAME = b"cidata"
_DISK_SIGNATURES = (
    (510, b"\x55\xaa"),  # MBR, and FAT or NTFS without partitions
    (512, b"EFI PART"),  # GPT
    (4096, b"EFI PART"),  # GPT with 4 KiB sectors
    _ISO,
    (1080, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (65600, b"_BHRfS_M"),  # btrfs
)
_HEAD_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an inspected image is."""

    format: str
    """`qcow2` or `raw`."""
    virtual_size_mib: int
    """Rounded up."""
    size_bytes: int
    sha256: str
    """Of the whole file, hex."""
    iso: bool = False
    """An ISO 9660 image."""


def inspect(
    path: Path,
    *,
    sha256: str = "",
    timeout_s: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> ImageFacts:
    """Inspect the local file `path`; `sha256` is what its checksum should be (empty: unknown).

    `progress(done_bytes, total_bytes)` is called while the checksum is computed; `timeout_s` bounds
    qemu-img alone.
    Raises Invalid for anything that is not a self-contained disk image, Unready where qemu-img is missing.
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD_BYTES)
        if head.startswith(_QCOW2):
            image_format = "qcow2"
            _check_qcow2(path, head, size)
        else:
            image_format = "raw"
            _check_raw(path, head)
        virtual_size = _ask_qemu_img(path, image_format, timeout_s)
        if virtual_size > MAX_VIRTUAL_MIB * MIB:
            raise Invalid(f"{path} claims to hold {virtual_size // 2**40} TiB; the limit is 64 TiB.")
        if virtual_size == 0:
            raise Invalid(f"{path} is a disk of no size.")
        found = _checksum(file, size, progress)
    if sha256 and found != sha256.lower():
        raise Invalid(f"{path} has the wrong checksum: sha256 {found}, expected {sha256.lower()}.")
    iso = image_format == "raw" and _is_iso(head)
    return ImageFacts(image_format, -(-virtual_size // MIB), size, found, iso)


def _open(path: Path) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer, and a device might act.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise Invalid(f"{path} is not a regular file.")
    if found.st_size == 0:
        os.close(descriptor)
        raise Invalid(f"{path} is empty.")
    return os.fdopen(descriptor, "rb")


def _check_qcow2(path: Path, head: bytes, size: int) -> None:
    """Refuse by its header a qcow2 that reaches outside itself or that nobody would make honestly."""
    if len(head) < 72:
        raise Invalid(f"{path} ends in the middle of its qcow2 header.")
    version, backing_offset, _, cluster_bits, virtual_size, crypt, l1_entries, l1_offset, counts_offset = (
        struct.unpack(">IQIIQIIQQ", head[4:56])
    )
    if version not in (2, 3):
        raise Invalid(f"{path} is a qcow of version {version}; convert it: {_convert(path)}.")
    incompatible = struct.unpack(">Q", head[72:80])[0] if version == 3 and len(head) >= 104 else 0
    if backing_offset:
        raise Invalid(
            f"{path} depends on a backing file, which could be any file of a host. "
            f"Make it whole: {_convert(path)}."
        )
    if incompatible & _DATA_FILE:
        raise Invalid(
            f"{path} keeps its data in an external file, which could be any file of a host. "
            f"Make it whole: {_convert(path)}."
        )
    if crypt:
        raise Invalid(f"{path} is encrypted; machines could not read it.")
    if incompatible & (_CORRUPT | _DIRTY):
        raise Invalid(
            f"{path} was not closed properly or is marked corrupt; repair it: qemu-img check -r all {path}."
        )
    if virtual_size > MAX_VIRTUAL_MIB * MIB:
        raise Invalid(f"{path} claims to hold {virtual_size // 2**40} TiB; the limit is 64 TiB.")
    plausible = (
        9 <= cluster_bits <= 21
        and l1_entries * 8 <= MAX_METADATA_BYTES
        and l1_offset + l1_entries * 8 <= size
        and counts_offset < size
    )
    if not plausible:
        raise Invalid(f"{path} has a qcow2 header that cannot be true; it is damaged or made to do harm.")


def _check_raw(path: Path, head: bytes) -> None:
    for offset, signature, what in _OTHER_FORMATS:
        if head[offset : offset + len(signature)] == signature:
            raise Invalid(f"{path} is {what}; bring a qcow2 or raw disk: {_convert(path)}.")
    if not any(head[offset : offset + len(mark)] == mark for offset, mark in _DISK_SIGNATURES):
        raise Invalid(
            f"{path} is not a disk image: neither a qcow2 nor a raw disk with a boot sector, "
            "a partition table or a file system."
        )
    if _is_iso(head) and head[_ISO_NAME].strip().lower() == _SEED_NAME:
        raise Invalid(
            f"{path} is named cidata, as the seeds of machines are: a guest could take it for its own. "
            "Make it again with another volume name."
        )


def _is_iso(head: bytes) -> bool:
    offset, mark = _ISO
    return head[offset : offset + len(mark)] == mark


def _ask_qemu_img(path: Path, image_format: str, timeout_s: float) -> int:
    """The virtual size in bytes. qemu-img is told the format, and checks the rest of the header its way."""
    command = [
        "prlimit",
        f"--as={_MEMORY_BYTES}",
        f"--cpu={_CPU_S}",
        "qemu-img",
        "info",
        "--output=json",
        "-f",
        image_format,
        # Absolute and with a protocol, so that no name is read as an option or as another protocol.
        f"file:{path.resolve()}",
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise Unready("prlimit is missing on this machine: install the package util-linux.") from error
    except subprocess.TimeoutExpired as error:
        raise Invalid(f"{path}: qemu-img could not read its header within {timeout_s:g} s.") from error
    stderr = done.stderr.decode(errors="replace").strip()
    if "failed to execute" in stderr:
        raise Unready("qemu-img is missing on this machine: install the package qemu-utils.")
    if done.returncode != 0:
        reason = stderr.removeprefix("qemu-img: ") or f"status {done.returncode}"
        raise Invalid(f"{path} is not a {image_format} image that can be used: {reason}.")
    try:
        facts = json.loads(done.stdout)
        reaches_out = [
            key for key in ("backing-filename", "full-backing-filename", "encrypted") if facts.get(key)
        ]
        data_file = facts.get("format-specific", {}).get("data", {}).get("data-file")
        virtual_size = int(facts["virtual-size"])
    except (ValueError, KeyError, AttributeError) as error:
        raise DriverFailure(
            f"qemu-img gave an answer about {path} that makes no sense.",
            command=" ".join(command),
            stderr=stderr,
        ) from error
    if reaches_out or data_file:
        raise Invalid(f"{path} is not self-contained: {', '.join(reaches_out) or 'data-file'}.")
    return virtual_size


def _checksum(file: BinaryIO, total: int, progress: Callable[[int, int], None] | None) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    done = 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        done += len(chunk)
        if progress:
            progress(done, total)
    return digest.hexdigest()


def _convert(path: Path) -> str:
    return f"qemu-img convert -O qcow2 {path} {path.stem}.qcow2"

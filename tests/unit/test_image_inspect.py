"""What a user may bring as an image, and what is refused with which sentence."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from drivers.datastore.image_inspect import inspect
from tests.requires import missing
from vdc.errors import Invalid, Unready

MIB = 2**20


@pytest.fixture(autouse=True, scope="module")
def _qemu_img() -> None:
    if not shutil.which("qemu-img"):
        missing("qemu-img is not installed (Debian package: qemu-utils)")


def make(path: Path, *args: str, size: str = "10M", image_format: str = "qcow2") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, *args, str(path), size], check=True)
    return path


def patched(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def signed(path: Path, offset: int, signature: bytes, size: int = MIB) -> Path:
    path.write_bytes(bytes(size))
    return patched(path, offset, signature)


def test_qcow2(tmp_path: Path) -> None:
    image = make(tmp_path / "good.qcow2")
    seen: list[tuple[int, int]] = []

    facts = inspect(image, progress=lambda done, total: seen.append((done, total)))

    assert (facts.format, facts.virtual_size_mib) == ("qcow2", 10)
    assert facts.size_bytes == image.stat().st_size
    assert facts.sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
    assert seen[-1] == (facts.size_bytes, facts.size_bytes)


@pytest.mark.parametrize("options", ["compat=0.10", "compat=1.1", "cluster_size=512", "extended_l2=on"])
def test_every_kind_of_qcow2(tmp_path: Path, options: str) -> None:
    assert inspect(make(tmp_path / "good.qcow2", "-o", options)).format == "qcow2"


@pytest.mark.parametrize(
    ("offset", "signature"),
    [(510, b"\x55\xaa"), (512, b"EFI PART"), (32769, b"CD001"), (1080, b"\x53\xef"), (0, b"XFSB")],
)
def test_raw_disk_by_its_signature(tmp_path: Path, offset: int, signature: bytes) -> None:
    facts = inspect(signed(tmp_path / "disk.raw", offset, signature))

    assert (facts.format, facts.virtual_size_mib) == ("raw", 1)


@pytest.mark.parametrize("name", [b"cidata", b"CIDATA" + b" " * 26])
def test_a_disc_that_a_guest_would_take_for_its_seed(tmp_path: Path, name: bytes) -> None:
    disc = patched(signed(tmp_path / "disc.iso", 32769, b"CD001"), 32808, name.ljust(32))
    with pytest.raises(Invalid, match="named cidata, as the seeds of machines are"):
        inspect(disc)
    assert inspect(patched(disc, 32808, b"cidata-2".ljust(32))).iso


def test_size_is_rounded_up(tmp_path: Path) -> None:
    assert inspect(signed(tmp_path / "disk.raw", 510, b"\x55\xaa", MIB + 512)).virtual_size_mib == 2


def test_names_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an option, nor a protocol, nor JSON for qemu-img."""
    monkeypatch.chdir(tmp_path)
    for name in ("--help", "nbd:unix:x", 'json:{"driver":"null-co"}', "a b'\"$(id).img", "file:x"):
        make(Path("good.qcow2")).rename(tmp_path / name)
        assert inspect(Path(name)).virtual_size_mib == 10


def test_text_is_no_image(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image\n" * 100)

    with pytest.raises(Invalid, match="not a disk image"):
        inspect(text)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for path, reason in (
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "nothing", "cannot be read: No such file"),
    ):
        with pytest.raises(Invalid, match=reason):
            inspect(path)


def test_backing_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    for backing in ("/etc/shadow", 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}'):
        image = make(tmp_path / "evil.qcow2", "-u", "-F", "raw", "-b", backing)
        with pytest.raises(Invalid, match="backing file"):
            inspect(image)


def test_external_data_file_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "evil.qcow2", "-o", f"data_file={tmp_path}/data,data_file_raw=on")
    (tmp_path / "data").unlink()

    with pytest.raises(Invalid, match="external file"):
        inspect(image)


def test_encrypted_is_refused(tmp_path: Path) -> None:
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    image = make(tmp_path / "secret.qcow2", "--object", "secret,id=s,data=x", "-o", options)

    with pytest.raises(Invalid, match="encrypted"):
        inspect(image)


def test_dirty_is_refused(tmp_path: Path) -> None:
    image = patched(make(tmp_path / "dirty.qcow2"), 72, struct.pack(">Q", 1))

    with pytest.raises(Invalid, match="qemu-img check"):
        inspect(image)


def test_absurd_size_is_refused(tmp_path: Path) -> None:
    image = patched(make(tmp_path / "huge.qcow2"), 24, struct.pack(">Q", 2**60))
    with pytest.raises(Invalid, match="limit is 64 TiB"):
        inspect(image)

    sparse = signed(tmp_path / "none.raw", 510, b"\x55\xaa", 512)
    assert inspect(sparse).virtual_size_mib == 1


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (4, struct.pack(">I", 9)),  # version
        (20, struct.pack(">I", 60)),  # cluster bits
        (36, struct.pack(">I", 2**31)),  # entries of the first-level table
        (40, struct.pack(">Q", 2**50)),  # its place
        (48, struct.pack(">Q", 2**62)),  # the place of the reference counts
        (56, struct.pack(">I", 2**31)),  # their clusters
        (72, struct.pack(">Q", 1 << 40)),  # a feature nobody knows
        (100, struct.pack(">I", 2**31)),  # length of the header
    ],
)
def test_header_that_cannot_be_true_is_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    with pytest.raises(Invalid):
        inspect(patched(make(tmp_path / "broken.qcow2"), offset, data))


@pytest.mark.parametrize("length", [3, 4, 60, 90, 110, 400])
def test_cut_off_header_is_refused(tmp_path: Path, length: int) -> None:
    image = make(tmp_path / "cut.qcow2")
    os.truncate(image, length)

    with pytest.raises(Invalid):
        inspect(image)


@pytest.mark.parametrize("image_format", ["vmdk", "vdi", "vhdx", "qed", "parallels"])
def test_other_formats_are_named_with_the_way_out(tmp_path: Path, image_format: str) -> None:
    image = make(tmp_path / "disk.img", image_format=image_format)

    with pytest.raises(Invalid, match="qemu-img convert -O qcow2"):
        inspect(image)


def test_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make(tmp_path / "good.qcow2")
    programs = tmp_path / "bin"
    programs.mkdir()
    prlimit = shutil.which("prlimit")
    assert prlimit
    monkeypatch.setenv("PATH", str(programs))

    with pytest.raises(Unready, match="util-linux"):
        inspect(image)
    (programs / "prlimit").symlink_to(prlimit)
    with pytest.raises(Unready, match="qemu-utils"):
        inspect(image)


def test_checksum(tmp_path: Path) -> None:
    image = make(tmp_path / "good.qcow2")
    right = hashlib.sha256(image.read_bytes()).hexdigest()

    assert inspect(image, sha256=right.upper()).sha256 == right
    with pytest.raises(Invalid, match="wrong checksum"):
        inspect(image, sha256="0" * 64)

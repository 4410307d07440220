"""Where the disks of a tenant that leaves are exported to: refused early, and whole or not there."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.whole_file import written
from tasks.export_directory import DISK_FILES, MANIFEST, check_directory, read_room
from tests.forked import in_fork
from vdc.disk_export import LeavingDisk, Room, check_room
from vdc.errors import DriverFailure, Invalid, NoCapacity
from vdc.model import FileSource, HostRef

DISK = LeavingDisk("web", "root", HostRef("h1", ""), "", FileSource("vm-1-disk0.qcow2", "qcow2", 100))
DISKS = (DISK, replace(DISK, source=FileSource("vm-1-disk1.img", "raw", 50)))
NOBODY = 65534


@pytest.mark.parametrize(
    ("free_mib", "had_mib", "fits"),
    [
        (150, {}, True),
        (149, {}, False),
        # Both are replaced, one after the other: there must be room for the larger one twice.
        (100, {"vm-1-disk0.qcow2": 100, "vm-1-disk1.qcow2": 50}, True),
        (99, {"vm-1-disk0.qcow2": 100, "vm-1-disk1.qcow2": 50}, False),
        (149, {"vm-9-disk0.qcow2": 1000}, False),
    ],
)
def test_room_is_needed_for_all_of_them_were_they_full(
    free_mib: int, had_mib: dict[str, int], fits: bool
) -> None:
    room = Room("/out", free_mib, had_mib)
    if fits:
        check_room(DISKS, room)
        return
    with pytest.raises(NoCapacity, match=f"2 disks of 150 MiB in all .* /out is: {free_mib} MiB are free"):
        check_room(DISKS, room)


def test_what_an_earlier_run_has_brought_is_room_too(tmp_path: Path) -> None:
    (tmp_path / DISK_FILES).write_text(json.dumps([{"file": "a.qcow2"}, {"file": "lost.qcow2"}]))
    with (tmp_path / "a.qcow2").open("wb") as file:
        file.truncate(3 * 2**20)
    room = read_room(tmp_path)
    assert room.had_mib == {"a.qcow2": 3}
    free = os.statvfs(tmp_path)
    assert abs(room.free_mib - free.f_bavail * free.f_frsize // 2**20) < 1024
    (tmp_path / DISK_FILES).write_text("[{")
    with pytest.raises(Invalid, match="list of exported disks cannot be read"):
        read_room(tmp_path)


def test_directories_in_which_nothing_can_be_exported_are_refused(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("in the way")
    other.mkdir()
    check_directory(other, "acme")
    check_directory(other / "new" / "one", "acme")
    (other / f"{MANIFEST}.part").write_text("{")
    check_directory(other, "acme")  # killed before anything was exported
    (other / MANIFEST).write_text('{"tenant": "bolt"}')
    for directory, says in (
        (file, "file is no directory"),
        (file / "below", "file is no directory"),
        (other, "is not empty, and no earlier export of tenant acme"),
        (tmp_path, "is not empty, and no earlier export of tenant acme"),
    ):
        with pytest.raises(Invalid, match=says):
            check_directory(directory, "acme")
    check_directory(other, "bolt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"], "nothing was made"


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    def said() -> list[str]:
        if os.getuid() == 0:
            os.setuid(NOBODY)
        said = []
        for directory in (Path("/vdc-export"), tmp_path / "below"):
            with pytest.raises(Invalid) as refused:
                check_directory(directory, "acme")
            said.append(str(refused.value))
        return said

    root, below = in_fork(said)
    assert root == "/ cannot be written to: give another directory, or run it as who may."
    if os.getuid() == 0:
        assert below.endswith("below cannot be looked at: Permission denied.")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    (tmp_path / "file.part").write_text("of one that was killed")
    with pytest.raises(RuntimeError):
        _write(file, b"half", RuntimeError())
    assert file.read_text() == "before"
    (tmp_path / "full.part").symlink_to("/dev/full")
    with pytest.raises(DriverFailure, match="full cannot be written: No space left on device"):
        _write(tmp_path / "full", b"x" * 2**20)
    _write(file, b"all of it")
    assert file.read_text() == "all of it"
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def _write(file: Path, content: bytes, then: Exception | None = None) -> None:
    """In two pieces; `then` is what it ends with."""
    with written(file) as write:
        write(content[:2])
        write(content[2:])
        if then:
            raise then

"""What every datastore promises (drivers/contract.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.bench import IMAGE_MIB, MIB, Bench
from tests.contract.threads import THREADS, at_once
from vdc.errors import Busy, DriverFailure, HostUnreachable, Invalid, Unsupported
from vdc.model import DiskSpec, FileSource, ImageSeen, ImageSpec


@pytest.fixture
def bench(datastore_bench: Bench) -> Bench:
    return datastore_bench


def test_probe_leaves_nothing_behind(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    for _ in range(2):
        datastore.ensure_writable()
    assert datastore.read_files() == {}


def test_use_is_plausible(bench: Bench) -> None:
    use = bench.drivers.datastore.read_use()
    assert 0 < use.free_mib <= use.capacity_mib


def test_image_is_uploaded_once_with_progress_to_its_end(bench: Bench) -> None:
    datastore, total = bench.drivers.datastore, bench.source.stat().st_size
    seen: list[tuple[int, int]] = []
    assert datastore.ensure_image(bench.image, bench.source, lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert datastore.read_files() == {bench.image.file: total}
    seen.clear()
    assert not datastore.ensure_image(bench.image, bench.source, lambda done, of: seen.append((done, of)))
    assert seen == []
    assert datastore.read_files() == {bench.image.file: total}


def test_interrupted_upload_leaves_no_image_and_can_be_repeated(bench: Bench) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(_done: int, _total: int) -> None:
        raise Interrupted

    datastore = bench.drivers.datastore
    with pytest.raises(Interrupted):
        datastore.ensure_image(bench.image, bench.source, interrupt)
    assert bench.image.file not in datastore.read_files()
    assert datastore.ensure_image(bench.image, bench.source)
    assert datastore.read_files()[bench.image.file] == bench.source.stat().st_size
    datastore.ensure_removed([bench.image.file])
    assert datastore.read_files() == {}


def test_image_that_is_not_what_was_promised_is_refused(bench: Bench, tmp_path: Path) -> None:
    datastore = bench.drivers.datastore
    with pytest.raises(Invalid, match="sha256"):
        datastore.ensure_image(replace(bench.image, sha256="0" * 64), bench.source)
    with pytest.raises(Invalid, match=r"nowhere\.qcow2"):
        datastore.ensure_image(bench.image, tmp_path / "nowhere.qcow2")
    assert datastore.read_files() == {}


def test_disk_is_cloned_as_the_capabilities_say(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", size_mib=IMAGE_MIB)
    datastore.ensure_image(bench.image, bench.source)
    assert datastore.ensure_disk(disk)
    assert not datastore.ensure_disk(disk)
    files = datastore.read_files()
    assert set(files) == {bench.image.file, disk.file}
    if datastore.capabilities.clone == "overlay":
        assert files[disk.file] < files[bench.image.file] / 2
    else:
        assert files[disk.file] == IMAGE_MIB * MIB
    assert bench.hand.holds_image(disk.file, bench.source)


def test_disk_is_grown_beyond_its_image(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", size_mib=64)
    datastore.ensure_image(bench.image, bench.source)
    datastore.ensure_disk(disk)
    assert bench.hand.virtual_size_mib(disk.file) == 64
    assert bench.hand.holds_image(disk.file, bench.source)


def test_disk_smaller_than_its_image_is_refused(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    larger = replace(bench.image, virtual_size_mib=16)
    with pytest.raises(Invalid, match="16 MiB"):
        datastore.ensure_disk(replace(bench.disk("vm-a-disk0.img", size_mib=8), image=larger))
    assert datastore.read_files() == {}


def _of(bench: Bench, disk: DiskSpec, **changes: object) -> tuple[ImageSpec, FileSource]:
    """An image that is to be made of a disk."""
    image_format = bench.drivers.datastore.capabilities.disk_format
    image = ImageSpec("made", f"image-made.{image_format}", image_format, disk.size_mib)
    return image, replace(FileSource(disk.file, disk.format, disk.size_mib), **changes)  # type: ignore[arg-type]


def test_disk_that_is_brought_here_is_whole_and_needs_no_other_file(bench: Bench, tmp_path: Path) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", size_mib=IMAGE_MIB)
    datastore.ensure_image(bench.image, bench.source)
    datastore.ensure_disk(disk)
    _, source = _of(bench, disk)
    files = datastore.read_files()
    bench.hand.plant_file(f"{disk.file}.part-export", 100)  # left by somebody who was killed
    here = tmp_path / "here.qcow2"
    here.write_bytes(b"an earlier one")
    told: list[tuple[int, int]] = []
    sha256 = datastore.bring_disk(source, here, lambda done, total: told.append((done, total)))
    assert sha256 == hashlib.sha256(here.read_bytes()).hexdigest()
    assert told[-1] == (here.stat().st_size, here.stat().st_size)
    assert datastore.read_files() == files, "no copy is left"
    with pytest.raises(DriverFailure, match=r"nowhere/here\.qcow2 cannot be written: No such file"):
        datastore.bring_disk(source, tmp_path / "nowhere" / "here.qcow2")
    assert datastore.read_files() == files
    datastore.ensure_removed([disk.file, bench.image.file])
    assert bench.reads_as(here, bench.source)

    before = here.read_bytes()
    with pytest.raises(DriverFailure, match=r"vm-a-disk0\.img.*(No such file|NOENT)"):
        datastore.bring_disk(source, here)
    assert here.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")] == []
    assert datastore.read_files() == {}


def test_image_made_of_a_disk_needs_no_other_file(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", size_mib=IMAGE_MIB)
    datastore.ensure_image(bench.image, bench.source)
    datastore.ensure_disk(disk)
    image, source = _of(bench, disk)
    assert datastore.ensure_image_from(image, source)
    seen = datastore.read_image(image)
    assert seen.size_bytes == datastore.read_files()[image.file] > 0
    assert not datastore.ensure_image_from(image, source)
    assert datastore.read_image(image) == seen
    datastore.ensure_removed([disk.file, bench.image.file])
    assert set(datastore.read_files()) == {image.file}
    assert bench.hand.holds_image(image.file, bench.source)
    again = replace(bench.disk("vm-b-disk0.img", size_mib=64), image=image)
    datastore.ensure_disk(again)
    assert bench.hand.virtual_size_mib(again.file) == 64
    assert bench.hand.holds_image(again.file, bench.source)


def test_copy_of_an_image_is_the_same(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    datastore.ensure_image(bench.image, bench.source)
    assert datastore.read_image(bench.image) == ImageSeen(bench.source.stat().st_size, bench.image.sha256)
    copy = replace(bench.image, image_id="copy", file="image-copy.qcow2", sha256="")
    source = FileSource(bench.image.file, bench.image.format, IMAGE_MIB, whole=True)
    assert datastore.ensure_image_from(copy, source)
    assert not datastore.ensure_image_from(copy, source)
    assert datastore.read_image(copy) == datastore.read_image(bench.image)


def test_image_of_what_is_not_there_fails_and_leaves_nothing(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    image, source = _of(bench, bench.disk("vm-a-disk0.img"))
    for changed in (source, replace(source, whole=True)):
        with pytest.raises(DriverFailure, match=r"vm-a-disk0\.img") as failed:
            datastore.ensure_image_from(image, changed)
        assert failed.value.host == bench.host.name
    with pytest.raises(DriverFailure, match=r"image-made"):
        datastore.read_image(image)
    assert datastore.read_files() == {}


def test_image_of_a_snapshot_that_is_not_there_is_not_made(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", blank=True)
    datastore.ensure_disk(disk)
    image, source = _of(bench, disk, snapshot_id="f00d")
    with pytest.raises(DriverFailure if datastore.capabilities.snapshots else Unsupported, match="snapshot"):
        datastore.ensure_image_from(image, source)
    assert set(datastore.read_files()) == {disk.file}


def test_threads_that_want_the_same_image_agree_on_one_maker(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", blank=True)
    datastore.ensure_disk(disk)
    image, source = _of(bench, disk)
    assert sum(at_once(lambda _: datastore.ensure_image_from(image, source), range(THREADS))) == 1
    assert set(datastore.read_files()) == {disk.file, image.file}
    bench.hand.plant_file(f"{image.file}.part-f00d", 100)
    assert datastore.ensure_removed([image.file])
    assert set(datastore.read_files()) == {disk.file}


def test_disk_without_its_image_fails_and_leaves_nothing(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    with pytest.raises(DriverFailure, match=r"image-contract\.qcow2") as failed:
        datastore.ensure_disk(bench.disk("vm-a-disk0.img"))
    assert failed.value.host == bench.host.name
    assert datastore.read_files() == {}


def test_blank_disk_needs_no_image(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk1.img", size_mib=3, blank=True)
    assert datastore.ensure_disk(disk)
    assert not datastore.ensure_disk(disk)
    assert bench.hand.virtual_size_mib(disk.file) == 3


def test_half_written_files_are_seen_not_believed_and_removed_with_the_whole(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("vm-a-disk0.img", blank=True)
    neighbour = "vm-a-disk0.img2.part-1"
    for half in (f"{disk.file}.part-1", f"{disk.file}.part-f00d", neighbour):
        bench.hand.plant_file(half, 100)
    assert datastore.read_files()[f"{disk.file}.part-1"] == 100
    assert datastore.ensure_disk(disk)
    assert bench.hand.virtual_size_mib(disk.file) == disk.size_mib
    assert datastore.ensure_removed([disk.file])
    assert datastore.read_files() == {neighbour: 100}


def test_half_written_file_alone_is_removed_too(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    bench.hand.plant_file("vm-a-seed.iso.part-1", 100)
    assert datastore.ensure_removed(["vm-a-seed.iso"])
    assert datastore.read_files() == {}


def test_seed_is_rewritten_only_for_other_content(bench: Bench) -> None:
    datastore, seed = bench.drivers.datastore, "vm-a-seed.iso"
    first, second = bytes(range(256)) * 200, b"\0\xff'$(touch x)\n" * 10
    assert datastore.ensure_seed(seed, first)
    assert not datastore.ensure_seed(seed, first)
    assert datastore.read_files() == {seed: len(first)}
    assert datastore.ensure_seed(seed, second)
    assert not datastore.ensure_seed(seed, second)
    assert datastore.read_files() == {seed: len(second)}


def test_a_file_that_is_called_otherwise_is_the_same_file(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    disk = bench.disk("image-a.img", size_mib=3, blank=True)
    datastore.ensure_disk(disk)
    size = datastore.read_files()[disk.file]
    assert datastore.ensure_renamed(disk.file, "image-a-persistent.img", writable=True)
    assert not datastore.ensure_renamed(disk.file, "image-a-persistent.img", writable=True)
    assert datastore.read_files() == {"image-a-persistent.img": size}
    assert bench.hand.virtual_size_mib("image-a-persistent.img") == 3
    assert datastore.ensure_renamed("image-a-persistent.img", disk.file, writable=False)
    assert datastore.read_files() == {disk.file: size}
    with pytest.raises(DriverFailure, match="image-b"):
        datastore.ensure_renamed("image-b.img", "image-b-persistent.img", writable=True)
    bench.hand.plant_file("image-c.img", 7)
    with pytest.raises(DriverFailure, match=r"image-c\.img is there too"):
        datastore.ensure_renamed(disk.file, "image-c.img", writable=True)
    assert datastore.read_files() == {disk.file: size, "image-c.img": 7}


def test_removal_of_what_is_not_there_changes_nothing(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    datastore.ensure_seed("vm-a-seed.iso", b"a")
    datastore.ensure_seed("vm-b-seed.iso", b"b")
    assert not datastore.ensure_removed(["vm-x-seed.iso", "vm-x-disk0.qcow2"])
    assert not datastore.ensure_removed([])
    assert datastore.ensure_removed(["vm-x-seed.iso", "vm-a-seed.iso"])
    assert not datastore.ensure_removed(["vm-x-seed.iso", "vm-a-seed.iso"])
    assert datastore.read_files() == {"vm-b-seed.iso": 1}


def test_only_our_files_are_listed(bench: Bench) -> None:
    bench.hand.plant_file("notes.txt", 3)
    bench.hand.plant_file("vm-a-disk0.qcow2", 4)
    bench.hand.plant_file("image-b.raw", 5)
    assert bench.drivers.datastore.read_files() == {"vm-a-disk0.qcow2": 4, "image-b.raw": 5}


@pytest.mark.parametrize("file", ["vm-A.b_c-0--x.qcow2", "vm-" + "x" * 180 + "-seed.iso", "image-..raw"])
def test_odd_but_allowed_names_work(bench: Bench, file: str) -> None:
    datastore = bench.drivers.datastore
    assert datastore.ensure_seed(file, b"content")
    assert datastore.read_files() == {file: 7}
    assert datastore.path(file).endswith(f"/{file}")
    assert datastore.ensure_removed([file])


@pytest.mark.parametrize(
    "file", ["", ".", "..", "../vm-a", "vm/a", "-rf", "vm a", "vm-$(id)", "vm-a\n", "vm-\0", "vm-*", "vm-ä"]
)
def test_names_that_are_no_plain_files_are_refused(bench: Bench, file: str) -> None:
    datastore = bench.drivers.datastore
    calls: list[Callable[[], object]] = [
        lambda: datastore.path(file),
        lambda: datastore.ensure_seed(file, b""),
        lambda: datastore.ensure_image(replace(bench.image, file=file), bench.source),
        lambda: datastore.ensure_disk(bench.disk(file, blank=True)),
        lambda: datastore.ensure_image_from(replace(bench.image, file=file), FileSource("vm-a", "raw", 1)),
        lambda: datastore.ensure_image_from(bench.image, FileSource(file, "raw", 1)),
        lambda: datastore.read_image(replace(bench.image, file=file)),
        lambda: datastore.ensure_removed(["vm-a", file]),
        lambda: datastore.check_disk(file),
        lambda: datastore.read_sha256(file),
        lambda: datastore.bring_disk(FileSource(file, "raw", 1), bench.source),
    ]
    for call in calls:
        with pytest.raises(Invalid, match="plain file name"):
            call()
    assert datastore.read_files() == {}


def test_threads_that_want_the_same_files_agree_on_one_maker(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    uploads = at_once(lambda _: datastore.ensure_image(bench.image, bench.source), range(THREADS))
    assert sum(uploads) == 1
    disk = bench.disk("vm-a-disk0.img")
    assert sum(at_once(lambda _: datastore.ensure_disk(disk), range(THREADS))) == 1
    assert bench.hand.holds_image(disk.file, bench.source)
    at_once(lambda _: datastore.ensure_seed("vm-a-seed.iso", b"seed"), range(THREADS))
    assert set(datastore.read_files()) == {bench.image.file, disk.file, "vm-a-seed.iso"}
    assert any(at_once(lambda _: datastore.ensure_removed([disk.file, "vm-a-seed.iso"]), range(THREADS)))
    assert set(datastore.read_files()) == {bench.image.file}


def test_threads_that_want_different_files_do_not_disturb_each_other(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    datastore.ensure_image(bench.image, bench.source)
    disks = [bench.disk(f"vm-{n}-disk0.img") for n in range(THREADS)]
    assert all(at_once(datastore.ensure_disk, disks))
    assert set(datastore.read_files()) == {bench.image.file, *(disk.file for disk in disks)}
    assert all(at_once(lambda disk: datastore.ensure_removed([disk.file]), disks))
    assert set(datastore.read_files()) == {bench.image.file}


def test_what_is_wrong_inside_a_disk_is_told(bench: Bench) -> None:
    datastore, disk = bench.drivers.datastore, bench.disk("vm-a-disk0.img")
    assert datastore.check_disk(disk.file) == ["there is no such file"]
    datastore.ensure_image(bench.image, bench.source)
    datastore.ensure_disk(disk)
    assert datastore.check_disk(disk.file) == []
    if datastore.capabilities.disk_format != "qcow2":
        return
    bench.hand.damage(disk.file)
    (problem,) = datastore.check_disk(disk.file)
    assert "errors were found on the image" in problem


def test_a_disk_in_use_is_not_checked(bench: Bench) -> None:
    datastore, machine = bench.drivers.datastore, bench.machine()
    bench.provide(machine)
    bench.drivers.hypervisor.ensure_started(machine.spec.name)
    if datastore.capabilities.disk_format == "qcow2" and datastore.capabilities.locked:
        with pytest.raises(Busy, match=machine.disk.file):
            datastore.check_disk(machine.disk.file)
    bench.drivers.hypervisor.ensure_stopped(machine.spec.name)
    assert datastore.check_disk(machine.disk.file) == []


def test_checksum_is_that_of_the_bytes(bench: Bench) -> None:
    datastore = bench.drivers.datastore
    datastore.ensure_image(bench.image, bench.source)
    assert datastore.read_sha256(bench.image.file) == bench.image.sha256
    with pytest.raises(DriverFailure):
        datastore.read_sha256("image-nowhere.qcow2")


def test_shared_files_are_seen_from_another_host(bench: Bench) -> None:
    if not bench.drivers.datastore.capabilities.shared:
        return
    there = bench.on(bench.second_host()).datastore
    bench.drivers.datastore.ensure_seed("vm-a-seed.iso", b"seed")
    assert there.read_files() == {"vm-a-seed.iso": 4}
    assert there.path("vm-a-seed.iso") == bench.drivers.datastore.path("vm-a-seed.iso")
    assert there.ensure_removed(["vm-a-seed.iso"])
    assert bench.drivers.datastore.read_files() == {}


def test_host_that_does_not_answer_is_unreachable(bench: Bench) -> None:
    datastore = bench.on(bench.unreachable_host()).datastore
    for call in (
        datastore.read_use,
        datastore.read_files,
        datastore.ensure_writable,
        lambda: datastore.ensure_seed("vm-a-seed.iso", b""),
        lambda: datastore.ensure_removed(["vm-a-seed.iso"]),
        lambda: datastore.check_disk("vm-a-disk0.img"),
        lambda: datastore.read_sha256("image-a.img"),
        lambda: datastore.bring_disk(FileSource("vm-a-disk0.img", "raw", 1), bench.source),
    ):
        with pytest.raises(HostUnreachable, match=bench.unreachable_host().name):
            call()

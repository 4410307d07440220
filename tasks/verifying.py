"""Looking whether the platform is sound. Nothing is changed; a host that does not answer is a problem too."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from drivers import registry
from reports import soundness
from tasks.batches import read
from tasks.converging import observe
from tasks.environment import environment
from tasks.machines import domain_spec
from vdc import reconciliation, verification
from vdc.errors import VdcError
from vdc.months import Window
from vdc.verification import ImageToCheck, MachineToCheck


@task(name="check-machine", task_run_name="check {of.spec.name}", cache_policy=NO_CACHE, persist_result=False)
def check_machine(of: MachineToCheck) -> tuple[list[str], list[str]]:
    """What is wrong with a machine's disks, as far as nobody has them open, and with its snapshots."""
    spec, access, disks, snapshots = of.spec, environment().access, [], []
    for disk in spec.disks if of.off else ():
        try:
            store = registry.datastore(disk.datastore_uri, spec.host, access)
            disks += [f"vm/{spec.name}, {disk.file}: {problem}" for problem in store.check_disk(disk.file)]
        except VdcError as error:
            disks.append(f"vm/{spec.name}, {disk.file} could not be checked: {error}")
    try:
        seen = registry.hypervisor(spec.host, access).read_snapshots(domain_spec(spec))
    except VdcError as error:
        return disks, [f"vm/{spec.name}: its snapshots could not be read: {error}"]
    there = {one.snapshot_id for one in seen}
    snapshots += [f"vm/{spec.name}: snapshot {i} is not on its disks" for i in sorted(of.snapshots - there)]
    snapshots += [
        f"vm/{spec.name}: snapshot {i} is not in the inventory" for i in sorted(there - of.snapshots)
    ]
    snapshots += [f"vm/{spec.name}: snapshot {s.snapshot_id} is not whole" for s in seen if not s.whole]
    return disks, snapshots


@task(name="check-image", task_run_name="check {image.name}", cache_policy=NO_CACHE, persist_result=False)
def check_image(image: ImageToCheck) -> tuple[str, str]:
    """The checksum of an image by the first host that answers, or (second) why there is none."""
    why = "no host mounts its datastore"
    for host in image.hosts:
        try:
            store = registry.datastore(image.uri, host, environment().access)
            return store.read_sha256(image.file), ""
        except VdcError as error:
            why = str(error)
    return "", f"image/{image.name} could not be read: {why}"


def compare_hosts() -> list[str]:
    """How hosts and inventory differ."""
    places = read(reconciliation.read_places)
    world = observe(places)
    known, volumes = read(reconciliation.read_known), read(reconciliation.read_volume_files)
    return verification.told(reconciliation.compare(places.site, known, world, volumes), known)


def check_bills(window: Window) -> list[str]:
    return read(soundness.read_unsound, window)

"""Images on simulated hosts: whose they are, what is refused, and that nothing half-made is left,
whatever fails and whoever is killed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from tests.flows import run
from tests.flows.forms import FORMS, PASSING, spread
from tests.flows.processes import Processes, die_at_commit
from tests.flows.site import ACTOR, Site, once
from tests.flows.test_snapshot import _kill
from tests.requires import missing
from vdc import catalog
from vdc.claims.images import publish
from vdc.errors import (
    Conflict,
    Forbidden,
    Invalid,
    InvalidState,
    NotFound,
    OperationFailed,
    Unsupported,
)
from vdc.inventory import read_session, write_session
from vdc.model import Abilities
from vdc.requests import SaveAsRequest
from vdc.schema import Cloud, CloudImage, Image, Operation, Snapshot, Template, Tenant, Vm
from vdc.states import VmState

SAVING = (
    "hypervisor.ensure_snapshot",
    "datastore.ensure_image_from",
    "datastore.read_image",
    "hypervisor.ensure_snapshot_removed",
)
"""Driver calls that make an image of a machine that runs; of one that is stopped, those of the datastore."""
CLONING = SAVING[1:3]
DELETING = ("datastore.ensure_removed",)


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with tenants, and a machine `web` that runs on h1 and has `a` on its disk."""
    with write_session(site.url) as session:
        for name in ("acme", "other"):
            catalog.create_tenant(session, name, actor=ACTOR)
    site.with_machine("web", tenant="acme")
    site.sim.write_guest(site.spec("web").domain, disk="a")
    return site


@pytest.fixture
def image_file(tmp_path: Path) -> str:
    if not shutil.which("qemu-img"):
        missing("qemu-img is not installed (Debian package: qemu-utils)")
    file = tmp_path / "small.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "8M"], check=True)
    return str(file)


# For processes: functions that can be pickled.
def save(name: str) -> str:
    return run.save_as("web", name)


def clone(name: str) -> str:
    return run.clone_image("tiny", name)


def delete(name: str) -> str:
    return run.delete_image(name)


ACTS: dict[str, Callable[[str], str]] = {"save": save, "clone": clone}


def images(site: Site) -> dict[str, str]:
    with read_session(site.url) as session:
        return {image.name: image.state for image in session.query(Image).order_by(Image.name)}


def image(site: Site, name: str) -> Image:
    with read_session(site.url) as session:
        found = session.query(Image).filter(Image.name == name).one()
        session.expunge(found)
        return found


def template(site: Site, of: str) -> None:
    options = {"vcpu": 1, "memory_mib": 64, "vnets": ["blue"], "actor": ACTOR}
    with write_session(site.url) as session:
        catalog.create_template(session, of, image=of, **options)  # type: ignore[arg-type]


def stop(site: Site) -> None:
    site.sim.guest_shutdown(site.spec("web").domain)
    run.reconcile()


def change(site: Site, name: str, *, published: bool) -> bool:
    with write_session(site.url) as session:
        return publish(session, name, published=published, actor=ACTOR)


# -- what they are for -----------------------------------------------------------------------------------


@pytest.mark.prefect
@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
def test_a_machine_made_of_the_new_image_has_what_was_on_the_disk(web: Site, off: bool) -> None:
    if off:
        stop(web)
    events, state = web.events("web"), web.machines()["web"]
    before = web.sim.call_count()
    operation_id = save("mine")
    calls = tuple(call.call for call in web.sim.log(since=before))
    assert calls == (CLONING if off else SAVING)
    made = image(web, "mine")
    assert (made.state, made.published, made.virtual_size_mib) == ("ready", False, 64)
    assert len(made.sha256) == 64
    with read_session(web.url) as session:
        told = session.get_one(Operation, operation_id).result
        assert told == {"image": "mine", "size_mib": made.size_mib, "sha256": made.sha256}
    web.sim.write_guest(web.spec("web").domain, disk="b")
    template(web, "mine")
    run.deploy(template="mine", name="twin", tenant="acme")
    assert web.sim.read_guest(web.spec("twin").domain)[0] == "a"
    assert (web.events("web"), web.machines()["web"]) == (events, state)
    run.terminate("web")
    web.assert_agrees()
    assert run.reconcile() == []


@pytest.mark.prefect
def test_a_clone_is_the_same_and_belongs_to_whom_it_is_given(web: Site) -> None:
    save("mine")
    run.clone_image("mine", "copy")
    run.clone_image("tiny", "tiny-2")
    run.clone_image("tiny", "theirs", tenant="other")
    with read_session(web.url) as session:
        owners = {t.id: t.name for t in session.query(Tenant)}
    owned = {
        name: (owners.get(image(web, name).tenant_id or ""), image(web, name).published)
        for name in ("mine", "copy", "tiny-2", "theirs")
    }
    assert owned == {
        "mine": ("acme", False),
        "copy": ("acme", False),
        "tiny-2": (None, True),
        "theirs": ("other", False),
    }
    assert image(web, "copy").sha256 == image(web, "mine").sha256
    web.assert_agrees()


def test_an_image_is_its_tenants_until_it_is_published(web: Site, image_file: str) -> None:
    run.import_image(file=image_file, name="own", datastore="shared", tenant="acme")
    template(web, "own")
    run.deploy(template="own", name="one", tenant="acme")
    deploy = {"template": "own", "name": "two", "tenant": "other"}
    with pytest.raises(Forbidden, match="own belongs to another tenant than other, and is not published"):
        run.deploy(**deploy)
    with pytest.raises(Forbidden, match="belongs to another tenant than other"):
        run.clone_image("own", "stolen", tenant="other")
    assert change(web, "own", published=True)
    assert not change(web, "own", published=True)
    run.deploy(**deploy)
    assert change(web, "own", published=False)
    with pytest.raises(Forbidden, match="is not published"):
        run.deploy(**deploy | {"name": "three"})
    assert {"one", "two"} <= set(web.machines()), "machines that were made from it stay"
    with pytest.raises(InvalidState, match="belongs to no tenant"):
        change(web, "tiny", published=False)
    web.assert_agrees()


@pytest.mark.prefect
def test_an_image_that_nothing_uses_is_deleted(web: Site) -> None:
    save("mine")
    before = web.sim.call_count()
    delete("mine")
    assert tuple(call.call for call in web.sim.log(since=before)) == DELETING
    assert images(web) == {"tiny": "ready"}
    web.assert_agrees()
    with pytest.raises(NotFound, match=r"no image 'mine'\. Known: tiny"):
        delete("mine")
    save("mine")


def test_a_template_and_its_image_go_when_their_machines_are_gone(web: Site) -> None:
    from interfaces.cli.machines import machines

    def delete_template() -> None:
        with write_session(web.url) as session:
            catalog.delete_template(session, "tiny", actor=ACTOR)

    rows = web.rows()
    with pytest.raises(InvalidState, match=r"Template tiny is in use: machine web\. .* when they are gone"):
        delete_template()
    assert web.rows() == rows
    run.terminate("web")
    with pytest.raises(InvalidState, match=r"tiny is in use: template tiny\."):
        delete("tiny")
    delete_template()
    delete("tiny")
    assert images(web) == {}
    assert [(vm["name"], vm["state"], vm["template"]) for vm in machines(ended=True)] == [
        ("web", "gone", None)
    ]
    web.assert_agrees()
    assert run.reconcile() == []


# -- what is refused -------------------------------------------------------------------------------------


def _template_gone(site: Site) -> None:
    """Machines keep an image from being deleted, also where no template names it any more."""
    save("mine")
    with write_session(site.url) as session:
        own = session.query(Image).filter(Image.name == "mine").one()
        session.query(Template).update({"image_id": own.id})


def _cloud(session: Session) -> None:
    session.add(Cloud(id="c", name="aws", uri="simulated:", currency="EUR", prices_as_of="2026-11-01"))
    session.flush()


def _in_a_cloud(site: Site) -> None:
    save("mine")
    with write_session(site.url) as session:
        _cloud(session)
        own = session.query(Image).filter(Image.name == "mine").one()
        session.add(CloudImage(image_id=own.id, cloud_id="c", ami="ami-1"))


def _state(state: str) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        save("mine")
        with write_session(site.url) as session:
            session.query(Image).filter(Image.name == "mine").update({"state": state})

    return prepare


def _machine_in_a_cloud(site: Site) -> None:
    with write_session(site.url) as session:
        _cloud(session)
        session.query(Vm).update({"cloud_id": "c", "host_id": None})


def _pause(site: Site) -> None:
    run.power("pause", "web")


def _nothing(_: Site) -> None: ...


REFUSALS: dict[str, tuple[Callable[[Site], object], Callable[[Site], object], type[Exception], str]] = {
    "in use": (
        _nothing,
        lambda _: delete("tiny"),
        InvalidState,
        "tiny is in use: template tiny; machine web. It can be deleted when nothing uses it",
    ),
    "by a machine alone": (_template_gone, lambda _: delete("tiny"), InvalidState, "in use: machine web"),
    "by a cloud": (_in_a_cloud, lambda _: delete("mine"), InvalidState, "in use: cloud aws"),
    "unknown": (_nothing, lambda _: delete("nope"), NotFound, "no image 'nope'"),
    "half-made": (_state("saving"), lambda _: delete("mine"), InvalidState, "mine is saving: wait for it"),
    "template of what leaves": (
        _state("deleting"),
        lambda site: template(site, "mine"),
        InvalidState,
        "mine is deleting, not ready",
    ),
    "clone of what leaves": (
        _state("deleting"),
        lambda _: run.clone_image("mine", "more"),
        InvalidState,
        "mine is deleting, not ready",
    ),
    "clone of nothing": (_nothing, lambda _: run.clone_image("nope", "more"), NotFound, "no image 'nope'"),
    "clone to itself": (_nothing, lambda _: clone("tiny"), Conflict, "Image name 'tiny' is taken"),
    "clone for nobody": (
        _nothing,
        lambda _: run.clone_image("tiny", "more", tenant="nobody"),
        NotFound,
        "no tenant 'nobody'",
    ),
    "no such machine": (_nothing, lambda _: run.save_as("db", "mine"), NotFound, "no machine 'db'"),
    "name taken": (_nothing, lambda _: save("tiny"), Conflict, "Image name 'tiny' is taken"),
    "bad name": (_nothing, lambda _: save("Mine!"), Invalid, "Image name 'Mine!' is refused"),
    "paused": (
        _pause,
        lambda _: save("mine"),
        InvalidState,
        "web is paused: `save-as` is for a machine that is running or stopped",
    ),
    "in a cloud": (_machine_in_a_cloud, lambda _: save("mine"), Unsupported, "web is in a cloud"),
    "import for nobody": (
        _nothing,
        lambda _: run.import_image(file="/x", name="i", datastore="shared", tenant="nobody"),
        NotFound,
        "no tenant 'nobody'",
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_is_refused_and_nothing_is_touched(web: Site, why: str) -> None:
    prepare, act, error, message = REFUSALS[why]
    prepare(web)
    before, calls = web.rows(), web.sim.call_count()
    with pytest.raises(error, match=message):
        act(web)
    assert web.rows() == before
    assert web.sim.call_count() == calls


def test_a_machine_that_runs_on_disks_without_snapshots_is_to_be_stopped(web: Site) -> None:
    from vdc.claims.saving import claim_save

    request = SaveAsRequest(vm="web", image="mine")
    with (
        write_session(web.url, commit=False) as session,
        pytest.raises(Unsupported, match=r"stop it first \(`vdc vm stop web`\)"),
    ):
        claim_save(session, request, Abilities(), actor=ACTOR)
    stop(web)
    with write_session(web.url, commit=False) as session:
        assert claim_save(session, request, Abilities(), actor=ACTOR).snapshot is None


@pytest.mark.parametrize("act", ACTS)
def test_the_source_is_not_touched_meanwhile(web: Site, start: Processes, act: str) -> None:
    web.sim.hold("ensure_image_from")
    child = start.start(ACTS[act], "mine")
    web.sim.wait_until_held()
    with pytest.raises(InvalidState, match="mine is saving, not ready"):
        template(web, "mine")
    others: list[Callable[[], object]] = [lambda: ACTS[act]("more")]
    others.append(
        (lambda: delete("tiny")) if act == "clone" else (lambda: run.power("stop", "web", hard=True))
    )
    for other in others:
        with pytest.raises(Conflict, match="is busy"):
            other()
    web.sim.release("ensure_image_from")
    assert child.answer().error == ""
    web.assert_agrees()


# -- failures --------------------------------------------------------------------------------------------

WITH_A_MIDDLE = {"hypervisor.ensure_snapshot", "datastore.ensure_image_from"}


def _succeeds(call: str, form: str) -> bool:
    return form in PASSING or (form == "stops-halfway" and call not in WITH_A_MIDDLE)


@pytest.mark.parametrize(
    ("act", "call", "form"), spread([("save", call) for call in SAVING] + [("clone", c) for c in CLONING])
)
def test_an_image_that_cannot_be_made_is_taken_back(web: Site, act: str, call: str, form: str) -> None:
    web.sim.fail_next(call, **FORMS[form])
    if _succeeds(call, form):
        ACTS[act]("mine")
    else:
        with pytest.raises(OperationFailed, match=r"no image mine of (machine web|image tiny): ") as error:
            ACTS[act]("mine")
        assert "vdc reconcile" not in str(error.value)
        assert images(web) == {"tiny": "ready"}
        web.assert_agrees()
        ACTS[act]("mine")
    assert images(web) == {"mine": "ready", "tiny": "ready"}
    web.assert_agrees()
    assert run.reconcile() == []


def test_what_cannot_be_taken_back_now_is_removed_later(web: Site, start: Processes) -> None:
    web.sim.hold("read_image")
    child = start.start(save, "mine")
    web.sim.wait_until_held()
    for host in ("h1", "h2"):
        web.sim.host_down(host)
    web.sim.release("read_image")
    answer = child.answer()
    assert answer.error == "OperationFailed"
    assert "removed by `vdc reconcile`" in answer.message
    assert images(web)["mine"] == "deleting"
    found = {f.what for f in run.reconcile()}
    assert found == {"host unreachable", "unfinished removal"}
    for host in ("h1", "h2"):
        web.sim.host_up(host)
    assert {(f.what, f.action) for f in run.reconcile()} == {
        ("unfinished removal", "removed"),
        ("unfinished snapshot", f"snapshot save-{_id_of(web)} removed"),
    }
    assert images(web) == {"tiny": "ready"}
    assert web.count(Snapshot) == 0
    web.assert_agrees()
    assert run.reconcile() == []


def _id_of(site: Site) -> str:
    """Of the image that was to be made last."""
    with read_session(site.url) as session:
        operation = session.query(Operation).filter(Operation.kind == "save-as").one()
        return str(operation.spec["image_id"])


@pytest.mark.parametrize("form", FORMS)
def test_a_removal_that_fails_is_finished_later(web: Site, form: str) -> None:
    save("mine")
    options = FORMS[form] | ({"times": 6} if form == "unreachable-for-too-long" else {})
    web.sim.fail_next(DELETING[0], **options)
    if _succeeds(DELETING[0], form):
        delete("mine")
    else:
        with pytest.raises(OperationFailed, match=r"mine may still be there: .* `vdc reconcile` removes it"):
            delete("mine")
        assert images(web)["mine"] == "deleting"
        assert [(f.what, f.action) for f in run.reconcile()] == [("unfinished removal", "removed")]
    assert images(web) == {"tiny": "ready"}
    web.assert_agrees()
    assert run.reconcile() == []


def test_another_host_removes_it_from_a_shared_datastore(web: Site) -> None:
    save("mine")
    web.sim.host_down("h1")
    delete("mine")
    assert images(web) == {"tiny": "ready"}


def test_an_upload_that_cannot_be_taken_back_now_is_removed_later(
    web: Site, start: Processes, image_file: str
) -> None:
    web.sim.hold("ensure_image")
    child = start.start(_import, image_file)
    web.sim.wait_until_held()
    for host in ("h1", "h2"):
        web.sim.host_down(host)
    web.sim.release("ensure_image")
    assert "removed by `vdc reconcile`" in child.answer().message
    for host in ("h1", "h2"):
        web.sim.host_up(host)
    assert [(f.what, f.action) for f in run.reconcile()] == [("unfinished removal", "removed")]
    web.assert_agrees()


def _import(file: str) -> str:
    return run.import_image(file=file, name="own", datastore="shared")


# -- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "n"),
    [("save", n + 1) for n in range(len(SAVING))] + [("clone", n + 1) for n in range(len(CLONING))],
)
@pytest.mark.parametrize("halfway", [False, True], ids=["before", "half-made"])
def test_killed_while_making(web: Site, start: Processes, act: str, n: int, halfway: bool) -> None:
    if halfway:
        # Made halfway, it is being taken back when the process is killed.
        web.sim.fail_next("ensure_image_from", halfway=True)
    _kill(web, start, n, ACTS[act], "mine")
    source = "machine web" if act == "save" else "image tiny"
    assert [(f.what, f.object, f.action) for f in run.reconcile()] == [
        ("interrupted operation", "image/mine", f"image of {source} taken back")
    ]
    assert images(web) == {"tiny": "ready"}
    assert web.machines() == {"web": VmState.RUNNING}
    web.assert_agrees()
    ACTS[act]("mine")
    web.assert_agrees()
    assert run.reconcile() == []


def test_killed_while_deleting(web: Site, start: Processes) -> None:
    save("mine")
    _kill(web, start, 1, delete, "mine")
    with pytest.raises(Conflict, match="is busy: delete"):
        delete("mine")
    assert [(f.object, f.action) for f in run.reconcile()] == [("image/mine", "removed")]
    assert images(web) == {"tiny": "ready"}
    web.assert_agrees()


@pytest.mark.parametrize("act", [*ACTS, "delete"])
def test_killed_before_the_claim_and_before_the_record(web: Site, start: Processes, act: str) -> None:
    if act == "delete":
        save("mine")
    for n, committed in ((1, False), (2, True)):
        child = start.start(die_at_commit, n, ACTS.get(act, delete), "mine", operation_lease_s=60)
        child.process.join(60)
        assert child.process.exitcode is not None
        assert child.process.exitcode < 0
        assert bool(web.open_operations()) is committed
        run.reconcile()
        web.assert_agrees()
    assert images(web) == {"tiny": "ready"}
    assert run.reconcile() == []


@pytest.mark.parametrize("act", [*ACTS, "delete"])
def test_killed_while_reconcile_takes_it_back(web: Site, start: Processes, act: str) -> None:
    if act == "delete":
        save("mine")
    _kill(web, start, 1, ACTS.get(act, delete), "mine")
    web.sim.hold("datastore.ensure_removed")
    child = start.start(run.reconcile)
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    run.reconcile()
    assert images(web) == {"tiny": "ready"}
    web.assert_agrees()
    assert run.reconcile() == []

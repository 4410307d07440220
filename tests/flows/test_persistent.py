"""Persistent images on simulated hosts: what a machine writes is kept, for one machine at a time, and nothing
is lost or charged twice, whatever fails and whoever is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from reports.bill import bills
from reports.usage import read_events
from tests.flows import run
from tests.flows.forms import FORMS, PASSING, spread
from tests.flows.processes import Processes, die_at_commit
from tests.flows.site import ACTOR, Site, once
from vdc import catalog
from vdc.billed import Billed
from vdc.claims.giving import give
from vdc.claims.images import publish
from vdc.clock import running_on
from vdc.errors import Conflict, Forbidden, Invalid, InvalidState, OperationFailed, Unsupported
from vdc.inventory import read_session, write_session
from vdc.months import Month
from vdc.schema import Cloud, CloudImage, Datastore, Image, Template, Tenant
from vdc.states import VmState
from vdc.tariff import Tariff
from vdc.tariff_book import TariffBook

SWITCHING = {
    True: ("datastore.ensure_renamed",),
    False: ("datastore.ensure_renamed", "datastore.read_image"),
}


@pytest.fixture
@once
def own(site: Site) -> Site:
    """A site with tenants acme and bolt; acme's own image `home`, and a template of it."""
    with write_session(site.url) as session:
        for name in ("acme", "bolt"):
            catalog.create_tenant(session, name, actor=ACTOR)
    run.clone_image("tiny", "home", tenant="acme")
    with write_session(site.url) as session:
        options = {"vcpu": 1, "memory_mib": 64, "vnets": ["blue"], "actor": ACTOR}
        catalog.create_template(session, "home", image="home", **options)  # type: ignore[arg-type]
    return site


@pytest.fixture
@once
def home(own: Site) -> Site:
    """As `own`, and the image is persistent."""
    run.switch_image("home", True)
    return own


def deploy(name: str = "web", **request: object) -> str:
    return run.deploy(**({"template": "home", "name": name, "tenant": "acme"} | request))


def switch(persistent: bool) -> str:
    return run.switch_image("home", persistent)


def image(site: Site, name: str = "home") -> Image:
    with read_session(site.url) as session:
        found = session.query(Image).filter(Image.name == name).one()
        session.expunge(found)
        return found


def write(site: Site, name: str, what: str) -> None:
    site.sim.write_guest(site.spec(name).domain, disk=what)


def on_disk(site: Site, name: str) -> str:
    return site.sim.read_guest(site.spec(name).domain)[0]


@pytest.mark.prefect
def test_what_is_written_is_there_for_the_next_machine(home: Site) -> None:
    golden = image(home, "tiny")
    assert image(home).file == f"image-{image(home).id}-persistent.qcow2"
    deploy()
    assert home.spec("web").disks[0].file == image(home).file
    home.assert_agrees()
    write(home, "web", "mail")
    run.power("stop", "web", hard=True)
    run.power("start", "web")
    run.terminate("web")
    home.assert_agrees()
    assert run.reconcile() == []
    deploy("db")
    assert on_disk(home, "db") == "mail"
    run.migrate("db")
    home.assert_agrees()
    run.terminate("db")
    switch(False)
    made = image(home)
    assert (made.persistent, made.file) == (False, f"image-{made.id}.qcow2")
    # Golden again, it has what was written, and many are made of it, none of which writes to it.
    deploy("many", count=2)
    assert [on_disk(home, name) for name in ("many-1", "many-2")] == ["mail", "mail"]
    write(home, "many-1", "other")
    assert on_disk(home, "many-2") == "mail"
    assert image(home, "tiny").sha256 == golden.sha256
    home.assert_agrees()
    assert run.verify_problems() == []


def test_only_its_own_machine_writes_and_only_one(home: Site) -> None:
    run.deploy(name="other", tenant="acme")
    deploy()
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: deploy("db"), "Image home is persistent, and machine web has it"),
        (lambda: switch(False), "in use: machine web. What it is can be changed when none has it"),
        (lambda: run.delete_image("home"), "in use: template home; machine web"),
        (lambda: run.clone_image("home", "x"), "machine web writes to it: `vdc vm save-as web x`"),
    ]
    for act, message in refused:
        before = home.rows(), home.sim.snapshot_state()
        with pytest.raises(InvalidState, match=message):
            act()
        assert (home.rows(), home.sim.snapshot_state()) == before
    run.save_as("web", "copy")
    home.assert_agrees()
    run.terminate("web")
    run.clone_image("home", "x")
    with write_session(home.url) as session:
        catalog.delete_template(session, "home", actor=ACTOR)
    run.delete_image("home")
    home.assert_agrees()


def _local(site: Site) -> None:
    with write_session(site.url) as session:
        session.query(Datastore).one().shared = False


def _published(site: Site) -> None:
    with write_session(site.url) as session:
        publish(session, "home", published=True, actor=ACTOR)


def _in_a_cloud(site: Site) -> None:
    with write_session(site.url) as session:
        session.add(Cloud(id="c", name="aws", uri="ec2://x", currency="EUR", prices_as_of="2026-11-01"))
        session.flush()
        session.add(CloudImage(image_id=image(site).id, cloud_id="c", ami="ami-1"))


def _iso(site: Site) -> None:
    with write_session(site.url) as session:
        session.query(Image).filter_by(name="home").one().iso = True


def _deployed(site: Site) -> None:
    deploy()


def _nothing(_: Site) -> None: ...


REFUSALS: dict[str, tuple[Callable[[Site], object], str, type[Exception], str]] = {
    "everyone's": (
        _nothing,
        "tiny",
        InvalidState,
        r"is everyone's.*`vdc image clone tiny NEW --tenant TENANT`",
    ),
    "published": (_published, "home", InvalidState, "Image home is published, and is not written to"),
    "each host's own": (_local, "home", Unsupported, "each host has for itself"),
    "mapped": (_in_a_cloud, "home", InvalidState, "in use: cloud aws"),
    "an ISO image": (_iso, "home", Invalid, "is an ISO image: nobody can write to it"),
    "in use": (_deployed, "home", InvalidState, "in use: machine web"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_persistent_is_refused(own: Site, why: str) -> None:
    prepare, name, error, message = REFUSALS[why]
    prepare(own)
    before, calls = own.rows(), own.sim.call_count()
    with pytest.raises(error, match=message):
        run.switch_image(name, True)
    assert (own.rows(), own.sim.call_count()) == (before, calls)


def test_what_its_deployment_may_not_be(home: Site) -> None:
    for request, error, message in (
        ({"count": 2}, Invalid, "one machine at a time has it, and 2 are asked"),
        ({"tenant": "bolt"}, Forbidden, "belongs to another tenant than bolt"),
        ({"burst": "when-full"}, Invalid, "its machine cannot burst"),
        ({"disk_mib": 128}, Invalid, "is the disk of 64 MiB. `vdc vm resize` grows it"),
    ):
        before = home.rows()
        with pytest.raises(error, match=message):
            deploy(**request)
        assert home.rows() == before
    with pytest.raises(InvalidState, match="Image home is persistent already"):
        switch(True)
    with write_session(home.url) as session, pytest.raises(InvalidState, match="its tenant alone may write"):
        publish(session, "home", published=True, actor=ACTOR)


def test_nothing_is_deployed_while_it_is_changed_or_copied(home: Site, start: Processes) -> None:
    home.sim.hold("ensure_renamed")
    child = start.start(switch, False)
    home.sim.wait_until_held()
    with pytest.raises(InvalidState, match="Image home is changing, not ready"):
        deploy()
    home.sim.release("ensure_renamed")
    assert child.answer().error == ""
    switch(True)
    home.sim.hold("ensure_image_from")
    child = start.start(run.clone_image, "home", "copy")
    home.sim.wait_until_held()
    with pytest.raises(Conflict, match="Image home is busy: clone"):
        deploy()
    home.sim.release("ensure_image_from")
    assert child.answer().error == ""
    deploy()
    home.assert_agrees()


def test_snapshots_work_and_do_not_stay_behind(home: Site) -> None:
    deploy()
    write(home, "web", "a")
    run.snapshot("web", "one")
    write(home, "web", "b")
    run.revert("web", "one")
    assert on_disk(home, "web") == "a"
    before = home.rows()
    with pytest.raises(InvalidState, match=r"has snapshots \(one\) in its disk, the persistent image home"):
        run.terminate("web")
    assert home.rows() == before
    run.delete_snapshot("web", "one")
    run.terminate("web")
    home.assert_agrees()
    assert home.sim.snapshots() == {}


def test_it_grows_with_its_machine(home: Site) -> None:
    deploy()
    run.resize("web", disk_mib=128)
    assert image(home).virtual_size_mib == 128
    run.terminate("web")
    deploy("db")
    assert home.spec("db").disks[0].size_mib == 128
    home.assert_agrees()


def test_given_away_the_image_goes_along(home: Site) -> None:
    deploy()
    with write_session(home.url) as session:
        give(session, "web", "bolt", "acme", actor=ACTOR)
        bolt = session.query(Tenant).filter_by(name="bolt").one().id
    assert image(home).tenant_id == bolt
    assert home.use("bolt").images == 1
    run.terminate("web", tenant="bolt")
    home.assert_agrees()


# -- the bill --------------------------------------------------------------------------------------------

OCTOBER = Month.parse("2026-10")
PRICES = Tariff(
    vcpu_hour=Decimal(0),
    memory_gib_hour=Decimal(0),
    disk_gib_month=Decimal(744 * 16),
    image_gib_month=Decimal(744 * 64),
)
"""In October an hour of the disk of 64 MiB costs 1, one of the image, stored in 16 MiB, costs 1 too."""


def test_it_is_charged_as_an_image_or_as_a_disk_never_as_both(
    own: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [datetime(2026, 10, 5, tzinfo=UTC)]
    with running_on(lambda: now[0]):
        run.clone_image("tiny", "mine", tenant="acme")
        run.switch_image("mine", True)
        with write_session(own.url) as session:
            options = {"vcpu": 1, "memory_mib": 64, "vnets": ["blue"], "actor": ACTOR}
            catalog.create_template(session, "mine", image="mine", **options)  # type: ignore[arg-type]
        now[0] += timedelta(hours=10)
        deploy(template="mine")
        now[0] += timedelta(hours=5)
        own.sim.grow_file("shared", image(own, "mine").file, 32 * 2**20)
        run.terminate("web")
        now[0] += timedelta(hours=3)
        with read_session(own.url) as session:
            acme = session.query(Tenant).filter_by(name="acme").one()
            billed = Billed(acme.id, "acme", "UTC")
            events = read_events(session, [acme.id], billed.window(OCTOBER))
        (draft,) = bills(events, [billed], OCTOBER, TariffBook.always(PRICES), site="s", now=now[0])
    lines = [
        (line["machine"], line["what"], line["hours"], line["quantity"], line["amount"])
        for line in draft.document["lines"]
        if line["machine"] in ("mine", "web") and Decimal(line["amount"])
    ]
    assert lines == [
        ("mine", "image", "10", "0.015625", "10.00"),
        ("mine", "image", "3", "0.03125", "6.00"),
        ("web", "disk", "5", "0.0625", "5.00"),
    ]


# -- failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "call", "form"), spread([(to, call) for to, calls in SWITCHING.items() for call in calls])
)
def test_a_change_that_fails_is_finished_by_reconcile(own: Site, to: bool, call: str, form: str) -> None:
    if not to:
        switch(True)
    # Two hosts are asked, each three times.
    options = FORMS[form] | ({"times": 6} if form == "unreachable-for-too-long" else {})
    own.sim.fail_next(call, **options)
    if form in PASSING or form == "stops-halfway":
        switch(to)
    else:
        with pytest.raises(OperationFailed, match=r"persistent yet: .* `vdc reconcile` goes on"):
            switch(to)
        assert image(own).state == "changing"
        found = run.reconcile()
        assert [(f.what, f.action) for f in found] == [
            ("unfinished change", "persistent" if to else "no longer persistent")
        ]
    assert (image(own).state, image(own).persistent) == ("ready", to)
    own.assert_agrees()
    assert run.reconcile() == []
    deploy()
    own.assert_agrees()


def test_another_host_does_it_and_none_is_waited_for(own: Site) -> None:
    own.sim.host_down("h1")
    switch(True)
    assert image(own).persistent
    own.sim.host_up("h1")
    own.assert_agrees()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("to", [True, False])
def test_killed_on_the_way_it_is_finished(own: Site, start: Processes, to: bool, n: int) -> None:
    if not to:
        switch(True)
    child = start.start(die_at_commit, n, switch, to)
    child.process.join(60)
    assert not child.process.is_alive()
    run.reconcile()
    assert image(own).state == "ready"
    if image(own).persistent is not to:  # it died before the claim was committed
        assert n == 1
        switch(to)
    own.assert_agrees()
    assert run.reconcile() == []


DEPLOYING = (
    "network.ensure_network",
    "datastore.read_files",
    "datastore.ensure_seed",
    "hypervisor.ensure_defined",
    "hypervisor.ensure_started",
)


@pytest.mark.parametrize(("call", "form"), spread(DEPLOYING))
def test_a_deployment_that_fails_leaves_the_image_as_it_was(home: Site, call: str, form: str) -> None:
    deploy()
    write(home, "web", "mail")
    run.terminate("web")
    before = home.snapshot()
    home.sim.fail_next(call, **FORMS[form])
    try:
        deploy("db")
    except OperationFailed:
        home.assert_agrees()
        assert home.machines()["db"] is VmState.FAILED
        assert home.snapshot() == before
        deploy("again")
        assert on_disk(home, "again") == "mail"
    else:
        assert on_disk(home, "db") == "mail"
    home.assert_agrees()
    assert run.reconcile() == []


@pytest.mark.parametrize(
    "call", ["hypervisor.ensure_removed", "datastore.read_files", "datastore.ensure_removed"]
)
def test_a_termination_that_fails_keeps_the_image_and_is_finished(home: Site, call: str) -> None:
    deploy()
    write(home, "web", "mail")
    home.sim.fail_next(call)
    with pytest.raises(OperationFailed):
        run.terminate("web")
    with pytest.raises(InvalidState, match="machine web has it"):
        deploy("db")
    run.reconcile()
    home.assert_agrees()
    deploy("db")
    assert on_disk(home, "db") == "mail"


def test_one_that_is_not_there_is_not_made_anew(home: Site) -> None:
    """An empty disk in its place would hide the loss."""
    home.sim.remove_file("shared", image(home).file)
    with pytest.raises(OperationFailed, match="a persistent image, is not there"):
        deploy()
    assert home.machines()["web"] is VmState.FAILED
    assert image(home).file not in home.sim.snapshot_state()["files"].get("shared", {})


def test_a_lost_domain_is_recovered_from_it(home: Site) -> None:
    from drivers.registry import hypervisor
    from tasks.environment import environment

    deploy()
    write(home, "web", "mail")
    spec = home.spec("web")
    hypervisor(spec.host, environment().access).ensure_removed(spec.domain)
    assert [f.action for f in run.reconcile()] == ["recovered"]
    assert on_disk(home, "web") == "mail"
    home.assert_agrees()


def test_as_typed(own: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # This process has been told of its Prefect server before.
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)

    def vdc(*arguments: str) -> str:
        go = lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False)  # noqa: E731
        assert guarded(go, arguments) == 0
        return capsys.readouterr().out

    before = own.rows()
    plan = json.loads(vdc("image", "persistent", "home", "--plan", "--json"))
    assert (plan["name"], plan["to"]) == ("home", f"image-{image(own).id}-persistent.qcow2")
    assert "Would rename" in vdc("image", "persistent", "home", "--plan")
    assert own.rows() == before
    assert "Image home is persistent: image-" in vdc("image", "persistent", "home")
    assert json.loads(vdc("image", "show", "home", "--json"))["persistent"] is True
    plan = json.loads(vdc("vm", "deploy", "--template", "home", "--tenant", "acme", "--plan", "--json"))
    assert [m["disk_mib"] for m in plan["machines"]] == [64]
    deploy()
    (plan,) = json.loads(vdc("vm", "terminate", "web", "--plan", "--json"))
    assert plan["cost_is"] == "at most"
    assert "a persistent image, stays" in plan["cost_note"]
    run.terminate("web")
    row = json.loads(vdc("image", "nonpersistent", "home", "--json"))
    assert (row["persistent"], row["state"]) == (False, "ready")


def test_a_tenant_that_leaves_takes_it_along(home: Site, tmp_path: object) -> None:
    deploy()
    with write_session(home.url) as session:
        acme = session.query(Tenant).filter_by(name="acme").one()
        session.query(Template).filter_by(name="home").one().tenant_id = acme.id
    with pytest.raises(InvalidState, match="machine web"):
        _offboard(str(tmp_path), with_machines=False)
    _offboard(str(tmp_path), with_machines=True)
    with read_session(home.url) as session:
        assert session.query(Image).filter_by(name="home").count() == 0
    home.assert_agrees()


def _offboard(where: str, *, with_machines: bool) -> None:
    from flows.offboard_tenant import offboard_tenant
    from vdc.requests import OffboardTenantRequest

    export = f"{where}/acme"
    offboard_tenant(OffboardTenantRequest(tenant="acme", export=export, with_machines=with_machines))

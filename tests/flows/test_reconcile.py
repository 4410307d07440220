"""What `reconcile` finds, what it does about it, and what it leaves alone."""

from __future__ import annotations

import pytest

from drivers.simulated import host_facts
from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import Site, once
from vdc.errors import Conflict
from vdc.model import nic_device, seed_file
from vdc.reconciliation import Finding
from vdc.schema import Operation, UsageEvent
from vdc.states import VmState


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a machine on each host, `web-1` on h1 and `web-2` on h2."""
    run.deploy(count=2, name="web")
    assert site.spec("web-1").host.name == "h1"
    return site


def _rows_but_usage(site: Site) -> dict[str, list[str]]:
    return {name: rows for name, rows in site.rows().items() if name != "operations"}


@pytest.mark.prefect
def test_where_nothing_happened_nothing_is_done(web: Site) -> None:
    before, hosts = _rows_but_usage(web), web.sim.snapshot_state()
    calls = web.sim.call_count()
    assert run.reconcile() == []
    assert (_rows_but_usage(web), web.sim.snapshot_state()) == (before, hosts)
    assert {c.call.split(".")[1].split("_")[0] for c in web.sim.log(since=calls)} == {"read"}


def test_a_guest_that_shut_itself_down_is_stopped(web: Site) -> None:
    web.sim.guest_shutdown(web.spec("web-1").domain)
    assert run.reconcile() == [Finding("was running, is stopped", "vm/web-1", "h1", "adopted as stopped")]
    assert web.machines() == {"web-1": VmState.STOPPED, "web-2": VmState.RUNNING}
    assert web.events("web-1") == ["created", "started", "stopped"]
    web.assert_agrees()
    assert run.reconcile() == [], "it is what it should be now"
    assert web.use().vms == 2, "it holds its place"


@pytest.mark.prefect
def test_a_machine_that_crashed_is_started_again(web: Site) -> None:
    web.sim.crash(web.spec("web-2").domain)
    assert run.reconcile() == [Finding("domain lost", "vm/web-2", "h2", "recovered")]
    web.assert_agrees()
    assert web.events("web-2") == ["created", "started", "started", "stopped"] or web.events("web-2") == [
        "created",
        "started",
        "stopped",
        "started",
    ]


def test_a_domain_that_is_lost_is_made_again_on_its_disk(web: Site) -> None:
    files = web.sim.snapshot_state()["files"]
    _undefine(web, "web-1")
    assert [f.action for f in run.reconcile()] == ["recovered"]
    assert web.sim.snapshot_state()["files"] == files
    web.assert_agrees()


def _undefine(site: Site, name: str) -> None:
    """Somebody's `virsh destroy; virsh undefine`."""
    from drivers.simulated import hypervisor
    from tasks.environment import environment

    hypervisor(site.spec(name).host, environment().access).ensure_removed(site.spec(name).domain)


def test_a_paused_machine_is_recovered_paused(site: Site) -> None:
    run.deploy(name="web", start="paused")
    site.sim.crash(site.spec("web").domain)
    assert [f.action for f in run.reconcile()] == ["recovered"]
    site.assert_agrees()
    assert site.machines() == {"web": VmState.PAUSED}


def test_of_a_host_that_does_not_answer_nothing_is_concluded(web: Site) -> None:
    _undefine(web, "web-1")
    web.sim.host_down("h1", domains="die")
    before = _rows_but_usage(web)
    findings = run.reconcile()
    assert [(f.what, f.object) for f in findings] == [("host unreachable", "host/h1")]
    assert _rows_but_usage(web) == before
    assert web.machines()["web-1"] is VmState.RUNNING
    web.sim.host_up("h1")
    assert [f.action for f in run.reconcile()] == ["recovered"]
    web.assert_agrees()


def test_a_machine_may_be_on_a_host_that_does_not_answer(web: Site) -> None:
    """Its own host answers and has not got it; as long as another is silent it is not made a second time."""
    _undefine(web, "web-1")
    web.sim.host_down("h2")
    assert [f.what for f in run.reconcile()] == ["host unreachable"]
    assert web.machines()["web-1"] is VmState.MISSING
    assert web.use().vms == 2
    web.sim.host_up("h2")
    assert [f.action for f in run.reconcile()] == ["recovered"]
    web.assert_agrees()


def test_what_is_not_ours_is_never_touched(web: Site) -> None:
    web.sim.add_foreign_domain("h1", "pfsense")
    web.sim.add_foreign_domain("h2", "vm-built-by-hand", state="stopped")
    web.sim.add_port("h1", "trunk0", "tap7")
    hosts = web.sim.snapshot_state()
    assert run.reconcile() == []
    run.terminate("web-1", "web-2")
    run.reconcile()
    left = web.sim.snapshot_state()
    assert left["domains"] == {"h1": {"pfsense": "running"}, "h2": {"vm-built-by-hand": "stopped"}}
    assert left["ports"] == {"h1": ["tap7"]}
    assert hosts["domains"]["h1"]["pfsense"] == "running"


def test_a_domain_of_ours_that_the_inventory_does_not_know(web: Site) -> None:
    """As after a restored backup: it is somebody's machine, so it is reported and left alone."""
    stranger = "11111111-2222-4333-8444-555555555555"
    spec = web.spec("web-1")
    web.sim.add_file("shared", seed_file(stranger), 1)
    with web.sim._db.transaction() as db:
        row = ("h1", f"vm-{stranger}", stranger, stranger, spec.site, "running", '{"files": [], "nics": []}')
        db.execute("INSERT INTO domains VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    hosts = web.sim.snapshot_state()
    findings = run.reconcile()
    assert {(f.what, f.object, f.action.split(":")[0]) for f in findings} == {
        ("domain of ours that the inventory does not know", f"vm-{stranger}", "left alone"),
        ("file that the inventory does not know", seed_file(stranger), "left alone"),
    }
    assert web.sim.snapshot_state() == hosts


def test_what_an_ended_machine_left_is_removed(web: Site) -> None:
    spec = web.spec("web-1")
    run.terminate("web-1")
    clean = web.sim.snapshot_state()
    web.sim.add_file("shared", spec.disks[0].file, 7)
    web.sim.add_file("shared", f"{spec.seed_file}.part-simulated", 7)
    web.sim.add_port("h1", "trunk0", nic_device(spec.vm_id, 1))
    findings = run.reconcile()
    assert findings == [Finding("left by an ended machine", "vm/web-1", "h1", "removed")]
    assert web.sim.snapshot_state() == clean
    assert run.reconcile() == []


def test_a_domain_of_an_ended_machine_on_another_host_is_removed(web: Site) -> None:
    """A migration that was thought to have failed, a host that came back from the dead."""
    spec = web.spec("web-1")
    web.sim.copy_domain(spec.domain, "h1", "h2")
    run.terminate("web-1")
    assert spec.domain in web.sim.snapshot_state()["domains"]["h2"]
    assert [(f.host, f.action) for f in run.reconcile()] == [("h2", "removed")]
    web.assert_agrees()
    assert web.events("web-1") == ["created", "started", "terminated"], "it is not billed anew"


def test_a_machine_that_is_defined_twice_is_left_for_a_person(web: Site) -> None:
    spec = web.spec("web-1")
    web.sim.copy_domain(spec.domain, "h1", "h2")
    before, hosts = _rows_but_usage(web), web.sim.snapshot_state()
    (finding,) = run.reconcile()
    assert (finding.what, finding.object, finding.host) == (
        "machine is defined twice",
        "vm/web-1",
        "h1, h2",
    )
    assert (_rows_but_usage(web), web.sim.snapshot_state()) == (before, hosts)


def test_a_machine_that_is_found_on_another_host_is_adopted_there(web: Site) -> None:
    spec = web.spec("web-1")
    web.sim.copy_domain(spec.domain, "h1", "h2")
    _undefine(web, "web-1")
    run.reconcile()
    assert web.spec("web-1").host.name == "h2"
    assert web.load() == {"h1": (0, 0, 0), "h2": (2, 2, 256)}
    run.terminate("web-1")
    assert spec.domain not in web.sim.snapshot_state()["domains"].get("h2", {})


def test_only_one_reconcile_at_a_time(web: Site, start: Processes) -> None:
    web.sim.hold("read_domains")
    first = start.start(run.reconcile)
    web.sim.wait_until_held()
    with pytest.raises(Conflict, match=r"site/all is busy: reconcile by .* since"):
        run.reconcile()
    web.sim.release("read_domains")
    assert first.answer().value == []
    assert run.reconcile() == []


def test_rules_that_somebody_took_from_a_port_are_put_back(web: Site) -> None:
    nics = web.spec("web-1").nics
    web.sim.loosen_port("h1", nics[1].device)
    assert run.reconcile() == [Finding("port without its rules", "vm/web-1", "h1", "restored")]
    web.assert_agrees()
    assert run.reconcile() == []


def test_ports_of_a_machine_that_is_off_are_made_when_it_starts(web: Site) -> None:
    run.power("stop", "web-1")
    web.sim.host_down("h1", domains="die")
    web.sim.host_up("h1")
    assert "h1" not in web.sim.snapshot_state()["ports"], "a reboot forgets them"
    assert run.reconcile() == []
    run.power("start", "web-1")
    web.assert_agrees()


def test_a_port_that_a_migration_left_is_removed(web: Site) -> None:
    web.sim.fail_next("network.ensure_ports_removed", host="h1")
    run.migrate("web-1", "h2")
    left = [nic.device for nic in web.spec("web-1").nics]
    assert web.sim.snapshot_state()["ports"]["h1"] == left
    assert run.reconcile() == [Finding("port left by a migration", "vm/web-1", "h1", "removed")]
    web.assert_agrees()
    assert run.reconcile() == []


def test_a_machine_that_is_worked_on_is_passed_over(web: Site, start: Processes) -> None:
    web.sim.hold("network.ensure_ports_removed", deadline_s=120)
    child = start.start(run.terminate, "web-1", operation_lease_s=3600)
    web.sim.wait_until_held()
    calls = web.sim.call_count()
    assert run.reconcile() == []
    assert {c.call.split(".")[1].split("_")[0] for c in web.sim.log(since=calls)} == {"read"}
    web.sim.release("network.ensure_ports_removed")
    assert child.answer().error == ""
    assert web.machines()["web-1"] is VmState.GONE


def test_what_reconcile_did_is_in_the_journal(web: Site) -> None:
    web.sim.crash(web.spec("web-1").domain)
    run.reconcile()
    rows = "".join(web.rows()["operations"])
    assert "'kind': 'recover'" in rows
    assert "'kind': 'reconcile'" in rows
    assert web.count(Operation) > 0
    assert web.count(UsageEvent) == 6


def test_a_host_without_room_is_not_overfilled_by_recovery(site: Site) -> None:
    """Recovery makes a machine where it was; it asks for no new place."""
    site.sim.set_facts(host_facts("h1", vcpu=1))
    run.deploy(count=2, name="web")
    _undefine(site, "web-1")
    run.reconcile()
    site.assert_agrees()

"""Security groups: what is written down, what is in force on running machines, and after everything else."""

from __future__ import annotations

import json
import re

import pytest

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import ACTOR, Site, once
from vdc import accounts, catalog, security_groups
from vdc.claims.giving import give
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, OperationFailed, Unsupported
from vdc.inventory import read_session, write_session
from vdc.reconciliation import Finding
from vdc.schema import Host, Operation, SecurityGroup, SecurityGroupMember, Vm
from vdc.security_groups import find_group, set_members

SSH = "first_port=22"


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with machines `web-1` on h1 and `web-2` on h2, and a group `ssh` that lets port 22 in."""
    run.deploy(count=2, name="web")
    with write_session(site.url) as session:
        security_groups.create_group(session, "ssh", "default", actor=ACTOR)
    run.change_group("add", "ssh", "in", "tcp", ports="22")
    return site


def in_force(site: Site, name: str) -> list[str]:
    """Rules of each of its cards' ports, on the host where it is."""
    spec = site.spec(name)
    return [site.sim.port_rules(spec.host.name, nic.device) for nic in spec.nics]


def filtered(site: Site, name: str, what: str = SSH) -> bool:
    found = {what in rules for rules in in_force(site, name)}
    assert len(found) == 1, "all its cards alike"
    return found.pop()


@pytest.mark.prefect
def test_a_machine_is_in_a_group_and_out_again_while_it_runs(web: Site) -> None:
    run.assign_groups("assign", "ssh", "web-1")
    assert (filtered(web, "web-1"), filtered(web, "web-2")) == (True, False)
    web.assert_agrees()
    assert run.reconcile() == []
    run.assign_groups("unassign", "ssh", "web-1")
    assert not filtered(web, "web-1", "Rule")
    assert run.reconcile() == []


def test_what_a_group_says_is_in_force_at_once_for_all_in_it(web: Site) -> None:
    run.assign_groups("assign", "ssh", "web-1", "web-2")
    run.change_group("add", "ssh", "in", "tcp", ports="8000-8080", cidr="10.0.0.0/8")
    assert filtered(web, "web-1", "last_port=8080")
    assert filtered(web, "web-2", "last_port=8080")
    run.change_group("remove", "ssh", "in", "tcp", ports="22")
    assert not filtered(web, "web-1")
    assert run.reconcile() == []
    with read_session(web.url) as session:
        (group,) = security_groups.listing(session)
    assert (group["vms"], group["rules"]) == (2, ["in tcp 8000-8080 from 10.0.0.0/8", "out any to 0.0.0.0/0"])


def test_a_machine_that_is_made_in_a_group_has_never_been_without(web: Site) -> None:
    before = web.sim.call_count()
    run.deploy(name="new", security_groups=["ssh"])
    assert filtered(web, "new")
    made = [c.call for c in web.sim.log(since=before)]
    assert made.count("network.ensure_ports") == 1
    web.assert_agrees()


def test_rules_go_where_the_machine_goes(web: Site) -> None:
    run.assign_groups("assign", "ssh", "web-1")
    run.migrate("web-1", "h2")
    assert filtered(web, "web-1")
    run.power("stop", "web-1")
    run.change_group("remove", "ssh", "in", "tcp", ports="22")
    run.change_group("add", "ssh", "in", "icmp")
    run.power("start", "web-1")
    assert not filtered(web, "web-1")
    assert filtered(web, "web-1", "'icmp'")
    run.attach_nic("web-1", "blue")
    assert filtered(web, "web-1", "'icmp'")
    web.assert_agrees()
    assert run.reconcile() == []


def test_what_somebody_took_away_is_put_back(web: Site) -> None:
    run.assign_groups("assign", "ssh", "web-1")
    web.sim.loosen_port("h1", web.spec("web-1").nics[0].device)
    assert run.reconcile() == [Finding("port without its rules", "vm/web-1", "h1", "restored")]
    assert filtered(web, "web-1")


def test_a_host_that_could_not_be_reached_gets_them_later(web: Site) -> None:
    web.sim.fail_next("network.ensure_ports", error="HostUnreachable", times=5, host="h1")
    with pytest.raises(OperationFailed, match="1 of 2 machines"):
        run.assign_groups("assign", "ssh", "web-1", "web-2")
    web.sim.clear()
    assert (filtered(web, "web-1"), filtered(web, "web-2")) == (False, True)
    assert run.reconcile() == [Finding("port without its rules", "vm/web-1", "h1", "restored")]
    assert filtered(web, "web-1")
    web.assert_agrees()


def test_a_process_that_died_in_between(web: Site, start: Processes) -> None:
    web.sim.hold("network.ensure_ports", host="h1")
    child = start.start(run.assign_groups, "assign", "ssh", "web-1")
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    assert [f.action for f in run.reconcile()] == ["restored"]
    assert filtered(web, "web-1")
    assert web.open_operations() == []
    web.assert_agrees()


@pytest.fixture
@once
def database(site: Site) -> Site:
    """Machine `db` in group `db`, which lets in who is in group `app`: nobody yet."""
    with write_session(site.url) as session:
        for name in ("app", "db"):
            security_groups.create_group(session, name, "default", actor=ACTOR)
    run.change_group("add", "db", "in", "tcp", ports="5432", peer="app")
    run.deploy(name="db", vnets=["blue"], security_groups=["db"])
    return site


def let_in(site: Site, name: str = "db") -> set[str]:
    """From where its port takes connections to the database, on the host where it is."""
    spec = site.spec(name)
    (nic,) = spec.nics
    assert nic.rules is not None
    wanted = {rule.cidr for rule in nic.rules if rule.first_port == 5432}
    rules = site.sim.port_rules(spec.host.name, nic.device)
    in_force = set(re.findall(r"first_port=5432, last_port=5432, cidr='([^']*)'", rules))
    assert in_force == wanted, "what is written down is in force"
    return in_force


@pytest.mark.prefect
def test_a_rule_that_names_a_group_follows_who_comes_and_goes(database: Site) -> None:
    """Whichever way they come and go: made, put in, with another card, taken out, removed."""
    assert let_in(database) == set()
    run.deploy(name="a", vnets=["blue"], security_groups=["app"])
    assert let_in(database) == {"10.1.0.2/32"}
    run.deploy(name="b", vnets=["blue"])
    run.assign_groups("assign", "app", "b")
    assert let_in(database) == {"10.1.0.2/31"}, "in as few networks as may be"
    run.attach_nic("a", "blue")
    assert let_in(database) == {"10.1.0.2/31", "10.1.0.4/32"}
    run.detach_nic("a", "10.1.0.4")
    run.assign_groups("unassign", "app", "b")
    assert let_in(database) == {"10.1.0.2/32"}
    run.migrate("db")
    assert let_in(database) == {"10.1.0.2/32"}
    assert run.reconcile() == []
    run.terminate("a")
    assert let_in(database) == set()
    assert run.reconcile() == []
    database.assert_agrees()


def test_machines_of_one_group_may_let_each_other_in(site: Site) -> None:
    with write_session(site.url) as session:
        security_groups.create_group(session, "db", "default", actor=ACTOR)
    run.change_group("add", "db", "in", "tcp", ports="5432", peer="db")
    run.deploy(count=2, name="db", vnets=["blue"], security_groups=["db"])
    assert let_in(site, "db-1") == let_in(site, "db-2") == {"10.1.0.1/32", "10.1.0.2/32"}
    run.power("stop", "db-1")
    run.deploy(name="more", vnets=["blue"], security_groups=["db"])
    run.power("start", "db-1")
    assert let_in(site, "db-1") == let_in(site, "more") == {"10.1.0.1/32", "10.1.0.2/31"}


def test_who_could_not_be_told_follows_later(database: Site, start: Processes) -> None:
    host = database.spec("db").host.name
    run.deploy(name="a", vnets=["blue"])
    database.sim.fail_next("network.ensure_ports", error="HostUnreachable", times=5, host=host)
    try:
        run.assign_groups("assign", "app", "a")
    except OperationFailed:
        assert database.spec("a").host.name == host
    database.sim.clear()
    found = run.reconcile()
    assert Finding("port without its rules", "vm/db", host, "restored") in found
    assert let_in(database) == {"10.1.0.2/32"}

    database.sim.hold("hypervisor.ensure_removed")
    child = start.start(run.terminate, "a")
    database.sim.wait_until_held()
    child.kill()
    database.sim.clear()
    run.reconcile()
    assert let_in(database) == set()
    assert run.reconcile() == []
    database.assert_agrees()


def test_a_user_need_not_be_allowed_to_touch_those_that_follow(database: Site) -> None:
    with write_session(database.url) as session:
        accounts.create_user(session, "al", role="user", actor=ACTOR)
        token, _ = accounts.issue_token(session, "al", 1, actor=ACTOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VDC_TOKEN", token)
        run.deploy(name="als", vnets=["blue"], security_groups=["app"])
    assert let_in(database) == {"10.1.0.2/32"}
    with read_session(database.url) as session:
        follow = session.query(Operation).filter_by(kind="follow-groups", object="vm/db").one()
        assert follow.requested_by == "system"


def test_what_cannot_be_is_refused_of_rules_that_name_groups(database: Site) -> None:
    with pytest.raises(NotFound, match="names a group that its tenant has not"):
        run.change_group("add", "db", "in", "tcp", ports="1", peer="none")
    with pytest.raises(Invalid, match=r"the group app or 10.0.0.0/8, not both"):
        run.change_group("add", "db", "in", "tcp", ports="1", peer="app", cidr="10.0.0.0/8")
    named = pytest.raises(InvalidState, match="is named by rules of db")
    with write_session(database.url, commit=False) as session, named:
        security_groups.delete_group(session, "app", "default", actor=ACTOR)
    run.change_group("remove", "db", "in", "tcp", ports="5432", peer="app")
    with write_session(database.url) as session:
        security_groups.delete_group(session, "app", "default", actor=ACTOR)


def test_what_cannot_be_is_refused(web: Site) -> None:
    with write_session(web.url) as session:
        catalog.create_tenant(session, "acme", actor=ACTOR)
        security_groups.create_group(session, "mail", "acme", actor=ACTOR)
    with pytest.raises(NotFound, match=r"Tenant default has no security group 'mail'. Known: ssh"):
        run.assign_groups("assign", "mail", "web-1")
    with pytest.raises(Conflict, match="has the rule already"):
        run.change_group("add", "ssh", "in", "tcp", ports="22")
    with pytest.raises(NotFound, match="has no rule 'in tcp 23"):
        run.change_group("remove", "ssh", "in", "tcp", ports="23")
    run.assign_groups("assign", "ssh", "web-1")
    with write_session(web.url, commit=False) as session:
        with pytest.raises(InvalidState, match="web-1"):
            security_groups.delete_group(session, "ssh", "default", actor=ACTOR)
        with pytest.raises(InvalidState, match="vdc sg unassign"):
            give(session, "web-1", "acme", actor=ACTOR)
    run.terminate("web-1")
    with write_session(web.url) as session:
        assert session.query(SecurityGroupMember).count() == 0
        security_groups.delete_group(session, "ssh", "default", actor=ACTOR)
        assert [group.name for group in session.query(SecurityGroup)] == ["mail"]
    web.assert_agrees()


def test_a_network_that_does_not_follow_connections_takes_no_machine_with_groups(web: Site) -> None:
    with web.sim._db.transaction() as db:
        db.execute("INSERT INTO switches VALUES ('flat', 0, 0)")
        db.executemany("INSERT INTO uplinks VALUES (?, 'flat')", [("h1",), ("h2",)])
    uri = web.sim.network_uri("flat")
    with write_session(web.url) as session:
        net = {"uri": uri, "needs_vlan": False, "vlan_id": None, "cidr": "10.9.0.0/24"}
        catalog.create_vnet(session, "flat", **net, actor=ACTOR)  # type: ignore[arg-type]
        for host in session.query(Host):
            host.networks = [*host.networks, uri]
    with pytest.raises(Unsupported, match="does not follow connections"):
        run.deploy(name="new", vnets=["flat"], security_groups=["ssh"])
    run.assign_groups("assign", "ssh", "web-1")
    with pytest.raises(Unsupported, match="does not follow connections"):
        run.attach_nic("web-1", "flat")
    run.attach_nic("web-2", "flat")
    with pytest.raises(Unsupported, match="web-2 has a card on network flat"):
        run.assign_groups("assign", "ssh", "web-2")
    web.assert_agrees()


def typed(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = guarded(lambda: cli.main(list(argv), standalone_mode=False), list(argv))
    told = capsys.readouterr()
    return code, told.out or told.err


def test_a_group_is_made_shown_planned_and_removed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(capsys, "sg", "create", "web")[0] == 0
    assert json.loads(typed(capsys, "sg", "list", "--json")[1])[0]["rules"] == ["out any to 0.0.0.0/0"]
    assert typed(capsys, "sg", "show", "web")[1] == "out any to 0.0.0.0/0\nMachines: none\n"
    rule = ("sg", "add-rule", "web", "in", "tcp", "80-90")
    plan = json.loads(typed(capsys, *rule, "--plan", "--json")[1])
    assert (plan["machines"], plan["at_once"], plan["cost_per_month"]) == ([], [], "0.00")
    code, told = typed(capsys, "sg", "add-rule", "web", "in", "tcp", "90-80", "--plan")
    assert (code, "lower one first" in told) == (3, True)
    code, told = typed(capsys, "sg", "remove-rule", "web", "in", "icmp", "--plan")
    assert (code, "has no rule 'in icmp from 0.0.0.0/0'" in told) == (3, True)
    with write_session(site.url) as session:
        group = find_group(session, "web", "default")
        assert group.rules, "a plan changes nothing"
    assert typed(capsys, "sg", "delete", "web")[0] == 0
    assert typed(capsys, "sg", "show", "web")[0] == 3


def test_machines_that_would_change_are_named(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    typed(capsys, "sg", "create", "web")
    site.with_machine("one")
    plan = typed(capsys, "sg", "assign", "web", "one", "--plan")
    assert plan[0] == 0
    assert "At once, as they run: one" in plan[1]
    assert typed(capsys, "sg", "unassign", "web", "one", "--plan")[0] == 3
    with write_session(site.url) as session:
        (vm,) = session.query(Vm)
        set_members(session, vm.id, [find_group(session, "web", "default").id])
    code, told = typed(capsys, "sg", "delete", "web")
    assert (code, "machines in it (one)" in told) == (3, True)

"""Tenants come and go: many at once, with failures on the way; and nothing is left of one that went."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from drivers.seed import build_seed
from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.processes import Processes, die_at_commit
from tests.flows.site import ACTOR, Site, settings
from tests.flows.test_routers import furnish
from vdc import accounts, secrets, specs
from vdc.errors import InvalidState, OperationFailed
from vdc.inventory import read_session, write_session
from vdc.model import GuestFile
from vdc.schema import (
    Bill,
    Image,
    Operation,
    PortForward,
    Router,
    Secret,
    Template,
    Tenant,
    User,
    Vm,
    Vnet,
    utc_now,
)
from vdc.settings import load
from vdc.states import VmState

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGluZGlzdGluZ3Vpc2hhYmxlZnJvbWFyZWFsb25lISE= alice@acme"


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has been told of its Prefect server before."""
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)


def _vdc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def _file(
    directory: Path,
    name: str,
    user: str,
    *,
    machines: int = 1,
    router: bool = False,
    context: dict[str, Any] | None = None,
) -> str:
    values = {
        "tenant": name,
        "quota": {"vms": 2 + router},
        "user": {"name": user, "ssh_keys": [KEY]},
        "network": {"cidr": "10.20.0.0/24"} | ({"gateway": "10.20.0.1"} if router else {}),
        "template": {"name": "web", "image": "tiny", "memory_mib": 16, "start_script": f"echo {user}"},
        "machines": [{"name": f"m-{n}"} for n in range(1, machines + 1)],
        "context": context or {},
    }
    if router:
        values["router"] = {"forwards": [{"port": 8080, "machine": "m-1", "to_port": 80}]}
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


def test_a_seed_holds_what_was_rendered_and_its_secret_alone(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    word, out = "correct-horse-battery", tmp_path / "export"
    own = tmp_path / "own.yaml"
    own.write_text("start_script: echo {{ secret('db') }} {{ address }}\n")
    who = {"path": "/etc/who", "content": "{{ name }} of {{ values.who }}\n"}
    file = _file(tmp_path, "acme", "alice", machines=0, context={"files": [who], "values": {"who": "alice"}})
    with settings(home=tmp_path / "home", database_url=site.url, tenant_uplink=site.sim.network_uri()):
        assert _vdc(capsys, "tenant", "onboard", file)[0] == 0
        with write_session(site.url) as session:
            key = secrets.key(load().secrets_key, make=True)
            secrets.set_secret(session, "db", word, "acme", with_key=key, actor=ACTOR)
        run.deploy(template="acme-web", tenant="acme", name="one", context=str(own))
        spec = site.spec("one")
        assert spec.context.files == (GuestFile("/etc/who", "one of alice\n"),)
        told = replace(spec.context, start_script=f"echo {word} 10.20.0.1")
        seed = build_seed(told, spec.vm_id, spec.nics)
        with sqlite3.connect(site.sim.path) as hosts:
            query = "SELECT checksum FROM files WHERE name = ?"
            assert hosts.execute(query, (spec.seed_file,)).fetchone()[0] == hashlib.sha256(seed).digest()
        said = [_vdc(capsys, *words, "--json")[1] for words in (("vm", "show", "one"), ("audit",))]
        gone = _vdc(capsys, "tenant", "offboard", "acme", "--export", str(out), "--with-machines")
    assert gone[0] == 0, gone
    exported = "".join(file.read_text() for file in out.iterdir())
    assert "<secret" not in exported
    assert word not in exported + str(said) + str(site.rows()) + caplog.text + str(gone)
    assert site.count(Secret) == 0
    assert "alice" not in str(site.rows())


def test_first_machines_that_cannot_be_made_are_refused_before_anything_is_touched(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = _file(tmp_path, "fine", "finn")
    before = site.rows()
    with settings(database_url=site.url, tenant_uplink=site.sim.network_uri()):
        for wrong, says in (
            ({"machines": 3}, "2 of 2 machines used, 1 more asked"),
            ({"context": {"start_script": "echo {{ secret('db') }}"}}, "names a secret 'db' that its tenant"),
            (
                {"context": {"packages": ["{{ addresses[3] }}"]}},
                "packages.0 of tenant acme cannot be rendered",
            ),
        ):
            file = _file(tmp_path, "acme", "alice", **wrong)  # type: ignore[arg-type]
            code, _, err = _vdc(capsys, "tenant", "onboard", fine, file)
            assert code == 3
            assert says in err
            after = site.rows()
            assert {t: r for t, r in after.items() if t != "refusals"} == {
                t: r for t, r in before.items() if t != "refusals"
            }


def test_twenty_tenants_in_one_command_whatever_fails_on_the_way(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A router and a machine each. Each step fails once, in one form each; the second run makes what was not
    made."""
    furnish(site, tenants=())
    names = [f"t{n:02}" for n in range(20)]
    files = [_file(tmp_path, name, f"{name}-admin", router=True) for name in names]
    site.sim.fail_next("datastore.ensure_disk")
    site.sim.fail_next("datastore.ensure_seed", halfway=True)
    site.sim.fail_next("hypervisor.ensure_started", after=True)
    site.sim.fail_next("network.ensure_network")
    site.sim.fail_next("network.ensure_ports")
    site.sim.fail_next("hypervisor.ensure_defined")
    site.sim.fail_next("hypervisor.refresh_seed")
    site.sim.fail_next("hypervisor.run_in_guest", after=True)
    with settings(database_url=site.url, tenant_uplink=site.sim.network_uri(), retries=0):
        code, out, err = _vdc(capsys, "tenant", "onboard", *files)
        assert code == 1, "a machine of some tenants was not made"
        assert site.sim.pending_faults() == 0
        assert out.count("user t") == 20 - err.count("Tenant t")
        assert "run it again, and it goes on" in err
        assert _vdc(capsys, "tenant", "onboard", *files)[0] == 0
        before = site.rows()
        code, out, _ = _vdc(capsys, "tenant", "onboard", *files)
    assert (code, out.count("nothing changed")) == (0, 20)
    assert site.rows() == before
    with read_session(site.url) as session:
        owned = [(v.tenant_id, v.vlan_id) for v in session.scalars(select(Vnet)) if v.tenant_id]
        assert (len({t for t, _ in owned}), len({v for _, v in owned})) == (20, 20)
        assert session.query(User).count() == 20
        live = session.scalars(select(Vm.tenant_id).where(Vm.state == VmState.RUNNING)).all()
        assert (len(live), len(set(live))) == (40, 20), "a router and a machine each, none doubled"
        routers = session.scalars(select(Router)).all()
        assert len({router.vnet_id for router in routers}) == len(routers) == 20
        assert session.query(PortForward).count() == 20
        for router in routers:
            known = specs.load(session.get_one(Vm, router.vm_id).spec).context.router
            assert known is not None
            assert router.told == known.digest, "it knows all"
            assert [lease.name.partition("-")[0] for lease in known.leases] == [known.domain[:3], "m"]
            assert len(known.forwards) == 1
    assert run.reconcile() == []
    site.assert_agrees()


def test_a_changed_file_changes_what_the_router_forwards(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    furnish(site, tenants=())
    with settings(database_url=site.url, tenant_uplink=site.sim.network_uri()):
        file = Path(_file(tmp_path, "acme", "alice", router=True))
        assert _vdc(capsys, "tenant", "onboard", str(file))[0] == 0
        values = yaml.safe_load(file.read_text())
        values["router"]["forwards"] = [{"protocol": "udp", "port": 53, "machine": "m-1"}]
        file.write_text(yaml.safe_dump(values))
        code, said, err = _vdc(capsys, "tenant", "onboard", str(file))
        assert code == 0, err
        assert said.splitlines()[1:3] == [
            "  forward tcp 8080 to m-1:80 removed",
            "  forward udp 53 to m-1:53 made",
        ]
        assert "nothing changed" in _vdc(capsys, "tenant", "onboard", str(file))[1]
        for changes, says in (
            ({"public_address": "203.0.113.99"}, "has the public address 203.0.113.2"),
            ({"forwards": [{"port": 80, "machine": "m-9"}]}, "no machine of acme"),
            ({"forwards": [{"port": 80, "machine": "m-1"}] * 2}, "more than once"),
            ({"template": "tiny"}, "none of a router"),
            ({"forward": []}, "router.forward: extra inputs"),
        ):
            file.write_text(yaml.safe_dump(values | {"router": values["router"] | changes}))
            code, _, err = _vdc(capsys, "tenant", "onboard", str(file))
            assert (code, says in err) == (3, True), err
        run.terminate("m-1", tenant="acme")
        code, _, err = _vdc(capsys, "tenant", "offboard", "acme", "--export", str(tmp_path / "out"))
        assert code == 0, f"its router is in nobody's way: {err}"
    assert set(site.machines().values()) == {VmState.GONE}
    site.assert_agrees()


def test_killed_before_each_commit_on_the_way_in_and_out(
    site: Site, tmp_path: Path, start: Processes
) -> None:
    """Reconcile finishes what was begun on machines; the same command again, what was begun on the tenant."""
    uplink = {"tenant_uplink": site.sim.network_uri()}
    names = []
    with settings(**uplink):
        for n in itertools.count(1):
            name = f"t{n}"
            names.append(name)
            file = _file(tmp_path, name, f"{name}-admin")
            child = start.start(die_at_commit, n, run.onboard, file, **uplink)
            child.process.join(60)
            killed = child.process.exitcode == -signal.SIGKILL
            run.reconcile()
            done = run.onboard(file)
            assert killed or done.changes == [], child.answer()
            if not killed:
                break
    assert len(names) > 3, "the tenant, the machine's claim, its outcome, the end of the batch"
    assert set(site.machines().values()) == {VmState.RUNNING}
    assert len(site.machines()) == 1, "all have the same name"
    with read_session(site.url) as session:
        made = session.scalars(select(Vm.tenant_id)).all()
        assert len(made) == len(set(made)) == len(names), "one machine each"
        assert session.query(Vnet).filter(Vnet.tenant_id.is_not(None)).count() == len(names)
    site.assert_agrees()
    deaths = 0
    for n, name in enumerate(names, 1):
        out = str(tmp_path / f"out-{name}")
        child = start.start(die_at_commit, n, run.offboard, name, out)
        child.process.join(60)
        deaths += child.process.exitcode == -signal.SIGKILL
        run.reconcile()
        with read_session(site.url) as session:
            gone = session.query(Tenant).filter_by(name=name, state="gone").count()
        assert gone or run.offboard(name, out).left == {}
    assert deaths > 3
    with read_session(site.url) as session:
        assert session.query(Tenant).filter_by(state="gone").count() == len(names)
        assert session.query(User).count() == 0
        assert set(session.scalars(select(Vm.state))) == {VmState.GONE}
    assert site.open_operations() == []
    assert run.reconcile() == []
    site.assert_agrees()


@pytest.fixture
def acme(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """Tenant acme with alice, a router, two machines, a kept disk, an image of its own, and a bill."""
    furnish(site, tenants=())
    with settings(tenant_uplink=site.sim.network_uri(), database_url=site.url):
        file = _file(tmp_path, "acme", "alice", machines=2, router=True)
        assert _vdc(capsys, "tenant", "onboard", file)[0] == 0
    run.clone_image("tiny", "acme-own", tenant="acme")
    run.attach_disk("m-1", size_mib=8, name="data")
    run.detach_disk("m-1", "data", keep=True)
    with write_session(site.url) as session:
        tenant = session.scalars(select(Tenant).where(Tenant.name == "acme")).one()
        accounts.issue_token(session, "alice", 1, actor=ACTOR)
        alice = session.scalars(select(User).where(User.name == "alice")).one()
        operation = session.scalars(select(Operation).where(Operation.object == "vm/m-1")).first()
        assert operation is not None
        operation.user_id, operation.requested_by = alice.id, "alice"
        bill = {"number": 1, "tenant_id": tenant.id, "month": "2026-10", "total": 5, "currency": "EUR"}
        kept = {"document": "{}\n", "sha256": "0", "issued_at": utc_now(), "issued_by": ACTOR}
        session.add(Bill(**bill, **kept, operation_id=operation.id))
    return site


@pytest.mark.prefect
def test_a_tenant_goes_whatever_fails_on_the_way(
    acme: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    offboard = ("tenant", "offboard", "acme", "--export", str(out))
    before = acme.rows()
    code, _, err = _vdc(capsys, *offboard)
    assert code == 3
    assert "Tenant acme has machines m-1, m-2: terminate them first" in err
    assert acme.rows() == before
    code, plan, _ = _vdc(capsys, *offboard, "--with-machines", "--plan")
    assert code == 0
    assert (
        "machines: acme-net-router, m-1, m-2\n  disks: data\n  images: acme-own\n  templates: acme-web\n"
        in plan
    )
    assert acme.rows() == before
    assert not out.exists()
    with settings(database_url=acme.url, retries=0):
        out.write_text("in the way")
        assert _vdc(capsys, *offboard, "--with-machines")[0] == 3
        out.unlink()
        acme.sim.fail_next("hypervisor.ensure_removed")
        code, _, err = _vdc(capsys, *offboard, "--with-machines")
        assert code == 1, err
        assert "Run it again" in err
        with pytest.raises(Exception, match="acme is leaving"):
            run.deploy(template="tiny", tenant="acme")
        for _ in ("disk", "image"):
            acme.sim.fail_next("datastore.ensure_removed")
            code, _, err = _vdc(capsys, *offboard, "--with-machines")
            assert code == 1, err
        code, said, err = _vdc(capsys, *offboard, "--with-machines", "--json")
    assert code == 0, err
    done = json.loads(said)
    assert done["left"] == {}
    assert done["kept"]["bills"] == 1
    _assert_gone(acme)
    _assert_exported(out)
    acme.assert_agrees()
    assert _vdc(capsys, *offboard)[0] == 3, "gone already"


def test_its_disks_go_along_if_it_is_asked_for(
    acme: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    asked = ("tenant", "offboard", "acme", "--export", str(out), "--with-machines", "--with-disks")
    run.switch_image("acme-own", persistent=True)
    before = acme.rows()

    def refused(says: str) -> None:
        code, _, err = _vdc(capsys, *asked, "--plan")
        assert (code, says in err) == (3, True), err
        assert acme.rows() == before
        assert not out.exists()

    with settings(database_url=acme.url, retries=0):
        refused("disks of machines m-1, m-2 cannot be exported while their guests may write to them")
        run.power("stop", "m-1", "m-2", tenant="acme")
        before = acme.rows()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tasks.export_directory.shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
            refused("1 MiB are free there. Make room, or give another directory")
        code, plan, err = _vdc(capsys, *asked, "--plan")
        assert code == 0, err
        sizes = {
            row["disk"]: row["size_mib"]
            for row in json.loads(_vdc(capsys, *asked, "--plan", "--json")[1])["exported_disks"]
        }
        assert sizes["data"] == 8
        assert (
            f"Before that 4 disks would be exported, {sum(sizes.values()) + sizes['root']} MiB at most:"
            in plan
        )
        acme.sim.fail_next("datastore.bring_disk")
        with pytest.raises(OperationFailed, match="Run it again"):
            run.offboard("acme", str(out), with_disks=True)
        assert set(acme.machines().values()) == {VmState.STOPPED, VmState.RUNNING}, "nothing was removed"
        with pytest.raises(InvalidState, match="m-1 is not started: tenant acme is leaving"):
            run.power("start", "m-1", tenant="acme")
        acme.sim.fail_next("hypervisor.ensure_removed")
        with pytest.raises(OperationFailed, match="Run it again"):
            run.offboard("acme", str(out), with_disks=True)
        assert run.offboard("acme", str(out), with_disks=True).left == {}
    listed = json.loads((out / "disk-files.json").read_text())
    assert sorted((row["machine"], row["disk"]) for row in listed) == [
        ("", "acme-own"),
        ("", "data"),
        ("m-1", "root"),
        ("m-2", "root"),
    ]
    _assert_whole(out)
    _assert_gone(acme)
    acme.assert_agrees()


def _assert_whole(export: Path) -> None:
    """The disks in it are those that it lists, whole, and nothing of it is half written."""
    listed = {row["file"]: row["sha256"] for row in json.loads((export / "disk-files.json").read_text())}
    there = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in export.glob("*.qcow2")}
    assert listed == there
    assert list(export.glob("*.part")) == []


def _die_writing(n: int, kind: str, function: Any, *args: Any) -> Any:
    """Run `function` in this process, which is killed when the n-th file of that name is half written."""
    replace, seen = Path.replace, [0]

    def count(self: Path, target: Path) -> Path:
        if target.match(kind):
            seen[0] += 1
            if seen[0] == n:
                os.truncate(self, self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = count  # type: ignore[method-assign, assignment]
    return function(*args)


def _offboard_with_disks(out: str) -> Any:
    return run.offboard("acme", out, with_disks=True)


def test_killed_while_disks_are_exported(acme: Site, tmp_path: Path, start: Processes) -> None:
    out = tmp_path / "export"
    run.power("stop", "m-1", "m-2", tenant="acme")
    for n, kind in ((1, "offboarding.json"), (2, "*.qcow2"), (2, "disk-files.json")):
        child = start.start(_die_writing, n, kind, _offboard_with_disks, str(out))
        child.process.join(60)
        assert child.process.exitcode == -signal.SIGKILL, child.answer()
        assert [file.name for file in out.glob("*.part")] != []
        run.reconcile()
        assert list(acme.machines().values()).count(VmState.STOPPED) == 2, "nothing was removed"
    assert _offboard_with_disks(str(out)).left == {}
    assert len(list(out.glob("*.qcow2"))) == 3
    _assert_whole(out)
    _assert_gone(acme)
    acme.assert_agrees()


def _assert_gone(site: Site) -> None:
    with read_session(site.url) as session:
        tenant = session.scalars(select(Tenant).where(Tenant.name == "acme")).one()
        assert tenant.state == "gone"
        for table in (User, Image, Template, Vnet):
            assert session.query(table).filter_by(tenant_id=tenant.id).count() == 0, table
        assert session.query(Bill).count() == 1
    text = str(site.rows())
    for personal in ("alice", "AAAAC3NzaC1", "echo alice"):
        assert personal not in text, personal


def _assert_exported(directory: Path) -> None:
    files = {file.name for file in directory.iterdir()}
    tables = {"accounts", "machines", "disks", "usage", "bills", "journal"}
    written = {f"{table}.{kind}" for table in tables for kind in ("csv", "json")}
    assert files == {"offboarding.json", "bill-1.json"} | written
    machines = json.loads((directory / "machines.json").read_text())
    assert {machine["name"] for machine in machines} == {"acme-net-router", "m-1", "m-2"}
    assert (directory / "accounts.csv").exists()
    assert "password_hash" not in (directory / "accounts.json").read_text()

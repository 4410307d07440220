"""Changing the size of machines on simulated hosts: what is refused, what comes at once and what at the next
start, and that rows, hosts and bill say the same whatever fails and whoever is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from tests.flows import run
from tests.flows.forms import FORMS, PASSING, spread
from tests.flows.processes import Processes
from tests.flows.site import Site, once
from vdc import catalog
from vdc.errors import (
    Conflict,
    Invalid,
    InvalidState,
    NoCapacity,
    NotFound,
    OperationFailed,
    QuotaExceeded,
    Unsupported,
)
from vdc.inventory import read_session, write_session
from vdc.model import Size
from vdc.schema import Host, Operation, Tenant, UsageEvent, Vm
from vdc.states import VmState

CALLS = (
    "hypervisor.ensure_disk_grown",
    "hypervisor.grow_root",
    "hypervisor.ensure_shape",
    "hypervisor.ensure_defined",
)
"""Of a machine whose disk grows too, in order."""
NEEDED = tuple(call for call in CALLS if call != "hypervisor.grow_root")

MADE = Size(1, 128, 64)
MORE = Size(3, 96, 80)
"""All that a running guest with a balloon driver can take."""


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a machine `web` on h1."""
    site.with_machine("web")
    assert site.spec("web").host.name == "h1"
    return site


def resize(vm: str, sizes: dict[str, int]) -> str:
    """For processes: a function that can be pickled."""
    return run.resize(vm, **sizes)


def to(size: Size) -> dict[str, int]:
    return {"vcpu": size.vcpu, "memory_mib": size.memory_mib, "disk_mib": size.disk_mib}


def row(site: Site, name: str = "web") -> Vm:
    with read_session(site.url) as session:
        vm = session.scalars(select(Vm).where(Vm.name == name)).one()
        session.expunge(vm)
        return vm


def has(site: Site, name: str = "web") -> Size:
    """What the machine has: the host, the rows and the spec say the same."""
    site.assert_agrees()
    spec = site.spec(name)
    return Size(spec.vcpu, spec.memory_mib, spec.disks[0].size_mib)


def billed(site: Site) -> list[tuple[str, Size]]:
    """Usage events of all machines, with the size that each tells."""
    with read_session(site.url) as session:
        events = session.scalars(select(UsageEvent).order_by(UsageEvent.at, UsageEvent.kind))
        return [(e.kind, Size(e.vcpu, e.memory_mib, e.disk_mib)) for e in events]


def when(site: Site, operation_id: str) -> dict[str, str]:
    """What was told of each change."""
    with read_session(site.url) as session:
        told = session.get_one(Operation, operation_id).result
    assert told is not None
    return {change["what"]: change["when"] for change in told["changes"]}


BIRTH = [("created", MADE), ("started", MADE)]


@pytest.mark.prefect
def test_what_its_guest_takes_while_it_runs_comes_at_once(web: Site) -> None:
    before = web.sim.call_count()
    boots = web.sim.boots(web.spec("web").domain)
    done = run.resize("web", **to(MORE))
    assert [c.call for c in web.sim.log(since=before)] == list(CALLS)
    assert when(web, done) == {"vcpu": "now", "memory_mib": "now", "disk_mib": "now"}
    assert has(web) == MORE
    assert (row(web).next_vcpu, row(web).next_memory_mib) == (None, None)
    assert web.load()["h1"] == (1, 3, 96)
    assert (web.use().vcpu, web.use().memory_mib, web.use().disk_mib) == (3, 96, 80)
    assert billed(web) == [*BIRTH, ("resized", MORE)]
    assert web.sim.boots(web.spec("web").domain) == boots, "it ran on"
    assert run.reconcile() == []

    run.resize("web", vcpu=1, memory_mib=128)
    assert has(web) == Size(1, 128, 80), "back to what it was started with"
    run.terminate("web")
    web.assert_agrees()


def test_only_what_was_asked_changes(web: Site) -> None:
    assert when(web, run.resize("web", disk_mib=100)) == {"disk_mib": "now"}
    assert has(web) == Size(1, 128, 100)


def test_the_description_says_the_same_for_wherever_it_is_started(web: Site) -> None:
    run.resize("web", **to(MORE))
    run.migrate("web", "h2")
    assert has(web) == MORE
    web.sim.guest_shutdown(web.spec("web").domain)
    run.reconcile()
    assert has(web) == MORE, "of one that is off, its description"
    run.power("start", "web")
    assert has(web) == MORE
    web.sim.crash(web.spec("web").domain)
    run.reconcile()
    assert has(web) == MORE


def test_what_it_cannot_take_while_it_runs_comes_at_its_next_start(web: Site) -> None:
    done = run.resize("web", vcpu=8, memory_mib=512, disk_mib=80)
    assert when(web, done) == {
        "vcpu": "at its next start",
        "memory_mib": "at its next start",
        "disk_mib": "now",
    }
    assert has(web) == Size(1, 128, 80)
    assert (row(web).next_vcpu, row(web).next_memory_mib) == (8, 512)
    assert web.load()["h1"] == (1, 8, 512), "its place is kept"
    assert web.use().memory_mib == 512
    for verb in ("suspend", "resume", "reboot"):
        run.power(verb, "web")
        assert has(web) == Size(1, 128, 80), verb
    run.power("stop", "web")
    assert has(web) == Size(1, 128, 80)
    run.power("start", "web")
    assert has(web) == Size(8, 512, 80)
    assert row(web).next_vcpu is None
    small, large = Size(1, 128, 80), Size(8, 512, 80)
    assert billed(web) == [
        *BIRTH,
        ("resized", small),
        ("suspended", small),
        ("resumed", small),
        ("stopped", small),
        ("started", large),
    ]


def test_a_guest_that_gives_nothing_back_does_so_at_its_next_start(web: Site) -> None:
    run.resize("web", vcpu=2)
    web.sim.give_nothing_back(web.spec("web").domain)
    done = run.resize("web", vcpu=1, memory_mib=64)
    assert when(web, done) == {"vcpu": "at its next start", "memory_mib": "at its next start"}
    assert has(web) == Size(2, 128, 64)
    assert web.use().memory_mib == 128, "what shrinks is free once it is done"
    run.power("stop", "web")
    run.power("start", "web")
    assert has(web) == Size(1, 64, 64)
    assert web.use().memory_mib == 64


def test_a_lost_machine_comes_back_with_what_it_was_to_have(web: Site) -> None:
    run.resize("web", memory_mib=512)
    web.sim.crash(web.spec("web").domain)
    run.reconcile()
    assert has(web) == Size(1, 512, 64)
    assert billed(web)[-1] == ("started", Size(1, 512, 64))


def test_what_was_to_come_can_be_taken_back(web: Site) -> None:
    run.resize("web", memory_mib=512)
    with pytest.raises(Invalid, match="or will at its next start"):
        run.resize("web", memory_mib=512)
    run.resize("web", vcpu=2)
    assert row(web).next_memory_mib == 512, "what was not asked stays as it was to be"
    run.resize("web", memory_mib=128)
    assert row(web).next_memory_mib is None
    assert web.use().memory_mib == 128
    assert has(web) == Size(2, 128, 64)


def test_a_machine_that_is_off_has_all_of_it_at_once(web: Site) -> None:
    run.power("stop", "web")
    done = run.resize("web", vcpu=8, memory_mib=1024, disk_mib=200)
    assert set(when(web, done).values()) == {"now"}
    assert has(web) == Size(8, 1024, 200)
    run.power("start", "web")
    assert has(web) == Size(8, 1024, 200)
    assert [kind for kind, _ in billed(web)] == ["created", "started", "stopped", "resized", "started"]


def test_until_it_is_done_it_holds_the_larger(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_shape")
    child = start.start(resize, "web", to(Size(4, 64, 100)))
    web.sim.wait_until_held()
    assert web.load()["h1"] == (1, 4, 128)
    assert (web.use().vcpu, web.use().memory_mib, web.use().disk_mib) == (4, 128, 100)
    with pytest.raises(Conflict, match="busy: resize"):
        run.resize("web", vcpu=2)
    web.sim.release("ensure_shape")
    assert child.answer().error == ""
    assert has(web) == Size(4, 64, 100)
    assert web.load()["h1"] == (1, 4, 64)


def test_where_it_goes_there_must_be_room_for_what_it_is_to_have(web: Site) -> None:
    run.resize("web", vcpu=8)
    _change_host(web, "h2", vcpu=4)
    with pytest.raises(NoCapacity, match="8 needed"):
        run.migrate("web", "h2")
    _change_host(web, "h2", vcpu=8)
    run.migrate("web", "h2")
    assert has(web) == MADE
    assert row(web).next_vcpu == 8


# -- as typed --------------------------------------------------------------------------------------------


@pytest.fixture
def vdc(web: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command about `web`; returns its exit code."""
    from interfaces.cli.errors import guarded
    from interfaces.cli.main import cli

    # This process has been told of its Prefect server before.
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)

    def run_command(*arguments: str) -> int:
        return guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)

    return run_command


def test_a_plan_says_what_comes_when_and_touches_nothing(
    web: Site, vdc: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = web.rows()
    sizes = ("--vcpu", "2", "--memory-mib", "512", "--disk-mib", "100")
    assert vdc("vm", "resize", "web", *sizes, "--plan") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Would resize web on h1:"
    assert [line.split()[:1] for line in told[2:5]] == [["vCPU"], ["memory"], ["disk"]]
    assert "at its next start" in told[3]
    assert "it was started with 128 MiB" in told[3]
    assert vdc("vm", "resize", "web", *sizes, "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(c["what"], c["from"], c["to"], c["when"]) for c in plan["changes"]] == [
        ("vcpu", 1, 2, "now"),
        ("memory_mib", 128, 512, "at its next start"),
        ("disk_mib", 64, 100, "now"),
    ]
    assert float(plan["cost_per_month"]) > 0
    assert web.rows() == rows
    assert {c.call for c in web.sim.log()[-2:]} == {"hypervisor.read_shape"}


@pytest.mark.prefect
def test_it_is_done_as_typed_and_shown(
    web: Site, vdc: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vdc("vm", "resize", "web", "--vcpu", "2", "--memory-mib", "512") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split() for line in told[2:4]] == [
        ["vCPU", "1", "2", "now"],
        ["memory", "MiB", "128", "512", "at", "its", "next", "start"],
    ]
    assert vdc("vm", "show", "web") == 0
    assert "from its next start on  2 vCPU, 512 MiB memory" in capsys.readouterr().out
    assert vdc("vm", "resize", "web", "--disk-mib", "80", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["changes"] == [
        {"what": "memory_mib", "from": 128, "to": 512, "when": "at its next start"},
        {"what": "disk_mib", "from": 64, "to": 80, "when": "now"},
    ]
    assert has(web) == Size(2, 128, 80)


def test_a_host_that_is_away_is_a_refusal_and_no_size_is_usage(
    web: Site, vdc: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = web.rows()
    assert vdc("vm", "resize", "web") == 2
    assert vdc("vm", "resize", "web", "--vcpu", "many") == 2
    web.sim.host_down("h1")
    assert vdc("vm", "resize", "web", "--vcpu", "2") == 3
    assert "Machine web cannot be looked at" in capsys.readouterr().err
    assert web.rows() == rows


# -- what is refused -------------------------------------------------------------------------------------


def _change_host(site: Site, name: str, **values: Any) -> None:
    with write_session(site.url) as session:
        session.query(Host).filter(Host.name == name).update(values)


def _quota(**limits: int) -> Callable[[Site], object]:
    def change(site: Site) -> None:
        with write_session(site.url) as session:
            session.query(Tenant).filter(Tenant.name == "default").update(limits)

    return change


def _nothing(site: Site) -> None:
    """It is refused as it is."""


Before = Callable[[Site], object]
REFUSALS: dict[str, tuple[Before, dict[str, int], type[Exception], str]] = {
    "smaller disk": (
        _nothing,
        {"disk_mib": 63},
        Invalid,
        "has 64 MiB and cannot have 63 MiB: a disk only",
    ),
    "no vCPU": (_nothing, {"vcpu": 0}, Invalid, "0 vCPU is refused"),
    "too little memory": (_nothing, {"memory_mib": 15}, Invalid, "15 MiB of memory is refused"),
    "as it is": (_nothing, to(MADE), Invalid, r"has that size already \(1 vCPU, 128 MiB .*nothing to change"),
    "nothing": (_nothing, {}, Invalid, "nothing to change"),
    "vCPU of the host": (_nothing, {"vcpu": 34}, NoCapacity, r"vCPU \(31 of 32 free, 33 more needed\)"),
    "memory of the host": (
        _nothing,
        {"memory_mib": 10**6},
        NoCapacity,
        "memory .*more needed.*migrate web",
    ),
    "quota of vCPU": (
        _quota(max_vcpu=2),
        {"vcpu": 3},
        QuotaExceeded,
        "1 of 2 vCPU used, 2 more asked",
    ),
    "quota of disk": (
        _quota(max_disk_mib=100),
        {"disk_mib": 101},
        QuotaExceeded,
        "64 of 100 MiB disk used, 37 more asked",
    ),
    "paused": (lambda site: run.power("pause", "web"), {"vcpu": 2}, InvalidState, "web is paused: `resize`"),
    "suspended": (lambda site: run.power("suspend", "web"), {"vcpu": 2}, InvalidState, "is suspended"),
    "snapshot with memory": (
        lambda site: run.snapshot("web", "before"),
        {"vcpu": 2},
        InvalidState,
        r"has snapshots with memory \(before\)",
    ),
    "disk with a snapshot": (
        lambda site: run.snapshot("web", "disks", "disk"),
        {"disk_mib": 80},
        InvalidState,
        r"has snapshots \(disks\)",
    ),
    "unfinished": (
        lambda site: _mark(site, resizing=True),
        {"vcpu": 2},
        InvalidState,
        "not finished: `vdc reconcile`",
    ),
    "in a cloud": (lambda site: _mark(site, host_id=None), {"vcpu": 2}, Unsupported, "web is in a cloud"),
}


def _mark(site: Site, **values: Any) -> None:
    with write_session(site.url) as session:
        session.query(Vm).update(values)


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_touches_nothing(web: Site, case: str) -> None:
    prepare, sizes, error, message = REFUSALS[case]
    prepare(web)
    rows, calls = web.rows(), web.sim.call_count()
    with pytest.raises(error, match=message):
        run.resize("web", **sizes)
    assert web.rows() == rows
    assert web.sim.call_count() == calls


def test_a_machine_that_is_not_there(site: Site) -> None:
    with pytest.raises(NotFound, match="no machine 'web'"):
        run.resize("web", vcpu=2)


def test_less_is_given_back_also_by_who_is_over_a_limit(web: Site) -> None:
    run.resize("web", vcpu=3)
    _quota(max_vcpu=1, max_memory_mib=256)(web)
    _change_host(web, "h1", vcpu=1)
    run.resize("web", vcpu=2, memory_mib=96)
    _quota(max_vcpu=4)(web)
    _change_host(web, "h1", vcpu=4)
    assert has(web) == Size(2, 96, 64)


def test_a_disk_snapshot_is_not_in_the_way_of_cpus_and_memory(web: Site) -> None:
    run.snapshot("web", "disks", "disk")
    run.resize("web", vcpu=2, memory_mib=96)
    assert has(web) == Size(2, 96, 64)
    run.revert("web", "disks")
    assert has(web) == Size(2, 96, 64)


def root(site: Site, operation_id: str) -> str:
    """Why the root file system did not grow."""
    with read_session(site.url) as session:
        told = session.get_one(Operation, operation_id).result
    assert told is not None
    return str(told["root"])


def test_the_root_file_system_grows_too_or_it_is_said_why_not(
    web: Site, vdc: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = web.sim.call_count()
    assert root(web, run.resize("web", disk_mib=70)) == ""
    assert [c.call for c in web.sim.log(since=before)] == list(CALLS)
    before = web.sim.call_count()
    assert root(web, run.resize("web", vcpu=2)) == ""
    assert "hypervisor.grow_root" not in [c.call for c in web.sim.log(since=before)]
    web.sim.ignore_acpi(web.spec("web").domain)
    assert vdc("vm", "resize", "web", "--disk-mib", "80") == 0
    said = "Its root file system grows at its next boot: its guest's agent does not answer."
    assert said in capsys.readouterr().err
    web.sim.fail_next("hypervisor.grow_root", **FORMS["fails"])
    assert "hypervisor.grow_root" in root(web, run.resize("web", disk_mib=90)), "it is no reason to fail"
    assert has(web) == Size(2, 128, 90)


# -- failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "form"), spread(NEEDED))
def test_a_failed_call_leaves_rows_host_and_bill_in_agreement(web: Site, call: str, form: str) -> None:
    web.sim.fail_next(call, **FORMS[form])
    passing = form in PASSING or (form == "stops-halfway" and call != "hypervisor.ensure_shape")
    failed = ""
    try:
        run.resize("web", **to(MORE))
    except OperationFailed as error:
        failed = str(error)
    now = has(web)
    assert billed(web)[-1][1] == now, "it is billed as what it has"
    assert web.load()["h1"] == (1, now.vcpu, now.memory_mib)
    if passing:
        assert failed == ""
    else:
        assert failed.startswith("web was not resized: Step '"), failed
        assert (
            f"It has {now.vcpu} vCPU, {now.memory_mib} MiB of memory, {now.disk_mib} MiB of disk now."
            in failed
        )
        assert (now == MORE) == (call == "hypervisor.ensure_defined" or _all_done(call, form))
        if now != MORE:
            run.resize("web", **to(MORE))
    assert has(web) == MORE
    assert run.reconcile() == []
    run.power("stop", "web")
    run.power("start", "web")
    assert has(web) == MORE


def _all_done(call: str, form: str) -> bool:
    return call == "hypervisor.ensure_shape" and form == "happens-but-the-answer-is-lost"


def test_a_host_that_is_lost_in_the_middle(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_shape")
    child = start.start(resize, "web", to(MORE))
    web.sim.wait_until_held()
    web.sim.host_down("h1")
    web.sim.release("ensure_shape")
    answer = child.answer()
    assert answer.error == "OperationFailed"
    assert "vdc reconcile" in answer.message
    for _ in range(2):
        assert [f.what for f in run.reconcile()] == ["host unreachable"]
        assert row(web).resizing
        assert web.load()["h1"] == (1, 3, 128), "it holds the larger"
    web.sim.host_up("h1")
    assert [(f.what, f.action) for f in run.reconcile()] == [("unfinished resize", "resize finished")]
    assert has(web) == MORE
    assert billed(web) == [*BIRTH, ("resized", MORE)]


# -- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, len(CALLS) + 1))
def test_killed_before_each_call(web: Site, start: Processes, n: int) -> None:
    web.sim.hold("*", skip=n - 1)
    child = start.start(resize, "web", to(MORE))
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    assert [(f.what, f.action) for f in run.reconcile()] == [("interrupted operation", "resize finished")]
    assert has(web) == MORE
    assert billed(web) == [*BIRTH, ("resized", MORE)]
    assert run.reconcile() == []


def test_killed_before_the_claim_and_before_the_record(web: Site, start: Processes) -> None:
    from tests.flows.processes import die_at_commit

    for n, committed in ((1, False), (2, True)):
        child = start.start(die_at_commit, n, resize, "web", to(MORE), operation_lease_s=60)
        child.process.join(60)
        assert child.process.exitcode is not None
        assert child.process.exitcode < 0
        assert bool(web.open_operations()) is committed
        run.reconcile()
        assert has(web) == (MORE if committed else MADE)
    assert billed(web) == [*BIRTH, ("resized", MORE)]


def test_the_guest_went_off_after_the_process_had_died(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_shape")
    child = start.start(resize, "web", to(Size(8, 512, 80)))
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    web.sim.guest_shutdown(web.spec("web").domain)
    run.reconcile()
    assert web.machines() == {"web": VmState.STOPPED}
    assert has(web) == Size(8, 512, 80)


def test_gone_while_it_was_not_known_what_it_has(web: Site) -> None:
    _mark(web, resizing=True, next_vcpu=8)
    run.terminate("web")
    web.assert_agrees()
    assert web.use().vcpu == 0
    assert run.reconcile() == []


def test_a_new_machine_of_a_template_is_of_its_size(site: Site) -> None:
    with write_session(site.url) as session:
        catalog.create_template(
            session, "big", image="tiny", vcpu=3, memory_mib=256, vnets=["blue"], actor="test"
        )
    run.deploy(template="big", name="big")
    assert has(site, "big") == Size(3, 256, 64)
    run.resize("big", vcpu=6)
    assert has(site, "big") == Size(6, 256, 64)
    assert when(site, run.resize("big", vcpu=2)) == {"vcpu": "at its next start"}
    assert has(site, "big") == Size(6, 256, 64)

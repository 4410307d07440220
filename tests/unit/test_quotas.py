"""Quotas of tenants and users: each limit holds where something is asked for, and says the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows.site import ACTOR, Site
from vdc import access, accounts, catalog, quotas
from vdc.access import Actor, Role
from vdc.claims.attach import claim_attach_disk, claim_attach_nic, claim_detach_disk
from vdc.claims.deploy import claim_deploy
from vdc.claims.power import claim_power
from vdc.claims.resize import claim_resize
from vdc.claims.saving import claim_clone, claim_save
from vdc.claims.snapshot import claim_snapshot
from vdc.claims.volumes import claim_remove, record_removed
from vdc.errors import Forbidden, Invalid, QuotaExceeded
from vdc.inventory import read_session, write_session
from vdc.model import Abilities
from vdc.pricing import ListPrices
from vdc.records import (
    Outcome,
    close_batch,
    record_attached,
    record_detached,
    record_provisioned,
)
from vdc.requests import (
    AttachDiskRequest,
    AttachNicRequest,
    CloneImageRequest,
    DeployRequest,
    DetachDiskRequest,
    PowerRequest,
    RemoveDiskRequest,
    ResizeRequest,
    SaveAsRequest,
    SnapshotRequest,
)
from vdc.schema import Operation, Tenant, User, Vm, Vnet, utc_now
from vdc.states import Desired, VmState
from vdc.usage import tenant_use, user_use


@pytest.fixture
def site() -> Iterator[Site]:
    """Tenant acme with its user al; template `tiny` has 1 vCPU, 128 MiB, 64 MiB disk, two cards."""
    with Site.copied() as site:
        with write_session(site.url) as session:
            catalog.create_tenant(session, "acme", actor=ACTOR)
            accounts.create_user(session, "al", role=Role.USER, tenant="acme", actor=ACTOR)
        yield site


def _al(session: Session) -> Actor:
    user = session.scalars(select(User).where(User.name == "al")).one()
    return Actor("al", Role.USER, user.id, user.tenant_id, "acme")


def _deploy(
    site: Site, name: str = "web", *, by_al: bool = False, commit: bool = True, **asked: object
) -> list[str]:
    """What would be left."""
    request = DeployRequest(template="tiny", tenant="acme", name=name, **asked)  # type: ignore[arg-type]
    with write_session(site.url, commit=commit) as session:
        access.bind(session, _al(session) if by_al else access.SYSTEM)
        claim = claim_deploy(session, request, actor=ACTOR, prices=ListPrices())
        made = [Outcome(m.claim, m.spec, datetime.now(UTC)) for m in claim.batch.machines]
        record_provisioned(session, made)
        if made:
            close_batch(session, claim.batch.claim)
        assert claim.plan is not None
        return list(claim.plan.quota_left)


def _set(site: Site, *, user: str = "", below_use: bool = False, **limits: int | None) -> list[str]:
    with write_session(site.url) as session:
        return quotas.set_quota(
            session, limits, tenant="" if user else "acme", user=user, below_use=below_use, actor=ACTOR
        )


@pytest.mark.parametrize(
    ("name", "limit", "says"),
    [
        ("vms", 2, "2 of 2 machines used, 1 more asked"),
        ("vcpu", 2, "2 of 2 vCPU used, 1 more asked"),
        ("running_vcpu", 2, "2 of 2 running vCPU used, 1 more asked"),
        ("memory_mib", 300, "256 of 300 MiB memory used, 128 more asked"),
        ("disk_mib", 128, "128 of 128 MiB disk used, 64 more asked"),
        ("addresses", 4, "4 of 4 addresses used, 2 more asked"),
        ("vm_vcpu", 0, "A machine of tenant acme may have 0 vCPU at most, and 1 are asked"),
        ("vm_memory_mib", 127, "may have 127 MiB memory at most, and 128 are asked"),
        ("vm_disk_mib", 63, "may have 63 MiB disk at most, and 64 are asked"),
    ],
)
def test_a_deployment_that_would_pass_a_limit(site: Site, name: str, limit: int, says: str) -> None:
    _deploy(site, count=2)
    assert _set(site, **{name: limit}) == [f"{name} none -> {limit}"]
    with pytest.raises(QuotaExceeded, match=says):
        _deploy(site, "more")
    _set(site, **{name: None})
    _deploy(site, "more", commit=False)


def test_a_plan_says_what_would_be_left_to_tenant_and_user(site: Site) -> None:
    _set(site, vms=5)
    _set(site, user="al", vms=3, running_vcpu=4)
    left = _deploy(site, by_al=True, commit=False, count=2)
    assert left == ["3 of 5 machines", "1 of 3 machines of user al", "2 of 4 running vCPU of user al"]
    _deploy(site, by_al=True, count=3)
    with pytest.raises(QuotaExceeded, match="User al would pass its quota: 3 of 3 machines used"):
        _deploy(site, "more", by_al=True)
    _deploy(site, "more", count=2)  # not al's
    with pytest.raises(QuotaExceeded, match="Tenant acme would pass its quota: 5 of 5"):
        _deploy(site, "another")
    with read_session(site.url) as session:
        al = _al(session)
        assert (user_use(session, al.user_id).vms, tenant_use(session, al.tenant_id).vms) == (3, 5)


def test_networks_of_the_tenant_have_addresses_that_are_not_counted(site: Site) -> None:
    with write_session(site.url) as session:
        acme = session.scalars(select(Tenant.id).where(Tenant.name == "acme")).one()
        session.execute(update(Vnet).where(Vnet.name == "green").values(tenant_id=acme))
    _set(site, addresses=1)
    _deploy(site)
    with pytest.raises(QuotaExceeded, match="1 of 1 addresses used"):
        _deploy(site, "more")


def _switch(site: Site, state: VmState, desired: Desired) -> None:
    with write_session(site.url) as session:
        session.execute(update(Vm).values(state=state, desired=desired))


def test_what_is_stopped_or_held_runs_no_vcpu_and_takes_it_when_started(site: Site) -> None:
    _set(site, running_vcpu=2)
    _deploy(site, count=2)
    with pytest.raises(QuotaExceeded, match="2 of 2 running vCPU"):
        _deploy(site, "more")
    _deploy(site, "held", hold=True)
    _deploy(site, "off", start="stopped")
    with write_session(site.url, commit=False) as session:
        session.execute(
            update(Vm).where(Vm.name == "off").values(state=VmState.STOPPED, desired=Desired.STOPPED)
        )
        with pytest.raises(QuotaExceeded, match="2 of 2 running vCPU used, 1 more asked"):
            claim_power(session, PowerRequest(verb="start", vms=["off"]), actor=ACTOR)
    for state, desired, runs in (
        (VmState.RUNNING, Desired.STOPPED, True),  # it is being stopped
        (VmState.STOPPED, Desired.RUNNING, True),  # it is being started
        (VmState.PAUSED, Desired.PAUSED, True),
        (VmState.STOPPED, Desired.STOPPED, False),
        (VmState.SUSPENDED, Desired.SUSPENDED, False),
        (VmState.HELD, Desired.RUNNING, False),
    ):
        _switch(site, state, desired)
        with read_session(site.url) as session:
            used = tenant_use(session, _al(session).tenant_id).running_vcpu
        assert used == (4 if runs else 0), (state, desired)


def test_growing_is_within_the_quota_of_the_one_whose_machine_it_is(site: Site) -> None:
    _deploy(site, by_al=True)
    _set(site, user="al", vcpu=2, vm_memory_mib=200)
    for asked, says in (
        ({"vcpu": 3}, "User al would pass its quota: 1 of 2 vCPU used, 2 more"),
        ({"memory_mib": 256}, "A machine of user al may have 200 MiB memory"),
    ):
        with pytest.raises(QuotaExceeded, match=says), write_session(site.url) as session:
            claim_resize(session, ResizeRequest(vm="web", **asked), actor=ACTOR)


@pytest.mark.parametrize(
    ("whose", "limits", "says"),
    [
        ("", {"disk_mib": 100}, "Tenant acme would pass its quota: 64 of 100 MiB disk used, 40 more asked"),
        ("al", {"disk_mib": 100}, "User al would pass its quota: 64 of 100 MiB disk used, 40 more asked"),
        ("al", {"vm_disk_mib": 100}, "A machine of user al may have 100 MiB disk at most, and 104 are asked"),
        ("al", {"addresses": 2}, "User al would pass its quota: 2 of 2 addresses used, 1 more asked"),
    ],
)
def test_what_is_plugged_in_counts(site: Site, whose: str, limits: dict[str, int], says: str) -> None:
    _deploy(site, by_al=True)
    _set(site, user=whose, **limits)

    def ask(session: Session) -> object:
        if "addresses" in limits:
            return claim_attach_nic(
                session, AttachNicRequest(vm="web", vnet="blue"), Abilities(), actor=ACTOR
            )
        return claim_attach_disk(session, AttachDiskRequest(vm="web", size_mib=40), Abilities(), actor=ACTOR)

    with pytest.raises(QuotaExceeded, match=says), write_session(site.url) as session:
        ask(session)


def test_a_kept_disk_counts_until_it_is_gone(site: Site) -> None:
    _deploy(site, by_al=True)
    with write_session(site.url) as session:
        asked = AttachDiskRequest(vm="web", size_mib=40, name="data")
        record_attached(session, claim_attach_disk(session, asked, Abilities(), actor=ACTOR), utc_now())
    with write_session(site.url) as session:
        leaves = DetachDiskRequest(vm="web", disk="data", keep=True)
        record_detached(session, claim_detach_disk(session, leaves, actor=ACTOR), utc_now())
        al = _al(session)
        assert tenant_use(session, al.tenant_id).disk_mib == user_use(session, al.user_id).disk_mib == 104
        removal = claim_remove(session, RemoveDiskRequest(disk="data", tenant="acme"), actor=ACTOR)
        assert user_use(session, al.user_id).disk_mib == 104
        record_removed(session, removal, utc_now())
        assert tenant_use(session, al.tenant_id).disk_mib == user_use(session, al.user_id).disk_mib == 64


def test_a_kept_disk_of_another_user_is_within_the_quota_of_the_one_whose_machine_gets_it(site: Site) -> None:
    _deploy(site, "ours")
    _deploy(site, "als", by_al=True)
    with write_session(site.url) as session:
        asked = AttachDiskRequest(vm="ours", size_mib=40, name="data")
        record_attached(session, claim_attach_disk(session, asked, Abilities(), actor=ACTOR), utc_now())
    with write_session(site.url) as session:
        leaves = DetachDiskRequest(vm="ours", disk="data", keep=True)
        record_detached(session, claim_detach_disk(session, leaves, actor=ACTOR), utc_now())
    takes = AttachDiskRequest(vm="als", volume="data")
    shared = Abilities(shared=frozenset({site.sim.datastore_uri()}))
    _set(site, disk_mib=168)
    _set(site, user="al", disk_mib=103)
    with (
        write_session(site.url, commit=False) as session,
        pytest.raises(QuotaExceeded, match="User al would pass its quota: 64 of 103 MiB disk used, 40 more"),
    ):
        claim_attach_disk(session, takes, shared, actor=ACTOR)
    _set(site, user="al", disk_mib=104)
    with write_session(site.url) as session:
        claim_attach_disk(session, takes, shared, actor=ACTOR)
        assert user_use(session, _al(session).user_id).disk_mib == 104


def test_snapshots_and_images(site: Site) -> None:
    _deploy(site)
    _set(site, snapshots=1, images=1)
    can = Abilities(
        snapshotting=frozenset({site.spec("web").host.uri}),
        snapshot_disks=frozenset({site.sim.datastore_uri()}),
    )
    with write_session(site.url) as session:
        claim_snapshot(session, SnapshotRequest(vm="web"), can, 10, actor=ACTOR)
        session.execute(
            update(Operation).values(open_key=None, finished_at=datetime.now(UTC), outcome="done")
        )
    with (
        write_session(site.url, commit=False) as session,
        pytest.raises(QuotaExceeded, match="1 of 1 snapshots"),
    ):
        claim_snapshot(session, SnapshotRequest(vm="web"), can, 10, actor=ACTOR)
    with write_session(site.url) as session:
        claim_clone(session, CloneImageRequest(image="tiny", name="ours", tenant="acme"), actor=ACTOR)
    with (
        write_session(site.url, commit=False) as session,
        pytest.raises(QuotaExceeded, match="1 of 1 images"),
    ):
        claim_save(session, SaveAsRequest(vm="web", image="saved"), can, actor=ACTOR)


def test_a_limit_below_what_is_in_use(site: Site) -> None:
    _deploy(site, count=2)
    with pytest.raises(QuotaExceeded, match="1 vms is below the 2 in use"):
        _set(site, vms=1)
    assert _set(site, vms=1, below_use=True) == ["vms none -> 1"]
    with pytest.raises(QuotaExceeded, match="2 of 1 machines used, 1 more asked"):
        _deploy(site, "more")
    assert _set(site, vms=1, below_use=True) == []
    for limits, says in (({"vms": -1}, "cannot be negative"), ({"cats": 1}, "cannot be limited: vms, ")):
        with pytest.raises(Invalid, match=says):
            _set(site, **limits)


def test_who_may_set_quotas(site: Site) -> None:
    with write_session(site.url, commit=False) as session:
        al = _al(session)
        access.bind(session, al)
        for whose in ({"tenant": "acme"}, {"user": "al"}):
            with pytest.raises(Forbidden, match=r"al .* may not change the quota of"):
                quotas.set_quota(session, {"vms": 99}, **whose, actor="al")
        access.bind(session, Actor("ann", Role.TENANT_ADMINISTRATOR, "x", al.tenant_id, "acme"))
        with pytest.raises(Forbidden):
            quotas.set_quota(session, {"vms": 99}, tenant="acme", actor="ann")
        assert quotas.set_quota(session, {"vms": 9}, user="al", actor="ann") == ["vms none -> 9"]


def test_commands(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VDC_DATABASE_URL", site.url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    typed: Callable[..., int] = lambda *words: guarded(  # noqa: E731
        lambda: cli.main(list(words), prog_name="vdc", standalone_mode=False), words
    )
    _deploy(site, count=2)
    assert typed("quota", "set", "--tenant", "acme", "vms=4", "vm_vcpu=2") == 0
    assert capsys.readouterr().out == "vms none -> 4\nvm_vcpu none -> 2\n"
    assert typed("quota", "show") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["WHOSE", "WHAT", "USED", "LIMIT", "LEFT", "IN", "USE"],
        ["tenant", "acme", "machines", "2", "4", "2", "█████·····", "50%"],
        ["tenant", "acme", "vCPU", "of", "one", "machine", "-", "2", "-", "-"],
    ]
    for words, says in (
        (("--tenant", "acme", "vms"), "'vms' is no limit: write it as vms=20"),
        (("--tenant", "acme", "vms=x"), "'vms=x' is no limit"),
        (("vms=1",), "Say whose quota"),
        (("--tenant", "nope", "vms=1"), "no tenant 'nope'"),
        (("--tenant", "acme", "vms=1"), "1 vms is below the 2 in use"),
    ):
        assert typed("quota", "set", *words) == 3
        assert says in capsys.readouterr().err

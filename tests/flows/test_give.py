"""A machine that becomes another tenant's: who pays for it, who sees it, and what stays as it was."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from tests.flows.site import ACTOR, Site, once
from vdc import catalog
from vdc.claims.giving import give
from vdc.errors import Conflict, Forbidden, Invalid, InvalidState, NotFound, QuotaExceeded
from vdc.inventory import read_session, write_session
from vdc.schema import Tenant, UsageEvent, Vm, Vnet


@pytest.fixture
@once
def bolt(site: Site) -> Site:
    """A site with machine `web` of tenant `default`, and a tenant `bolt`."""
    with write_session(site.url) as session:
        catalog.create_tenant(session, "bolt", actor=ACTOR)
    return site.with_machine("web")


def _give(site: Site, name: str = "web", to: str = "bolt") -> None:
    with write_session(site.url) as session:
        give(session, name, to, "default", actor=ACTOR)


@pytest.mark.prefect
def test_who_has_it_pays_and_its_host_notices_nothing(bolt: Site) -> None:
    from tests.flows import run

    before, hosts = bolt.use(), bolt.sim.snapshot_state()
    _give(bolt)
    assert bolt.use("bolt") == before
    assert bolt.use().vms == 0
    assert bolt.sim.snapshot_state() == hosts
    assert bolt.events("web") == ["created", "started", "owner-changed"]
    with read_session(bolt.url) as session:
        row = session.scalars(select(UsageEvent).where(UsageEvent.kind == "owner-changed")).one()
        assert row.tenant_id == session.scalars(select(Tenant.id).where(Tenant.name == "bolt")).one()
    bolt.assert_agrees()
    assert run.reconcile() == []
    run.power("stop", "web", tenant="bolt")
    bolt.with_machine("web")
    run.terminate("web", tenant="bolt")
    assert bolt.use("bolt").vms == 0
    bolt.assert_agrees()


def test_what_cannot_be_given_stays_as_it_is(bolt: Site) -> None:
    with write_session(bolt.url) as session:
        catalog.create_tenant(session, "full", actor=ACTOR)
        session.execute(update(Tenant).where(Tenant.name == "full").values(max_vms=0))
        theirs = session.scalars(select(Tenant.id).where(Tenant.name == "default")).one()
    bolt.with_machine("db")
    _give(bolt, "db")
    bolt.with_machine("db")
    before = bolt.rows()
    for name, to, error, message in (
        ("db", "bolt", Conflict, "'db' is taken in tenant bolt: rename it first"),
        ("web", "default", Invalid, "tenant default's already"),
        ("web", "full", QuotaExceeded, "0 of 0 machines used, 1 more asked"),
        ("web", "nobody", NotFound, "nobody"),
        ("nothing", "bolt", NotFound, "nothing"),
    ):
        with pytest.raises(error, match=message):
            _give(bolt, name, to)
    assert bolt.rows() == before
    with write_session(bolt.url) as session:
        session.execute(update(Vnet).where(Vnet.name == "blue").values(tenant_id=theirs))
    with pytest.raises(Forbidden, match=r"on network blue, which is not tenant bolt's"):
        _give(bolt)
    with write_session(bolt.url) as session:
        session.execute(update(Vm).where(Vm.name == "web").values(state="deploying"))
    with pytest.raises(InvalidState, match="deploying"):
        _give(bolt)

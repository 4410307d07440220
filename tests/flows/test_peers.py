"""Where networks are in tunnels: every host knows where the others are, whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows import run
from tests.flows.engine import Engine
from tests.flows.site import Site, settings
from vdc.errors import Unready
from vdc.reconciliation import Finding


@pytest.fixture
def tunnels(engine: Engine, tmp_path: Path) -> Iterator[Site]:
    """Hosts h1 and h2 in service, which know of each other, and h3, which is not yet."""
    site = Site.create(tmp_path, tunnels=True)
    site.sim.add_hosts(["h3"])
    with settings(database_url=site.url):
        run.reconcile()
        assert _known(site) == {"h1": ["h2"], "h2": ["h1"], "h3": []}
        yield site


def _known(site: Site) -> dict[str, list[str]]:
    return {host: site.sim.peers(host, "trunk0") for host in ("h1", "h2", "h3")}


def _enroll(site: Site, **request: str) -> None:
    networks = [site.sim.network_uri()]
    run.enroll_host(name="h3", uri=site.sim.host("h3").uri, networks=networks, **request)


def test_a_new_host_is_told_of_the_others_and_they_of_it(tunnels: Site) -> None:
    _enroll(tunnels, migration_address="10.77.0.13")
    assert _known(tunnels) == {"h1": ["10.77.0.13", "h2"], "h2": ["10.77.0.13", "h1"], "h3": ["h1", "h2"]}
    assert run.reconcile() == []


def test_a_host_that_is_away_is_told_when_it_is_back(tunnels: Site, caplog: pytest.LogCaptureFixture) -> None:
    tunnels.sim.host_down("h2")
    with caplog.at_level(logging.WARNING):
        _enroll(tunnels)
    assert "Host h2 does not know all other hosts" in caplog.text
    assert "`vdc reconcile` tells it" in caplog.text
    assert _known(tunnels) == {"h1": ["h2", "h3"], "h2": ["h1"], "h3": ["h1", "h2"]}
    assert [f.what for f in run.reconcile()] == ["host unreachable"]
    tunnels.sim.host_up("h2")
    what = "tunnels lead elsewhere than to all other hosts (h3)"
    assert run.reconcile() == [Finding(what, "host/h2", "h2", "restored")]
    assert _known(tunnels)["h2"] == ["h1", "h3"]
    assert run.reconcile() == []


def test_what_somebody_cut_is_restored_and_what_cannot_be_told_is_said(tunnels: Site) -> None:
    tunnels.sim.forget_peer("h1", "trunk0", "h2")
    tunnels.sim.fail_next("ensure_peers")
    (found,) = run.reconcile()
    assert (found.object, found.what) == ("host/h1", "tunnels do not lead to all other hosts")
    assert "not told yet" in found.action
    assert [f.action for f in run.reconcile()] == ["restored"]
    assert _known(tunnels)["h1"] == ["h2"]


def test_a_host_that_can_carry_no_tunnel_is_not_enrolled(tunnels: Site) -> None:
    before = tunnels.rows()
    tunnels.sim.set_uplink("h3", "trunk0", False)
    with pytest.raises(Unready, match=r"h3.*cannot reach other hosts"):
        _enroll(tunnels)
    assert _known(tunnels) == {"h1": ["h2"], "h2": ["h1"], "h3": []}
    assert {k: v for k, v in tunnels.rows().items() if k != "operations"} == {
        k: v for k, v in before.items() if k != "operations"
    }

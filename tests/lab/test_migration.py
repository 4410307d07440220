"""A machine of a real host is migrated while somebody uses it."""

from __future__ import annotations

import pytest

from deployments.lab.probe import open_probe
from deployments.lab.stream import watch
from tests.flows import run
from tests.lab.datacenter import VLAN, Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, wait_for
from vdc import specs
from vdc.inventory import read_session
from vdc.schema import Operation, Vm

pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.prefect, pytest.mark.timeout(300)]

MAY_NOTICE = 5


def _where(clean: Datacenter, name: str) -> tuple[str, str]:
    """(domain, host) as the inventory says."""
    with read_session(clean.url) as session:
        spec = specs.load(session.query(Vm.spec).filter(Vm.name == name).scalar())
    return spec.domain, spec.host.name


def test_its_users_do_not_notice(clean: Datacenter) -> None:
    run.deploy(name="web")
    with read_session(clean.url) as session:
        address = specs.load(session.query(Vm.spec).filter(Vm.name == "web").scalar()).nics[0].address
    probe = open_probe(clean.lab.lab.lab_id, VLAN, "10.3.0.250/24")
    before = wait_for(lambda: says(probe, address), "the machine answers", BOOT_TIMEOUT_S)
    domain, here = _where(clean, "web")
    with watch(probe, address) as stream:
        operation_id = run.migrate("web")
    _, there = _where(clean, "web")
    assert there != here
    assert {host for host, names in clean.domains().items() if domain in names} == {there}
    assert clean.on_host(there, "virsh", "domstate", domain).strip() == "running"
    clean.assert_agrees()

    assert len(stream.noticed) <= MAY_NOTICE, stream.noticed
    assert len(stream.answers) > 10, "it was asked all the time"
    answers = [answer.says for answer in stream.answers if answer.took_s is not None]
    after = wait_for(lambda: says(probe, address), "the migrated machine answers")
    assert {a["boot_id"] for a in [*answers, after]} == {before["boot_id"]}, "it was not started again"
    uptimes = [float(a["uptime"]) for a in [before, after]]
    assert uptimes[0] < uptimes[1], "its uptime goes on"

    with read_session(clean.url) as session:
        told = session.get_one(Operation, operation_id).result
    assert told is not None
    assert 0 < told["downtime_s"] <= told["total_s"] < 60

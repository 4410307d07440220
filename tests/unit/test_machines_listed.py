"""The list of machines, in plain SQL, on both kinds of database."""

from __future__ import annotations

import pytest

from deployments.bench.reading import fill
from interfaces.cli.machines import machines
from vdc.errors import Unready
from vdc.inventory import write_session
from vdc.schema import Operation, Vm
from vdc.states import VmState


def test_machines_by_every_question(inventory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDC_DATABASE_URL", inventory_url)
    fill(inventory_url, 3)
    with write_session(inventory_url) as session:
        ended = session.query(Vm).filter_by(name="m-2").one()
        ended.state = VmState.GONE
        session.flush()
        batch = session.query(Operation.parent_id).filter_by(object_id=ended.id).scalar()
    assert [row["name"] for row in machines()] == ["m-1", "m-3"]
    assert [row["name"] for row in machines(ended=True)] == ["m-1", "m-2", "m-3"]
    assert [row["name"] for row in machines(batch=batch, ended=True)] == ["m-1", "m-2", "m-3"]
    assert machines(tenant="nobody") == []
    gone = machines(vm_id=ended.id, ended=True)[0]
    assert (gone["state"], gone["host"], gone["domain"]) == ("gone", None, None)
    assert gone["created_at"].utcoffset().total_seconds() == 0
    first = machines()[0]
    assert first["addresses"] == [{"vnet": "blue", "address": "10.0.0.1", "mac": "02:00:0a:00:00:01"}]
    assert first["disks"][0]["size_mib"] == 4096


def test_without_inventory(inventory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDC_DATABASE_URL", inventory_url)
    with pytest.raises(Unready, match="vdc up"):
        machines()

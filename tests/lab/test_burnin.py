"""A short burn-in on real hosts; docs/burnin.md has a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows import run
from tests.lab.datacenter import Datacenter
from vdc.requests import BurninRequest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]


def test_forty_operations_by_three_users(clean: Datacenter, tmp_path: Path) -> None:
    from deployments.burnin import course

    request = BurninRequest(template="still", operations=40, users=3, seed=3, max_machines=4)
    said: list[str] = []
    report = course.run(request, tmp_path / "out", said.append)
    assert report.failed == [], report.checks
    assert sum(row["asked"] for row in report.operations) == 40
    assert sum(row["done"] for row in report.operations) >= 12
    clean.assert_agrees()
    assert clean.live() == []
    assert run.reconcile() == []

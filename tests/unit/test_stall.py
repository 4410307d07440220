"""A guest that had no room for what it writes is resumed: what is said where there still is none."""

from __future__ import annotations

from collections.abc import Sequence

import libvirt
import pytest

from drivers.hypervisor import power
from vdc.errors import DriverFailure

RUNS = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED)
STALLS = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)
PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)


class Domain:
    """libvirt's, of which each look at its state sees the next one; the last one stays."""

    def __init__(self, *states: Sequence[int]) -> None:
        self.states = list(states)
        self.resumed = 0

    def name(self) -> str:
        return "vm-1"

    def state(self) -> list[int]:
        return list(self.states.pop(0) if len(self.states) > 1 else self.states[0])

    def resume(self) -> None:
        self.resumed += 1


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "STALL_S", 0.1)
    monkeypatch.setattr(power, "WATCH_S", 0.001)


@pytest.mark.parametrize("after", [(STALLS,), (RUNS, RUNS, STALLS)])
def test_one_that_stands_still_again_is_told(after: Sequence[Sequence[int]]) -> None:
    domain = Domain(STALLS, *after)
    with pytest.raises(
        DriverFailure, match=r"h1: domain vm-1 stands still again: there is no room.*Make room"
    ):
        power.resume(domain, "h1")
    assert domain.resumed == 1


@pytest.mark.parametrize("before", [STALLS, PAUSED])
def test_one_that_goes_on_does(before: Sequence[int]) -> None:
    domain = Domain(before, RUNS)
    power.resume(domain, "h1")
    assert domain.resumed == 1
    assert len(domain.states) == 1


def test_one_that_somebody_had_paused_is_not_watched() -> None:
    domain = Domain(PAUSED, STALLS)
    power.resume(domain, "h1")
    assert domain.states == [STALLS], "its state was asked once"

"""Which host has the machine after a migration that nobody saw end, and how hosts reach each other."""

from __future__ import annotations

import pytest

from drivers.hypervisor.migration import Standing, Verdict, data_uri, judge, peer_uri
from vdc.errors import Invalid
from vdc.model import HostRef

RUNS, HELD, DEFINED = Standing(running=True), Standing(held=True), Standing()

TABLE = [
    # source, destination, who has the machine and what is to be done
    (None, RUNS, Verdict(moved=True)),
    (HELD, RUNS, Verdict(moved=True, remove=True)),
    (DEFINED, RUNS, Verdict(moved=True, remove=True)),
    (RUNS, None, Verdict(moved=False)),
    (RUNS, HELD, Verdict(moved=False, remove=True)),
    (RUNS, DEFINED, Verdict(moved=False, remove=True)),
    (HELD, None, Verdict(moved=False, resume=True)),
    (HELD, HELD, Verdict(moved=False, remove=True, resume=True)),
    (HELD, DEFINED, Verdict(moved=False, remove=True, resume=True)),
    (DEFINED, HELD, Verdict(moved=False, remove=True)),
    (DEFINED, None, Verdict(moved=False)),
    (DEFINED, DEFINED, Verdict(moved=False, remove=True)),
    (None, HELD, Verdict(moved=True)),
    (None, DEFINED, Verdict(moved=True)),
    (None, None, Verdict(moved=False)),
    (RUNS, RUNS, None),
]


@pytest.mark.parametrize(("here", "there", "verdict"), TABLE)
def test_one_host_has_the_machine(
    here: Standing | None, there: Standing | None, verdict: Verdict | None
) -> None:
    assert judge(here, there) == verdict


def test_a_guest_that_runs_is_never_removed() -> None:
    for here, there, verdict in TABLE:
        if verdict is not None and verdict.remove:
            removed = here if verdict.moved else there
            assert removed is not None
            assert not removed.running


def host(address: str, uri: str = "qemu+ssh://root@h2.example/system?keyfile=/k") -> HostRef:
    return HostRef("h2", uri, migration_address=address)


def test_the_peer_is_reached_at_its_migration_address() -> None:
    assert peer_uri(host("10.0.0.2"), "qemu+ssh") == "qemu+ssh://root@10.0.0.2/system"
    assert peer_uri(host("10.0.0.2"), "qemu+tls") == "qemu+tls://10.0.0.2/system"
    assert peer_uri(host("fd00::2"), "qemu+tls") == "qemu+tls://[fd00::2]/system"
    assert peer_uri(host(""), "qemu+ssh") == "qemu+ssh://root@h2.example/system"
    assert (
        peer_uri(host("qemu+tcp://10.0.0.2:16509/system"), "qemu+ssh") == "qemu+tcp://10.0.0.2:16509/system"
    )
    with pytest.raises(Invalid, match="no migration address"):
        peer_uri(host("", "qemu:///system"), "qemu+ssh")


def test_memory_goes_over_the_migration_network() -> None:
    assert data_uri(host("10.0.0.2")) == "tcp://10.0.0.2"
    assert data_uri(host("fd00::2")) == "tcp://[fd00::2]"
    assert data_uri(host("qemu+tcp://10.0.0.2:16509/system")) == "tcp://10.0.0.2"
    assert data_uri(host("")) == ""

"""What every cloud driver promises (drivers/contract.py)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deployments.lab.ec2.endpoint import AMI, Control
from drivers import registry
from drivers.contract import Access, Cloud
from drivers.simulated import Simulation
from tests.contract.threads import THREADS, at_once
from tests.prefect_fixture import free_port
from vdc.errors import (
    DriverFailure,
    HostUnreachable,
    Invalid,
    NoCapacity,
    NotFound,
    Throttled,
    TimedOut,
    Transient,
)
from vdc.model import LaunchSpec


@dataclass(frozen=True)
class Sky:
    """A cloud to try things on, one that does not answer, and how to make the next launch fail."""

    cloud: Cloud
    unreachable: Cloud
    fail: Callable[[type[Exception]], None]
    lose: Callable[[], None]


def _simulated(directory: Path, access: Access) -> Sky:
    sim = Simulation.create(directory / "dc.db")
    uri, dead = sim.add_cloud("aws"), sim.add_cloud("dead")
    sim.host_down("dead")
    return Sky(
        registry.cloud(uri, access),
        registry.cloud(dead, access),
        lambda error: sim.fail_next("ensure_launched", error=error.__name__),
        lambda: sim.fail_next("ensure_launched", error="TimedOut", after=True),
    )


CODES = {NoCapacity: ("InsufficientInstanceCapacity", 500), Throttled: ("RequestLimitExceeded", 503)}


def _ec2(control: Control, access: Access) -> Sky:
    def fail(error: type[Exception]) -> None:
        code, status = CODES[error]
        control.fail("RunInstances", code, status=status)

    return Sky(
        registry.cloud(control.uri, access),
        registry.cloud(f"ec2://eu-west-1?endpoint=http://127.0.0.1:{free_port()}", access),
        fail,
        lambda: control.fail("RunInstances", lose=True),
    )


@pytest.fixture(params=["simulated", "ec2"])
def sky(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sky]:
    access = Access(tmp_path / "key", tmp_path / "known_hosts", connect_timeout_s=10, call_timeout_s=60)
    if request.param == "simulated":
        yield _simulated(tmp_path, access)
        return
    control: Control = request.getfixturevalue("ec2")
    yield _ec2(control, access)
    control.release()


def _spec(**values: str) -> LaunchSpec:
    spec = LaunchSpec(
        token=str(uuid.uuid4()),
        ami=AMI,
        instance_type="t3.nano",
        zone="eu-west-1b",
        vm_id=str(uuid.uuid4()),
        vm_name="web",
        tenant="acme",
        site=str(uuid.uuid4()),
        user_data="#cloud-config\n",
    )
    return replace(spec, **values)


def test_a_token_starts_one_instance(sky: Sky) -> None:
    spec = _spec()
    first = sky.cloud.ensure_launched(spec)
    assert sky.cloud.ensure_launched(spec).instance_id == first.instance_id
    (seen,) = sky.cloud.find_instances(spec.vm_id)
    assert (seen.instance_id, seen.state) == (first.instance_id, "running")
    assert (seen.instance_type, seen.zone) == ("t3.nano", "eu-west-1b")
    assert (seen.vm_id, seen.site, seen.token) == (spec.vm_id, spec.site, spec.token)
    assert seen.address
    assert sky.cloud.read_instances(spec.site) == [seen]
    assert sky.cloud.read_instance(first.instance_id) == seen


def test_a_token_at_once_in_several_threads_starts_one_instance(sky: Sky) -> None:
    spec = _spec()
    seen = at_once(lambda _: sky.cloud.ensure_launched(spec), range(THREADS))
    assert len({instance.instance_id for instance in seen}) == 1
    assert len(sky.cloud.find_instances(spec.vm_id)) == 1


def test_a_token_with_other_values_is_refused(sky: Sky) -> None:
    spec = _spec()
    sky.cloud.ensure_launched(spec)
    with pytest.raises(DriverFailure, match="IdempotentParameterMismatch"):
        sky.cloud.ensure_launched(replace(spec, instance_type="t3.micro"))
    assert len(sky.cloud.find_instances(spec.vm_id)) == 1


@pytest.mark.parametrize("error", [NoCapacity, Throttled])
def test_what_may_pass_is_told_from_what_will_not_and_nothing_is_repeated(
    sky: Sky, error: type[Exception]
) -> None:
    spec = _spec()
    sky.fail(error)
    with pytest.raises(error):
        sky.cloud.ensure_launched(spec)
    assert sky.cloud.find_instances(spec.vm_id) == []
    assert sky.cloud.ensure_launched(spec).vm_id == spec.vm_id


def test_an_answer_that_is_lost_is_given_again(sky: Sky) -> None:
    spec = _spec()
    sky.lose()
    with pytest.raises(Transient) as lost:
        sky.cloud.ensure_launched(spec)
    assert isinstance(lost.value, (TimedOut, HostUnreachable))
    (seen,) = sky.cloud.find_instances(spec.vm_id)
    assert sky.cloud.ensure_launched(spec).instance_id == seen.instance_id


def test_terminated_once_and_gone(sky: Sky) -> None:
    spec = _spec()
    seen = sky.cloud.ensure_launched(spec)
    assert sky.cloud.ensure_terminated(seen.instance_id) is True
    assert sky.cloud.ensure_terminated(seen.instance_id) is False
    assert sky.cloud.ensure_terminated("i-0123456789abcdef0") is False
    assert sky.cloud.find_instances(spec.vm_id) == []
    assert sky.cloud.read_instances(spec.site) == []
    ended = sky.cloud.read_instance(seen.instance_id)
    assert ended is None or ended.state == "gone"
    assert sky.cloud.read_instance("i-0123456789abcdef0") is None


def test_an_image_is_there_or_not(sky: Sky) -> None:
    sky.cloud.check_image(AMI)
    with pytest.raises(NotFound, match="no image"):
        sky.cloud.check_image("none-of-these")


def test_a_cloud_that_does_not_answer_is_unreachable(sky: Sky) -> None:
    for call in (
        lambda: sky.unreachable.check_image(AMI),
        lambda: sky.unreachable.ensure_launched(_spec()),
        lambda: sky.unreachable.read_instances("site"),
        lambda: sky.unreachable.ensure_terminated("i-0123456789abcdef0"),
    ):
        with pytest.raises(HostUnreachable):
            call()


@pytest.mark.parametrize(
    "uri",
    [
        "ec2://",
        "ec2:///eu-west-1",
        "ec2://eu-west-1?endpoint=ftp://127.0.0.1",
        "ec2://eu-west-1?key=AKIAIOSFODNN7EXAMPLE",
        "ec2://AKIAIOSFODNN7EXAMPLE:secret@eu-west-1",
    ],
)
def test_a_malformed_uri_is_refused_and_no_credential_repeated(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        registry.cloud(uri, Access(tmp_path / "key", tmp_path / "known_hosts"))
    assert "AKIA" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_without_credentials_it_says_so(
    ec2: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    cloud = registry.cloud(ec2.uri, Access(tmp_path / "key", tmp_path / "known_hosts"))
    with pytest.raises(DriverFailure, match="no credentials"):
        cloud.read_instances("site")

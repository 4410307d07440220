"""Onboarding: run twice it changes nothing, changed it converges, and bad files say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from tests.flows.site import ACTOR, Site
from vdc import passwords
from vdc.claims.deploy import claim_deploy
from vdc.errors import Conflict, Forbidden, Invalid, NoCapacity, QuotaExceeded
from vdc.inventory import read_session, write_session
from vdc.onboarding import Onboarded, onboard, parse
from vdc.pricing import ListPrices
from vdc.requests import DeployRequest
from vdc.schema import Image, Operation, Tenant, User, Vm, Vnet
from vdc.security_groups import listing, set_members

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGluZGlzdGluZ3Vpc2hhYmxlZnJvbWFyZWFsb25lISE= a@b"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site.copied() as made:
        yield made


def _file(**changes: Any) -> dict[str, Any]:
    return {
        "tenant": "acme",
        "time_zone": "Europe/Madrid",
        "quota": {"vms": 3, "memory_mib": 512},
        "user": {"name": "alice", "ssh_keys": [KEY]},
        "network": {"cidr": "10.20.0.0/24", "gateway": "10.20.0.1"},
        "template": {"name": "web", "image": "tiny", "memory_mib": 128},
    } | changes


def _run(site: Site, values: dict[str, Any], vlans: str = "1000-1999") -> Onboarded:
    wanted = parse(yaml.safe_dump(values), "acme.yaml")
    with write_session(site.url) as session:
        return onboard(session, wanted, uplink=site.sim.network_uri(), vlans=vlans, actor=ACTOR)


def _deploy(site: Site, **request: Any) -> None:
    with write_session(site.url) as session:
        claim_deploy(session, DeployRequest(**request), actor=ACTOR, prices=ListPrices())


def test_security_groups_are_made_and_changed_while_nobody_is_in_them(site: Site) -> None:
    _run(site, _file(security_groups=[{"name": "web", "rules": ["in tcp 80", "out any"]}]))
    other = _file(security_groups=[{"name": "web", "rules": ["in tcp 81"]}])
    assert _run(site, other).changes == ["security group web: rules changed"]
    assert _run(site, other).changes == []
    with write_session(site.url) as session:
        (group,) = listing(session, "acme")
        assert group["rules"] == ["in tcp 81 from 0.0.0.0/0"]
    _deploy(site, template="acme-web", tenant="acme", name="one")
    with write_session(site.url) as session:
        vm_id = session.scalars(select(Vm.id)).one()
        set_members(session, vm_id, [group["id"]])
    with pytest.raises(Conflict, match="vdc sg add-rule"):
        _run(site, _file(security_groups=[{"name": "web", "rules": ["in tcp 82"]}]))
    with pytest.raises(Invalid, match="write it like"):
        _run(site, _file(security_groups=[{"name": "web", "rules": ["in"]}]))


def test_the_second_run_changes_nothing(site: Site) -> None:
    first = _run(site, _file())
    assert [c.split()[0] for c in first.changes] == ["tenant", "user", "network", "template"]
    before = site.rows()
    second = _run(site, _file())
    assert second.changes == []
    assert site.rows() == before, "not even a line in the journal"
    assert (second.vnet, second.vlan_id, second.template) == ("acme-net", 1000, "acme-web")


def test_a_changed_file_is_converged_to_and_says_what_changed(site: Site) -> None:
    _run(site, _file())
    hashed = passwords.hash_password("correct horse battery")
    changed = _file(quota={"vms": 5}, user={"name": "alice", "ssh_keys": [], "password_hash": hashed})
    done = _run(site, changed)
    assert done.changes == [
        "tenant acme: max_vms 3 -> 5",
        "tenant acme: max_memory_mib 512 -> None",
        "user alice: ssh_keys changed",
        "user alice: password_hash changed",
        "template acme-web: ssh_keys changed",
    ]
    with read_session(site.url) as session:
        assert session.query(Tenant).filter_by(name="acme").one().max_vms == 5
        stored = session.query(User).filter_by(name="alice").one().password_hash
        journal = session.query(Operation).filter_by(kind="onboard").all()
    assert passwords.verify("correct horse battery", stored)
    assert not passwords.verify("wrong horse battery", stored)
    assert all(hashed not in str(operation.spec) for operation in journal), "no secret in the journal"


def test_each_tenant_gets_a_vlan_of_its_own_until_the_range_is_empty(site: Site) -> None:
    for number, name in enumerate(("acme", "bolt")):
        done = _run(site, _file(tenant=name, user={"name": f"{name}-admin"}), vlans="1000-1001")
        assert done.vlan_id == 1000 + number
    with pytest.raises(NoCapacity, match="exhausted"):
        _run(site, _file(tenant="core", user={"name": "carol"}), vlans="1000-1001")
    with read_session(site.url) as session:
        assert session.query(Vnet).filter(Vnet.cidr == "10.20.0.0/24").count() == 2, "they may overlap"


def test_machines_stand_in_the_way_of_a_smaller_quota_and_another_network(site: Site) -> None:
    _run(site, _file())
    _deploy(site, template="acme-web", tenant="acme", count=2)
    with pytest.raises(QuotaExceeded, match="1 machines is below the 2 in use"):
        _run(site, _file(quota={"vms": 1}))
    with pytest.raises(Conflict, match="2 leases"):
        _run(site, _file(network={"cidr": "10.30.0.0/24"}))
    with pytest.raises(QuotaExceeded, match="2 of 3 machines used, 2 more asked"):
        _deploy(site, template="acme-web", tenant="acme", count=2)


def test_what_belongs_to_a_tenant_is_its_alone(site: Site) -> None:
    _run(site, _file())
    with pytest.raises(Forbidden, match="acme-web belongs to another tenant"):
        _deploy(site, template="acme-web")
    with pytest.raises(Forbidden, match="acme-net belongs to another tenant"):
        _deploy(site, template="tiny", vnets=["acme-net"])
    with pytest.raises(Conflict, match="alice is taken"):
        _run(site, _file(tenant="bolt"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "colour: extra inputs are not permitted"),
        ({"quota": {"machines": 3}}, "quota.machines: extra inputs"),
        ({"quota": {"vms": "3"}}, "quota.vms: input should be a valid integer"),
        ({"quota": {"vms": -1}}, "quota.vms: input should be greater"),
        ({"tenant": "Acme Inc"}, "Tenant name 'Acme Inc' is refused"),
        ({"time_zone": "Mars/Olympus"}, "Time zone 'Mars/Olympus'"),
        ({"time_zone": "../../etc/passwd"}, "Time zone"),
        ({"user": {"name": "alice", "ssh_keys": ["hello"]}}, "SSH key 'hello' is none"),
        ({"user": {"name": "alice", "ssh_keys": ["ssh-rsa AAAA"]}}, "does not hold a key of type ssh-rsa"),
        ({"user": {"name": "alice", "password_hash": "secret"}}, "is no argon2 hash"),
        ({"network": {"cidr": "10.20.0.1/24"}}, "has host bits set"),
        ({"network": {"cidr": "10.20.0.0/24", "gateway": "10.9.0.1"}}, "not a host address"),
        ({"template": {"name": "web", "image": "tiny", "memory_mib": 1}}, "1 MiB of memory is refused"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(site: Site, changes: dict[str, Any], says: str) -> None:
    before = site.rows()
    with pytest.raises(Invalid) as refused:
        _run(site, _file(**changes))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert site.rows() == before


def test_users_and_machines_of_the_file(site: Site) -> None:
    users = [{"name": "bob", "ssh_keys": [KEY]}, {"name": "bea", "role": "tenant-administrator"}]
    values = _file(users=users, machines=[{"name": "web-1"}, {"name": "web-2"}])
    first = _run(site, values)
    assert [c for c in first.changes if c.startswith(("user", "machine"))] == [
        "user alice made",
        "user bob made",
        "user bea made",
        "machine web-1 to be made",
        "machine web-2 to be made",
    ]
    _deploy(site, template="acme-web", tenant="acme", name="web-1")
    users[1]["role"] = "user"
    second = _run(site, values)
    assert second.changes == [
        "user bea: role tenant-administrator -> user",
        "machine web-2 to be made",
    ]
    with read_session(site.url) as session:
        roles = dict(session.execute(select(User.name, User.role)).all())
    assert roles == {"alice": "tenant-administrator", "bob": "user", "bea": "user"}
    for users, says in (
        ([{"name": "alice"}], "alice is in the file more than once"),
        ([{"name": "root"}], "'root' is refused"),
        ([{"name": "eve", "role": "administrator"}], "role: input should be 'user' or"),
        ([{"name": "eve", "ssh_keys": ["no key"]}], "SSH key 'no key' is none"),
    ):
        with pytest.raises(Invalid, match=says):
            _run(site, _file(users=users))


def test_yaml_that_is_none_or_acts_is_refused() -> None:
    for text in ("a: [", "!!python/object/apply:os.system ['true']", "- 1", ""):
        with pytest.raises(Invalid, match=r"acme\.yaml"):
            parse(text, "acme.yaml")


def test_an_image_of_another_tenant_is_not_for_its_template(site: Site) -> None:
    _run(site, _file())
    other = _file(tenant="other", user={"name": "bob"}, network={"cidr": "10.21.0.0/24"})
    with write_session(site.url) as session:
        acme = session.query(Tenant).filter(Tenant.name == "acme").one()
        session.query(Image).update({"tenant_id": acme.id, "published": False})
    assert _run(site, _file()).changes == []
    with pytest.raises(Forbidden, match="tiny belongs to another tenant than other, and is not published"):
        _run(site, other)
    with write_session(site.url) as session:
        session.query(Image).update({"published": True})
    assert _run(site, other).template == "other-web"

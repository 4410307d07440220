"""Who may do what: every role, operation and relation; what is foreign is as if it were not there."""

from __future__ import annotations

import io
import itertools
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from interfaces.cli.refusals import write_down
from tests.flows.site import ACTOR, Site
from vdc import access, accounts, identity
from vdc.access import RULES, TABLE, Actor, Relation, Role, allowed
from vdc.catalog import create_tenant
from vdc.claims.deploy import claim_deploy
from vdc.claims.hosts import check_enrolment
from vdc.claims.images import check_import
from vdc.errors import Conflict, Forbidden, Invalid, NotFound
from vdc.inventory import read_session, write_session
from vdc.pricing import ListPrices
from vdc.reading import Select
from vdc.records import Outcome, close_batch, record_provisioned
from vdc.requests import DeployRequest, EnrollHostRequest, ImportImageRequest
from vdc.schema import Image, LoginFailure, Operation, Refusal, Template, Tenant, Token, User, Vnet
from vdc.settings import load

PASSWORD = "correct horse battery"

# What docs/access.md says, written down again: o own, t of the tenant, s shared, x of others.
SAID = {
    "vm.see": ("otsx", "ots", "os"),
    "vm.start vm.stop vm.reboot vm.reset vm.pause vm.resume vm.suspend vm.console vm.vnc": ("", "ots", "os"),
    "vm.attach-disk vm.detach-disk vm.attach-nic vm.detach-nic disk.remove": ("", "ot", "o"),
    "disk.see": ("otsx", "ot", "o"),
    "vm.deploy vm.terminate vm.resize vm.snapshot vm.revert vm.delete-snapshot": ("", "ot", "o"),
    "vm.keep-snapshot vm.save-as": ("", "ot", "o"),
    "vm.assign-groups": ("", "ot", "o"),
    "sg.see": ("otsx", "ot", "ot"),
    "sg.create sg.delete sg.change": ("", "ot", ""),
    "router.see": ("otsx", "ot", "ot"),
    "router.create router.redeploy router.delete vm.redeploy": ("", "ot", ""),
    "router.add-forward router.remove-forward": ("", "ot", ""),
    "vm.hold vm.release vm.protect vm.unprotect vm.rename vm.share vm.unshare": ("", "ot", "o"),
    "image.see template.see vnet.see": ("otsx", "ots", "ots"),
    "image.clone": ("", "ots", "ots"),
    "image.delete image.share image.unshare image.persistent image.nonpersistent": ("", "ot", "o"),
    "image.publish image.unpublish": ("", "ot", ""),
    "template.create template.delete template.share template.unshare template.context": ("", "ot", "o"),
    "template.see-context": ("otsx", "ots", "ots"),
    "vm.see-context": ("otsx", "ot", "o"),
    "tenant.see tenant.see-context tenant.see-secrets": ("otsx", "ot", "ot"),
    "tenant.context tenant.secret": ("", "ot", ""),
    "site.context site.see-context site.secret site.see-secrets": ("", "", ""),
    "user.see": ("otsx", "ot", "o"),
    "user.create user.disable user.enable user.unlock user.quota": ("", "ot", ""),
    "user.passwd": ("o", "ot", "o"),
    "user.token": ("o", "o", "o"),
    "operation.see": ("otsx", "ot", "o"),
    "bill.see": ("otsx", "ot", ""),
    "bill.check report.see host.see datastore.see cloud.see group.see": ("otsx", "", ""),
    # For administrators alone, as all that no rule names.
    "vm.migrate vm.give host.enroll host.drain host.enable image.import": ("", "", ""),
    "tenant.create tenant.onboard tenant.offboard tenant.quota": ("", "", ""),
    "site.reconcile site.meter site.sweep-snapshots site.verify": ("", "", ""),
    "month.bill burnin.burnin scale-test.scale-test": ("", "", ""),
    "datastore.create datastore.mount vnet.create group.create cloud.create what.ever": ("", "", ""),
}
LETTERS = dict(zip("otsx", Relation, strict=True))
ROLES = (Role.SUPERVISOR, Role.TENANT_ADMINISTRATOR, Role.USER)


def test_every_role_operation_and_relation() -> None:
    said = {operation: may for operations, may in SAID.items() for operation in operations.split()}
    assert set(TABLE) <= set(said), "a rule that is not in this list"
    for operation, relation in itertools.product(said, Relation):
        assert allowed(Role.ADMINISTRATOR, operation, frozenset({relation}))
        for role, letters in zip(ROLES, said[operation], strict=True):
            expected = relation in {LETTERS[letter] for letter in letters}
            assert allowed(role, operation, frozenset({relation})) is expected, (role, operation, relation)


def test_whoever_may_do_something_to_an_object_may_see_it() -> None:
    for rule in RULES:
        see = TABLE[f"{rule.kind}.see"]
        for operation in rule.operations:
            for role in Role:
                assert TABLE[f"{rule.kind}.{operation}"][role] <= see[role], (rule.kind, operation, role)


def build(directory: Path, url: str = "") -> Site:
    """Tenants acme (ann administers; al, amy are users) and bolt (bo); supervisor sue, administrator ada.

    al, amy and bo have a machine each: `web`, `db`, `bolt-secret`; template and image `bolt-tiny` and network
    `green` are bolt's.
    """
    site = Site.create(directory, url)
    with write_session(site.url) as session:
        for tenant in ("acme", "bolt"):
            create_tenant(session, tenant, actor=ACTOR)
        for name, tenant, role in (
            ("ann", "acme", Role.TENANT_ADMINISTRATOR),
            ("al", "acme", Role.USER),
            ("amy", "acme", Role.USER),
            ("bo", "bolt", Role.USER),
            ("sue", "default", Role.SUPERVISOR),
            ("ada", "default", Role.ADMINISTRATOR),
        ):
            accounts.create_user(session, name, role=role, tenant=tenant, actor=ACTOR)
        bolt = session.scalars(select(User.tenant_id).where(User.name == "bo")).one()
        image = _copy(session, Image, id="i2", name="bolt-tiny", tenant_id=bolt, published=False)
        _copy(session, Template, id="t2", name="bolt-tiny", tenant_id=bolt, image_id=image.id)
        session.execute(update(Vnet).where(Vnet.name == "green").values(tenant_id=bolt))
        blue = session.scalars(select(Vnet.id).where(Vnet.name == "blue")).one()
        session.execute(update(Template).values(vnet_ids=[blue]))
    for name, machine, tenant in (
        ("al", "web", "acme"),
        ("amy", "db", "acme"),
        ("bo", "bolt-secret", "bolt"),
    ):
        _deploy(site, name, machine, tenant)
    return site


def _copy(session: Session, table: Any, **changes: Any) -> Any:
    row = session.scalars(select(table)).one()
    values = {column.key: getattr(row, column.key) for column in table.__table__.columns}
    copied = table(**values | changes)
    session.add(copied)
    session.flush()
    return copied


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture
def site(built: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """As `build` makes it, and no other test has touched it."""
    inventory = tmp_path / "inventory.db"
    with sqlite3.connect(built.url.removeprefix("sqlite:///")) as source, sqlite3.connect(inventory) as copy:
        source.backup(copy)
    return _use(Site(built.sim, f"sqlite:///{inventory}"), tmp_path, monkeypatch)


def _use(site: Site, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("VDC_DATABASE_URL", site.url)
    monkeypatch.setenv("VDC_HOME", str(directory / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(directory / "state"))
    return site


def _actor(site: Site, name: str) -> Actor:
    with read_session(site.url) as session:
        query = select(User, Tenant.name).join(Tenant, Tenant.id == User.tenant_id).where(User.name == name)
        user, tenant = session.execute(query).one()
        return Actor(user.name, Role(user.role), user.id, user.tenant_id, tenant)


def _deploy(site: Site, name: str, machine: str, tenant: str) -> None:
    actor = _actor(site, name)
    request = DeployRequest(template="tiny", tenant=tenant, name=machine)
    with write_session(site.url) as session:
        access.bind(session, actor)
        made = claim_deploy(session, request, actor=name, prices=ListPrices()).batch
        record_provisioned(session, [Outcome(m.claim, m.spec, datetime.now(UTC)) for m in made.machines])
        close_batch(session, made.claim)


class Typed:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Type = Callable[..., Typed]


@pytest.fixture
def typed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Type:
    """`typed("al", "vm", "list")`: what al sees of a command."""
    site: Site = request.getfixturevalue("on_both" if "on_both" in request.fixturenames else "site")
    tokens: dict[str, str] = {}

    def run(who: str, *arguments: str) -> Typed:
        if who and who not in tokens:
            with write_session(site.url) as session:
                tokens[who] = accounts.issue_token(session, who, 1, actor=ACTOR)[0]
        monkeypatch.setenv("VDC_TOKEN", tokens.get(who, ""))
        capsys.readouterr()
        given = list(arguments)
        code = guarded(
            lambda: cli.main(list(given), prog_name="vdc", standalone_mode=False),
            given,
            lambda error: write_down(cli, given, error),
        )
        seen = capsys.readouterr()
        return Typed(code, seen.out, seen.err)

    return run


def _names(seen: Typed) -> set[str]:
    assert seen.code == 0, seen.err
    return {row["name"] for row in seen.json}


@pytest.fixture
def on_both(inventory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return _use(build(tmp_path, inventory_url), tmp_path, monkeypatch)


def test_each_sees_what_is_theirs_in_every_listing(on_both: Site, typed: Type) -> None:
    everything = {"web", "db", "bolt-secret"}
    for who, machines in {
        "": everything,
        "ada": everything,
        "sue": everything,
        "ann": {"web", "db"},
        "al": {"web"},
        "bo": {"bolt-secret"},
    }.items():
        assert _names(typed(who, "vm", "list", "--json")) == machines, who
    for noun, of_al, of_bo in (
        ("image", {"tiny"}, {"tiny", "bolt-tiny"}),
        ("template", {"tiny"}, {"tiny", "bolt-tiny"}),
        ("vnet", {"blue"}, {"blue", "green"}),
        ("tenant", {"acme"}, {"bolt"}),
        ("user", {"al"}, {"bo"}),
        ("host", set(), set()),
        ("datastore", set(), set()),
        ("group", set(), set()),
    ):
        assert _names(typed("al", noun, "list", "--json")) == of_al, noun
        assert _names(typed("bo", noun, "list", "--json")) == of_bo, noun
    assert _names(typed("ann", "user", "list", "--json")) == {"ann", "al", "amy"}
    assert [row["vm"] for row in typed("al", "vnet", "leases", "blue", "--json").json] == ["web"]
    said = [
        typed("al", *command.split(), "--json").out
        for command in ("vm list --all", "operation list", "audit", "image list", "template list", "status")
    ]
    assert not any("bolt" in text or '"bo"' in text for text in said)


@pytest.mark.parametrize(
    "command",
    [
        "vm show NAME",
        "vm terminate NAME",
        "vm terminate NAME --plan --json",
        "vm stop NAME",
        "vm rename NAME other",
        "vm protect NAME",
        "vm hold NAME",
        "vm snapshot create NAME",
        "vm snapshot list NAME",
        "vm save-as NAME other",
        "vm resize NAME --vcpu 2",
        "vm disk attach NAME --size 1G",
        "vm nic detach NAME blue",
        "vm console NAME",
        "vm vnc NAME",
        "share vm/NAME --with-user amy",
        "image show NAME",
        "image delete NAME",
        "image clone NAME other",
        "image publish NAME",
        "template delete NAME",
        "vm deploy --template NAME",
        "vm deploy --template tiny --tenant NAME",
        "vm deploy --template tiny --vnet NAME",
        "vnet leases NAME",
        "user passwd NAME --password-stdin",
        "user disable NAME",
        "user token NAME",
        "bill preview --tenant NAME",
        "usage --tenant NAME",
    ],
)
def test_what_is_foreign_is_as_if_it_were_not_there(
    site: Site, typed: Type, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same words, but for the name; also for the tenant's administrator."""
    noun = command.split()[0]
    foreign = {"image": "bolt-tiny", "template": "bolt-tiny", "user": "bo", "bill": "bolt", "usage": "bolt"}
    name = foreign.get(noun, "bolt-secret")
    if noun == "vm" and "--" in command and command.split()[-1] == "NAME":
        name = {"--template": "bolt-tiny", "--tenant": "bolt", "--vnet": "green"}[command.split()[-2]]
    if noun == "vnet":
        name = "green"
    for who in ("al", "ann"):
        seen = []
        for called in (name, "zz-nothing"):
            monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
            seen.append(typed(who, *command.replace("NAME", called).split()))
        there, not_there = seen
        assert there.code == not_there.code == 3, there.err
        assert there.err.replace(name, "N") == not_there.err.replace("zz-nothing", "N")
        assert there.out.replace(name, "N") == not_there.out.replace("zz-nothing", "N")
        assert "bolt" not in there.err.replace(name, "N")


FORBIDDEN = [
    ("al", "vm migrate web"),
    ("ann", "vm migrate web --to h2"),
    ("sue", "vm deploy --template tiny --tenant acme"),
    ("sue", "vm stop web"),
    ("sue", "vm terminate web --plan"),
    ("sue", "vm vnc web"),
    ("sue", "vm snapshot create web"),
    ("sue", "vm disk attach web --size 1G"),
    ("sue", "user add eve --no-password"),
    ("sue", "image clone tiny other"),
    ("sue", "template delete tiny"),
    ("ann", "template delete tiny"),
    ("ann", "image delete tiny"),
    ("ann", "image import /etc/passwd --name x --datastore shared"),
    ("ann", "user add eve --role supervisor --no-password"),
    ("ann", "user token al"),
    ("al", "user add eve --no-password"),
    ("al", "tenant create other"),
    ("ann", "tenant create other"),
    ("ann", "tenant offboard acme --export /tmp/vdc-not-made --with-machines --with-disks --plan"),
    ("ann", "datastore create d --uri {datastore}"),
    ("ann", "vnet create v --uri vlan://x --vlan 7 --cidr 10.7.0.0/24"),
    ("ann", "group create g --policy affinity"),
    ("al", "bill preview"),
    ("al", "usage"),
    ("ann", "bill month 2026-10"),
    ("ann", "down"),
    ("sue", "up"),
]


@pytest.mark.parametrize(("who", "command"), FORBIDDEN, ids=[f"{w}: {c}" for w, c in FORBIDDEN])
def test_what_is_forbidden_touches_nothing_and_is_written_down(
    site: Site, typed: Type, who: str, command: str
) -> None:
    command = command.format(datastore=site.sim.datastore_uri())
    typed(who, "whoami")  # makes the token
    before = site.rows()
    seen = typed(who, *command.split())
    assert seen.code == 3, seen.err
    assert site.rows() == before
    assert site.count(Refusal) == 1
    row = typed(who, "audit", "--json").json[0]
    assert (row["who"], row["outcome"]) == (who, "refused")
    assert row["error"].startswith(("Forbidden: ", "NotFound: "))
    assert row["what"].split()[0] == command.split()[0]


def test_flows_that_are_for_administrators_ask_before_they_touch_anything(site: Site) -> None:
    enroll = EnrollHostRequest(name="h9", uri="qemu+ssh://root@127.0.0.1:9/system")
    import_ = ImportImageRequest(file="/etc/passwd", name="x", datastore="shared")
    for name in ("ann", "al", "sue"):
        with read_session(site.url) as session:
            access.bind(session, _actor(site, name))
            with pytest.raises(Forbidden, match=f"{name} .* may not enroll host/h9"):
                check_enrolment(session, enroll)
            with pytest.raises(Forbidden, match=f"{name} .* may not import image/x"):
                check_import(session, import_)


def test_a_machine_that_is_shared_can_be_used_and_not_taken(site: Site, typed: Type) -> None:
    assert typed("al", "share", "vm/web", "--with-tenant", "bolt").code == 0
    assert "already shared" in typed("al", "share", "vm/web", "--with-tenant", "bolt").out
    assert _names(typed("bo", "vm", "list", "--json")) == {"web", "bolt-secret"}
    assert typed("bo", "vm", "stop", "web", "--plan").code == 0
    refused = typed("bo", "vm", "terminate", "web")
    assert (refused.code, refused.err) == (3, "Refused: bo (user) may not terminate vm/web.\n")
    assert typed("bo", "share", "vm/web", "--with-user", "bo").code == 3
    assert typed("ann", "unshare", "vm/web", "--with-tenant", "bolt").code == 0
    assert _names(typed("bo", "vm", "list", "--json")) == {"bolt-secret"}
    assert "Known" not in typed("al", "share", "vm/web", "--with-user", "nobody").err


def test_an_image_and_template_that_are_shared_can_be_deployed(site: Site, typed: Type) -> None:
    deploy = ("vm", "deploy", "--template", "bolt-tiny", "--vnet", "blue", "--plan")
    assert "no template 'bolt-tiny'" in typed("al", *deploy).err
    assert typed("bo", "share", "template/bolt-tiny", "--with-user", "al").code == 3, "bolt's, not bo's own"
    assert typed("ada", "share", "template/bolt-tiny", "--with-user", "al").code == 0
    assert "not published" in typed("al", *deploy).err
    assert typed("ada", "share", "image/bolt-tiny", "--with-tenant", "acme").code == 0
    assert typed("al", *deploy).code == 0
    assert typed("amy", *deploy).code == 3


def test_what_somebody_makes_is_theirs(site: Site, typed: Type) -> None:
    assert typed("al", "template", "create", "mine", "--image", "tiny", "--memory-mib", "64").code == 0
    with read_session(site.url) as session:
        template = session.scalars(select(Template).where(Template.name == "mine")).one()
        assert (template.owner_id, template.tenant_id) == (
            _actor(site, "al").user_id,
            _actor(site, "al").tenant_id,
        )
    assert "may not delete" in typed("amy", "template", "delete", "mine").err
    assert typed("al", "template", "delete", "mine").code == 0
    assert typed("al", "vm", "deploy", "--template", "tiny", "--plan").code == 0, "of the own tenant"


def test_login(site: Site, typed: Type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def say(password: str, *arguments: str) -> Typed:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        return typed("", *arguments, "--password-stdin")

    assert say(PASSWORD, "user", "passwd", "al").code == 0
    wrong = say("something else", "login", "al")
    assert (wrong.code, wrong.err) == (3, "Refused: Name or password is wrong, or 'al' may not log in.\n")
    assert say("x" * 12, "login", "nobody").err == wrong.err.replace("'al'", "'nobody'")
    assert say(PASSWORD, "login", "al").out.startswith("Logged in as al until ")
    kept = tmp_path / "state" / "vdc" / "logins.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert typed("", "whoami", "--json").json == {
        "name": "al",
        "role": "user",
        "tenant": "acme",
        "by": "a login",
    }
    assert _names(typed("", "vm", "list", "--json")) == {"web"}
    (token,) = json.loads(kept.read_text()).values()
    assert token not in str(site.rows())
    assert PASSWORD not in str(site.rows())
    assert typed("", "logout").out == "Logged out.\n"
    monkeypatch.setenv("VDC_TOKEN", token)
    assert len(_names(typed("", "vm", "list", "--json"))) == 3, "the operating-system administrator again"
    with read_session(site.url) as session, pytest.raises(Forbidden, match="not known"):
        identity.by_token(_select(session), token, datetime.now(UTC))


def test_who_guesses_passwords_has_to_wait_longer_and_longer(
    site: Site, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With hashes that cost nothing: forty of the true ones take seconds, here as for whoever guesses.
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("argon2.PasswordHasher", lambda: cheap)
    monkeypatch.setattr("vdc.passwords._NOBODYS", cheap.hash("nobody's"))

    def say(name: str, password: str = "guessed") -> Typed:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        return typed("", "login", name, "--password-stdin")

    now = [datetime.now(UTC)]
    monkeypatch.setattr(accounts, "utc_now", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += timedelta(seconds=seconds)

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert typed("", "user", "passwd", "al", "--password-stdin").code == 0
    for _ in range(3):
        assert "Name or password is wrong" in say("al").err
    assert say("al", PASSWORD).code == 0, "and all is forgotten"
    for name in ("al", "nobody"):
        for _ in range(5):
            assert "Name or password is wrong" in say(name).err
        assert say(name, PASSWORD).err.startswith(f"Refused: '{name}' is locked for 30 s, after too many")
    later(31)
    assert "Name or password is wrong" in say("al").err
    assert "locked for 60 s" in say("al", PASSWORD).err
    row = typed("", "audit", "--json").json[0]
    assert (row["what"], row["outcome"]) == ("login", "refused")
    assert typed("amy", "user", "unlock", "al").code == 3
    assert typed("ann", "user", "unlock", "al").out == "User al can log in again.\n"
    assert say("al", PASSWORD).code == 0
    assert typed("ann", "user", "unlock", "al").out == "User al was not locked.\n"
    for _ in range(6):
        later(16 * 60)
        assert "Name or password is wrong" in say("nobody").err
    assert "locked for 900 s" in say("nobody").err
    later(25 * 3600)
    say("al")
    assert site.count(LoginFailure) == 1, "those of yesterday are forgotten"


def _select(session: Session) -> Select:
    return lambda sql, given: [tuple(row) for row in session.execute(text(sql), given)]


def test_a_token_that_is_forged_expired_or_of_somebody_disabled(site: Site, typed: Type) -> None:
    now = datetime.now(UTC)
    with write_session(site.url) as session:
        token, expires = accounts.issue_token(session, "al", 1, actor=ACTOR)
        select_ = _select(session)
        assert identity.by_token(select_, token, now).name == "al"
        forged = token[:-1] + ("A" if token[-1] != "A" else "B")
        for wrong in (forged, token.upper(), "vdc_", "' OR 1=1 --"):
            with pytest.raises(Forbidden, match="The token is not known"):
                identity.by_token(select_, wrong, now)
        with pytest.raises(Forbidden, match=r"expired at .* `vdc login al`"):
            identity.by_token(select_, token, expires + timedelta(seconds=1))
        assert accounts.set_enabled(session, "al", False, actor=ACTOR)
        with pytest.raises(Forbidden, match="The token is not known"):
            identity.by_token(select_, token, now)
        assert session.scalars(select(Token)).all() == []
        assert not accounts.set_enabled(session, "al", False, actor=ACTOR)
        with pytest.raises(Invalid, match="is disabled"):
            accounts.issue_token(session, "al", 1, actor=ACTOR)
        accounts.set_enabled(session, "al", True, actor=ACTOR)
        assert "Name or password is wrong" in str(accounts.login(session, "al", PASSWORD, 1))
        with pytest.raises(Invalid, match="for 0 hours"):
            accounts.issue_token(session, "al", 0, actor=ACTOR)


def test_a_bad_token_shows_nothing_and_is_written_down(
    site: Site, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = typed("", "whoami")
    monkeypatch.setenv("VDC_TOKEN", "vdc_forged")
    code = guarded(
        lambda: cli.main(["vm", "list"], standalone_mode=False),
        [],
        lambda e: write_down(cli, ["vm", "list"], e),
    )
    assert (seen.code, code) == (0, 3)
    with read_session(site.url) as session:
        refusal = session.scalars(select(Refusal)).one()
        assert refusal.requested_by.endswith(", not logged in")
        assert (refusal.asked, refusal.kind) == ("vm list", "Forbidden")


def test_who_is_nobody_of_the_operating_system_must_log_in(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    (tmp_path / "home").mkdir()
    monkeypatch.delenv("VDC_TOKEN", raising=False)
    with pytest.raises(Forbidden, match="Nobody is logged in"):
        identity.acting(load())
    monkeypatch.setenv("VDC_ACTOR", "schedule")
    with pytest.raises(Forbidden, match="Nobody is logged in"):
        identity.acting(load())


def test_the_worker_acts_for_the_user_that_a_setting_names(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VDC_TOKEN", raising=False)
    monkeypatch.setenv("VDC_ACTOR", "user/ann")
    actor = identity.acting(load())
    assert (actor.name, actor.role, actor.house) == ("ann", Role.TENANT_ADMINISTRATOR, "acme")
    monkeypatch.setenv("VDC_ACTOR", "user/nobody")
    with pytest.raises(Forbidden, match="prefect_ui_user names 'nobody'"):
        identity.acting(load())
    monkeypatch.setenv("VDC_ACTOR", "prefect-ui")
    assert identity.acting(load()).role is Role.ADMINISTRATOR


def test_users_that_cannot_be(site: Site) -> None:
    with write_session(site.url) as session:
        for name, role, error, says in (
            ("al", "user", Conflict, "is taken"),
            ("Al", "user", Invalid, "User name 'Al' is refused"),
            ("root", "user", Invalid, "the journal means something else"),
            ("eve", "king", Invalid, "Role 'king' is none"),
        ):
            with pytest.raises(error, match=says):
                accounts.create_user(session, name, role=role, actor=ACTOR)
        with pytest.raises(NotFound, match="no tenant 'nope'"):
            accounts.create_user(session, "eve", role="user", tenant="nope", actor=ACTOR)
        with pytest.raises(Invalid, match="at least 10 characters"):
            accounts.create_user(session, "eve", role="user", password="short", actor=ACTOR)
        with pytest.raises(Invalid, match="is none"):
            accounts.create_user(session, "eve2", role="user", ssh_keys=["hello"], actor=ACTOR)
        session.rollback()


def test_audit_says_who_did_what(site: Site, typed: Type) -> None:
    typed("al", "vm", "protect", "web")
    typed("al", "vm", "stop", "nothing")
    typed("amy", "vm", "protect", "db")
    rows = typed("", "audit", "--user", "al", "--json").json
    assert [(r["what"], r["object"], r["outcome"]) for r in rows[:2]] == [
        ("vm stop", "nothing", "refused"),
        ("protect", "vm/web", "done"),
    ]
    assert [r["what"] for r in typed("", "audit", "--object", "web", "--json").json] == ["protect", "deploy"]
    assert typed("", "audit", "--object", "vm/web", "--since", "2099-01-01", "--json").json == []
    assert typed("", "audit", "--since", "yesterday").code == 3
    of_acme = {r["who"] for r in typed("ann", "audit", "--json").json}
    assert of_acme == {"al", "amy", ACTOR}, "what concerns the tenant, whoever asked; nothing else"
    with read_session(site.url) as session:
        row = session.scalars(select(Operation).where(Operation.kind == "protect")).first()
        assert row is not None
        assert (row.user_id, row.tenant_id) == (_actor(site, "al").user_id, _actor(site, "al").tenant_id)

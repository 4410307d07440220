"""Every refusal that needs no lab, as a user types it: exit code 3, one sentence, nothing touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.simulated import host_facts
from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.site import ACTOR, Site, settings
from tests.prefect_fixture import free_port
from tests.requires import missing
from vdc import catalog
from vdc.inventory import write_session
from vdc.settings import Settings

SHARED = ("--datastore", "shared")
DEPLOY = ("vm", "deploy", "--template", "tiny")
VXLAN = ("vnet", "create", "red", "--vlan", "7", "--cidr", "10.2.0.0/24", "--uri")
VNET = ("vnet", "create", "red", "--uri", "{trunk}")
ENROLL = ("host", "enroll", "h3", "--network", "{trunk}", "--uri")
IMPORT = ("image", "import")

REFUSALS: list[tuple[tuple[str, ...], str]] = [
    # -- deploy
    (("vm", "deploy", "--template", "nope"), r"no template 'nope'. Known: tiny\."),
    ((*DEPLOY, "--count", "0"), "Count 0 is refused: ask for 1 to 10000"),
    ((*DEPLOY, "--count", "-3"), "Count -3 is refused"),
    ((*DEPLOY, "--count", "10001"), "Count 10001 is refused"),
    (
        (*DEPLOY, "--memory-mib", "999999"),
        r"no host can take it. h1 refused: memory \(.* 999999 needed\); h2",
    ),
    ((*DEPLOY, "--memory-mib", "1"), "1 MiB of memory is refused"),
    ((*DEPLOY, "--vcpu", "0"), "0 vCPU is refused"),
    ((*DEPLOY, "--vcpu", "33"), r"h1 refused: vCPU \(.*33 needed\)"),
    ((*DEPLOY, "--disk-mib", "1"), "A disk of 1 MiB is refused: image tiny has 64 MiB"),
    ((*DEPLOY, "--count", "200", "--memory-mib", "2048"), r"only 63 of 200 machines fit"),
    ((*DEPLOY, "--name", "web;reboot"), "Machine name 'web;reboot' is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "$(id)"), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "w" * 64), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "w" * 500), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "Web"), "is refused: use 1 to 63 lower-case"),
    ((*DEPLOY, "--name", "web_1"), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "-web"), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "web\n"), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "wéb"), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", " "), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "w" * 62, "--count", "2"), "is refused: use 1 to 63"),
    ((*DEPLOY, "--name", "web"), "Machine name 'web' is taken in tenant default"),
    ((*DEPLOY, "--tenant", "nobody"), "no tenant 'nobody'. Known: default, small"),
    ((*DEPLOY, "--vnet", "pink"), "no virtual network 'pink'. Known: blue, green, narrow, tunnel"),
    ((*DEPLOY, "--group", "db"), "no placement group 'db'. No placement group exists yet"),
    ((*DEPLOY, "--policy", "fastest"), "Rank expression 'fastest' fails on host h1"),
    ((*DEPLOY, "--policy", "__import__('os').system('id')"), "Rank expression .* fails on host h1"),
    ((*DEPLOY, "--policy", "vms +"), "neither one of spread, pack, load-aware nor a rank expression"),
    (
        (*DEPLOY, "--tenant", "small", "--count", "2"),
        r"Tenant small would pass its quota: 0 of 1 machines used, 2 more asked; "
        r"0 of 200 MiB memory used, 256 more asked\.",
    ),
    (
        (*DEPLOY, "--vnet", "narrow", "--count", "3"),
        r"Network narrow \(10.7.0.0/30\) is exhausted: 1 of the 3 addresses asked are free",
    ),
    # -- networks
    ((*VNET, "--vlan", "0", "--cidr", "10.2.0.0/24"), r"VLAN 0 is refused: IEEE 802.1Q has 1 to 4094"),
    ((*VNET, "--vlan", "4095", "--cidr", "10.2.0.0/24"), "VLAN 4095 is refused"),
    ((*VNET, "--vlan", "100", "--cidr", "10.2.0.0/24"), "VLAN 100 on .* is in use by network blue"),
    (
        (*VNET[:-1], "{trunk}&qinq=802.1ad", "--vlan", "100", "--cidr", "10.2.0.0/24"),
        "VLAN 100 on .*qinq.* is in use by network blue",
    ),
    ((*VNET[:-1], "{trunk}&qinq=on", "--vlan", "7", "--cidr", "10.2.0.0/24"), "should be 802.1ad or 802.1q"),
    ((*VNET, "--cidr", "10.2.0.0/24"), "needs a VLAN id: add --vlan"),
    ((*VNET, "--vlan", "7", "--cidr", "10.2.0.5/24"), "has host bits set"),
    ((*VNET, "--vlan", "7", "--cidr", "10.2.0.0/31"), "prefix /31"),
    ((*VNET, "--vlan", "7", "--cidr", "many"), "is no IPv4 network"),
    (
        (*VNET, "--vlan", "7", "--cidr", "10.2.0.0/24", "--gateway", "10.3.0.1"),
        "Gateway 10.3.0.1 is not a host",
    ),
    (
        (*VNET, "--vlan", "7", "--cidr", "10.2.0.0/24", "--gateway", "10.2.0.5", "--first", "10.2.0.2"),
        "holds the gateway 10.2.0.5",
    ),
    (
        ("vnet", "create", "blue", "--uri", "{trunk}", "--vlan", "7", "--cidr", "10.2.0.0/24"),
        "'blue' is taken",
    ),
    (("vnet", "create", "", "--uri", "{trunk}", "--vlan", "7", "--cidr", "10.2.0.0/24"), "use 1 to 63"),
    (
        ("vnet", "create", "red", "--uri", "ftp://x", "--cidr", "10.2.0.0/24"),
        "No network driver for 'ftp://x'",
    ),
    ((*VXLAN, "vxlan://"), "should name the hosts' device of its tunnels: vxlan://eth1"),
    ((*VXLAN, "vxlan://eth1?vni_base=16773122"), "vni_base should be a number from 0 to 16773121"),
    ((*VXLAN, "vxlan://eth1?vni_base=-1"), "vni_base should be a number from 0 to"),
    ((*VXLAN, "vxlan://eth1?port=many"), "port should be a number from 1 to 65535"),
    ((*VXLAN, "vxlan://eth1?qinq=802.1q"), "has qinq=802.1q, which vxlan:// does not know"),
    ((*VXLAN, "vxlan://eth1?vni_base=4"), "VLAN 7 on .*vni_base=4 is in use by network tunnel"),
    (("vnet", "create", "red", "--uri", "vxlan://eth1", "--cidr", "10.2.0.0/24"), "add --vlan"),
    # -- images
    ((*IMPORT, "{files}/none.img", "--name", "i", *SHARED), "none.img"),
    ((*IMPORT, "{files}/text", "--name", "i", *SHARED), "text"),
    ((*IMPORT, "{files}/backed.qcow2", "--name", "i", *SHARED), "backing file"),
    ((*IMPORT, "{files}/good.qcow2", "--name", "i", "--sha256", "0" * 64, *SHARED), "sha256|checksum"),
    ((*IMPORT, "{files}/good.qcow2", "--name", "tiny", *SHARED), "Image name 'tiny' is taken"),
    ((*IMPORT, "{files}/good.qcow2", "--name", "I;", *SHARED), "use 1 to 63"),
    (
        (*IMPORT, "{files}/good.qcow2", "--name", "i", "--datastore", "attic"),
        "no datastore 'attic'. Known: shared",
    ),
    (
        (*IMPORT, "/x", "--name", "i", "--tenant", "nobody", *SHARED),
        "no tenant 'nobody'. Known: default, small",
    ),
    ((*IMPORT, "/x", "--name", "i", "--sha256", "abc", *SHARED), "'abc' is no SHA-256: give 64"),
    ((*IMPORT, "http://localhost:1/i", "--name", "i", *SHARED), r"without TLS, .*\(--sha256\), or an https"),
    ((*IMPORT, "ftp://localhost/i", "--name", "i", *SHARED), "a URL of http, https or file"),
    ((*IMPORT, "https://me:key@localhost/i", "--name", "i", *SHARED), "localhost holds a user or password"),
    (
        (*IMPORT, "http://127.0.0.1:1/i", "--name", "i", "--sha256", "0" * 64, "--plan", *SHARED),
        "127.0.0.1:1/i cannot be fetched: .* Nothing was stored",
    ),
    ((*IMPORT, "file:{files}/none.img", "--name", "i", *SHARED), "none.img"),
    (("template", "delete", "tiny"), "tiny is in use: machine web. It can be deleted when they are gone"),
    (("image", "delete", "tiny"), r"tiny is in use: template tiny; machine web\."),
    (("image", "delete", "nope", "--plan"), "no image 'nope'. Known: tiny"),
    (("image", "unpublish", "tiny"), "tiny belongs to no tenant: it is everyone's"),
    (("image", "show", "nope"), "no image 'nope'"),
    (("image", "clone", "tiny", "tiny"), "Image name 'tiny' is taken"),
    (("vm", "save-as", "web", "tiny"), "Image name 'tiny' is taken"),
    (("vm", "save-as", "nope", "i"), "no machine 'nope'"),
    # -- hosts
    ((*ENROLL, "{down}"), "Host h3 is not fit for service: .*cannot be reached"),
    ((*ENROLL, "{h1}"), "is enrolled already, as h1"),
    ((*ENROLL, "{twin}"), "is the one enrolled as h1: they have one UUID"),
    (("host", "enroll", "h1", "--uri", "{new}", "--network", "{trunk}"), "Host name 'h1' is taken"),
    ((*ENROLL, "{new}", "--domain-type", "xen"), "does not offer domain type xen: it has kvm, qemu"),
    ((*ENROLL, "{new}", "--datastore", "attic"), "no datastore 'attic'"),
    ((*ENROLL, "{new}", "--cpu-overcommit", "0"), "cpu_overcommit 0.0 is refused"),
    ((*ENROLL, "{new}", "--memory-overcommit", "nan"), "memory_overcommit nan is refused"),
    ((*ENROLL, "{new}", "--reserved-memory-mib", "9999999"), "nothing is left for machines"),
    ((*ENROLL, "{new}", "--label", "rack"), "Label 'rack' is refused"),
    ((*ENROLL, "{bare}"), "not fit for service: .*no switch trunk0"),
    ((*ENROLL, "ftp://h3"), "No host driver for 'ftp://h3'"),
    (("host", "disable", "h9"), "no host 'h9'. Known: h1, h2"),
    # -- the rest of the catalogue
    (("vm", "terminate", "nope"), "no machine 'nope'"),
    (("vm", "show", "nope"), "no machine 'nope'"),
    (("template", "create", "t", "--image", "nope", "--memory-mib", "128"), "no image 'nope'"),
    (("template", "create", "t", "--image", "tiny", "--memory-mib", "1"), "1 MiB of memory is refused"),
    (
        ("template", "create", "t", "--image", "tiny", "--memory-mib", "128", "--ssh-key", "{files}/text"),
        "SSH key .* is none",
    ),
    (("tenant", "create", "default"), "'default' is taken"),
    (("tenant", "create", "a b"), "use 1 to 63"),
    (("tenant", "create", "acme", "--max-vms", "-1"), "it cannot be negative"),
    (("group", "create", "db", "--policy", "near"), "a group has affinity or anti-affinity"),
    (("datastore", "create", "again", "--uri", "{shared}"), "is datastore shared already"),
]

USAGE: list[tuple[str, ...]] = [
    ("vm", "deploy"),
    (*DEPLOY, "--count", "many"),
    (*DEPLOY, "--start", "asleep"),
    (*DEPLOY, "--colour", "red"),
    ("vm", "terminate"),
    ("vm", "fly"),
    ("nonsense",),
    ("host", "enroll", "h3"),
]


@pytest.fixture(scope="module")
def places(prefect_client: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the words in braces stand for; the site is under "site"."""
    if not shutil.which("qemu-img"):
        missing("qemu-img is not installed (Debian package: qemu-utils)")
    directory = tmp_path_factory.mktemp("refusals")
    site = Site.create(directory)
    sim = site.sim
    sim.add_hosts(["down", "new", "bare", "twin"])
    sim.host_down("down")
    sim.set_uplink("bare", "trunk0", False)
    with sim._db.transaction() as db:
        db.execute("UPDATE hosts SET host_uuid = ? WHERE name = 'twin'", (host_facts("h1").host_uuid,))
    with write_session(site.url) as session:
        catalog.create_tenant(session, "small", max_vms=1, max_memory_mib=200, actor=ACTOR)
        catalog.create_vnet(
            session,
            "narrow",
            uri=sim.network_uri(),
            needs_vlan=True,
            vlan_id=300,
            cidr="10.7.0.0/30",
            gateway="10.7.0.1",
            actor=ACTOR,
        )
        catalog.create_vnet(
            session,
            "tunnel",
            uri="vxlan://eth2?vni_base=1",
            needs_vlan=True,
            vlan_id=10,
            cidr="10.7.1.0/24",
            actor=ACTOR,
        )
    (directory / "text").write_text("hello, I am no disk\n" * 100)
    make = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*make, str(directory / "good.qcow2"), "8M"], check=True)
    subprocess.run(
        [*make, "-u", "-b", "/etc/shadow", "-F", "raw", str(directory / "backed.qcow2"), "8M"], check=True
    )
    with settings(database_url=site.url):
        run.deploy(name="web")
        yield {
            "site": str(directory),
            "files": str(directory),
            "trunk": sim.network_uri(),
            "shared": sim.datastore_uri(),
            **{name: sim.host(name).uri for name in ("h1", "down", "new", "bare", "twin")},
        }


@pytest.fixture
def prefect_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has been told of its Prefect server before: the command would do it a second time."""
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)


def _site(places: dict[str, str]) -> Site:
    from drivers.simulated import Simulation

    return Site(Simulation(Path(places["site"]) / "dc.db"), os.environ["VDC_DATABASE_URL"])


def _vdc(*arguments: str) -> int:
    return guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"), REFUSALS, ids=[" ".join(a)[:60].replace("\n", "") for a, _ in REFUSALS]
)
@pytest.mark.usefixtures("prefect_is_there", "engine")
def test_refused(
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    import re

    site = _site(places)
    before = site.rows(), site.sim.snapshot_state()
    code = _vdc(*(a.format(**places) if a.startswith("{") else a for a in arguments))
    seen = capsys.readouterr()
    assert code == 3, seen.err
    assert seen.out == ""
    assert seen.err.startswith("Refused: ")
    assert re.search(sentence, seen.err), seen.err
    assert seen.err.count("\n") == 1, "one sentence, on one line"
    assert len(seen.err) < 600
    assert (site.rows(), site.sim.snapshot_state()) == before


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_usage(
    places: dict[str, str], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    site = _site(places)
    before = site.rows()
    assert _vdc(*arguments) == 2
    assert "Usage:" in capsys.readouterr().err
    assert site.rows() == before


def test_a_refusal_in_json(places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _vdc(*DEPLOY, "--tenant", "small", "--count", "2", "--json") == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "QuotaExceeded"
    assert error["message"].startswith("Tenant small would pass its quota")


def test_a_plan_touches_nothing_and_says_what_would_be(
    places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    site = _site(places)
    before = site.rows(), site.sim.snapshot_state(), site.sim.call_count()
    assert _vdc(*DEPLOY, "--count", "2", "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [m["host"] for m in plan["machines"]] == ["h2", "h1"]
    assert [m["addresses"][0]["address"] for m in plan["machines"]] == ["10.1.0.2", "10.1.0.3"]
    assert float(plan["cost_per_month"]) > 0
    assert (site.rows(), site.sim.snapshot_state(), site.sim.call_count()) == before


TYPED_IN_TURN = """
import json, sys
from interfaces.cli.main import main
codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps(codes))
"""


def test_work_without_a_server_is_refused(places: dict[str, str], tmp_path: Path) -> None:
    """In a process of its own: nothing of Prefect is imported before, so that this takes no time."""
    site = _site(places)
    before = site.rows(), site.sim.snapshot_state()
    commands = [[*DEPLOY], ["vm", "terminate", "web"], ["reconcile"]]
    seen = subprocess.run(
        [sys.executable, "-c", TYPED_IN_TURN, json.dumps(commands)],
        env=os.environ | {"VDC_HOME": str(tmp_path), "VDC_PREFECT_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(seen.stdout) == [3] * len(commands), seen.stderr
    assert seen.stderr.count("start the control plane with `vdc up`") == len(commands)
    assert (site.rows(), site.sim.snapshot_state()) == before


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_is_there")
def test_a_host_is_enrolled_and_an_image_imported_as_typed(
    prefect_client: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the refusals above refuse is otherwise done."""
    site = Site.create(tmp_path)
    site.sim.add_hosts(["h3"])
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "good.qcow2"), "8M"], check=True
    )
    with settings(database_url=site.url):
        trunk, uri = site.sim.network_uri(), site.sim.host("h3").uri
        assert _vdc("host", "enroll", "h3", "--uri", uri, "--network", trunk, "--label", "ssd=1") == 0
        assert _vdc("image", "import", str(tmp_path / "good.qcow2"), "--name", "good", *SHARED) == 0
        assert _vdc("template", "create", "t", "--image", "good", "--memory-mib", "64", "--vnet", "blue") == 0
        assert _vdc("vm", "deploy", "--template", "t", "--policy", "ssd", "--name", "web") in (0, 3)
        out = capsys.readouterr()
        assert "fails on host h1" in out.err, "the other hosts have no such label"
        assert _vdc("host", "disable", "h1") == _vdc("host", "disable", "h2") == 0
        assert _vdc("vm", "deploy", "--template", "t", "--policy", "ssd", "--name", "web") == 0
        assert _vdc("vm", "list", "--json") == 0
    assert site.spec("web").host.name == "h3"
    site.assert_agrees()

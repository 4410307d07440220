"""An image that is brought from a URL: what is stored is what was promised, and no download stays behind."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import Site, settings
from tests.requires import missing
from vdc.errors import Invalid, NotFound, Unready
from vdc.schema import Image

pytestmark = pytest.mark.prefect


class Server:
    """Gives the files of a directory; `gate` holds back the second half of each."""

    def __init__(self, directory: Path) -> None:
        self.gate, self.halfway = Event(), Event()
        self.gate.set()
        gate, halfway = self.gate, self.halfway

        class Handler(SimpleHTTPRequestHandler):
            def copyfile(self, source, outputfile):  # type: ignore[no-untyped-def]
                body = source.read()
                outputfile.write(body[: len(body) // 2])
                outputfile.flush()
                halfway.set()
                gate.wait(60)
                outputfile.write(body[len(body) // 2 :])

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(directory)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if not shutil.which("qemu-img"):
        missing("qemu-img is not installed (Debian package: qemu-utils)")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "web"
    directory.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(directory / "good"), "8M"], check=True)
    (directory / "disk").write_bytes(bytes(510) + b"\x55\xaa" + bytes(2**20))
    (directory / "text").write_text("hello, I am no disk\n" * 100)
    made = Server(directory)
    with made.http as http:
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.gate.set()
            http.shutdown()
            thread.join()


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Iterator[Path]:
    with settings(home=tmp_path / "home"):
        yield tmp_path / "home"


def _sha256(directory: Path, name: str) -> str:
    return hashlib.sha256((directory / "web" / name).read_bytes()).hexdigest()


def _import(url: str, sha256: str) -> str:
    return run.import_image(file=url, name="fetched", datastore="shared", sha256=sha256)


def _left(home: Path) -> list[str]:
    return [file.name for file in (home / "tmp").glob("*")]


@pytest.mark.parametrize("name", ["good", "disk"])
def test_it_is_stored_as_it_was_promised(
    site: Site, home: Path, server: Server, tmp_path: Path, name: str
) -> None:
    _import(f"{server.url}/{name}", _sha256(tmp_path, name).upper())
    site.assert_agrees()
    assert site.count(Image) == 2
    assert _left(home) == []


@pytest.mark.parametrize(
    ("path", "sha256", "error", "message"),
    [
        ("good", "0" * 64, Invalid, "/good has the wrong checksum: sha256 .*, expected 0000"),
        ("text", "", Invalid, "/text is not a disk image"),
        ("nothing", "0" * 64, NotFound, "/nothing is not there"),
    ],
)
def test_what_is_not_what_was_promised_is_not_stored(
    site: Site,
    home: Path,
    server: Server,
    tmp_path: Path,
    path: str,
    sha256: str,
    error: type[Exception],
    message: str,
) -> None:
    before = site.rows(), site.sim.call_count()
    with pytest.raises(error, match=message):
        _import(f"{server.url}/{path}", sha256 or _sha256(tmp_path, path))
    assert (site.rows(), site.sim.call_count()) == before
    assert _left(home) == []


def test_nothing_is_fetched_without_a_checksum(site: Site, home: Path, server: Server) -> None:
    with pytest.raises(Invalid, match="comes without TLS"):
        _import(f"{server.url}/good", "")
    assert not server.halfway.is_set()


def test_a_server_that_does_not_answer(site: Site, home: Path) -> None:
    with pytest.raises(Unready, match=r"cannot be fetched: .* Nothing was stored; try again later"):
        _import("http://127.0.0.1:1/x", "0" * 64)


def test_killed_in_the_middle_its_bytes_go_with_the_next_import(
    site: Site, home: Path, server: Server, start: Processes, tmp_path: Path
) -> None:
    server.gate.clear()
    child = start.start(_import, f"{server.url}/good", _sha256(tmp_path, "good"), home=home)
    assert server.halfway.wait(60)
    child.kill()
    server.gate.set()
    assert len(_left(home)) == 1
    assert site.open_operations() == []
    _import(f"{server.url}/good", _sha256(tmp_path, "good"))
    assert _left(home) == []
    site.assert_agrees()

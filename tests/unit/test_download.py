"""Fetching by URL from a server on the loopback that does what servers do, and worse."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from drivers.download import MAX_REDIRECTS, download
from vdc.errors import Busy, HostUnreachable, Invalid, NotFound, TimedOut, VdcError
from vdc.image_sources import check_source, local_file

BODY = bytes(range(256)) * 8192
"""2 MiB."""


class Handler(BaseHTTPRequestHandler):
    """`/file`, and a path for each trouble."""

    over: threading.Event
    """Set at the end of the test: those who wait end."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/file":
            self.answer(BODY)
        elif path.startswith("/redirect/"):
            left = int(path.rpartition("/")[2])
            self.redirect("/file" if left == 1 else f"/redirect/{left - 1}")
        elif path == "/to-a-file":
            self.redirect("file:///etc/passwd")
        elif path == "/loop":
            self.redirect("/loop")
        elif path == "/private":
            expected = "Basic " + b64encode(b"me:secret").decode()
            self.answer(BODY) if self.headers["Authorization"] == expected else self.send_error(401)
        elif path == "/gzip":
            assert self.headers["Accept-Encoding"] == "identity"
            self.answer(BODY[:100], ("Content-Encoding", "gzip"))
        elif path == "/cut":
            self.answer(BODY[:1000], length=len(BODY))
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while not self.over.is_set():
                    self.wfile.write(BODY)
            except OSError:
                pass
        elif path == "/drip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            try:
                while not self.over.wait(0.02):
                    self.wfile.write(b"x")
            except OSError:
                pass
        elif path == "/silent":
            self.over.wait(30)
        else:
            self.send_error(int(path.strip("/")))

    def answer(self, body: bytes, *headers: tuple[str, str], length: int | None = None) -> None:
        self.send_response(200)
        for name, value in (*headers, ("Content-Length", str(len(body) if length is None else length))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    Handler.over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            Handler.over.set()
            http.shutdown()
            thread.join()


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(server: str, tmp_path: Path) -> Fetch:
    def run(path: str, **changes: Any) -> Path:
        options = {"max_mib": 10, "timeout_s": 20.0, "standstill_s": 5.0, "plain": True} | changes
        target = tmp_path / "image"
        download(path if "://" in path else server + path, target, **options)
        return target

    return run


@pytest.mark.parametrize("path", ["/file", f"/redirect/{MAX_REDIRECTS}"])
def test_comes_to_the_byte_with_progress_to_its_end(fetch: Fetch, path: str) -> None:
    seen: list[tuple[int, int]] = []
    file = fetch(path, progress=lambda done, total: seen.append((done, total)))
    assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(BODY).digest()
    assert seen == sorted(seen)
    assert seen[-1] == (len(BODY), len(BODY))


def test_who_we_are_is_in_netrc(fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Invalid, match="refused by its server: 401"):
        fetch("/private")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert fetch("/private").stat().st_size == len(BODY)
    (tmp_path / ".netrc").write_text("nonsense\n")
    with pytest.raises(Invalid, match=r"~/\.netrc cannot be read"):
        fetch("/private")


def test_no_encoding_is_undone(fetch: Fetch) -> None:
    assert fetch("/gzip").read_bytes() == BODY[:100]


@pytest.mark.parametrize(
    ("path", "changes", "error", "message"),
    [
        ("/404", {}, NotFound, "is not there: the server says 404 Not Found"),
        ("/403", {}, Invalid, "is refused by its server: 403 Forbidden"),
        ("/500", {}, Invalid, "is refused by its server: 500"),
        ("/503", {}, Busy, "the server says 503"),
        ("/file", {"max_mib": 1}, Invalid, r"larger than 1 MiB \(setting download_max_mib\)"),
        ("/endless", {"max_mib": 4}, Invalid, "larger than 4 MiB"),
        ("/drip", {"timeout_s": 0.2}, Invalid, r"longer than 0.2 s \(setting download_timeout_s\): 0 MiB"),
        ("/silent", {"standstill_s": 0.2}, TimedOut, "sent nothing for 0.2 s"),
        ("/cut", {}, HostUnreachable, "cannot be fetched: .*closed"),
        (f"/redirect/{MAX_REDIRECTS + 1}", {}, Invalid, f"redirects more than {MAX_REDIRECTS} times"),
        ("/loop", {}, Invalid, "redirects more than"),
        ("/redirect/1", {"plain": False}, Invalid, "not followed: nobody vouches .* give --sha256"),
        ("/to-a-file", {}, Invalid, "redirects to file:.*/etc/passwd, which is not followed: no web address"),
        ("http://127.0.0.1:1/x", {}, HostUnreachable, "127.0.0.1:1/x cannot be fetched: .*refused"),
    ],
)
def test_what_cannot_be_had(
    fetch: Fetch, path: str, changes: dict[str, Any], error: type[VdcError], message: str
) -> None:
    with pytest.raises(error, match=message):
        fetch(path, **changes)


def test_what_comes_after_the_question_mark_is_not_told(fetch: Fetch) -> None:
    with pytest.raises(NotFound) as error:
        fetch("/404?key=secret")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("/srv/a b.img", "/srv/a b.img"),
        ("rel/x.img", "rel/x.img"),
        ("file:///srv/a%20b.img", "/srv/a b.img"),
        ("file://localhost/srv/x", "/srv/x"),
        ("https://images.example/x.qcow2", None),
    ],
)
def test_where_an_image_may_come_from(source: str, file: str | None) -> None:
    found = local_file(source)
    assert found == (Path(file) if file else None)
    check_source(source, "")
    check_source(source, "A" * 64)


@pytest.mark.parametrize(
    ("source", "sha256", "message"),
    [
        ("http://images.example/x", "", r"without TLS, .* \(--sha256\), or an https URL"),
        ("ftp://images.example/x", "", "give a file, or a URL of http, https or file"),
        ("https://", "", "cannot be fetched"),
        ("https://me:word@images.example/x", "", "images.example holds a user or password"),
        ("file://elsewhere/x", "", "should name a file of this machine"),
        ("https://[x/y", "", "is no URL"),
        ("/srv/x.img", "abc", "'abc' is no SHA-256"),
    ],
)
def test_where_it_may_not_come_from(source: str, sha256: str, message: str) -> None:
    with pytest.raises(Invalid, match=message) as error:
        check_source(source, sha256)
    assert "word" not in str(error.value).replace("password", "")

"""Fetching a file by URL (http, https) to the control machine: bounded in size, time and redirects.

Nothing is resumed: a second attempt begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from netrc import NetrcParseError
from pathlib import Path
from typing import BinaryIO

import httpx

from vdc.errors import Busy, DriverFailure, HostUnreachable, Invalid, NotFound, TimedOut

MIB = 2**20
MAX_REDIRECTS = 5


def download(
    url: str,
    target: Path,
    *,
    max_mib: int,
    timeout_s: float,
    standstill_s: float,
    plain: bool,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write what `url` leads to into the new file `target`, to the byte: no encoding is undone.

    `timeout_s` bounds the whole, `standstill_s` the wait for the next bytes; `plain`: redirects may lead to
    http without TLS. `progress(done_bytes, total_bytes)` is called where the server says how much there is.

    Raises Invalid (too large, a redirect that is not followed, refused by the server), NotFound, and, where a
    second attempt may help, HostUnreachable, TimedOut and Busy.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with (
            httpx.Client(follow_redirects=False, timeout=standstill_s, auth=_netrc()) as client,
            target.open("wb") as file,
        ):
            _fetch(client, httpx.URL(url), file, deadline, timeout_s, max_mib, plain, progress)
    except httpx.TimeoutException as error:
        raise TimedOut(f"{shown(url)} sent nothing for {standstill_s:g} s.") from error
    except httpx.TransportError as error:
        raise HostUnreachable(f"{shown(url)} cannot be fetched: {error or type(error).__name__}.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Invalid(f"{shown(url)} cannot be fetched: {error}.") from error
    except OSError as error:
        raise DriverFailure(f"{target} cannot be written: {error.strerror}.") from error


def _netrc() -> httpx.NetRCAuth | None:
    """Who we are for each server, from ~/.netrc where there is one: a name in a URL would be kept with it."""
    try:
        return httpx.NetRCAuth()
    except FileNotFoundError:
        return None
    except NetrcParseError as error:
        raise Invalid(f"~/.netrc cannot be read: {error}.") from error


def _fetch(
    client: httpx.Client,
    url: httpx.URL,
    file: BinaryIO,
    deadline: float,
    timeout_s: float,
    max_mib: int,
    plain: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    asked = shown(str(url))
    for _ in range(MAX_REDIRECTS + 1):
        # As it is stored: an encoding would be undone on the way, and the checksum be that of something else.
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if response.has_redirect_location:
                url = _next(response, asked, plain)
                continue
            _check_status(response, asked)
            total = int(response.headers.get("Content-Length", 0))
            if total > max_mib * MIB:
                raise _too_large(asked, max_mib)
            done = 0
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > max_mib * MIB:
                    raise _too_large(asked, max_mib)
                if time.monotonic() > deadline:
                    raise Invalid(
                        f"{asked} took longer than {timeout_s:g} s (setting download_timeout_s): "
                        f"{done // MIB} MiB had come."
                    )
                file.write(chunk)
                if progress and total:
                    progress(done, total)
            return
    raise Invalid(f"{asked} redirects more than {MAX_REDIRECTS} times.")


def _next(response: httpx.Response, asked: str, plain: bool) -> httpx.URL:
    assert response.next_request is not None, "it has a location"
    url = response.next_request.url
    if url.scheme not in ("http", "https") or (url.scheme == "http" and not plain):
        why = (
            "nobody vouches for what comes from there: give --sha256"
            if url.scheme == "http"
            else "no web address"
        )
        raise Invalid(f"{asked} redirects to {shown(str(url))}, which is not followed: {why}.")
    return url


def _check_status(response: httpx.Response, asked: str) -> None:
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code in (404, 410):
        raise NotFound(f"{asked} is not there: the server says {status}.")
    if response.status_code in (429, 502, 503, 504):
        raise Busy(f"{asked}: the server says {status}.")
    if not response.is_success:
        raise Invalid(f"{asked} is refused by its server: {status}.")


def _too_large(asked: str, max_mib: int) -> Invalid:
    return Invalid(f"{asked} is larger than {max_mib} MiB (setting download_max_mib).")


def shown(url: str) -> str:
    """Without its query, which may hold a key."""
    return url.partition("?")[0].partition("#")[0]

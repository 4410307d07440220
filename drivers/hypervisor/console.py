"""A domain's serial console, as a stream of libvirt's: what the guest writes comes by the event loop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import libvirt

from vdc.errors import TimedOut

CHUNK = 4096
WOULD_BLOCK = -2
"""What libvirt's non-blocking streams answer where there is nothing, or no room."""
SEND_TIMEOUT_S = 10.0


class LibvirtConsole:
    """An attached console; `close` detaches it. Output and end are told to the functions that were given."""

    def __init__(
        self,
        conn: libvirt.virConnect,
        name: str,
        on_output: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        force: bool,
    ) -> None:
        """Raises libvirt's error where somebody else is attached, unless `force` throws them out."""
        self._on_output, self._on_end = on_output, on_end
        self._stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._lock = threading.Lock()
        self._open = True
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else libvirt.VIR_DOMAIN_CONSOLE_SAFE
        conn.lookupByName(name).openConsole(None, self._stream, flags)
        wanted = libvirt.VIR_STREAM_EVENT_READABLE
        wanted |= libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
        self._stream.eventAddCallback(wanted, self._happened, None)

    def send(self, data: bytes) -> None:
        """Type `data`. Raises TimedOut where nobody takes it."""
        deadline = time.monotonic() + SEND_TIMEOUT_S
        while data and self._open:
            try:
                sent = self._stream.send(data)
            except libvirt.libvirtError as error:
                self._end(str(error))
                return
            if sent == WOULD_BLOCK:
                if time.monotonic() > deadline:
                    raise TimedOut("The console takes no more input.")
                time.sleep(0.01)
                continue
            data = data[sent:]

    def close(self) -> None:
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            with contextlib.suppress(libvirt.libvirtError):  # the other side may have ended it just now
                self._stream.eventRemoveCallback()
                self._stream.abort()

    def _happened(self, _stream: libvirt.virStream, events: int, _context: object) -> None:
        try:
            while events & libvirt.VIR_STREAM_EVENT_READABLE:
                data = self._stream.recv(CHUNK)
                if data == WOULD_BLOCK:
                    break
                if not data:
                    self._end("the machine closed it")
                    return
                if self._open:
                    self._on_output(data)
        except libvirt.libvirtError as error:
            self._end(str(error))
            return
        if events & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP):
            self._end("the machine closed it, or somebody else attached")

    def _end(self, why: str) -> None:
        if self._open:
            self.close()
            self._on_end(why)

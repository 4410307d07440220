"""Files on an NFS server, for a host that has not mounted it: a program, run on the host by its Python.

It uses libnfs, which QEMU brings along for its own nfs:// disks (Debian 12: package qemu-block-extra), so a
host needs no NFS client of its own. Called as VERB SERVER DIRECTORY ARGUMENT...; the standard library alone.

Every file comes into being under a temporary name and is linked to its own when it is whole: of two makers
of one file the first wins. What is said on standard output is `made`, `found`, or what was asked for; on an
error the reason is on standard error, and the exit status 1.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator

CHUNK = 2**20


class Entry(ctypes.Structure):
    """The beginning of libnfs's `struct nfsdirent`: a list, linked by its first member."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("inode", ctypes.c_uint64),
        ("type", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
    )


class Failed(Exception):
    """What the server, or libnfs, said."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Server:
    """A directory of the server. Names are those of files in it."""

    def __init__(self, address: str, directory: str) -> None:
        self._lib = ctypes.CDLL("libnfs.so.13")
        self._lib.nfs_init_context.restype = ctypes.c_void_p
        self._lib.nfs_get_error.restype = ctypes.c_char_p
        self._lib.nfs_readdir.restype = ctypes.c_void_p
        self._at = ctypes.c_void_p(self._lib.nfs_init_context())
        self._call(f"mounting {address}:{directory}", "nfs_mount", address.encode(), directory.encode())

    def _call(self, what: str, function: str, *args: object) -> int:
        answer: int = getattr(self._lib, function)(self._at, *args)
        if answer < 0:
            said = (self._lib.nfs_get_error(self._at) or b"").decode(errors="replace")
            raise Failed(-answer, f"{what}: {said or os.strerror(-answer)}")
        return answer

    def act(self, act: str, *names: str) -> None:
        """unlink, link or rename."""
        self._call(f"{act} {' '.join(names)}", f"nfs_{act}", *(f"/{name}".encode() for name in names))

    def chmod(self, name: str, mode: int) -> None:
        self._call(f"chmod {name}", "nfs_chmod", f"/{name}".encode(), mode)

    def exists(self, name: str) -> bool:
        seen = (ctypes.c_uint64 * 32)()
        try:
            self._call(f"looking for {name}", "nfs_stat64", f"/{name}".encode(), seen)
        except Failed as failed:
            if failed.code == errno.ENOENT:
                return False
            raise
        return True

    def names(self) -> Iterator[Entry]:
        handle = ctypes.c_void_p()
        self._call("listing", "nfs_opendir", b"/", ctypes.byref(handle))
        try:
            while entry := self._lib.nfs_readdir(self._at, handle):
                yield Entry.from_address(entry)
        finally:
            self._lib.nfs_closedir(self._at, handle)

    def use(self) -> tuple[int, int]:
        """Bytes of the file system, and those that are free."""
        seen = (ctypes.c_uint64 * 32)()  # struct statvfs: block size, fragment size, blocks, free, available
        self._call("reading the size", "nfs_statvfs", b"/", seen)
        return seen[1] * seen[2], seen[1] * seen[4]

    def read(self, name: str) -> Iterator[bytes]:
        handle = ctypes.c_void_p()
        self._call(f"opening {name}", "nfs_open", f"/{name}".encode(), os.O_RDONLY, ctypes.byref(handle))
        buffer, offset = ctypes.create_string_buffer(CHUNK), 0
        try:
            while count := self._call(
                f"reading {name}",
                "nfs_pread",
                handle,
                ctypes.c_uint64(offset),
                ctypes.c_uint64(CHUNK),
                buffer,
            ):
                yield buffer.raw[:count]
                offset += count
        finally:
            self._lib.nfs_close(self._at, handle)

    def write(self, name: str, chunks: Iterator[bytes]) -> str:
        """A new file; returns the sha256 of its bytes."""
        handle, digest, offset = ctypes.c_void_p(), hashlib.sha256(), 0
        self._call(f"making {name}", "nfs_creat", f"/{name}".encode(), 0o600, ctypes.byref(handle))
        try:
            for chunk in chunks:
                digest.update(chunk)
                while chunk:
                    count = self._call(
                        f"writing {name}",
                        "nfs_pwrite",
                        handle,
                        ctypes.c_uint64(offset),
                        ctypes.c_uint64(len(chunk)),
                        chunk,
                    )
                    offset, chunk = offset + count, chunk[count:]
            self._call(f"writing {name}", "nfs_fsync", handle)
        finally:
            closed = self._lib.nfs_close(self._at, handle)
        if closed < 0:
            raise Failed(-closed, f"writing {name}: {os.strerror(-closed)}")
        return digest.hexdigest()

    def publish(self, part: str, name: str) -> str:
        try:
            self.act("link", part, name)
        except Failed as failed:
            if failed.code != errno.EEXIST:
                raise
            return "found"
        return "made"

    def drop(self, name: str) -> bool:
        try:
            self.act("unlink", name)
        except Failed as failed:
            if failed.code != errno.ENOENT:
                raise
            return False
        return True


def _given() -> Iterator[bytes]:
    while chunk := sys.stdin.buffer.read(CHUNK):
        yield chunk


def use(server: Server) -> str:
    return " ".join(str(size) for size in server.use())


def files(server: Server) -> str:
    """Name and bytes of each."""
    regular = {e.name.decode(errors="surrogateescape"): e.size for e in server.names() if _is_file(e)}
    return json.dumps(regular)


def _is_file(entry: Entry) -> bool:
    return entry.type == 1 or stat.S_ISREG(entry.mode)


def probe(server: Server, name: str, text: str) -> str:
    try:
        server.write(name, iter([text.encode()]))
        if b"".join(server.read(name)) != text.encode():
            raise Failed(errno.EIO, "the probe file read back differently")
    finally:
        server.drop(name)
    return "made"


def exists(server: Server, name: str) -> str:
    return "found" if server.exists(name) else "missing"


def replace(server: Server, name: str, part: str) -> str:
    """Make it what is given, whole."""
    content = b"".join(_given())
    if server.exists(name) and b"".join(server.read(name)) == content:
        return "found"
    server.write(part, iter([content]))
    server.act("rename", part, name)
    return "made"


def receive(server: Server, name: str, part: str, sha256: str) -> str:
    """Make it of the bytes that are given, unless it is there."""
    try:
        seen = server.write(part, _given())
        if seen != sha256:
            raise Failed(errno.EIO, f"the bytes arrived damaged: sha256 {seen}, expected {sha256}")
        server.chmod(part, 0o444)
        return server.publish(part, name)
    finally:
        server.drop(part)


def copy(server: Server, name: str, part: str, source: str) -> str:
    """Make it of another file, byte by byte, unless it is there."""
    if server.exists(name):
        return "found"
    try:
        server.write(part, server.read(source))
        server.chmod(part, 0o444)
        return server.publish(part, name)
    finally:
        server.drop(part)


def make(server: Server, name: str, part: str, mode: str, *command: str) -> str:
    """Have a command make `part`, unless the file is there."""
    if server.exists(name):
        return "found"
    try:
        if status := subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
            raise Failed(errno.EIO, f"{command[0]} ended with status {status}")
        server.chmod(part, int(mode, 8))
        return server.publish(part, name)
    finally:
        server.drop(part)


def remove(server: Server, *names: str) -> str:
    """These, and half-written forms of them."""
    halves = tuple(f"{name}.part-" for name in names)
    there = [entry.name.decode(errors="surrogateescape") for entry in server.names()]
    doomed = [name for name in there if name in names or name.startswith(halves)]
    return " ".join([name for name in doomed if server.drop(name)])


def rename(server: Server, name: str, to: str, mode: str) -> str:
    answer = "found"
    if server.exists(name):
        if server.exists(to):
            raise Failed(errno.EEXIST, f"{to} is there too")
        server.act("rename", name, to)
        answer = "made"
    server.chmod(to, int(mode, 8))
    return answer


def checksum(server: Server, name: str) -> str:
    """Bytes and sha256."""
    digest, size = hashlib.sha256(), 0
    for chunk in server.read(name):
        digest.update(chunk)
        size += len(chunk)
    return f"{size} {digest.hexdigest()}"


def read(server: Server, name: str) -> str:
    """Its bytes, and nothing else."""
    for chunk in server.read(name):
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return ""


def check(server: Server, name: str, *command: str) -> str:
    """Exit status of a command that looks at the file, and what it said."""
    if not server.exists(name):
        return "missing"
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


VERBS: dict[str, Callable[..., str]] = {
    verb.__name__: verb
    for verb in (
        use,
        files,
        probe,
        exists,
        replace,
        receive,
        copy,
        make,
        remove,
        rename,
        checksum,
        read,
        check,
    )
}


def main(verb: str, address: str, directory: str, *args: str) -> int:
    try:
        print(VERBS[verb](Server(address, directory), *args), end="")
    except OSError as error:
        print(f"{error}: is the package qemu-block-extra installed?", file=sys.stderr)
        return 1
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

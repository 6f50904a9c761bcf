"""The world in which rights are tested: who there is, which files, and a twin of them that the kernel judges.

The tables are ``PEOPLE``, ``TREE`` and ``FILES``. A *twin* on a tmpfs has the files of the mount with the same types,
modes, owners and ACLs.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.identity import Actors, Who, reachable_mount

TEAM = 3000

ROOT = Who("root", 0, 0)
OWNER = Who("owner", 2001, 2001)
MEMBER = Who("member", 2002, 2002, (TEAM,))
NAMED = Who("named", 2003, 2003)
STRANGER = Who("stranger", 2004, 2004, (2005,))
PEOPLE = (ROOT, OWNER, MEMBER, NAMED, STRANGER)

SHARED = "u::rw,g::r,u:2003:rw,m::rw,o::-"
"""The ACL of what the owner shares: the group reads, one other user writes too."""

SHARED_DIRECTORY = "u::rwx,g::rx,u:2003:rwx,m::rwx,o::-"

COMMAND_FILES = (
    ["vmo_create", "vmo_create_child", "vmo_op_range", "vmo_set_stream_size", "vmo_pin"],
    [
        *("create_vmo", "serve_directory", "supply_pages", "detach_vmo", "op_range", "evict", "mark"),
        *("query_dirty_ranges", "query_vmo_stats"),
    ],
)

TREE = (
    *("", "README", "vmo", "aux", "control", "control/version", "control/stats", "control/log"),
    *(f"control/{name}" for name in COMMAND_FILES[0]),
    *("control/p", "control/p/requests", "control/p/worker", "control/p/pending", "control/p/stats"),
    *("control/p/deadline", "control/p/supply", "control/p/answers"),
    *(f"control/p/{name}" for name in COMMAND_FILES[1]),
    *("vmo/d", "vmo/d/private", "vmo/d/team", "vmo/d/shared", "vmo/d/public", "vmo/closed", "vmo/closed/public"),
    *("vmo/common", "vmo/common/public", "vmo/listed", "vmo/listed/private"),
    *("aux/d", "aux/d/private", "aux/d/team", "aux/d/shared", "aux/d/public", "aux/closed", "aux/closed/public"),
)

FILES = {"private": 0o600, "team": 0o640, "shared": 0o640, "public": 0o666}


class Operation(NamedTuple):
    """Something done with a path; ``undo`` (with the path) takes it back if it succeeded."""

    do: Callable[[str], object]
    undo: Callable[[str], object] = lambda _path: None


def make_in(path: str) -> None:
    os.close(os.open(f"{path}/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def acl(text: str) -> bytes:
    """Return the attribute value for a short text: ``u::rw,u:2003:rw,m::rw`` and so on."""
    tags = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}
    entries = []
    for entry in text.split(","):
        kind, qualifier, letters = entry.split(":")
        permissions = sum({"r": 4, "w": 2, "x": 1, "-": 0}[letter] for letter in letters)
        tag = tags[kind][bool(qualifier)]
        entries.append((tag, int(qualifier or 2**32 - 1), permissions))
    words = b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, who, bits in sorted(entries)
    )
    return (2).to_bytes(4, "little") + words


class Attributes(NamedTuple):
    """What decides about rights."""

    mode: int
    uid: int
    gid: int
    acl: bytes | None

    @classmethod
    def of(cls, path: Path) -> Attributes:
        status = path.lstat()
        value = None
        with suppress(OSError):
            value = os.getxattr(path, "system.posix_acl_access")
        return cls(status.st_mode, status.st_uid, status.st_gid, value)

    def give_to(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)
        if self.acl is None:
            with suppress(OSError):
                os.removexattr(path, "system.posix_acl_access")
        path.chmod(stat.S_IMODE(self.mode))
        if self.acl is not None:
            os.setxattr(path, "system.posix_acl_access", self.acl)


class World:
    """The mount with one pager and files of all kinds, and its twin."""

    def __init__(self, mount: Path, twin: Path) -> None:
        self.mount = mount
        self.twin = twin
        self.actors = Actors()
        self._make()
        self.attributes = {path: Attributes.of(mount / path) for path in TREE}
        for path in TREE:
            self._make_twin(path)

    def _make(self) -> None:
        owner = self.actors(OWNER)
        owner(os.mkdir, f"{self.mount}/control/p")
        owner(os.mkfifo, f"{self.mount}/control/p/worker", 0o600)
        for top in ("vmo", "aux"):
            for name, mode in (("d", 0o755), ("closed", 0o700)):
                owner(os.mkdir, f"{self.mount}/{top}/{name}", mode)
        owner(os.mkdir, f"{self.mount}/vmo/common")
        owner(os.chmod, f"{self.mount}/vmo/common", 0o1777)
        owner(os.mkdir, f"{self.mount}/vmo/listed")
        os.setxattr(self.mount / "vmo/listed", "system.posix_acl_access", acl(SHARED_DIRECTORY))
        for path in TREE:
            if path.rpartition("/")[2] in FILES:
                self.make_file(path)

    def make_file(self, path: str) -> None:
        """Make a file of the owner's, whose mode its name tells."""
        owner, place = self.actors(OWNER), self.mount / path
        name = place.name
        if path.startswith("vmo"):
            result = owner(command, f"{self.mount}/control/p/create_vmo", f"{path} 8192 resizable mode=666")
            assert result == "ZX_OK"
        else:
            owner(make_in, str(place.parent))
            owner(os.rename, f"{place.parent}/new", str(place))
            owner(os.truncate, str(place), 8192)
        os.chown(place, OWNER.uid, TEAM if name in {"team", "shared"} else OWNER.gid)
        place.chmod(FILES[name])
        if name == "shared":
            os.setxattr(place, "system.posix_acl_access", acl(SHARED))

    def _make_twin(self, path: str) -> None:
        twin, attributes = self.twin / path, self.attributes[path]
        if stat.S_ISDIR(attributes.mode):
            twin.mkdir(exist_ok=True)
        elif stat.S_ISFIFO(attributes.mode):
            os.mkfifo(twin)
        else:
            twin.touch()
        attributes.give_to(twin)

    def attempt(self, who: Who, operation: Operation, place: Path) -> str:
        """Do something as somebody, undo it, and return how it went."""
        outcome = self.actors(who).errno(operation.do, str(place))
        if outcome == "ok":
            operation.undo(str(place))
        return outcome

    def restore(self, path: str) -> None:
        """Make what is missing, and give everything the attributes that it had."""
        if not (self.mount / path).exists():
            if path == "control/p/worker":
                os.mkfifo(self.mount / path)
            elif stat.S_ISDIR(self.attributes[path].mode):
                (self.mount / path).mkdir()
            else:
                self.make_file(path)
        if not (self.twin / path).exists():
            self._make_twin(path)
        for place in (self.mount, self.twin):
            if Attributes.of(place / path) != self.attributes[path]:
                self.attributes[path].give_to(place / path)


def command(file: str, line: str) -> str:
    """Carry out a command and return the first line of its result; raises if the file cannot be opened."""
    fd = os.open(file, os.O_RDWR)
    try:
        with suppress(OSError):
            os.write(fd, f"{line}\n".encode())
        return os.read(fd, 65536).decode().partition("\n")[0]
    finally:
        os.close(fd)


@contextmanager
def made_world() -> Iterator[World]:
    """Mount, make the twin, and take both down."""
    twin = Path(tempfile.mkdtemp(prefix="vmofs-twin-"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(twin)], check=True)
    try:
        with reachable_mount() as mounted:
            world = World(mounted.path, twin)
            try:
                yield world
            finally:
                world.actors.close()
    finally:
        subprocess.run(["umount", "-l", str(twin)], check=False)
        shutil.rmtree(twin, ignore_errors=True)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def write_at(path: str, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
    finally:
        os.close(fd)

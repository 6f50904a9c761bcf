"""Who may do what: every identity x every file of the tree x every operation, as the kernel says it of a tmpfs.

The tables are ``PEOPLE``, ``TREE``, ``OPERATIONS`` and ``COMMANDS``. A *twin* on a tmpfs has the files of the mount
with the same types, modes, owners and ACLs. What the kernel refuses there must be refused in the mount, by the same
errno, and what it allows must be allowed, but for what ``deviation`` lists, which holds for everybody.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.identity import Actors, Who, reachable_mount

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
        *("create_vmo", "serve_directory", "supply_pages", "detach_vmo", "op_range", "evict"),
        *("query_dirty_ranges", "query_vmo_stats"),
    ],
)

TREE = (
    *("", "README", "vmo", "aux", "control", "control/version", "control/stats", "control/log"),
    *(f"control/{name}" for name in COMMAND_FILES[0]),
    *("control/p", "control/p/requests", "control/p/worker", "control/p/pending", "control/p/stats"),
    *("control/p/deadline", "control/p/supply"),
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


def opening(flags: int) -> Callable[[str], None]:
    return _Opening(flags)


class _Opening:
    def __init__(self, flags: int) -> None:
        self._flags = flags

    def __call__(self, path: str) -> None:
        # Who opens a FIFO for writing that nobody reads is told so: the permission was there.
        os.close(os.open(path, self._flags | os.O_NONBLOCK | os.O_CLOEXEC))


def list_directory(path: str) -> None:
    os.listdir(path)  # noqa: PTH208


def make_in(path: str) -> None:
    os.close(os.open(f"{path}/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def make_directory_in(path: str) -> None:
    os.mkdir(f"{path}/new")  # noqa: PTH102


def make_fifo_in(path: str) -> None:
    os.mkfifo(f"{path}/new")


def make_symlink_in(path: str) -> None:
    os.symlink("target", f"{path}/new")  # noqa: PTH211


def find_in(path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(f"{path}/nothing")  # noqa: PTH116


def remove_new(path: str) -> None:
    new = Path(path, "new")
    (new.rmdir if new.is_dir() else new.unlink)()


def rename(path: str) -> None:
    os.rename(path, f"{path}.renamed")  # noqa: PTH104


def rename_back(path: str) -> None:
    os.rename(f"{path}.renamed", path)  # noqa: PTH104


def chmod(path: str) -> None:
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))  # noqa: PTH101, PTH116


def give_away(path: str) -> None:
    os.chown(path, STRANGER.uid, -1)


def give_to_own_group(path: str) -> None:
    os.chown(path, -1, os.getegid())


def give_to_team(path: str) -> None:
    os.chown(path, -1, TEAM)


def truncate(path: str) -> None:
    os.truncate(path, 0)


def touch(path: str) -> None:
    os.utime(path)


def set_times(path: str) -> None:
    os.utime(path, (1, 1))


def set_xattr(path: str) -> None:
    os.setxattr(path, "user.mine", b"x")


def remove_xattr(path: str) -> None:
    os.removexattr(path, "user.mine")


def get_xattr(path: str) -> None:
    with suppress(OSError):
        os.setxattr(path, "user.mine", b"x")
    os.getxattr(path, "user.mine")


def set_acl(path: str) -> None:
    os.setxattr(path, "system.posix_acl_access", acl("u::rw,g::r,m::rw,u:2004:rw,o::-"))


def execute(path: str) -> None:
    if not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError(13, "not executable")


OPERATIONS = {
    "stat": Operation(os.stat),
    "open r": Operation(opening(os.O_RDONLY)),
    "open w": Operation(opening(os.O_WRONLY)),
    "open rw": Operation(opening(os.O_RDWR)),
    "open append": Operation(opening(os.O_WRONLY | os.O_APPEND)),
    "open truncate": Operation(opening(os.O_WRONLY | os.O_TRUNC)),
    "execute": Operation(execute),
    "list": Operation(list_directory),
    "find in": Operation(find_in),
    "make in": Operation(make_in, remove_new),
    "mkdir in": Operation(make_directory_in, remove_new),
    "mkfifo in": Operation(make_fifo_in, remove_new),
    "symlink in": Operation(make_symlink_in, remove_new),
    "rename": Operation(rename, rename_back),
    "chmod": Operation(chmod),
    "give away": Operation(give_away),
    "own group": Operation(give_to_own_group),
    "team group": Operation(give_to_team),
    "truncate": Operation(truncate),
    "touch": Operation(touch),
    "set times": Operation(set_times),
    "setxattr": Operation(set_xattr, remove_xattr),
    "setfacl": Operation(set_acl),
    "unlink": Operation(os.unlink),
    "rmdir": Operation(os.rmdir),
}

LASTING = {"give away", "own group", "team group", "chmod", "setfacl", "set times", "touch", "truncate"}
"""After these the attributes are set again."""

BUILT_IN = {path for path in TREE if path.startswith("control/") and path != "control/p"} - {"control/p/worker"}
TOP = {"", "README", "vmo", "aux", "control"}


def deviation(path: str, operation: str) -> set[str]:
    """Return with which errno the mount may refuse what a tmpfs allows: what belongs to the mount stays as it is."""
    directory = path in TOP or path in {"control/p", "vmo/d", "vmo/closed", "vmo/common", "vmo/listed"}
    makes = {"make in", "mkdir in", "mkfifo in", "symlink in"}
    if operation in {"rename", "unlink", "rmdir"} and (path in TOP | BUILT_IN or path == "control/p"):
        return {"EPERM"} if path else {"EBUSY"}
    if operation == "rename" and path == "control/p/worker":
        return {"EPERM"}
    if operation in makes and (directory or path.startswith(("aux", "control"))):
        return {"EPERM"}
    if path == "control/p/supply":
        return {"EPERM"}
    return set()


SAME_HERE = {
    ("aux", "make in"),
    ("aux", "mkdir in"),
    ("aux/d", "make in"),
    ("aux/d", "mkdir in"),
    ("aux/closed", "make in"),
    ("aux/closed", "mkdir in"),
    ("vmo", "mkdir in"),
    ("vmo/d", "mkdir in"),
    ("vmo/closed", "mkdir in"),
    ("vmo/common", "mkdir in"),
    ("vmo/listed", "mkdir in"),
    ("control", "mkdir in"),
    ("control/p", "mkfifo in"),
}
"""What can be made: no deviation is allowed."""


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


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("only root can be others")
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


def test_the_table_has_every_file_of_the_tree(world: World) -> None:
    found = {str(path.relative_to(world.mount)) for path in world.mount.rglob("*")}
    assert found == set(TREE) - {""}


@pytest.mark.parametrize("path", TREE, ids=lambda path: path or "/")
def test_everybody_may_do_with_a_file_what_the_kernel_says_of_its_twin(world: World, path: str) -> None:
    differences = []
    for name, operation in OPERATIONS.items():
        for who in PEOPLE:
            if path in {"", "control/p"} and name in {"rmdir", "unlink", "rename"}:
                continue  # a mount point; and rmdir closes the pager: see below
            expected = world.attempt(who, operation, world.twin / path)
            got = world.attempt(who, operation, world.mount / path)
            allowed = {expected}
            if expected in {"ok", "ENOTEMPTY"} and (path, name) not in SAME_HERE:
                allowed |= deviation(path, name)
            if got not in allowed:
                differences.append(f"{name} {path!r} by {who}: {got}, on a tmpfs {expected}")
            if "ok" in {got, expected} and (name in LASTING or name in {"unlink", "rmdir"}):
                world.restore(path)
    assert not differences, "\n".join(differences)


def test_only_its_maker_and_root_close_a_pager(world: World) -> None:
    for closer, expected in ((MEMBER, "EPERM"), (STRANGER, "EPERM"), (OWNER, "ok"), (ROOT, "ok")):
        pager = f"{world.mount}/control/mine"
        world.actors(OWNER)(os.mkdir, pager)
        assert world.actors(closer).errno(os.rmdir, pager) == expected
        with suppress(FileNotFoundError):
            os.rmdir(pager)  # noqa: PTH106


# Names in commands


class Named(NamedTuple):
    """A command that names a file: which right on it is needed. ``{}`` stands for the file."""

    file: str
    line: str
    right: int
    kind: str = "vmo"


COMMANDS = (
    Named("p/supply_pages", "{} 0 0 aux/d/public 0", os.W_OK),
    Named("p/supply_pages", "vmo/d/public 0 4096 {} 0", os.R_OK | os.W_OK, "aux"),
    Named("p/op_range", "FAIL {} 0 4096 ZX_ERR_IO", os.W_OK),
    Named("p/op_range", "WRITEBACK_BEGIN {} 0 4096", os.W_OK),
    Named("p/evict", "{} 0 4096", os.W_OK),
    Named("p/query_dirty_ranges", "{} 0 4096", os.R_OK),
    Named("p/query_vmo_stats", "{}", os.R_OK),
    Named("p/query_vmo_stats", "{} reset", os.R_OK),
    Named("p/serve_directory", "{}", os.W_OK | os.X_OK, "vmo directory"),
    Named("p/create_vmo", "{}/new 4096", os.W_OK | os.X_OK, "vmo directory"),
    Named("vmo_create", "{}/new 4096", os.W_OK | os.X_OK, "aux directory"),
    Named("vmo_create_child", "snapshot_at_least_on_write {} vmo/common/new 0 4096", os.R_OK),
    Named("vmo_create_child", "reference {} aux/common/new 0 0", os.R_OK | os.W_OK, "aux"),
    Named("vmo_create_child", "reference {} vmo/common/new 0 0", os.R_OK | os.W_OK),
    Named("vmo_create_child", "reference {} vmo/common/new 0 0 no_write", os.R_OK),
    Named("vmo_op_range", "zero {} 0 0", os.W_OK),
    Named("vmo_op_range", "commit {} 0 0", os.W_OK),
    Named("vmo_op_range", "commit {} 0 4096", os.W_OK, "aux"),
    Named("vmo_op_range", "decommit {} 0 4096", os.W_OK, "aux"),
    Named("vmo_op_range", "prefetch {} 0 0", os.R_OK),
    Named("vmo_op_range", "prefetch {} 0 4096", os.R_OK, "aux"),
    Named("vmo_set_stream_size", "{} 8192", os.W_OK),
    Named("vmo_pin", "{} 0 4096", os.R_OK | os.W_OK, "aux"),
    Named("p/detach_vmo", "{}", os.W_OK),
)

TARGETS = {
    "vmo": [path for path in TREE if path.startswith("vmo/") and path.rpartition("/")[2] in FILES],
    "aux": [path for path in TREE if path.startswith("aux/") and path.rpartition("/")[2] in FILES],
    "vmo directory": ["vmo", "vmo/d", "vmo/closed", "vmo/common", "vmo/listed"],
    "aux directory": ["aux", "aux/d", "aux/closed"],
}


def may(path: str, right: int) -> bool:
    return os.access(path, right, effective_ids=True)


@pytest.fixture
def open_commands(world: World) -> Iterator[None]:
    """Everybody may write to the pager's command files: so only the files that are named decide."""
    for file in COMMAND_FILES[1]:
        (world.mount / "control/p" / file).chmod(0o666)
    for top in ("vmo", "aux"):
        Path(world.mount, top, "common").mkdir(exist_ok=True)
        Path(world.mount, top, "common").chmod(0o1777)
    yield
    for file in COMMAND_FILES[1]:
        world.restore(f"control/p/{file}")
    (world.mount / "aux/common").rmdir()


@pytest.mark.usefixtures("open_commands")
@pytest.mark.parametrize("named", COMMANDS, ids=lambda named: f"{named.file} {named.line}")
def test_a_name_in_a_command_needs_the_right_that_the_kernel_would_ask_for(world: World, named: Named) -> None:
    differences = []
    for path in TARGETS[named.kind]:
        for who in PEOPLE:
            actor = world.actors(who)
            granted = actor(may, str(world.twin / path), named.right)
            if named.file == "p/serve_directory":  # and only its owner may have a directory served
                granted = granted and who.uid in {0, world.attributes[path].uid}
            result = actor(command, f"{world.mount}/control/{named.file}", named.line.format(path))
            refused = result.startswith("ZX_ERR_ACCESS_DENIED")
            if granted == refused or (granted and not _is_good(result)):
                differences.append(f"{path} by {who}: {result}, the kernel {'grants' if granted else 'refuses'} it")
            _tidy(world, named, path)
    assert not differences, "\n".join(differences)


def _is_good(result: str) -> bool:
    return result.startswith("ZX_OK")


def _tidy(world: World, named: Named, path: str) -> None:
    for place in (f"{path}/new", "vmo/common/new", "aux/common/new"):
        with suppress(OSError):
            (world.mount / place).unlink()
    if named.file == "p/detach_vmo":
        (world.mount / path).unlink()
        world.restore(path)


@pytest.mark.usefixtures("open_commands")
@pytest.mark.parametrize(
    "name", ["private", "nothing", "closed/public", "closed/nothing", "closed/no/thing", "d/public/x"]
)
def test_a_name_tells_nobody_more_than_stat_would(world: World, name: str) -> None:
    statuses = {
        "ok": "ZX_OK",
        "ENOENT": "ZX_ERR_BAD_HANDLE",
        "ENOTDIR": "ZX_ERR_BAD_HANDLE",
        "EACCES": "ZX_ERR_ACCESS_DENIED",
    }
    path = f"vmo/{name}"
    for who in PEOPLE:
        seen = world.actors(who).errno(os.stat, f"{world.mount}/{path}")
        result = world.actors(who)(command, f"{world.mount}/control/vmo_op_range", f"always_need {path} 0 0")
        assert result.partition(":")[0] == statuses[seen], (who, path)


def test_the_process_of_the_mount_has_no_other_identity_left(world: World) -> None:
    status = Path(f"/proc/{_daemon(world)}/task")
    for thread in status.iterdir():
        fields = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
        assert fields["Uid"].split() == ["0"] * 4
        assert fields["Gid"].split() == ["0"] * 4
        assert fields["Groups"].split() == [str(group) for group in os.getgroups()]


def _daemon(world: World) -> int:
    return int(os.getxattr(world.mount, "user.vmofs.pid"))


# What a handle is


def test_a_handle_outlives_chmod_and_ends_with_its_command_file(world: World) -> None:
    path = world.mount / "vmo/d/public"
    stranger = world.actors(STRANGER)
    fd = stranger(os.open, f"{world.mount}/control/vmo_set_stream_size", os.O_RDWR)
    line = b"vmo/d/public 8192\n"
    try:
        stranger(os.write, fd, line)
        path.chmod(0o600)
        assert stranger(os.write, fd, line) == len(line)
        path.parent.chmod(0o700)
        assert stranger(os.write, fd, line) == len(line)
        other = stranger(os.open, f"{world.mount}/control/vmo_set_stream_size", os.O_RDWR)
        assert stranger.errno(os.write, other, line) == "EACCES"
        stranger(os.close, other)
        stranger(os.close, fd)
        fd = stranger(os.open, f"{world.mount}/control/vmo_set_stream_size", os.O_RDWR)
        assert stranger.errno(os.write, fd, line) == "EACCES"
        assert (
            stranger(os.read, fd, 4096)
            == b"ZX_ERR_ACCESS_DENIED: no permission to search a directory of 'vmo/d/public'\n"
        )
    finally:
        stranger(os.close, fd)
        for restored in ("vmo/d", "vmo/d/public"):
            world.restore(restored)


def test_a_handle_is_of_a_file_and_not_of_a_name(world: World) -> None:
    stranger, owner = world.actors(STRANGER), world.actors(OWNER)
    fd = stranger(os.open, f"{world.mount}/control/vmo_set_stream_size", os.O_RDWR)
    line = b"vmo/d/public 8192\n"
    try:
        stranger(os.write, fd, line)
        owner(os.unlink, f"{world.mount}/vmo/d/public")
        owner(command, f"{world.mount}/control/p/create_vmo", "vmo/d/public 8192 resizable mode=600")
        assert stranger.errno(os.write, fd, line) == "EACCES"
    finally:
        stranger(os.close, fd)
        world.restore("vmo/d/public")


def test_what_a_command_makes_belongs_to_the_opener_and_obeys_his_umask(world: World) -> None:
    careful = world.actors(OWNER, 0o077)
    for file, path in (("control/p/create_vmo", "vmo/d/new"), ("control/vmo_create", "aux/d/new")):
        assert careful(command, f"{world.mount}/{file}", f"{path} 4096") == "ZX_OK"
        status = (world.mount / path).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, OWNER.uid, OWNER.gid)
        (world.mount / path).unlink()


def test_a_snapshot_of_a_private_file_is_private(world: World) -> None:
    line = "snapshot_at_least_on_write vmo/d/private vmo/d/new 0 4096"
    assert world.actors(OWNER)(command, f"{world.mount}/control/vmo_create_child", line) == "ZX_OK"
    assert stat.S_IMODE((world.mount / "vmo/d/new").stat().st_mode) == 0o600
    (world.mount / "vmo/d/new").unlink()


def test_root_that_lost_its_capability_is_no_root(world: World) -> None:
    """A service that runs as uid 0 but may not pass mode bits."""
    line = "zero vmo/d/private 0 0"
    script = f"exec 3<>{world.mount}/control/vmo_op_range; echo '{line}' >&3; read -r answer <&3; echo $answer"
    bare = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    for prefix, expected in (([], "ZX_OK"), (bare, "ZX_ERR_ACCESS_DENIED")):
        done = subprocess.run([*prefix, "bash", "-c", script], capture_output=True, text=True, check=False)
        assert done.stdout.startswith(expected), (prefix, done)


def test_a_uid_beyond_2_31_has_its_rights(world: World) -> None:
    far = Who("far", 2**32 - 2, 2**32 - 2)
    file = f"{world.mount}/control/vmo_op_range"
    assert world.actors(far)(command, file, "zero vmo/d/public 0 0") == "ZX_OK"
    assert world.actors(far)(command, file, "zero vmo/d/private 0 0").startswith("ZX_ERR_ACCESS_DENIED")


def test_a_pager_finds_in_supply_what_it_would_find_in_vmo(world: World) -> None:
    stranger, owner = world.actors(STRANGER), world.actors(OWNER)
    stranger(os.mkdir, f"{world.mount}/control/strange")
    owner(os.mkdir, f"{world.mount}/vmo/closed/secret")
    try:
        for name in ("", "/closed", "/closed/secret", "/closed/nothing", "/d", "/d/public", "/nothing"):
            seen = stranger.errno(os.stat, f"{world.mount}/vmo{name}")
            also = stranger.errno(os.stat, f"{world.mount}/control/strange/supply/vmo{name}")
            assert also == seen or (also, seen) == ("ENOENT", "ok"), name  # VMOs of others are not there
        (world.mount / "vmo").chmod(0o700)
        assert stranger.errno(os.stat, f"{world.mount}/control/strange/supply/closed") == "ENOENT"
        assert stranger.errno(os.stat, f"{world.mount}/control/strange/supply/vmo/closed") == "EACCES"
    finally:
        (world.mount / "vmo").chmod(0o1777)
        (world.mount / "vmo/closed/secret").rmdir()
        stranger(os.rmdir, f"{world.mount}/control/strange")


def test_setfacl_takes_set_group_id_from_who_is_not_in_the_group(world: World) -> None:
    for place in (world.mount, world.twin):
        path = place / "aux/d/public"
        os.chown(path, OWNER.uid, TEAM)
        path.chmod(0o2770)
        world.actors(OWNER)(set_acl, str(path))
    assert Attributes.of(world.mount / "aux/d/public") == Attributes.of(world.twin / "aux/d/public")
    world.restore("aux/d/public")


# What a stranger cannot learn


def test_the_log_and_what_a_pager_knows_is_for_its_owner_only(world: World) -> None:
    stranger = world.actors(STRANGER)
    assert stranger.errno(read, f"{world.mount}/control/log") == "EACCES"
    for name in ("stats", "pending", "deadline", "requests", *COMMAND_FILES[1]):
        assert stranger.errno(read, f"{world.mount}/control/p/{name}") == "EACCES"
    public = stranger(read, f"{world.mount}/control/stats") + stranger(read, f"{world.mount}/README")
    assert not {str(OWNER.uid), "private", "closed", 'pager="p"'} & set(public.split())


def test_supplying_is_no_way_to_read_what_may_only_be_written(world: World) -> None:
    """A stranger makes his own pager and VMO and tries to move the owner's staged bytes there."""
    stranger, owner = world.actors(STRANGER), world.actors(OWNER)
    secret = world.mount / "aux/d/public"
    owner(write, str(secret), b"secret".ljust(4096, b"."))
    secret.chmod(0o622)
    stranger(os.mkdir, f"{world.mount}/control/strange")
    try:
        stranger(command, f"{world.mount}/control/strange/create_vmo", "vmo/mine 4096")
        result = stranger(command, f"{world.mount}/control/strange/supply_pages", "vmo/mine 0 4096 aux/d/public 0")
        assert result == "ZX_ERR_ACCESS_DENIED: no permission to read and write 'aux/d/public'"
        assert owner(read, str(secret)).startswith("secret")
        checked = "vmo/mine 0 4096 aux/d/private 0 xxh3=0000000000000000"
        assert "ACCESS_DENIED" in stranger(command, f"{world.mount}/control/strange/supply_pages", checked)
        for line in ("vmo/d/public 0 4096 aux/d/public 0", "vmo/d/private 0 4096 aux/d/public 0"):
            assert stranger(command, f"{world.mount}/control/strange/supply_pages", line).startswith(
                ("ZX_ERR_INVALID_ARGS", "ZX_ERR_ACCESS_DENIED")
            )
    finally:
        stranger(os.rmdir, f"{world.mount}/control/strange")
        stranger(os.unlink, f"{world.mount}/vmo/mine")
        world.restore("aux/d/public")


def test_a_stranger_does_not_make_himself_the_pager_of_what_others_make(world: World) -> None:
    stranger = world.actors(STRANGER)
    stranger(os.mkdir, f"{world.mount}/control/strange")
    try:
        for directory in ("vmo", "vmo/common"):
            result = stranger(command, f"{world.mount}/control/strange/serve_directory", directory)
            assert result == f"ZX_ERR_ACCESS_DENIED: only its owner may have '{directory}' served"
    finally:
        stranger(os.rmdir, f"{world.mount}/control/strange")


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)

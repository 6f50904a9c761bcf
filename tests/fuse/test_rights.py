"""Who may do what: every identity x every file of the tree x every operation, as the kernel says it of a tmpfs.

The tables are ``PEOPLE`` and ``TREE`` of ``tests/support/rights.py``, and ``OPERATIONS``. What the kernel refuses
of the twin must be refused in the mount, by the same errno, and what it allows must be allowed, but for what
``deviation`` lists, which holds for everybody.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.rights import (
    MEMBER,
    OWNER,
    PEOPLE,
    ROOT,
    STRANGER,
    TEAM,
    TREE,
    Attributes,
    Operation,
    World,
    acl,
    make_in,
)


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


def test_setfacl_takes_set_group_id_from_who_is_not_in_the_group(world: World) -> None:
    for place in (world.mount, world.twin):
        path = place / "aux/d/public"
        os.chown(path, OWNER.uid, TEAM)
        path.chmod(0o2770)
        world.actors(OWNER)(set_acl, str(path))
    assert Attributes.of(world.mount / "aux/d/public") == Attributes.of(world.twin / "aux/d/public")
    world.restore("aux/d/public")

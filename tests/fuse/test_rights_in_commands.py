"""Names in commands: each needs the right that the kernel would ask for, and tells nobody more than ``stat`` would.

The table is ``COMMANDS``; the files and the people are those of ``tests/support/rights.py``.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from tests.support.identity import Who
from tests.support.mounted import wait_for
from tests.support.rights import (
    COMMAND_FILES,
    FILES,
    OWNER,
    PEOPLE,
    ROOT,
    STRANGER,
    TREE,
    Attributes,
    World,
    acl,
    command,
    read,
    write,
    write_at,
)


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
    Named("vmo_create_child", "reference {} aux/common/new 0 0 no_write", os.R_OK | os.W_OK, "aux"),
    Named("vmo_create_child", "snapshot {} aux/common/new 0 4096", os.R_OK | os.W_OK, "aux"),
    Named("vmo_create_child", "reference {} vmo/common/new 0 0", os.R_OK | os.W_OK),
    Named("vmo_create_child", "reference {} vmo/common/new 0 0 no_write", os.R_OK),
    Named("vmo_op_range", "zero {} 0 0", os.W_OK),
    Named("vmo_op_range", "commit {} 0 0", os.W_OK),
    Named("vmo_op_range", "commit {} 0 4096", os.W_OK, "aux"),
    Named("vmo_op_range", "decommit {} 0 4096", os.W_OK, "aux"),
    Named("vmo_op_range", "prefetch {} 0 0", os.R_OK),
    Named("vmo_op_range", "prefetch {} 0 4096", os.R_OK, "aux"),
    Named("vmo_op_range", "always_need {} 0 0", os.R_OK),
    Named("vmo_op_range", "dont_need {} 0 0", os.R_OK),
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
def test_a_name_tells_nobody_more_than_opening_it_would(world: World, name: str) -> None:
    statuses = {
        "ok": "ZX_OK",
        "ENOENT": "ZX_ERR_BAD_HANDLE",
        "ENOTDIR": "ZX_ERR_BAD_HANDLE",
        "EACCES": "ZX_ERR_ACCESS_DENIED",
    }
    path = f"vmo/{name}"
    for who in PEOPLE:
        seen = world.actors(who).errno(open_and_close, f"{world.mount}/{path}")
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


@pytest.mark.usefixtures("open_commands")
@pytest.mark.parametrize("line", ["vmo_op_range zero {} 0 4096", "vmo_set_stream_size {} 8192"])
def test_a_command_that_changes_a_file_takes_set_user_id_from_it_as_a_write_does(world: World, line: str) -> None:
    path = world.mount / "vmo/d/public"
    file, text = line.split(" ", maxsplit=1)
    for who, expected in ((ROOT, 0o4766), (STRANGER, 0o766)):
        path.chmod(0o4766)
        assert world.actors(who)(command, f"{world.mount}/control/{file}", text.format("vmo/d/public")) == "ZX_OK"
        assert stat.S_IMODE(path.stat().st_mode) == expected
    world.restore("vmo/d/public")


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


def test_what_stands_in_supply_for_a_directory_is_not_changed_there(world: World) -> None:
    owner, mirrored = world.actors(OWNER), f"{world.mount}/control/p/supply/vmo/closed"
    before = Attributes.of(world.mount / "vmo/closed")
    for change in (set_user_attribute, set_default_acl, os.utime):
        assert owner.errno(change, mirrored) == "EPERM"
    assert owner.errno(os.chmod, mirrored, 0o777) == "EPERM"
    assert owner.errno(os.chown, mirrored, -1, owner(os.getegid)) == "EPERM"
    assert Attributes.of(world.mount / "vmo/closed") == before
    assert os.listxattr(world.mount / "vmo/closed") == []


def set_user_attribute(path: str) -> None:
    os.setxattr(path, "user.mine", b"x")


def set_default_acl(path: str) -> None:
    os.setxattr(path, "system.posix_acl_default", acl("u::rwx,g::rx,u:2004:rwx,m::rwx,o::-"))


def open_and_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


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


# Files that have lost their names


@contextmanager
def unlinked(world: World, path: str, options: str = "") -> Iterator[int]:
    """A VMO of the owner's that he has open and has unlinked."""
    owner = world.actors(OWNER)
    assert owner(command, f"{world.mount}/control/p/create_vmo", f"{path} 8192 {options}") == "ZX_OK"
    fd = owner(os.open, f"{world.mount}/{path}", os.O_RDONLY)
    owner(os.unlink, f"{world.mount}/{path}")
    try:
        yield fd
    finally:
        owner(os.close, fd)


def test_a_pager_answers_for_an_unlinked_file_although_its_name_is_anothers_by_now(world: World, strange: str) -> None:
    owner, stranger = world.actors(OWNER), world.actors(STRANGER)
    with unlinked(world, "vmo/common/x") as fd:
        assert stranger(command, f"{strange}/create_vmo", "vmo/common/x 8192") == "ZX_OK"
        theirs = stranger(os.open, f"{world.mount}/vmo/common/x", os.O_RDONLY)
        owner(write, f"{world.mount}/aux/d/staged", b"first".ljust(4096, b"."))
        line = "vmo/common/x 0 4096 aux/d/staged 0"
        assert owner(command, f"{world.mount}/control/p/supply_pages", line) == "ZX_OK"
        stranger(os.unlink, f"{world.mount}/vmo/common/x")
        owner(write_at, f"{world.mount}/control/p/supply/vmo/common/x", 4096, b"second".ljust(4096, b"."))
        data = owner(os.pread, fd, 8192, 0)
        assert (data[:5], data[4096:4102]) == (b"first", b"second")
        stranger(os.close, theirs)
        owner(os.unlink, f"{world.mount}/aux/d/staged")


@pytest.mark.usefixtures("open_commands")
def test_who_may_not_write_an_unlinked_file_does_not_supply_it_either(world: World) -> None:
    with unlinked(world, "vmo/common/x", "mode=620"):
        for who, expected in ((STRANGER, "ZX_ERR_ACCESS_DENIED"), (OWNER, "ZX_OK"), (ROOT, "ZX_OK")):
            result = world.actors(who)(
                command, f"{world.mount}/control/p/op_range", "FAIL vmo/common/x 0 4096 ZX_ERR_IO"
            )
            assert result.partition(":")[0] == expected, who
            result = world.actors(who)(command, f"{world.mount}/control/p/query_vmo_stats", "vmo/common/x")
            assert result.partition(":")[0].partition(" ")[0] == expected, who


def test_an_unlinked_file_tells_its_pager_nothing_of_where_its_directory_goes(world: World, strange: str) -> None:
    stranger, owner = world.actors(STRANGER), world.actors(OWNER)
    reader = world.actors(STRANGER, 0o077)
    shared, secret = world.mount / "vmo/common/shared", world.mount / "vmo/closed/secret"
    owner(os.mkdir, str(shared))
    shared.chmod(0o777)
    stranger(command, f"{strange}/create_vmo", "vmo/common/shared/x 4096")
    fd = reader(os.open, str(shared / "x"), os.O_RDONLY)
    stranger(os.unlink, str(shared / "x"))
    owner(os.rename, str(shared), str(secret))
    waiting = Thread(target=reader.errno, args=(os.pread, fd, 4096, 0))
    waiting.start()
    try:
        wait_for(lambda: bool(stranger(read, f"{strange}/pending")), "the request")
        assert stranger(read, f"{strange}/pending").split()[4] == "vmo/common/shared/x"
        line = "FAIL vmo/common/shared/x 0 4096 ZX_ERR_IO"
        assert stranger(command, f"{strange}/op_range", line) == "ZX_OK"
    finally:
        waiting.join()
        reader(os.close, fd)
        secret.rmdir()


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

"""What one user may hold in a mount: each option has its effect, its error and its counters; root is exempt."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.identity import Actor, Who, reachable_mount
from tests.support.mounted import Mounted, vmofs_command, vmofs_environment, wait_for
from tests.support.rights import acl, command
from vmofs_mount.files.command_file import CommandHandle
from vmofs_mount.tree.limits import XATTR_BYTES

USER = Who("user", 2001, 2001)
OTHER = Who("other", 2002, 2002, (3000,))

OPTIONS = (
    "user_pagers=2,user_vmos=3,user_aux_files=4,user_fifos=1,user_nodes=12,user_requests=2,user_queue_bytes=9000,"
    "user_xattr_bytes=2400,user_memory=1M,deadline=0.2,warn=0,pager_group=3000"
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with reachable_mount(OPTIONS) as mounted:
        yield mounted


@pytest.fixture
def user(mounted: Mounted) -> Iterator[Actor]:
    """A user with an empty mount."""
    actor = Actor(Who("user", 2001, 2001, (3000,)))
    yield actor
    actor.close()
    for pager in (mounted.path / "control").glob("p*"):
        pager.rmdir()
    for top in ("vmo", "aux"):
        for file in (mounted.path / top).iterdir():
            file.rmdir() if file.is_dir() else file.unlink()


def held_queue_bytes(mounted: Mounted) -> int:
    """Return what the user holds by open files."""
    return mounted.user_counter("queue_bytes", USER.uid)


def make(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def write(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))


def create_vmo(pager: Path, name: str) -> str:
    fd = os.open(pager / "create_vmo", os.O_RDWR)
    try:
        os.write(fd, f"vmo/{name} 4096\n".encode())
    except OSError:
        return os.read(fd, 1000).decode()
    finally:
        os.close(fd)
    return "ok"


def set_xattr(path: Path, size: int) -> None:
    os.setxattr(path, "user.x", bytes(size))


def test_counts_of_files_are_limited(mounted: Mounted, user: Actor) -> None:
    control, aux = mounted.path / "control", mounted.path / "aux"
    assert [user.errno(os.mkdir, control / f"p{number}") for number in range(3)] == ["ok", "ok", "ENOSPC"]
    assert [user.errno(make, aux / str(number)) for number in range(5)] == ["ok"] * 4 + ["ENOSPC"]
    assert [user.errno(os.mkfifo, control / "p0" / name) for name in ("a", "b")] == ["ok", "ENOSPC"]
    results = [user(create_vmo, control / "p0", f"v{number}") for number in range(4)]
    assert results == ["ok"] * 3 + ["ZX_ERR_NO_SPACE: uid 2001 holds 3 of at most 3 vmos\n"]
    assert [user.errno(os.mkdir, aux / f"d{number}") for number in range(3)] == ["ok", "ok", "ENOSPC"]
    assert mounted.counter("refused_vmos_total") == 1
    assert mounted.counter("held_nodes") >= 12
    user(os.unlink, mounted.path / "vmo" / "v0")
    assert user(create_vmo, control / "p0", "v9") == "ok"
    (aux / "of_root").touch()  # root is exempt


def test_a_file_that_is_given_away_counts_for_its_new_owner(mounted: Mounted, user: Actor) -> None:
    aux = mounted.path / "aux"
    for number in range(4):
        user(make, aux / str(number))
    os.chown(aux / "0", OTHER.uid, -1)
    assert user.errno(make, aux / "new") == "ok"
    assert user.errno(make, aux / "newer") == "ENOSPC"


def test_memory_is_limited_and_given_back(mounted: Mounted, user: Actor) -> None:
    aux = mounted.path / "aux"
    assert user.errno(write, aux / "a", 900_000) == "ok"
    assert user.errno(write, aux / "b", 300_000) == "ENOSPC"
    user(os.unlink, aux / "a")
    assert user.errno(write, aux / "b", 900_000) == "ok"
    for _ in range(10):
        assert user.errno(write, aux / "b", 900_000) == "ok"  # written again, it holds no more
    assert mounted.counter("refused_memory_total") >= 1


def test_extended_attributes_are_limited(mounted: Mounted, user: Actor) -> None:
    path = mounted.path / "aux" / "a"
    user(make, path)
    assert [user.errno(set_xattr, path, size) for size in (1500, 1900, 2500, 100)] == ["ok", "ok", "ENOSPC", "ok"]
    assert len(os.getxattr(path, "user.x")) == 100
    assert mounted.counter("held_xattr_bytes") == 106 + XATTR_BYTES


def test_attributes_of_what_a_pager_consists_of_are_counted_and_given_back(mounted: Mounted, user: Actor) -> None:
    pager = mounted.path / "control" / "p0"
    before = mounted.counter("held_xattr_bytes")
    user(os.mkdir, pager)
    assert user.errno(set_xattr, pager / "supply_pages", 1500) == "ok"
    assert user.errno(set_xattr, pager / "evict", 1500) == "ENOSPC"
    assert user.errno(set_xattr, pager, 400) == "ok"
    user(os.rmdir, pager)
    assert mounted.counter("held_xattr_bytes") == before


def test_what_files_inherit_of_an_access_list_is_limited(mounted: Mounted, user: Actor) -> None:
    directory = mounted.path / "aux" / "d"
    user(os.mkdir, directory)
    entries = ",".join(f"u:{3000 + number}:r" for number in range(80))
    user(set_default_acl, directory, acl(f"u::rwx,g::rx,{entries},m::rwx,o::-"))  # 676 bytes, and those of the name
    assert [user.errno(make, directory / name) for name in "abc"] == ["ok", "ENOSPC", "ENOSPC"]
    user(os.unlink, directory / "a")
    assert user.errno(make, directory / "b") == "ok"
    user(os.unlink, directory / "b")


def test_memory_is_limited_also_for_zeros_that_are_committed_or_pinned(mounted: Mounted, user: Actor) -> None:
    control = mounted.path / "control"
    user(os.mkdir, control / "p0")
    assert user(command, str(control / "p0" / "create_vmo"), "vmo/zeros 1T") == "ZX_OK"
    assert user(command, str(control / "vmo_op_range"), "zero vmo/zeros 0 1T") == "ZX_OK"
    for file, line in (("vmo_op_range", "commit vmo/zeros 0 2M"), ("vmo_pin", "vmo/zeros 0 2M")):
        refusal = "ZX_ERR_NO_MEMORY: the files of uid 2001 may hold no more than 1048576 bytes of memory"
        assert user(command, str(control / file), line) == refusal
    assert user(command, str(control / "vmo_op_range"), "commit vmo/zeros 0 512K") == "ZX_OK"


def test_pins_and_names_that_an_open_file_keeps_are_limited(mounted: Mounted, user: Actor) -> None:
    aux = mounted.path / "aux" / "a"
    user(make, aux)
    user(write, aux, 4096)
    before = held_queue_bytes(mounted)
    fds = [user(os.open, str(mounted.path / "control" / "vmo_pin"), os.O_RDWR) for _ in range(3)]
    assert held_queue_bytes(mounted) == 3 * CommandHandle.BYTES
    assert user.errno(os.open, str(mounted.path / "control" / "vmo_pin"), os.O_RDWR) == "ENOMEM"
    outcomes = [user.errno(os.write, fds[0], b"aux/a 0 4096\n") for _ in range(2)]
    assert outcomes == ["ok", "ENOMEM"]  # a name is let go of, as it can be checked again
    assert held_queue_bytes(mounted) == 3 * CommandHandle.BYTES + 500
    for fd in fds:
        user(os.close, fd)
    wait_for(lambda: held_queue_bytes(mounted) == before == 0, "the files are released")


def test_long_answers_are_limited(mounted: Mounted, user: Actor) -> None:
    control = mounted.path / "control"
    user(os.mkdir, control / "p0")
    user(command, str(control / "p0" / "create_vmo"), "vmo/striped 4M")
    lines = "".join(f"zero vmo/striped {page * 4096} 4096\n" for page in range(0, 1024, 2))
    assert user(command, str(control / "vmo_op_range"), lines) == "ZX_OK"
    query = str(control / "p0" / "query_dirty_ranges")
    answer = user(command, query, "vmo/striped 0 4M")
    assert answer.startswith("ZX_ERR_NO_MEMORY: uid 2001 holds ")
    assert user(command, query, "vmo/striped 0 64K") == "ZX_OK 8"
    wait_for(lambda: held_queue_bytes(mounted) == 0, "the file is released")


def set_default_acl(path: Path, value: bytes) -> None:
    os.setxattr(path, "system.posix_acl_default", value)


def test_outstanding_requests_are_limited(mounted: Mounted, user: Actor) -> None:
    user(os.mkdir, mounted.path / "control" / "p0")
    for number in range(3):
        user(create_vmo, mounted.path / "control" / "p0", f"v{number}")
    script = " & ".join(f"cat {mounted.path}/vmo/v{number}" for number in range(3))
    done = user(_shell, f"({script} & wait) 2>&1")
    assert done.count("Cannot allocate memory") == 1
    assert done.count("Connection timed out") == 2
    assert mounted.counter("held_requests") == 0


def _shell(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout


def test_only_members_of_the_group_make_pagers(mounted: Mounted) -> None:
    stranger = Actor(USER)
    member = Actor(OTHER)
    assert stranger.errno(os.mkdir, mounted.path / "control" / "p") == "EACCES"
    assert member.errno(os.mkdir, mounted.path / "control" / "p") == "ok"
    member(os.rmdir, mounted.path / "control" / "p")
    stranger.close()
    member.close()


def test_a_group_that_does_not_exist_is_said(tmp_path: Path) -> None:
    command = vmofs_command("mount", "-o", "pager_group=nonesuch", tmp_path)
    done = subprocess.run(command, env=vmofs_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "vmofs: option 'pager_group' names a group that does not exist: 'nonesuch'\n"

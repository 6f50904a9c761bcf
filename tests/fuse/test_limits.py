"""What one user may hold in a mount: each option has its effect, its error and its counters; root is exempt."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.identity import Actor, Who, reachable_mount
from tests.mounted import Mounted, vmofs_command, vmofs_environment

USER = Who("user", 2001, 2001)
OTHER = Who("other", 2002, 2002, (3000,))

OPTIONS = (
    "user_pagers=2,user_vmos=3,user_aux_files=4,user_fifos=1,user_nodes=12,user_requests=2,user_queue_bytes=1000,"
    "user_xattr_bytes=2000,user_memory=1M,deadline=0.2,warn=0,pager_group=3000"
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


def counter(mounted: Mounted, name: str) -> int:
    found = re.search(rf"^vmofs_{name} (\d+)$", (mounted.path / "control" / "stats").read_text(), re.MULTILINE)
    assert found, name
    return int(found[1])


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
    assert counter(mounted, "refused_vmos_total") == 1
    assert counter(mounted, "held_nodes") >= 12
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
    assert user.errno(write, aux / "b", 300_000) == "ENOMEM"
    user(os.unlink, aux / "a")
    assert user.errno(write, aux / "b", 900_000) == "ok"
    for _ in range(10):
        assert user.errno(write, aux / "b", 900_000) == "ok"  # written again, it holds no more
    assert counter(mounted, "refused_memory_total") >= 1


def test_extended_attributes_are_limited(mounted: Mounted, user: Actor) -> None:
    path = mounted.path / "aux" / "a"
    user(make, path)
    assert [user.errno(set_xattr, path, size) for size in (1500, 1900, 2500, 100)] == ["ok", "ok", "ENOSPC", "ok"]
    assert len(os.getxattr(path, "user.x")) == 100
    assert counter(mounted, "held_xattr_bytes") == 106


def test_outstanding_requests_are_limited(mounted: Mounted, user: Actor) -> None:
    user(os.mkdir, mounted.path / "control" / "p0")
    for number in range(3):
        user(create_vmo, mounted.path / "control" / "p0", f"v{number}")
    script = " & ".join(f"cat {mounted.path}/vmo/v{number}" for number in range(3))
    done = user(_shell, f"({script} & wait) 2>&1")
    assert done.count("Cannot allocate memory") == 1
    assert done.count("Connection timed out") == 2
    assert counter(mounted, "held_requests") == 0


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

"""A mount that is moved goes on: pagers are found at the new place, and it ends there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, vmofs_command, vmofs_environment, wait_for
from tests.support.pager_client import Background, PagerClient
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

SECONDS = 10.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may move mounts")


def call(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=SECONDS)


def bind(mount: Path, new: Path) -> Path:
    """Bind it elsewhere, and unmount it where it was."""
    new.mkdir()
    call("mount", "--bind", mount, new)
    call("umount", mount)
    return new


def move(mount: Path, new: Path) -> Path:
    new.mkdir()
    call("mount", "--move", mount, new)
    return new


def rename_parent(mount: Path, new: Path) -> Path:
    mount.parent.rename(new)
    return new / mount.name


MOVES = {"bind": bind, "mount --move": move, "a renamed parent": rename_parent}
Move = Callable[[Path, Path], Path]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in a directory, of which nothing is mounted after the test."""
    place = tmp_path / "parent" / "place"
    place.mkdir(parents=True)
    yield place
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(str(tmp_path)):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)


@pytest.fixture
def daemon(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A mount's process, which has something to say only if something is wrong."""
    process = subprocess.Popen(
        vmofs_command("mount", "-f", place), env=vmofs_environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for((place / "control" / "version").exists, "the mount answers")
    yield process
    process.kill()
    process.communicate()


def serve_and_read(mount: Path, name: str) -> None:
    """Be a pager whose FIFO is opened, whose commands name files, and whose file is read."""
    pager = PagerClient(mount, name)
    vmo = pager.create(size=2 * PAGE_SIZE)
    reader = Background(lambda: vmo.path.read_bytes()[:PAGE_SIZE])
    began = time.monotonic()
    request = pager.requests.next()
    assert time.monotonic() - began < SECONDS / 2
    pager.supply(vmo, request.offset, request.length, key=7)
    assert reader.result() == pattern.make(7, 0, PAGE_SIZE)
    pager.close()


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Return what a daemon that is about to end complained of; it must end well."""
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, log
    return [line for line in log.splitlines() if line and not line.startswith("INFO")]


@pytest.mark.parametrize("way", MOVES)
@pytest.mark.parametrize("end", ["SIGTERM", "vmofs umount"])
def test_a_mount_that_is_moved_is_served_and_ends_where_it_is(
    place: Path, tmp_path: Path, daemon: subprocess.Popen[str], way: str, end: str
) -> None:
    serve_and_read(place, "before")
    moved = MOVES[way](place, tmp_path / "new")
    serve_and_read(moved, "after")
    if end == "SIGTERM":
        daemon.send_signal(signal.SIGTERM)
    else:
        call_vmofs = subprocess.run(
            vmofs_command("umount", moved), env=vmofs_environment(), capture_output=True, text=True, check=False
        )
        assert (call_vmofs.returncode, call_vmofs.stderr) == (0, "")
    assert ended(daemon) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_what_is_mounted_where_a_mount_was_stays_when_that_ends(
    place: Path, tmp_path: Path, daemon: subprocess.Popen[str]
) -> None:
    moved = move(place, tmp_path / "new")
    call("mount", "-t", "tmpfs", "other", place)
    (place / "file").touch()
    serve_and_read(moved, "p")
    daemon.send_signal(signal.SIGTERM)
    ended(daemon)
    assert (place / "file").exists()
    assert str(moved) not in Path("/proc/mounts").read_text()


def test_a_mount_that_is_covered_is_served_where_else_it_is(
    place: Path, tmp_path: Path, daemon: subprocess.Popen[str]
) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    call("mount", "--bind", place, bound)
    call("mount", "-t", "tmpfs", "other", place)
    serve_and_read(bound, "p")
    call("umount", place)
    call("umount", bound)
    call("umount", place)
    assert ended(daemon) == []


def test_a_mount_that_is_covered_before_it_was_tried_is_served_too(place: Path, tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    for _ in range(5):
        daemon = subprocess.Popen(
            vmofs_command("mount", "-f", place), env=vmofs_environment(), stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: str(place) in Path("/proc/mounts").read_text(), "it is mounted")
        call("mount", "--bind", place, bound)
        call("mount", "-t", "tmpfs", "other", place)
        serve_and_read(bound, "p")
        call("umount", place)
        call("umount", bound)
        call("umount", place)
        assert ended(daemon) == []


_SERVES = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
from tests.fuse.test_moved_mounts import serve_and_read
serve_and_read(Path(sys.argv[1]), "inside")
"""


def test_a_mount_that_is_left_in_another_namespace_only_is_served_there(mount: Mounted) -> None:
    """As in a container that it was given to."""
    root = str(Path(__file__).parents[2])
    script = [
        "unshare",
        "--mount",
        "--propagation",
        "unchanged",
        "sh",
        "-c",
        'read -r line; exec "$0" -c "$1" "$2" "$3"',
    ]
    holder = subprocess.Popen(
        [*script, sys.executable, _SERVES, str(mount.path), f"{root}:{root}/mount"],
        stdin=subprocess.PIPE,
        env=vmofs_environment(),
    )
    wait_for(
        lambda: Path(f"/proc/{holder.pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink(), "it is away"
    )
    call("umount", mount.path)
    holder.communicate(b"go\n", timeout=3 * SECONDS)
    assert holder.returncode == 0
    assert mount.process.wait(SECONDS) == 0

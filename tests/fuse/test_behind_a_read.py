"""Who waits behind a READ in the kernel: he can be killed, and holds nobody else up.

A READ that waits for a pager has its pages locked. Who writes to one, or changes the size of the file, waits for that
with the file locked; who then removes or renames the file waits with the directory locked, and so would everybody.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import NIGHTLY
from tests.support.identity import Who, reachable_mount, take_identity
from tests.support.mounted import Mounted, wait_for
from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.procfs import process_state

USER = Who("user", 65534, 65534)
OTHER = Who("other", 2001, 2001)
LIBC = ctypes.CDLL(None, use_errno=True)

FREE_SECONDS = 1.0 if NIGHTLY else 5.0
"""Within what time of SIGKILL all must be free."""

LIST_SECONDS = 0.05
"""What others may take for a listing, on a machine that has time; without precautions it is for ever."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")


def write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    with suppress(OSError):
        os.pwrite(fd, b"w", 10)


def grow(path: Path) -> None:
    os.truncate(path, 128 * 1024)


def shrink(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.ftruncate(fd, 2 * PAGE_SIZE)


def allocate(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    LIBC.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(64 * PAGE_SIZE))


def empty(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def rename_over(path: Path) -> None:
    with suppress(OSError):
        (path.parent / f"{path.name}-other").rename(path)


def unlink(path: Path) -> None:
    path.unlink()


DEEDS = [write, grow, shrink, allocate, empty, rename_over, unlink]


def read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    with suppress(OSError):
        os.pread(fd, 1, 0)


class Crowd:
    """Processes of one user, each of which does one thing. All are killed in the end."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, deed: Callable[[Path], None], path: Path) -> int:
        """Let a new process do something, and end."""
        pid = os.fork()
        if pid == 0:
            _do(deed, path)
        self.pids.append(pid)
        return pid

    def kill(self) -> None:
        """Kill all."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)

    def reap(self) -> bool:
        """Return whether all have ended."""
        self.pids = [pid for pid in self.pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        return not self.pids


def _do(deed: Callable[[Path], None], path: Path) -> NoReturn:
    try:
        take_identity(USER)
        deed(path)
    finally:
        os._exit(0)


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with reachable_mount("deadline=0", "allow_other") as mounted:
        yield mounted


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    try:
        yield crowd
    finally:
        crowd.kill()
        wait_for(crowd.reap, "all who were killed have ended")


@pytest.fixture
def file(mounted: Mounted) -> Iterator[Path]:
    """A file of the user's, with another beside it, of a pager that answers nothing."""
    pager = mounted.path / "control/p"
    pager.mkdir()
    path = mounted.path / "vmo/v"
    for name in ("v", "v-other"):
        (pager / "create_vmo").write_text(f"vmo/{name} {8 * PAGE_SIZE} resizable\n")
        os.chown(mounted.path / "vmo" / name, USER.uid, USER.gid)
    yield path
    pager.rmdir()
    for name in ("v", "v-other"):
        (mounted.path / "vmo" / name).unlink(missing_ok=True)


class Lister:
    """Another user who lists ``vmo/`` again and again, and notes how long the longest took."""

    def __init__(self, directory: Path) -> None:
        self._out, into = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                take_identity(OTHER)
                while True:
                    began = time.monotonic()
                    os.listdir(directory)  # noqa: PTH208 - names only
                    with suppress(FileNotFoundError):
                        os.stat(directory / "nothing")  # noqa: PTH116
                    os.write(into, int((time.monotonic() - began) * 1e6).to_bytes(8, "little"))
                    time.sleep(0.002)
            finally:
                os._exit(0)
        os.close(into)

    def longest(self) -> float:
        """Return the seconds that the longest listing took since the last call; wait for one that goes on."""
        os.set_blocking(self._out, True)
        data = os.read(self._out, 2**16)
        return max(int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)) / 1e6

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._out)


@pytest.fixture
def lister(mounted: Mounted) -> Iterator[Lister]:
    lister = Lister(mounted.path / "vmo")
    try:
        yield lister
    finally:
        lister.close()


def is_settled(pid: int) -> bool:
    """Return whether a process has ended, or sleeps."""
    return process_state(pid) in set("SDZ")


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(DEEDS, 2)))
def test_whoever_waits_behind_a_read_can_be_killed_and_holds_nobody_up(
    mounted: Mounted,
    file: Path,
    crowd: Crowd,
    lister: Lister,
    first: Callable[[Path], None],
    second: Callable[[Path], None],
) -> None:
    reader = crowd.start(read, file)
    pending = mounted.path / "control/p/pending"
    wait_for(lambda: bool(pending.read_text()) and process_state(reader) == "D", "the reader waits")
    lister.longest()
    for deed in (first, second):
        pid = crowd.start(deed, file)
        wait_for(lambda pid=pid: is_settled(pid), "he waits, or is done")  # type: ignore[misc]
    time.sleep(0.1)  # what is being listed for long is to be seen
    slowest = lister.longest()
    crowd.kill()
    killed_at = time.monotonic()
    wait_for(crowd.reap, "all have ended")
    assert time.monotonic() - killed_at < FREE_SECONDS
    assert max(slowest, lister.longest()) < (LIST_SECONDS if NIGHTLY else 10 * LIST_SECONDS)


@pytest.mark.parametrize("change", [grow, shrink])
def test_who_changes_the_size_behind_a_read_can_be_killed_while_the_reader_goes_on_waiting(
    mounted: Mounted, file: Path, crowd: Crowd, change: Callable[[Path], None]
) -> None:
    reader = crowd.start(read_well, file)
    pending = mounted.path / "control/p/pending"
    wait_for(lambda: bool(pending.read_text()) and process_state(reader) == "D", "the reader waits")
    pid = crowd.start(change, file)
    wait_for(lambda: process_state(pid) in set("SD"), "he waits")
    os.kill(pid, signal.SIGKILL)
    crowd.pids.remove(pid)
    wait_for(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0), "he has ended", FREE_SECONDS)
    assert process_state(reader) in set("SD")
    (mounted.path / "control/p/supply/v").write_bytes(b"." * PAGE_SIZE)
    wait_for(lambda: process_state(reader) == "Z", "the reader has his page")
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    crowd.pids.remove(reader)


def test_a_writer_goes_on_when_the_reader_he_is_behind_was_killed(mounted: Mounted, file: Path, crowd: Crowd) -> None:
    reader = crowd.start(read, file)
    pending = mounted.path / "control/p/pending"
    wait_for(lambda: bool(pending.read_text()) and process_state(reader) == "D", "the reader waits")
    writer = crowd.start(write, file)
    wait_for(lambda: process_state(writer) == "D", "he waits behind it")
    os.kill(reader, signal.SIGKILL)
    wait_for(lambda: process_state(writer) == "S", "his WRITE waits for the pager", FREE_SECONDS)
    (mounted.path / "control/p/supply/v").write_bytes(b"." * PAGE_SIZE)
    wait_for(lambda: process_state(writer) == "Z", "it is done")
    with file.open("rb", buffering=0) as written:
        assert written.read(13)[8:] == b"..w.."


def read_well(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    if os.pread(fd, 4, 0) != b"....":
        os._exit(1)


def grow_before_answering(path: Path) -> None:
    """Be a pager that changes the size of its file before it answers."""
    control = path.parents[1] / "control/p"
    os.read(os.open(control / "requests", os.O_RDONLY), 4096)
    os.truncate(path, 64 * PAGE_SIZE)


def test_a_pager_that_grows_a_file_before_it_answers_can_be_killed_and_replaced(
    mounted: Mounted, file: Path, crowd: Crowd
) -> None:
    control = mounted.path / "control/p"
    for name in ("", "requests", "supply"):
        os.chown(control / name, USER.uid, USER.gid)
    pager = crowd.start(grow_before_answering, file)
    reader = crowd.start(read_well, file)
    pending = control / "pending"
    wait_for(lambda: "delivered=requests" in pending.read_text(), "the pager has the request")
    wait_for(lambda: file.stat().st_size == 64 * PAGE_SIZE, "the pager waits for itself")
    os.kill(pager, signal.SIGKILL)
    crowd.pids.remove(pager)
    wait_for(lambda: os.waitpid(pager, os.WNOHANG) != (0, 0), "the pager has ended", FREE_SECONDS)
    with (control / "requests").open("rb") as requests:
        assert requests.readline() == b"READ 1 0 4096 vmo/v\n".replace(b"1", pending.read_bytes().split()[1], 1)
        (control / "supply/v").write_bytes(b"." * PAGE_SIZE)
    wait_for(lambda: process_state(reader) == "Z", "the reader has his page")
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    crowd.pids.remove(reader)

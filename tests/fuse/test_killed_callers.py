"""Who waits for a pager in any call ends at once when he is killed, and holds up nobody else in the meantime."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import PagerClient, Vmo, process_state
from tests.support.writing import supply, take
from vmofs.units import PAGE_SIZE

SECONDS = 0.2
"""How long a killed process may last."""

TIMES = 3
"""The machine may be busy, so one quick end is enough; without precautions there is none."""

# A program that does one thing that waits, when it is told to. Standing alone: it is started as a script.
CALLER = """
import mmap, os, signal, sys
kind, path = sys.argv[1:3]
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
fd = -1
if kind != "open":
    fd = os.open(path, os.O_RDWR | (os.O_DIRECT if kind == "direct" else 0))
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
if kind in {"msync", "close"}:
    mapping = mmap.mmap(fd, 0)
    mapping[0] = 1
elif kind == "load":
    mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
elif kind == "fsync":
    os.pwrite(fd, b"x", 0)
buffer = mmap.mmap(-1, 4096)
calls = {
    "pread": lambda: os.pread(fd, 4096, 0),
    "load": lambda: mapping[0],
    "direct": lambda: os.preadv(fd, [buffer], 0),
    "pwrite": lambda: os.pwrite(fd, b"x", 0),
    "ftruncate": lambda: os.ftruncate(fd, 100),
    "fsync": lambda: os.fsync(fd),
    "msync": lambda: mapping.flush(),
    "close": lambda: os.close(fd),
    "open": lambda: os.open(path, os.O_RDWR | os.O_TRUNC),
}
print("ready", flush=True)
sys.stdin.readline()
try:
    calls[kind]()
    print("done", flush=True)
except OSError as error:
    print("errno", error.errno, flush=True)
"""

REQUESTS = {
    "pread": "READ(0,1)",
    "load": "READ(0,1)",
    "direct": "READ(0,1)",
    "pwrite": "DIRTY(0,1)",
    "ftruncate": "READ(0,1)",
    "fsync": "WRITEBACK(0,1)",
    "msync": "DIRTY(0,1)",
    "close": "DIRTY(0,1)",
}
"""What each of them waits for. ``open`` with O_TRUNC waits for what somebody else has stored."""

IS_THERE = {"pwrite", "fsync", "msync", "close", "open"}
"""Those that need a page that is there."""


class Caller:
    """A process that waits in one call."""

    def __init__(self, kind: str, path: Path) -> None:
        command = [sys.executable, "-I", "-S", "-c", CALLER, kind, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Make the call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def is_waiting(self) -> bool:
        """Return whether it sleeps in the call, not before it."""
        calls = Path(f"/proc/{self.process.pid}/syscall").read_text().split()
        return process_state(self.process.pid) in {"S", "D"} and calls[:2] != ["0", "0x0"]

    def kill(self) -> float:
        """Kill it, and return how many seconds that took."""
        began = time.perf_counter()
        self.process.kill()
        self.process.wait(10)
        return time.perf_counter() - began

    def says(self) -> str:
        """Return how the call ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


Start = Callable[[str, Path], Caller]


@pytest.fixture
def start() -> Iterator[Start]:
    """A starter of such processes, which are killed after the test."""
    callers: list[Caller] = []

    def begin(kind: str, path: Path) -> Caller:
        callers.append(Caller(kind, path))
        return callers[-1]

    yield begin
    for caller in callers:
        caller.process.kill()
        caller.process.communicate()


def waiting(pager: PagerClient, start: Start, kind: str) -> tuple[Vmo, Caller]:
    """Return a VMO, and a process that waits in a call for its pager."""
    options = "writeback" if kind == "fsync" else "resizable trap_dirty"
    vmo = pager.create(size=4 * PAGE_SIZE, options=options)
    if kind in IS_THERE:
        supply(pager, vmo, 0)
    if kind == "open":
        storer = start("msync", vmo.path)
        storer.go()
        assert take(pager) == REQUESTS["msync"]
        storer.kill()  # what it has stored is to be carried out, before the size changes
    caller = start(kind, vmo.path)
    caller.go()
    if kind != "open":
        assert take(pager) == REQUESTS[kind]
    wait_for(caller.is_waiting, "it waits")
    return vmo, caller


def use_directories(mounted: Mounted, vmo: Vmo) -> float:
    """Make, look up, list, rename and remove names beside a VMO; return how many seconds that took."""
    began = time.perf_counter()
    other = vmo.path.with_name("beside")
    other.mkdir()
    assert vmo.path.name in os.listdir(vmo.path.parent)  # noqa: PTH208 - no paths are needed
    assert not vmo.path.with_name("missing").exists()
    other.rename(vmo.path.with_name("moved")).rmdir()
    assert (mounted.path / "control" / "version").read_text()
    return time.perf_counter() - began


@pytest.mark.parametrize("kind", [*REQUESTS, "open"])
def test_a_process_that_waits_ends_at_once_when_it_is_killed_and_directories_can_be_used_meanwhile(
    shared_mount: Mounted, pager: PagerClient, start: Start, kind: str
) -> None:
    # What was stored is taken when its process is killed, and refused when the pager is closed.
    shared_mount.expected_log.append("what was written to .* is lost")
    for _ in range(TIMES):
        vmo, caller = waiting(pager, start, kind)
        assert use_directories(shared_mount, vmo) < 1
        assert caller.process.poll() is None, caller.says()
        seconds = caller.kill()
        assert use_directories(shared_mount, vmo) < 1
        if seconds < SECONDS:
            return
        vmo.path.unlink()
    pytest.fail(f"it lasted for {seconds} s")


@pytest.mark.parametrize("kind", ["pwrite", "ftruncate", "fsync"])
def test_a_signal_that_is_handled_ends_the_wait_with_eintr_and_python_makes_the_call_again(
    shared_mount: Mounted, pager: PagerClient, start: Start, kind: str
) -> None:
    _, caller = waiting(pager, start, kind)
    caller.process.send_signal(signal.SIGUSR1)
    assert take(pager) == REQUESTS[kind], "EINTR, so the call is made again"
    assert caller.kill() < SECONDS
    wait_for(lambda: shared_mount.counter("held_requests") == 0, "nothing waits any more")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the read-ahead of a mount")
@pytest.mark.parametrize("kind", ["pread", "load"])
def test_a_signal_that_is_handled_is_no_error_of_a_page_and_a_later_kill_ends_the_wait(
    mount: Mounted, start: Start, kind: str
) -> None:
    """A page fault would end with SIGBUS. Without read-ahead its READ is one that is waited for."""
    Path(f"/sys/class/bdi/0:{mount.number}/read_ahead_kb").write_text("0")
    pager = PagerClient(mount.path)
    try:
        vmo = pager.create(size=4 * PAGE_SIZE)
        caller = start(kind, vmo.path)
        caller.go()
        assert take(pager) == "READ(0,1)"
        wait_for(caller.is_waiting, "it waits")
        for _ in range(3):
            caller.process.send_signal(signal.SIGUSR1)
        time.sleep(SECONDS)
        assert caller.process.poll() is None
        supply(pager, vmo)
        assert caller.says() == "done"
        caller = start(kind, vmo.path.with_name(pager.create("w").path.name))
        caller.go()
        assert take(pager) == "READ(0,1)"
        wait_for(caller.is_waiting, "it waits")
        caller.process.send_signal(signal.SIGUSR1)
        time.sleep(SECONDS)
        assert caller.kill() < SECONDS
    finally:
        pager.close()

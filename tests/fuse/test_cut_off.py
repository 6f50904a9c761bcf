"""What a shrink cuts off while somebody waits for it is the end of the file, or an error, but never zeros.

The kernel fills up what a READ lacks with zeros, as far as it believes the file to reach.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.pager_client import PagerClient, ReaderProcess, Readers, Vmo
from vmofs.units import PAGE_SIZE

ENDS = {"pread": (b"", errno.ERANGE), "direct": (b"", errno.ERANGE), "sendfile": (b"", errno.ERANGE)}
"""What a read may give that was cut off: nothing, as behind the end; or an error where the kernel learns too late."""

ROUNDS = 20 if NIGHTLY else 3


def truncate_late(path: Path) -> None:
    """Truncate in a process that gets a CPU only now and then, so that it acts late on the answer."""
    pid = os.fork()
    if pid == 0:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.truncate(path, PAGE_SIZE)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def busy() -> Iterator[None]:
    """Keep the CPUs busy for a process that would have an idle one only; all others come before these."""
    command = ["nice", "-n", "19", sys.executable, "-S", "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for burner in burners:
        burner.kill()
        burner.wait()


def truncate(_pager: PagerClient, vmo: Vmo) -> None:
    os.truncate(vmo.path, PAGE_SIZE)


def set_stream_size(pager: PagerClient, vmo: Vmo) -> None:
    command(pager, "vmo_set_stream_size", f"{vmo.name} {PAGE_SIZE}")


def command(pager: PagerClient, file: str, line: str) -> None:
    with (pager.mount / "control" / file).open("w") as commands:
        commands.write(f"{line}\n")


def referenced(pager: PagerClient, vmo: Vmo) -> Path:
    """Return the path of another name of the same memory."""
    reference = pager.vmo("r")
    command(pager, "vmo_create_child", f"reference {vmo.name} {reference.name} 0 0")
    return reference.path


def assert_cut_off(kind: str, reader: ReaderProcess) -> None:
    """Assert that a read, or a load from a mapping, got nothing of what is beyond the end."""
    if kind == "mmap":
        assert reader.failure() == -signal.SIGBUS
    else:
        assert reader.next() in ENDS[kind]


@pytest.mark.parametrize("shrink", [truncate, set_stream_size])
@pytest.mark.parametrize("way", ["own name", "reference"])
@pytest.mark.parametrize("kind", ["pread", "mmap", "direct", "sendfile"])
def test_a_reader_that_is_cut_off_gets_no_zeros(
    pager: PagerClient, start: Readers, kind: str, way: str, shrink: Callable[[PagerClient, Vmo], None]
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    path = referenced(pager, vmo) if way == "reference" else vmo.path
    reader = start(kind, path, 2 * PAGE_SIZE)
    pager.take_read(vmo, 2 * PAGE_SIZE)
    shrink(pager, vmo)
    assert_cut_off(kind, reader)
    assert path.stat().st_size == PAGE_SIZE


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(("kind", "rounds"), [("pread", ROUNDS), ("mmap", 3)])  # a process for each takes its time
def test_a_reader_that_is_cut_off_gets_no_zeros_on_a_busy_machine(
    pager: PagerClient, start: Readers, kind: str, rounds: int
) -> None:
    for number in range(rounds):
        vmo = pager.create(f"v{number}", size=4 * PAGE_SIZE, options="resizable")
        reader = start(kind, vmo.path, 2 * PAGE_SIZE)
        pager.take_read(vmo, 2 * PAGE_SIZE)
        truncate_late(vmo.path)
        assert_cut_off(kind, reader)


@pytest.mark.parametrize("way", ["own name", "reference"])
def test_what_was_cut_off_by_a_command_is_the_end_for_who_has_the_file_open(pager: PagerClient, way: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    fd = os.open(referenced(pager, vmo) if way == "reference" else vmo.path, os.O_RDONLY)
    try:
        pager.supply(vmo, 0, 4 * PAGE_SIZE)
        assert len(os.pread(fd, 4 * PAGE_SIZE, 0)) == 4 * PAGE_SIZE
        set_stream_size(pager, vmo)
        assert os.pread(fd, PAGE_SIZE, 2 * PAGE_SIZE) in ENDS["pread"]
        assert len(os.pread(fd, 4 * PAGE_SIZE, 0)) == PAGE_SIZE
    finally:
        os.close(fd)

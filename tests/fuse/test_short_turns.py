"""Whatever a user does within his limits, nobody else waits for it: work that grows with what he made is cut in slices.

The goal is that no turn of the event loop takes more than 20 ms. Here the others wait less than a tenth of a second at
one of some attempts, as the machine may be busy.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.identity import Actor, Who, meanwhile, reachable_mount
from tests.support.mounted import Mounted, wait_for
from tests.support.stopwatch import Stopwatch
from tests.support.two_users import owner_of_pager
from vmofs.units import PAGE_SIZE

HOSTILE = Who("hostile", 2001, 2001)
OTHER = Who("other", 2002, 2002)

PIECES = 30_000 if NIGHTLY else 20_000
PINS = 4000
SIZE = 2 * PIECES * PAGE_SIZE
ATTEMPTS = 3
LONGEST_SECONDS = 0.1

pytestmark = [
    pytest.mark.alone,  # it is looked how long others wait for the daemon's one thread
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
]


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with reachable_mount() as mounted:
        yield mounted


@pytest.fixture
def hostile(mounted: Mounted) -> Iterator[Actor]:
    """A user with a pager, of whom nothing is left afterwards."""
    with owner_of_pager(mounted, HOSTILE, "mine") as actor:
        yield actor


def longest_look(directory: str, stop: str, daemon: int) -> float:
    """Look names up until a file is there; return how long the slowest look took, whatever else the machine does."""
    longest, number = 0.0, 0
    while not os.path.exists(stop):  # noqa: PTH110 - outside of the mount
        watch = Stopwatch(daemon)
        os.path.exists(f"{directory}/nothing{number}")  # noqa: PTH110
        longest, number = max(longest, watch.seconds()), number + 1
        time.sleep(0.001)
    return longest


def seconds_others_wait(mounted: Mounted, act: Callable[[], object]) -> float:
    """Do something; return how long another user waits at most for a look at a name meanwhile."""
    stop = mounted.path.parent / "stop"
    other = Actor(OTHER)
    try:
        with meanwhile(other, longest_look, str(mounted.path / "vmo"), str(stop), mounted.pid) as results:
            time.sleep(0.02)  # he is looking
            try:
                act()
            finally:
                stop.touch()
    finally:
        other.close()
        stop.unlink(missing_ok=True)
    (longest,) = results
    assert isinstance(longest, float)
    return longest


def say(path: str, line: str) -> str:
    """Carry out commands and return the result of the last, which may come later. Writes may be short."""
    fd = os.open(path, os.O_RDWR)
    try:
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(fd, data) :]
        while True:
            with suppress(BlockingIOError):
                return os.read(fd, 2**16).decode()
            time.sleep(0.005)
    finally:
        os.close(fd)


COMMANDS = {
    "zero": [("vmo_op_range", f"zero vmo/v 0 {SIZE}")],
    "always_need": [("vmo_op_range", f"always_need vmo/v 0 {SIZE}")],
    "query": [("mine/query_dirty_ranges", f"vmo/v 0 {SIZE}")],
    "writeback": [
        ("mine/op_range", f"WRITEBACK_BEGIN vmo/v 0 {SIZE}"),
        ("mine/op_range", f"WRITEBACK_END vmo/v 0 {SIZE}"),
    ],
    "stream size": [("vmo_set_stream_size", "vmo/v 0")],
    "detach": [("mine/detach_vmo", "vmo/v")],
    "truncate": [],
    "unlink": [],
}


def act(mount: Path, name: str) -> None:
    """Do something that is one call, but changes, or looks at, all pieces of the VMO."""
    for file, line in COMMANDS[name]:
        answer = say(f"{mount}/control/{file}", line)
        assert answer.startswith("ZX_OK"), answer
    if name == "truncate":
        os.truncate(mount / "vmo/v", PAGE_SIZE)
    if name == "unlink":
        (mount / "vmo/v").unlink()
        time.sleep(0.3)  # while it is forgotten, and freed


def make_pieces(mount: Path) -> None:
    """Make a VMO of which every other page is a dirty zero, and no page between is absent."""
    say(f"{mount}/control/mine/create_vmo", f"vmo/v {SIZE} resizable")
    os.close(os.open(mount / "aux/holes", os.O_CREAT | os.O_WRONLY))
    os.truncate(mount / "aux/holes", SIZE)
    lines = "\n".join(f"zero vmo/v {2 * piece * PAGE_SIZE} {PAGE_SIZE}" for piece in range(PIECES))
    assert say(f"{mount}/control/vmo_op_range", lines) == "ZX_OK\n"
    assert say(f"{mount}/control/mine/supply_pages", f"vmo/v 0 {SIZE} aux/holes 0") == "ZX_OK\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_call_on_very_many_pieces_does_not_keep_others_waiting(mounted: Mounted, hostile: Actor, name: str) -> None:
    waits = []
    for _ in range(ATTEMPTS):
        hostile(make_pieces, mounted.path)
        waits.append(seconds_others_wait(mounted, lambda: hostile(act, mounted.path, name)))
        sys.stderr.write(f"{name}: others waited for {waits[-1] * 1000:.1f} ms\n")
        if waits[-1] < LONGEST_SECONDS:
            return
        for path in ("vmo/v", "aux/holes"):
            (mounted.path / path).unlink(missing_ok=True)
    pytest.fail(f"others waited for {waits} s")


def shortest_of(mounted: Mounted, call: Callable[[], object]) -> float:
    """Return how long others wait at most at the best of some attempts; no more are made than needed."""
    waits: list[float] = []
    while len(waits) < ATTEMPTS and not (waits and waits[-1] < LONGEST_SECONDS):
        waits.append(seconds_others_wait(mounted, call))
    sys.stderr.write(f"others waited for {[f'{wait * 1000:.1f} ms' for wait in waits]}\n")
    return min(waits)


def pin_and_close(mount: Path, count: int) -> None:
    """Pin one page many times by one open file, and close it."""
    line = f"aux/pinned 0 {PAGE_SIZE}\n".encode()
    fd = os.open(mount / "control/vmo_pin", os.O_WRONLY)
    data = line * count
    while data:
        data = data[os.write(fd, data) :]
    os.close(fd)


def test_pins_of_one_page_are_taken_back_in_time(mounted: Mounted, hostile: Actor) -> None:
    """It took 5 s for 3,259 of them."""
    hostile((mounted.path / "aux/pinned").write_bytes, bytes(PAGE_SIZE))
    began = time.monotonic()
    assert shortest_of(mounted, lambda: hostile(pin_and_close, mounted.path, PINS)) < LONGEST_SECONDS
    wait_for(lambda: mounted.user_counter("queue_bytes", HOSTILE.uid) == 0, "the pins are taken back")
    assert time.monotonic() - began < 5


def write_blank_lines(mount: Path) -> None:
    fd = os.open(mount / "control/vmo_op_range", os.O_WRONLY)
    with suppress(OSError):
        os.write(fd, b"\n" * (2**20 - PAGE_SIZE))
    os.close(fd)


def test_a_write_of_a_million_empty_lines_does_not_keep_others_waiting(mounted: Mounted, hostile: Actor) -> None:
    assert shortest_of(mounted, lambda: hostile(write_blank_lines, mounted.path)) < LONGEST_SECONDS


def make_and_remove_pagers(control: str, name: str, seconds: float, *, look: bool) -> int:
    """Return how many were made and removed; with ``look`` the FIFO of each is looked up, as if to be opened."""
    count, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        os.mkdir(f"{control}/{name}")  # noqa: PTH102
        if look:
            os.stat(f"{control}/{name}/requests")  # noqa: PTH116
        os.rmdir(f"{control}/{name}")  # noqa: PTH106
        count += 1
    return count


def test_who_makes_and_removes_pagers_does_not_keep_others_from_theirs(mounted: Mounted) -> None:
    """Each removal waited a tenth of a second for who might be opening the FIFO, with ``control/`` locked."""
    control, other, hostiles = str(mounted.path / "control"), Actor(OTHER), [Actor(HOSTILE) for _ in range(2)]
    try:
        with (
            meanwhile(hostiles[0], partial(make_and_remove_pagers, look=True), control, "one", 1.5),
            meanwhile(hostiles[1], partial(make_and_remove_pagers, look=True), control, "two", 1.5),
        ):
            beside = other(partial(make_and_remove_pagers, look=False), control, "theirs", 1.0)
    finally:
        for actor in (other, *hostiles):
            actor.close()
    assert beside > 20

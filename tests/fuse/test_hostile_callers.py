"""Users who mean harm: what they do must not be felt by others, nor stay behind when they have gone."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

import pytest
import xxhash

from tests.support.identity import Actor, meanwhile, reachable_mount
from tests.support.mounted import Mounted, wait_for
from tests.support.rights import command
from tests.support.two_users import HOSTILE, OTHER

MIB = 2**20


pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Mounted]:
    with reachable_mount() as mounted:
        yield mounted


# What stays behind


def close_pagers_with_open_files(control: str, count: int) -> None:
    for _ in range(count):
        os.mkdir(f"{control}/gone")  # noqa: PTH102
        names = os.listdir(f"{control}/gone")  # noqa: PTH208
        opened = [os.open(f"{control}/gone/{name}", os.O_RDONLY | os.O_NONBLOCK) for name in names if name != "supply"]
        os.rmdir(f"{control}/gone")  # noqa: PTH106
        for fd in opened:
            os.close(fd)


def test_a_closed_pager_is_forgotten_with_the_last_open_file_of_it(shared: Mounted, hostile: Actor) -> None:
    """Else the kernel would know the names until it is short of memory, and so would we."""
    before = shared.counter("nodes")
    hostile(close_pagers_with_open_files, f"{shared.path}/control", 20)
    wait_for(lambda: shared.counter("nodes") <= before, "all nodes are forgotten")


def make_children_and_unlink(mount: str, count: int) -> None:
    os.mkdir(f"{mount}/control/parent")  # noqa: PTH102
    for number in range(count):
        command(f"{mount}/control/parent/create_vmo", f"vmo/parent{number} 4096")
        line = f"snapshot_at_least_on_write vmo/parent{number} vmo/child{number} 0 4096"
        command(f"{mount}/control/vmo_create_child", line)
        os.unlink(f"{mount}/vmo/parent{number}")  # noqa: PTH108
        os.unlink(f"{mount}/vmo/child{number}")  # noqa: PTH108
    os.rmdir(f"{mount}/control/parent")  # noqa: PTH106


def test_a_file_that_was_unlinked_before_its_snapshot_is_forgotten_with_it(shared: Mounted, hostile: Actor) -> None:
    before = shared.counter("nodes")
    hostile(make_children_and_unlink, str(shared.path), 20)
    wait_for(lambda: shared.counter("nodes") <= before, "all nodes are forgotten")


# Who makes the mount wait for itself


def look_at(path: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        os.stat(path)  # noqa: PTH116


def come_and_go(path: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        time.sleep(0.002)  # so that it is attached to
        os.close(fd)


def test_readers_of_a_fifo_come_and_go_while_the_kernel_forgets_its_acl_all_the_time(shared: Mounted) -> None:
    """Whatever looks at the mode of a FIFO that a group may use asks for its ACL, and a lookup makes the kernel forget.

    A watch for closes that is set by the thread that answers would wait for itself.
    """
    pager, fifo = shared.path / "control/visited", str(shared.path / "control/visited/worker")
    actors = [Actor(HOSTILE) for _ in range(3)]
    actors[0](os.mkdir, str(pager))
    actors[0](os.mkfifo, fifo)
    actors[0](os.chmod, fifo, 0o660)
    works = [
        Thread(target=actor, args=(work, fifo, 3.0), daemon=True)
        for actor, work in zip(actors, (come_and_go, look_at, look_at), strict=True)
    ]
    for work in works:
        work.start()
    for work in works:
        work.join(10)
    assert not any(work.is_alive() for work in works), "the mount hangs"
    for actor in actors:
        actor.close()
    pager.rmdir()


def read_into_what_is_not_there(mount: str) -> None:
    """Have the kernel read a line from a FIFO into a page that is missing, for which the pipe is locked meanwhile."""
    fifo = os.open(f"{mount}/control/greedy/requests", os.O_RDONLY | os.O_NONBLOCK)
    with mmap.mmap(os.open(f"{mount}/vmo/target", os.O_RDWR), 4096) as target:
        address = ctypes.addressof(ctypes.c_char.from_buffer(target))
        while fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)) == bytes(4):
            time.sleep(0.01)
        ctypes.CDLL(None).read(fifo, ctypes.c_void_p(address), 4096)
        os._exit(0)


def test_a_reader_whose_memory_is_missing_does_not_hold_up_the_mount(shared: Mounted, hostile: Actor) -> None:
    """He has the pipe locked, and who writes into it waits for him, and he for the page."""
    mount, pager = str(shared.path), shared.path / "control/greedy"
    hostile(os.mkdir, str(pager))
    for name in ("target", "asked"):
        assert hostile(command, f"{pager}/create_vmo", f"vmo/{name} 4096") == "ZX_OK"
    reader, asker, other = Actor(HOSTILE), Actor(HOSTILE), Actor(OTHER)
    works = [
        Thread(target=suppressed, args=(actor, *call), daemon=True)
        for actor, call in ((reader, (read_into_what_is_not_there, mount)), (asker, (read_first, f"{mount}/vmo/asked")))
    ]
    for work in works:
        work.start()
    wait_for(lambda: b" vmo/target " in (pager / "pending").read_bytes(), "the reader's memory is asked for")
    for number in range(20):
        other(os.mkdir, f"{mount}/vmo/other{number}")
        other(os.rmdir, f"{mount}/vmo/other{number}")
    pager.rmdir()
    for work in works:
        work.join(10)
    assert not any(work.is_alive() for work in works)
    for actor in (reader, asker, other):
        actor.close()
    for name in ("target", "asked"):
        (shared.path / "vmo" / name).unlink()


def suppressed(actor: Actor, function: Callable[..., object], *arguments: object) -> None:
    """Let somebody do something that may end him."""
    with suppress(OSError, EOFError):
        actor(function, *arguments)


def read_first(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.pread(fd, 1, 0)
    finally:
        os.close(fd)


# Who takes all the time


def write_once(path: str, data: bytes) -> int:
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def write_for(path: str, data: bytes, seconds: float) -> int:
    """Write again and again; return how many writes took all there was."""
    ends = time.monotonic() + seconds
    count = 0
    while time.monotonic() < ends:
        count += write_once(path, data) == len(data)
    return count


def seconds_of(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_who_writes_commands_without_end_does_not_keep_others_from_the_command_file(
    shared: Mounted, hostile: Actor
) -> None:
    """The kernel locks a file while it is written to, and who waits for that cannot be killed."""
    file = f"{shared.path}/control/vmo_op_range"
    hostile(make_aux, f"{shared.path}/aux/mine", 64 * MIB)
    lines = b"commit aux/mine 0 64M\ndecommit aux/mine 0 64M\n" * 20_000  # would take minutes
    other = Actor(OTHER)
    other(make_aux, f"{shared.path}/aux/theirs", 4096)
    with meanwhile(hostile, write_for, file, lines, 2.0) as results:
        waited = max(seconds_of(lambda: other(command, file, "commit aux/theirs 0 4096")) for _ in range(5))
    assert results == [0]  # not one of these writes was carried out whole
    assert waited < 2
    other.close()
    for name in ("mine", "theirs"):
        (shared.path / "aux" / name).unlink()


def test_a_write_that_takes_long_is_short_and_the_rest_can_be_written(shared: Mounted, hostile: Actor) -> None:
    file, lines = f"{shared.path}/control/vmo_op_range", b"always_need aux/mine 0 0\n" * 10_000
    hostile(make_aux, f"{shared.path}/aux/mine", 4096)
    fd = hostile(os.open, file, os.O_RDWR)
    data, writes = lines, 0
    while data:
        written = hostile(os.write, fd, data)
        assert data[written - 1 : written] == b"\n"
        assert hostile(os.read, fd, 100) == b"ZX_OK\n"
        data, writes = data[written:], writes + 1
    assert 2 <= writes <= 100
    hostile(os.close, fd)
    (shared.path / "aux/mine").unlink()


def test_who_has_large_sums_made_does_not_keep_others_waiting(shared: Mounted, hostile: Actor) -> None:
    pager, size = shared.path / "control/sums", 32 * MIB
    hostile(os.mkdir, str(pager))
    hostile(make_aux, f"{shared.path}/aux/mine", size)
    hostile(command, f"{pager}/create_vmo", f"vmo/mine {size}")
    sum_of_zeros = xxhash.xxh3_64_hexdigest(bytes(size))
    line = f"vmo/mine 0 {size} aux/mine 0 xxh3={sum_of_zeros}\n"
    assert hostile(command, f"{pager}/supply_pages", line) == "ZX_OK"
    with meanwhile(hostile, write_for, f"{pager}/supply_pages", line.encode() * 2000, 2.0):
        waited = max(seconds_of((shared.path / "vmo" / f"nothing{number}").exists) for number in range(10))
    assert waited < 1  # two thousand sums take 3 s
    pager.rmdir()
    for path in ("vmo/mine", "aux/mine"):
        (shared.path / path).unlink()


def test_closing_a_pager_waits_once_for_those_who_are_opening_its_fifos(shared: Mounted, hostile: Actor) -> None:
    """The kernel locks ``control/`` meanwhile."""
    pager = shared.path / "control/crowded"
    hostile(os.mkdir, str(pager))
    for number in range(60):
        hostile(os.mkfifo, f"{pager}/fifo{number}")
    lookers = [Actor(HOSTILE) for _ in range(2)]
    with meanwhile(lookers[0], look_into, str(pager), 4.0), meanwhile(lookers[1], look_into, str(pager), 4.0):
        assert seconds_of(lambda: hostile(os.rmdir, str(pager))) < 2
    for looker in lookers:
        looker.close()


def look_into(directory: str, seconds: float) -> None:
    """Look at all that is in a directory, again and again, until it is gone."""
    ends = time.monotonic() + seconds
    with suppress(FileNotFoundError):
        names = os.listdir(directory)  # noqa: PTH208
        while time.monotonic() < ends:
            for name in names:
                os.stat(f"{directory}/{name}")  # noqa: PTH116


def make_aux(path: str, size: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.ftruncate(fd, size)
    os.close(fd)

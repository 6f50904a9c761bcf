"""Users who keep kernel locks for as long as they like: nobody but they themselves may have to wait for them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from tests.support.identity import Actor, reachable_mount, take_identity
from tests.support.mounted import Mounted, wait_for
from tests.support.rights import command
from tests.support.two_users import HOSTILE
from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.procfs import can_see_everybody

READ_BYTES = 32 * PAGE_SIZE

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Mounted]:
    with reachable_mount() as mounted:
        yield mounted


def make_pager(mount: str, name: str, vmos: int, size: int) -> None:
    os.mkdir(f"{mount}/control/{name}")  # noqa: PTH102
    for number in range(vmos):
        assert command(f"{mount}/control/{name}/create_vmo", f"vmo/{name}{number} {size}") == "ZX_OK"


def supply(mount: str, pager: str, number: int, data: bytes, offset: int = 0) -> None:
    fd = os.open(f"{mount}/control/{pager}/supply/{pager}{number}", os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
    finally:
        os.close(fd)


def read_in_background(path: str, size: int) -> None:
    """Leave a reader waiting."""

    def read() -> None:
        with suppress(OSError):
            os.pread(fd, size, 0)
        os.close(fd)

    fd = os.open(path, os.O_RDONLY)
    Thread(target=read, daemon=True).start()


# Pages that waiting READs have locked


def hold_drops(mount: str, name: str, count: int) -> list[str]:
    """Have as many pages dropped as ``count`` that a waiting READ has locked; return what the commands said."""
    make_pager(mount, name, count, READ_BYTES)
    for number in range(count):
        supply(mount, name, number, b"x" * PAGE_SIZE)
        read_in_background(f"{mount}/vmo/{name}{number}", READ_BYTES)
    pending = f"{mount}/control/{name}/pending"
    wait_for(lambda: _lines(pending) == count, "all readers wait")
    evict = f"{mount}/control/{name}/evict"
    return [command(evict, f"vmo/{name}{number} 0 {PAGE_SIZE}") for number in range(count)]


def _lines(path: str) -> int:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read().count(b"\n")


def change_and_read(mount: str, name: str, change: str) -> list[str]:
    """Change pages that the kernel has, each by a command, and say what was answered and what is read then."""
    fd = os.open(f"{mount}/vmo/{name}0", os.O_RDONLY)
    seen = []
    for offset in range(0, 5 * PAGE_SIZE, PAGE_SIZE):
        supply(mount, name, 0, b"a" * PAGE_SIZE, offset)
        assert os.pread(fd, 1, offset) == b"a"
        if change == "zero":
            answer = command(f"{mount}/control/vmo_op_range", f"zero vmo/{name}0 {offset} {PAGE_SIZE}")
            expected = b"\0"
        else:
            answer = command(f"{mount}/control/{name}/evict", f"vmo/{name}0 {offset} {PAGE_SIZE}")
            supply(mount, name, 0, b"b" * PAGE_SIZE, offset)
            expected = b"b"
        seen.append(f"{answer} {'new' if os.pread(fd, 1, offset) == expected else 'old'}")
    os.close(fd)
    return seen


@pytest.mark.parametrize(("change", "answer"), [("evict", "ZX_OK pages=1"), ("zero", "ZX_OK")])
def test_what_another_has_locked_keeps_nobody_from_dropping_his_own_pages(
    shared: Mounted, hostile: Actor, other: Actor, change: str, answer: str
) -> None:
    mount = str(shared.path)
    try:
        said = hostile(hold_drops, mount, "holder", 40)
        assert set(said) == {"ZX_OK pages=1 held=1"}  # a READ has it locked, which its own pager owes
        other(make_pager, mount, "honest", 1, 5 * PAGE_SIZE)
        assert other(change_and_read, mount, "honest", change) == [f"{answer} new"] * 5
    finally:
        for name in ("holder", "honest"):
            clean(shared, name)


def clean(shared: Mounted, name: str) -> None:
    """Close a pager, which ends all waiting, and remove what it made."""
    control = shared.path / "control" / name
    if control.exists():
        control.rmdir()
    for top in ("vmo", "aux"):
        for file in (shared.path / top).glob(f"{name}*"):
            file.unlink()


# Pipes


def read_fifo_into_what_is_not_there(fifo: int, path: str, how: str) -> None:
    """Have the kernel copy out of a FIFO, or into it, with the pipe locked, from or to a page that is missing."""
    libc = ctypes.CDLL(None)
    with mmap.mmap(os.open(path, os.O_RDWR), PAGE_SIZE) as memory:
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        if how == "read":
            while fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)) == bytes(4):
                time.sleep(0.01)
            libc.read(fifo, address, PAGE_SIZE)
        else:
            libc.write(fifo, address, PAGE_SIZE)
        os._exit(0)


def given_away(fifo: str, flags: int, function: Callable[..., None], *arguments: object) -> int:
    """Open a FIFO, become somebody else, and call a function with it in a process of its own; return its number."""
    pid = os.fork()
    if pid == 0:
        try:
            fd = os.open(fifo, flags)
            take_identity(HOSTILE)
            function(fd, *arguments)
        finally:
            os._exit(1)
    return pid


@pytest.mark.parametrize(("how", "flags"), [("read", os.O_RDONLY), ("read", os.O_RDWR), ("write", os.O_RDWR)])
def test_who_was_given_a_private_fifo_of_root_cannot_hold_up_the_mount(other: Actor, how: str, flags: int) -> None:
    """Root opens it and gives up his rights, as programs do; then the pipe is locked for as long as he likes."""
    with reachable_mount() as mounted:
        mount, control = str(mounted.path), mounted.path / "control" / "given"
        make_pager(mount, "given", 3, PAGE_SIZE)
        (mounted.path / "vmo/given0").chmod(0o666)
        fifo, memory = f"{control}/requests", f"{mount}/vmo/given0"
        pid = given_away(fifo, flags | os.O_NONBLOCK, read_fifo_into_what_is_not_there, memory, how)
        try:
            if how == "read":
                read_in_background(f"{mount}/vmo/given1", PAGE_SIZE)

            def use() -> None:
                wait_for(lambda: b" vmo/given0 " in (control / "pending").read_bytes(), "the pipe is locked")
                read_in_background(f"{mount}/vmo/given2", PAGE_SIZE)  # its line is written, or is to be
                for number in range(20):
                    other(make_and_remove, f"{mount}/vmo/other{number}")
                (control / "stats").read_bytes()
                control.rmdir()

            assert goes_on(mounted, use)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def make_and_remove(path: str) -> None:
    os.mkdir(path)  # noqa: PTH102
    os.rmdir(path)  # noqa: PTH106


def goes_on(mounted: Mounted, call: Callable[[], object]) -> bool:
    """Do something that takes little time; if the mount hangs break its connection, and return False."""
    done: list[object] = []

    def use() -> None:
        with suppress(OSError):
            done.append(call())

    work = Thread(target=use, daemon=True)
    work.start()
    work.join(10)
    if work.is_alive():
        subprocess.run(["umount", "--force", mounted.path], check=False, capture_output=True, timeout=10)
    return bool(done)


# Names that are to be forgotten


def list_into_what_is_not_there(directory: str, path: str) -> None:
    """Have the kernel list a directory, with its lock, into a page that is missing. Returns at once."""

    def read() -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ctypes.CDLL(None).syscall(SYS_GETDENTS64, opened, ctypes.c_void_p(address), PAGE_SIZE)

    opened = os.open(directory, os.O_RDONLY)
    memory = mmap.mmap(os.open(path, os.O_RDWR), PAGE_SIZE)
    Thread(target=read, daemon=True).start()


def make_names_to_forget(mount: str, name: str, seconds: float) -> str:
    """Make VMOs, look them up in ``supply/``, and unlink them; return the first error."""
    ends = time.monotonic() + seconds
    fd = os.open(f"{mount}/control/{name}/create_vmo", os.O_RDWR)
    number = 0
    while time.monotonic() < ends:
        number += 1
        vmo = f"{name}-{number}"
        try:
            os.write(fd, f"vmo/{vmo} {PAGE_SIZE}\n".encode())
        except OSError:
            return os.read(fd, 1000).decode()
        os.stat(f"{mount}/control/{name}/supply/{vmo}")  # noqa: PTH116
        os.unlink(f"{mount}/vmo/{vmo}")  # noqa: PTH108
    return "no error"


SYS_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)
NODES = 300


@contextmanager
def names_locked(mounted: Mounted, hostile: Actor, also: Callable[[], object] = lambda: None) -> Iterator[str]:
    """A pager ``lister`` whose ``supply/`` is locked, and a name in it that is therefore not forgotten.

    ``also`` is called before it is locked.
    """
    mount = str(mounted.path)
    hostile(make_pager, mount, "lister", 2, PAGE_SIZE)
    also()
    hostile(os.stat, f"{mount}/control/lister/supply/lister1")
    hostile(list_into_what_is_not_there, f"{mount}/control/lister/supply", f"{mount}/vmo/lister0")
    pending = mounted.path / "control/lister/pending"
    wait_for(lambda: b" vmo/lister0 " in pending.read_bytes(), "the directory is locked")
    hostile(os.unlink, f"{mount}/vmo/lister1")
    try:
        yield mount
    finally:
        clean(mounted, "lister")


def test_names_that_the_kernel_cannot_forget_keep_it_from_forgetting_nobody_elses(
    shared: Mounted, hostile: Actor, other: Actor
) -> None:
    """Else what others make and remove would fill the memory, as long as one of them has a directory locked."""
    other(make_pager, str(shared.path), "honest", 1, PAGE_SIZE)
    try:
        with names_locked(shared, hostile) as mount:
            before = shared.counter("nodes")
            assert other(make_names_to_forget, mount, "honest", 0.5) == "no error"
            wait_for(lambda: shared.counter("nodes") <= before, "the names of others are forgotten", 5.0)
        wait_for(lambda: shared.counter("nodes") < before, "all is forgotten when the directory is free")
    finally:
        clean(shared, "honest")


def make_names(mount: str, name: str, count: int) -> str:
    """Make VMOs and look them up in ``supply/``; return the first error."""
    with open(f"{mount}/control/{name}/create_vmo", "r+b", buffering=0) as commands:  # noqa: PTH123
        for number in range(count):
            try:
                commands.write(f"vmo/{name}-{number} {PAGE_SIZE}\n".encode())
            except OSError:
                return commands.read(1000).decode()
            os.stat(f"{mount}/control/{name}/supply/{name}-{number}")  # noqa: PTH116
    return "no error"


def remove_names(mount: str, name: str, count: int) -> None:
    for number in range(count):
        os.unlink(f"{mount}/vmo/{name}-{number}")  # noqa: PTH108


def test_names_that_the_kernel_cannot_forget_count_for_the_user_whose_they_are() -> None:
    count = NODES // 3
    with reachable_mount(f"user_nodes={NODES}") as mounted:
        mount, hostile = str(mounted.path), Actor(HOSTILE)
        try:
            hostile(make_pager, mount, "honest", 0, PAGE_SIZE)
            with names_locked(mounted, hostile, also=lambda: hostile(make_names, mount, "lister", count)):
                hostile(remove_names, mount, "lister", count)
                assert hostile(make_names, mount, "honest", 2 * count).startswith("ZX_ERR_NO_SPACE")
            wait_for(lambda: mounted.counter("nodes") < NODES, "they are forgotten when the directory is free")
        finally:
            hostile.close()  # it has the directory open, which keeps the mount busy


# Directories of all


@pytest.mark.skipif(not can_see_everybody(), reason="needs root, and to see all processes")
@pytest.mark.parametrize("top", ["aux", "vmo", "control"])
def test_who_lists_a_directory_of_all_into_what_is_not_there_locks_it_for_nobody(other: Actor, top: str) -> None:
    """The kernel has a directory locked while it copies names to whoever lists it."""
    with reachable_mount() as mounted:
        mount, pending, lister = str(mounted.path), mounted.path / "control/lister/pending", Actor(HOSTILE)
        try:
            lister(make_pager, mount, "lister", 1, PAGE_SIZE)
            lister(list_into_what_is_not_there, f"{mount}/{top}", f"{mount}/vmo/lister0")
            wait_for(lambda: b" vmo/lister0 " in pending.read_bytes(), "the directory is locked")
            assert goes_on(mounted, lambda: other(make_and_remove, f"{mount}/{top}/other"))
        finally:
            lister.close()  # it has the directory open, which keeps the mount busy


# Deaths


def test_a_reader_whose_death_was_not_told_because_of_another_is_noticed(
    shared: Mounted, hostile: Actor, other: Actor
) -> None:
    """The kernel keeps 16,384 closes for all FIFOs of the mount together, and loses the rest."""
    mount = str(shared.path)
    hostile(make_pager, mount, "noisy", 0, PAGE_SIZE)
    hostile(os.mkfifo, f"{mount}/control/noisy/second")
    other(make_pager, mount, "honest", 1, PAGE_SIZE)
    noise = [hostile(open_and_find, f"{mount}/control/noisy/{name}") for name in ("requests", "second")]
    workers = [other(os.open, f"{mount}/control/honest/requests", os.O_RDONLY | os.O_NONBLOCK) for _ in range(2)]
    try:
        stats = [shared.path / "control" / name / "stats" for name in ("noisy", "honest")]
        wait_for(
            lambda: [b'r="noisy"} 2' in attached(stats[0]), b'r="honest"} 1' in attached(stats[1])] == [True] * 2, ""
        )
        other(read_in_background, f"{mount}/vmo/honest0", PAGE_SIZE)
        wait_for(lambda: other(read_some, workers[0]) != b"", "a worker has the request")
        os.kill(shared.pid, signal.SIGSTOP)
        try:
            hostile(open_and_close, noise, 20_000)
            other(os.close, workers[0])
        finally:
            os.kill(shared.pid, signal.SIGCONT)
        wait_for(lambda: other(read_some, workers[1]).startswith(b"READ "), "the other one has it", 5.0)
    finally:
        for fd in noise:
            hostile(os.close, fd)
        other(os.close, workers[1])
        for name in ("noisy", "honest"):
            clean(shared, name)


def attached(stats: Path) -> bytes:
    """Return the line that says how many FIFOs are read."""
    return next(line for line in stats.read_bytes().splitlines() if line.startswith(b"vmofs_pager_fifos_attached"))


def open_and_find(fifo: str) -> int:
    return os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)


def open_and_close(fds: list[int], times: int) -> None:
    """Open again what is open, without looking its name up; in turn, or the kernel tells of many as of one."""
    for _ in range(times // len(fds)):
        for fd in fds:
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))


def read_some(fd: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(fd, 4096)
    return b""


# Looks at processes


def wait_for_events_in_what_is_not_there(path: str) -> None:
    """Have the kernel put an event of an epoll set, with its lock, into a page that is missing. Returns at once."""

    def wait() -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ctypes.CDLL(None).epoll_wait(events.fileno(), ctypes.c_void_p(address), 1, -1)

    memory = mmap.mmap(os.open(path, os.O_RDWR), PAGE_SIZE)
    events = select.epoll()
    events.register(os.eventfd(1), select.EPOLLIN)
    Thread(target=wait, daemon=True).start()


def test_a_pager_that_waits_for_itself_is_found_although_another_process_cannot_be_looked_at(
    shared: Mounted, hostile: Actor, other: Actor
) -> None:
    mount = str(shared.path)
    answers: list[str] = []
    try:
        hostile(make_pager, mount, "watcher", 1, PAGE_SIZE)
        hostile(wait_for_events_in_what_is_not_there, f"{mount}/vmo/watcher0")
        pending = shared.path / "control/watcher/pending"
        wait_for(lambda: b" vmo/watcher0 " in pending.read_bytes(), "the epoll set is locked")
        other(make_pager, mount, "honest", 1, PAGE_SIZE)
        other(open_and_find, f"{mount}/control/honest/requests")
        work = Thread(target=lambda: answers.append(other.errno(read_first, f"{mount}/vmo/honest0")), daemon=True)
        work.start()
        work.join(10)
        assert answers == [errno.errorcode[errno.EDEADLK]]
    finally:
        for name in ("honest", "watcher"):
            clean(shared, name)


def read_first(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 1, 0)
    finally:
        os.close(fd)

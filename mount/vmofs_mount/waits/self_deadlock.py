"""Pagers that wait for themselves: their reads fail with EDEADLK at once, instead of at the deadline.

Such a program serves a VMO, reads a page of it that is not there, and so waits for an answer that only it could give.

A READ says nothing of its reader. But the reader is asleep in the kernel, and /proc tells where, and which process has
which files open. So when a READ has waited for a moment, and its file was opened by a process that has the FIFO of the
same pager open, all processes are looked at. It is a deadlock if every process that has any file of the pager's
directory open (the FIFO, a command file, a file in ``supply/``) is stuck. A stuck process has one thread only, and this
sleeps

- in a read of the page that is missing, or in a page fault of a file whose page is missing, be it inside a system call
  such as a write from a mapping; or
- in wait(2), as a shell does, for children that are stuck.

This must not be said of a pager that goes on. A process with several threads may go on. All processes are looked at
twice, and none may have run in between: then they slept at the same moment. A program that is not seen to have
anything of the pager open, and would supply the page all the same, unasked, cannot be known of; it should keep its
command file open. Where something cannot be seen (processes of others for a daemon without privileges, or outside of
its process namespace), nothing is said. What is not known ends at the deadline.
"""

# Rules
#
# 1. EDEADLK is said only if every process that could answer is stuck. A wrong "no" costs a wait until the deadline; a
#    wrong "yes" would fail a read that a pager was about to answer.
# 2. Two looks must find the same, the counts of context switches included. So all of them slept at the same moment.
# 3. What cannot be seen counts as "somebody can answer": `find` returns None on any error.
# 4. Nothing here opens or stats a file of the mount, and of an epoll set nothing is read: either could wait.
#
# How it works
#
# `Deadlocks.run` takes READs that have waited for 0.1 s. `find_stuck` asks whether their reader has a FIFO of the same
# pager open, and only then looks at all processes. Holders are those that have any file of the pager's directory open,
# by inode and mount number in /proc/PID/fdinfo. Each must be stuck: one thread, asleep, in a read of a missing page or
# in a wait for stuck children. A process that was found to go on is not looked at again for a while (`_cleared`).
#
# What is not nice
#
# All this for a question that sounds simple. To ask only whether the reader alone holds the FIFO, and sleeps in a read,
# would miss five of the seven ways to wait for oneself that test_self_deadlock.py has (sendfile, a page fault, a write
# out of a mapping, a shell whose command reads, a parent that waits for a child), for 55 lines less. To ask less
# exactly where it sleeps would fail reads that are about to be answered: a pager asleep on its FIFO, or on a disk, may
# have a READ outstanding that the kernel's read-ahead has sent.
#
# Numbers of system calls are in a table for each architecture; on others nothing is said. All processes of the machine
# are looked at twice for one suspicion. A pager of two threads that wait for each other waits until the deadline.
#
# What else changes with this file
#
# `Service._pager_files` and `Pagers.files_of`, which say which files a pager has; `has_mapped` and `in_fault` in
# linux/procfs.py. Tests: tests/fuse/test_self_deadlock.py.

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import trio

from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.status import BadStateError
from vmofs.units import PageRange
from vmofs.vocabulary import PacketCommand
from vmofs_mount.cache.waiting_reads import WaitingRead
from vmofs_mount.linux.procfs import can_see_everybody, has_mapped, in_fault, process_state, stat_fields
from vmofs_mount.loop.engine import Engine
from vmofs_mount.observe.event_log import EventLog

_WAIT_SECONDS = 0.1
"""How long a READ has waited before it is looked at. Nearly all are answered sooner."""

_AGAIN_SECONDS = 1.0
"""How long a process is not looked at again that was found to go on."""

_READER_SECONDS = 10.0
"""The same for one that does not read the FIFO at all, as nearly all do not."""

_REST_PER_LOOK = 4  # somebody may have a million files open: looking takes a fifth of the time at most
_LONGEST_LOOK_SECONDS = 5.0  # maps of processes in page faults may hold a thread up
_MANY = 1000  # requests; so many are not gone through every time


class SelfDeadlockError(BadStateError):
    """The reader is the only one who could bring the page. EDEADLK, which no status of Zircon's stands for."""


class Reader(NamedTuple):
    """Who reads: the process that opened the file, the file, the pages, and the user."""

    process: int
    ino: int
    pages: PageRange
    uid: int = 0

    @classmethod
    def of(cls, access: Access[object]) -> Reader | None:
        """Return who waits for a call, if it is a READ."""
        read = access.origin
        if not isinstance(read, WaitingRead):
            return None
        handle = read.handle
        return cls(handle.process, handle.file.ino, read.pages, handle.caller.uid)


class PagerFiles(NamedTuple):
    """Inode numbers: the FIFOs by which a request is delivered, and all files by which a pager could answer."""

    fifos: frozenset[int]
    all: frozenset[int]


class _Calls(NamedTuple):
    """Numbers of system calls of one architecture: positioned reads, other reads, sendfile, waits for children."""

    pread: int
    reads: frozenset[int]
    sendfile: int
    waits: frozenset[int]


_GENERIC = _Calls(67, frozenset({63, 65, 69, 76, 285, 286}), 71, frozenset({95, 260}))
_CALLS = {
    "x86_64": _Calls(17, frozenset({0, 19, 275, 295, 326, 327}), 40, frozenset({61, 247})),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}


class Deadlocks:
    """Looks for deadlocks among the READs that wait.

    ``files_of(port)`` returns the files of the pager that is asked by a port, None if nobody serves it.
    """

    def __init__(
        self, engine: Engine, log: EventLog, device_minor: int, files_of: Callable[[Port], PagerFiles | None]
    ) -> None:
        self._engine = engine
        self._log = log
        self._system = engine.system
        self._device_minor = device_minor
        self._files_of = files_of
        self._lookers = trio.CapacityLimiter(4)
        self._cleared: dict[int, float] = {}  # process -> when it may be looked at again

    async def run(self) -> None:
        """Look until cancelled."""
        # Where processes are hidden a holder may be among them, so nothing could ever be said.
        if not (can_see_everybody() and platform.machine() in _CALLS):
            return
        rest = 0.0
        while True:
            await trio.sleep(max(rest, _WAIT_SECONDS if len(self._system.requests) < _MANY else _AGAIN_SECONDS))
            now = trio.current_time()
            self._cleared = {process: until for process, until in self._cleared.items() if until > now}
            for files, accesses in self._suspects(now).items():
                with trio.move_on_after(_LONGEST_LOOK_SECONDS):
                    await self._examine(files, accesses)
            rest = _REST_PER_LOOK * (trio.current_time() - now)

    def _suspects(self, now: float) -> dict[PagerFiles, dict[Access[object], Reader]]:
        """Return the accesses that have waited for a while, by the files of the pager, and who reads."""
        suspects: dict[PagerFiles, dict[Access[object], Reader]] = {}
        known: dict[Port, PagerFiles | None] = {}
        for request in self._system.requests:
            if request.raised_at > now - _WAIT_SECONDS:
                break  # and so are all others
            if request.command is not PacketCommand.READ or request.primary is None:
                continue
            access = request.primary.access
            reader = Reader.of(access)
            if reader is None or reader.process in self._cleared:
                continue
            port = request.source.port
            if port not in known:  # it looks at all that is open
                known[port] = self._files_of(port)
            files = known[port]
            if files is not None:
                suspects.setdefault(files, {})[access] = reader
        return suspects

    async def _examine(self, files: PagerFiles, accesses: dict[Access[object], Reader]) -> None:
        readers = set(accesses.values())
        serving, stuck = await trio.to_thread.run_sync(
            find_stuck, readers, files, self._device_minor, abandon_on_cancel=True, limiter=self._lookers
        )
        now = trio.current_time()
        for access, reader in accesses.items():
            if reader in stuck and not access.done:
                sentence = f"process {reader.process} serves the pages {reader.pages} that it waits for"
                self._log.add("deadlock", sentence)
                self._engine.abort(access, SelfDeadlockError(sentence))
            elif reader not in stuck:
                # It can go on, or could when it was looked at. A pager may get stuck any time; a mere reader seldom
                # becomes a pager.
                self._cleared[reader.process] = now + (_AGAIN_SECONDS if reader.process in serving else _READER_SECONDS)


def find_stuck(readers: set[Reader], files: PagerFiles, device_minor: int) -> tuple[set[int], set[Reader]]:
    """Return who of the readers serve the pager, and which wait for themselves: none if anybody can still answer.

    In a worker thread.
    """
    processes = {reader.process for reader in readers}
    try:
        serving = {process for process in processes if _opens(process, files.fifos, device_minor)}
    except PermissionError:
        return set(), set()
    # Of most READs the reader does not serve: then all other processes need not be looked at.
    first = _Look(readers, files, device_minor).find() if serving else None
    if first is None or _Look(readers, files, device_minor).find() != first:
        return serving, set()
    return serving, first.stuck


class _Finding(NamedTuple):
    """Readers who are stuck, and for all stuck processes how often each was put to sleep."""

    stuck: set[Reader]
    switches: dict[int, str]


class _Look:
    """One look at all processes."""

    def __init__(self, readers: set[Reader], files: PagerFiles, device_minor: int) -> None:
        self._readers = readers
        self._files = files
        self._device_minor = device_minor
        self._calls = _CALLS[platform.machine()]
        self._finding = _Finding(set(), {})
        self._children: dict[int, list[int]] | None = None

    def find(self) -> _Finding | None:
        """Return what was found; None if somebody can still answer, or it cannot be known."""
        try:
            holders = [process for process in _processes() if _opens(process, self._files.all, self._device_minor)]
            # None is left if the reader has closed the FIFO meanwhile. Then its request waits for the next pager.
            if holders and all(self._is_stuck(process) for process in holders):
                return self._finding
        except OSError:
            return None
        return None

    def _is_stuck(self, process: int) -> bool:
        if process in self._finding.switches:
            return True
        # Before its state is looked at: if it runs in between, the second look finds another count.
        before = _switches(process)
        if len(os.listdir(f"/proc/{process}/task")) != 1 or process_state(process) not in {"S", "D"}:  # noqa: PTH208
            return False
        words = _text(f"/proc/{process}/syscall").split()
        stuck = len(words) >= 3 and (self._reads(process, words) or self._waits(process, words))
        if stuck:
            self._finding.switches[process] = before
        return stuck

    def _reads(self, process: int, words: list[str]) -> bool:
        """Return whether a process sleeps in a read of a page that is missing."""
        number = int(words[0])
        for reader in self._readers:
            if reader.process != process:
                continue
            # -1: asleep outside of system calls, so in a page fault.
            if number == -1 or in_fault(Path(f"/proc/{process}/task/{process}")):
                found = has_mapped(process, reader.ino, self._device_minor, reader.pages)
            elif number == self._calls.pread:
                # The offset is an argument, so it is known whether it reads the page that is missing, and not another.
                asked = PageRange.of_bytes(int(words[4], 16), int(words[3], 16))
                found = bool(asked & reader.pages) and self._is_open(process, words[1], reader.ino)
            elif number in self._calls.reads:
                found = self._is_open(process, words[1], reader.ino)
            else:
                found = number == self._calls.sendfile and self._is_open(process, words[2], reader.ino)
            if found:
                self._finding.stuck.add(reader)
                return True
        return False

    def _is_open(self, process: int, descriptor: str, ino: int) -> bool:
        info = _text(f"/proc/{process}/fdinfo/{int(descriptor, 16)}")
        return f"\nino:\t{ino}\n" in info

    def _waits(self, process: int, words: list[str]) -> bool:
        """Return whether a process waits for children that are stuck."""
        if int(words[0]) not in self._calls.waits:
            return False
        if self._children is None:
            self._children = _families()
        children = self._children.get(process, [])
        # A child that has ended is a child too, and not stuck: the wait is about to return.
        return bool(children) and all(self._is_stuck(child) for child in children)


def _processes() -> Iterator[int]:
    """Yield all processes but this one."""
    numbers = (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208 - no paths
    return (number for number in numbers if number != os.getpid())


def _opens(process: int, inos: Iterable[int], device_minor: int) -> bool:
    """Return whether a process has one of these files of the mount open. Nothing here asks any filesystem.

    What is no file of any filesystem is not looked at: of an epoll set the kernel tells more, and waits for its lock,
    which whoever has events put into memory that is missing keeps.
    """
    wanted = {f"ino:\t{ino}" for ino in inos}
    folder = f"/proc/{process}/fdinfo"
    try:
        names = [name for name in os.listdir(folder) if _is_file(f"/proc/{process}/fd/{name}")]  # noqa: PTH208
        infos = [set(_text(f"{folder}/{name}").splitlines()) for name in names]
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has just ended
    except PermissionError:
        if process == 1:
            return False  # the init of some containers lets nobody look; it inherits nothing and serves nobody
        raise
    alike = [info for info in infos if not wanted.isdisjoint(info)]
    if not alike:
        return False
    ours = {f"mnt_id:\t{number}" for number in _mounts(process, device_minor)}
    return any(not ours.isdisjoint(info) for info in alike)


def _is_file(link: str) -> bool:
    try:
        return not os.readlink(link).startswith("anon_inode:")  # noqa: PTH115 - no path of a file
    except FileNotFoundError:
        return False  # it has just been closed


def _mounts(process: int, device_minor: int) -> list[str]:
    """Return the numbers that the mount has in the mount namespace of a process."""
    lines = [line.split() for line in _text(f"/proc/{process}/mountinfo").splitlines()]
    return [fields[0] for fields in lines if fields[2] == f"0:{device_minor}"]


def _families() -> dict[int, list[int]]:
    """Return the children of all processes."""
    families: dict[int, list[int]] = {}
    for process in _processes():
        fields = stat_fields(Path(f"/proc/{process}"))
        if fields:
            families.setdefault(int(fields[1]), []).append(process)
    return families


def _switches(process: int) -> str:
    """Return how often a process was put to sleep, as text: it stays the same for as long as it does not run."""
    lines = _text(f"/proc/{process}/status").splitlines()
    return " ".join(line for line in lines if "ctxt_switches" in line)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""

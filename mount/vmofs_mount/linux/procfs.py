"""What /proc tells of the processes that use the mount. All of it in worker threads, except ``thread_group``.

A thread that waits for a page that another READ brings, or that read-ahead asked for, is in state D. One that waits for
the answer to a READ of its own is in state S first, and in state D, unkillable, once it got a signal.
"""

from __future__ import annotations

import itertools
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmofs.units import PageRange

_MAX_THREADS = 4096
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of <linux/proc_ns.h>
_READS = {
    "x86_64": {"-1", "0", "17", "19", "295", "327"},
    "aarch64": {"-1", "63", "65", "67", "69", "286"},
    "riscv64": {"-1", "63", "65", "67", "69", "286"},
}
"""Numbers of read, pread64, readv, preadv and preadv2, and what is shown of a thread in a page fault."""

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_KILLED = 1 << (signal.SIGKILL - 1)
_FAULT = "handle_mm_fault"  # the same on every architecture
_FLAGS, _STARTED = 6, 19  # of the fields of /proc/PID/stat behind the name
_PF_EXITING = 0x4  # of <linux/sched.h>


@dataclass(frozen=True, slots=True)
class Blocked:
    """How many threads of a process wait for pages: inside a system call, in a page fault.

    ``asking``: one waits in a page fault for a READ of its own. ``all_do``: every thread waits for a page.
    """

    reads: int = 0
    faults: int = 0
    asking: bool = False
    all_do: bool = False


def can_see_everybody() -> bool:
    """Return whether all processes can be looked at: as root, and not in a process namespace of its own."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path of a file
    except OSError:
        return False
    return os.geteuid() == 0 and namespace == _INITIAL_PID_NAMESPACE


def processes_alive() -> Iterator[int]:
    """Yield the processes that there are, but for those that were killed or end."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and not is_dying(int(path.name)):
            yield int(path.name)


def can_see_calls() -> bool:
    """Return whether it can be seen what other processes of the same user wait for in the kernel."""
    try:
        return os.geteuid() == 0 or int(_PTRACE_SCOPE.read_text(encoding="ascii")) == 0
    except (OSError, ValueError):
        return True  # a kernel without Yama


def thread_group(thread: int) -> int:
    """Return the process that a thread belongs to; the thread itself if that is not known."""
    for line in _lines(f"/proc/{thread}/status"):
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return thread


def user_of(process: int) -> int:
    """Return the real user of a process, -1 if it has ended.

    The directory in /proc does not tell: a process can have it be root's.
    """
    for line in _lines(f"/proc/{process}/status"):
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return -1


def blocked_threads(process: int) -> Blocked:
    """Return which threads of a process wait for pages."""
    reads = faults = 0
    asking = False
    threads = list(_threads(process))
    for thread in threads:
        state = state_of(thread)
        if state == "D":
            if in_fault(thread):
                faults += 1
            else:
                reads += 1
        elif state == "S":
            asking = asking or in_fault(thread)
    return Blocked(reads, faults, asking, all_do=0 < len(threads) == reads + faults)


def descendants(process: int) -> Iterator[int]:
    """Yield the children of a process, and theirs."""
    found = [process]
    while found and len(found) < _MAX_THREADS:
        for thread in _threads(found.pop()):
            children = [int(word) for line in _lines(thread / "children") for word in line.split()]
            yield from children
            found += children


def reads_file(process: int, ino: int) -> bool:
    """Return whether a thread sleeps in a system call with a descriptor of this inode as first or second argument."""
    return any(_names_file(process, call, ino) for call in _calls(process))


def _calls(process: int) -> Iterator[list[str]]:
    """Yield number and arguments of the system calls that the threads of a process sleep in."""
    for thread in _threads(process):
        for line in _lines(thread / "syscall"):
            yield line.split()


def _names_file(process: int, call: list[str], ino: int) -> bool:
    for word in call[1:3]:
        number = int(word, 16) if word.startswith("0x") else -1
        if f"ino:\t{ino}" in _lines(f"/proc/{process}/fdinfo/{number}"):
            return True
    return False


def is_dying(process: int) -> bool:
    """Return whether a process was killed, or ends by itself, but the kernel does not let go of some thread yet.

    Asynchronous reads (libaio) hold it up when it has taken the signal already. One that has ended is not dying: others
    may have inherited what it had open.

    All threads are killed together. So one that goes on says that nobody was: of a process with thousands of threads
    one is looked at, most times.
    """
    leader = Path(f"/proc/{process}/task/{process}")
    exiting = False
    for thread in itertools.chain([leader], _threads(process)):
        state = state_of(thread)
        if state in {"", "Z", "X"}:
            continue
        if _was_killed(thread):
            return True
        if not _is_exiting(thread):
            return False
        exiting = True
    return exiting


def has_ended(process: int) -> bool:
    """Return whether no thread of a process runs any more, whether or not its parent knows."""
    return all(state_of(thread) in {"", "Z", "X"} for thread in _threads(process))


def start_of(process: int) -> int | None:
    """Return when a process was started, in ticks since the machine was; None if there is none, or it has ended."""
    fields = stat_fields(Path(f"/proc/{process}"))
    return None if not fields or fields[0] in "ZX" else int(fields[_STARTED])  # nobody may have waited for it


def is_stuck(process: int) -> bool:
    """Return whether a thread of a process sleeps uninterruptibly."""
    return any(state_of(thread) == "D" for thread in _threads(process))


def is_behind(process: int) -> bool:
    """Return whether a thread of a process sleeps uninterruptibly, and does not just read.

    So it may have a file locked, whose page it waits for.
    """
    return any(state_of(thread) == "D" and not _just_reads(thread) for thread in _threads(process))


def _just_reads(thread: Path) -> bool:
    if "".join(_lines(thread / "comm")).startswith("iou-"):
        return False  # what io_uring writes and reads
    number = next(iter("".join(_lines(thread / "syscall")).split()), "")
    return number in _READS.get(platform.machine(), ())


def anybody_waits_in(functions: set[str]) -> bool:
    """Return whether any thread of the machine waits in one of these functions of the kernel."""
    return any(place in functions for place in _places())


def _places() -> Iterator[str]:
    """Yield the functions of the kernel in which the threads of all processes wait that can be looked at."""
    for process in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - there may be very many
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
                with open(f"/proc/{process}/task/{thread}/wchan", encoding="ascii") as file:  # noqa: PTH123
                    yield file.read()


def is_vmofs(process: int) -> bool:
    """Return whether the command line of a process speaks of vmofs."""
    return any("vmofs" in line for line in _lines(f"/proc/{process}/cmdline"))


def has_mapped(process: int, ino: int, device_minor: int, pages: PageRange) -> bool:
    """Return whether a process has one of the pages of a file mapped."""
    for line in _lines(f"/proc/{process}/maps"):
        addresses, _, offset, device, inode, *_ = line.split()
        if int(inode) == ino and int(device.partition(":")[2], 16) == device_minor:
            start, _, end = addresses.partition("-")
            length = int(end, 16) - int(start, 16)
            if PageRange.of_bytes(int(offset, 16), length) & pages:
                return True
    return False


def mapped_pages(process: int, buffers: list[tuple[int, int]], device_minor: int) -> Iterator[tuple[int, PageRange]]:
    """Yield what files of a device a process has at some addresses: inode numbers and pages. A buffer has a size."""
    for line in _lines(f"/proc/{process}/maps"):
        addresses, _, offset, device, inode, *_ = line.split()
        if int(device.partition(":")[2], 16) != device_minor:
            continue
        start, end = (int(number, 16) for number in addresses.split("-"))
        for address, size in buffers:
            first, last = max(start, address), min(end, address + size)
            if first < last:
                yield int(inode), PageRange.of_bytes(int(offset, 16) + first - start, last - first)


def _threads(process: int) -> Iterator[Path]:
    with suppress(OSError):
        for _, thread in zip(range(_MAX_THREADS), Path(f"/proc/{process}/task").iterdir(), strict=False):
            yield thread


def _was_killed(thread: Path) -> bool:
    pending = (line.split() for line in _lines(thread / "status") if line.startswith(("SigPnd:", "ShdPnd:")))
    return any(int(signals, 16) & _KILLED for _, signals in pending)


def _is_exiting(thread: Path) -> bool:
    fields = stat_fields(thread)
    return len(fields) > _FLAGS and bool(int(fields[_FLAGS]) & _PF_EXITING)


def stat_fields(thread: Path) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` behind the name, given its directory; none if it is gone."""
    return "".join(_lines(thread / "stat")).rpartition(")")[2].split()


def process_state(process: int) -> str:
    """Return the state of the first thread of a process, as ``state_of``."""
    return state_of(Path(f"/proc/{process}"))


def thread_states(process: int) -> str:
    """Return the states of all threads of a process."""
    return "".join(map(state_of, _threads(process)))


def state_of(thread: Path) -> str:
    """Return the state of a thread, such as ``R``, ``S``, ``D``, given its directory in /proc; empty if it is gone."""
    fields = stat_fields(thread)
    return fields[0] if fields else ""


def in_fault(thread: Path) -> bool:
    """Return whether a thread that sleeps in the kernel does so in a page fault.

    It may have come there by a system call that copies from or to a mapping. Only the stack shows that, and only root
    may look at it; without it a thread is taken to be in a fault if it came there by no system call.
    """
    stack = _lines(thread / "stack")
    if stack:
        return any(_FAULT in line for line in stack)
    return any(line.startswith("-1 ") for line in _lines(thread / "syscall"))


def _lines(path: Path | str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

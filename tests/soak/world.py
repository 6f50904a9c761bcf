"""What a worker of a soak knows of the mount it works on: paths, commands, and which errors have a cause."""

from __future__ import annotations

import errno
import os
import select
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import unpack
from typing import TypeVar

from tests.soak.board import SLOTS, Board
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.wire.results import Result, parse_result
from vmofs_mount.front.errno_map import errno_of

T = TypeVar("T")

MEMORY_SECONDS = 2.0
"""How long after its cause an error may be told: the kernel's retries, and a machine that is busy."""

SETTLE_SECONDS = 5.0
"""How long the page cache may show what was refused, or what another view of the memory has changed."""

_LOOK_SECONDS = 20.0
"""How long the conductor may get no CPU."""

STEP_SECONDS = 90.0
"""How long a step may go on to be refused for cause."""

_FAILED = {errno.EIO, errno.EBADMSG, errno.ENOSPC, errno.EOVERFLOW, errno.EBADFD, errno.EFAULT}
"""What a pager fails requests with; EFAULT is how ``ways`` sees a mapped access that fails."""

_TIMED_OUT = {errno.ETIMEDOUT, errno.EIO, errno.EFAULT}
"""What becomes of a time-out, in a mapping or in msync too."""


class WrongError(Exception):
    """The mount did what it must not; ``offset`` and ``length`` say where in the file, in bytes."""

    def __init__(self, sentence: str, offset: int = 0, length: int = 0) -> None:
        super().__init__(sentence)
        self.offset, self.length = offset, length


@dataclass
class World:
    """The mount, the directory of the pagers' content, and the board; ``counts`` says what was done how often."""

    mount: Path
    store: Path
    board: Board
    counts: Counter[str] = field(default_factory=Counter)

    def command(self, file: str, line: str) -> Result:
        """Carry out a command of ``control/`` and wait until it is done. Raises OSError if it fails."""
        fd = os.open(self.mount / "control" / file, os.O_RDWR)
        try:
            return command_in(fd, line)
        finally:
            os.close(fd)

    def has_cause(self, error: OSError, key: int, pager: int, since: float) -> bool:
        """Return whether an error that a call on a file ended with, which began at ``since``, has a known cause."""
        since -= MEMORY_SECONDS
        if error.errno in _FAILED and self.board.faults[key % SLOTS] >= since:
            self.counts["failed for cause"] += 1
            return True
        if error.errno in _TIMED_OUT:
            self.board.wait_looked(_LOOK_SECONDS)
            if self.board.trouble[pager] >= since:
                self.counts["timed out for cause"] += 1
                return True
        return False

    def had_trouble(self, key: int, pager: int, since: float) -> bool:
        """Return whether a request of a file may have failed since a time."""
        return bool(self.board.faults[key % SLOTS] >= since or self.board.trouble[pager] >= since)

    def insist(self, call: Callable[[], T], key: int, pager: int) -> T:
        """Make a call until it succeeds; each error must have a cause.

        Raises:
            WrongError: one has none, or it does not succeed in the end.
        """
        began, tries = time.monotonic(), 0
        while True:
            since, tries = time.monotonic(), tries + 1
            try:
                return call()
            except OSError as error:
                if not self.has_cause(error, key, pager, since):
                    raise WrongError(f"{error_name(error)} without a cause ({error})") from error
                seconds = time.monotonic() - began
                if seconds > STEP_SECONDS:
                    raise WrongError(f"{error_name(error)}, {tries} times in {seconds:.0f} s ({error})") from error


def command_in(fd: int, line: str) -> Result:
    """Carry out a command in an open command file. Raises OSError if it fails."""
    os.write(fd, f"{line}\n".encode())
    text = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        try:
            piece = os.read(fd, 1 << 16)
        except BlockingIOError:
            poll.poll(1000)
            continue
        if not piece:
            break
        text += piece
    result = parse_result(text.decode())
    code = errno_of(result.status)
    if code:
        raise OSError(code, result.sentence)
    return result


def error_name(error: OSError) -> str:
    """Return the name of an errno."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


# Contents: the 64-bit word i of a file holds (key << 44 | step << 24) + i, where step is the number of the write.

_KEY_BITS, _STEP_BITS = 44, 24


def content(key: int, step: int, offset: int, length: int) -> bytes:
    """Return what a step writes to a place of a file."""
    return pattern.make(key << _KEY_BITS | step << _STEP_BITS, offset, length)


def describe(data: bytes, start: int) -> str:
    """Say what stands in bytes of a file that begin at ``start``."""
    if not any(data):
        return "zeros"
    skipped = -start % pattern.WORD_SIZE
    word = data[skipped : skipped + pattern.WORD_SIZE]
    if len(word) < pattern.WORD_SIZE:
        return f"the bytes {data.hex()}"
    value: int = unpack("<Q", word)[0]
    key, step = value >> _KEY_BITS, value >> _STEP_BITS & (1 << _KEY_BITS - _STEP_BITS) - 1
    index = value & (1 << _STEP_BITS) - 1
    return f"the first word {word.hex()}, which is byte {index * pattern.WORD_SIZE:#x} of step {step} of file {key}"


def first_difference(found: bytes, expected: bytes, offset: int) -> tuple[int, int]:
    """Return where bytes that begin at ``offset`` differ: from the first to behind the last."""
    length = max(len(found), len(expected))
    pairs = zip(found.ljust(length, b"\0"), expected.ljust(length, b"\0"), strict=True)
    places = [place for place, (one, other) in enumerate(pairs) if one != other] or [min(len(found), len(expected))]
    return offset + places[0], offset + places[-1] + 1


def check_bytes(found: bytes, expected: bytes, offset: int, where: str) -> None:
    """Check bytes of a file.

    Raises:
        WrongError: they are others.
    """
    if found == expected:
        return
    if len(found) != len(expected):
        raise WrongError(
            f"{where}: {len(found)} bytes at {offset:#x} instead of {len(expected)}", offset, len(expected)
        )
    first, end = first_difference(found, expected, offset)
    stop = min(-(-end // pattern.WORD_SIZE) * pattern.WORD_SIZE, first - first % PAGE_SIZE + PAGE_SIZE)
    start = max(offset, first - first % pattern.WORD_SIZE)
    here = slice(start - offset, stop - offset)
    raise WrongError(
        f"{where}: bytes {first:#x} to {end:#x} are wrong: {describe(found[here], start)} "
        f"instead of {describe(expected[here], start)}",
        first,
        end - first,
    )


def within(seconds: float, check: Callable[[], None]) -> None:
    """Check until it is right; raise what was wrong when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
        except WrongError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return

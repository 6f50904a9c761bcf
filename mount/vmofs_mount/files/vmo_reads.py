"""READs of VMO files: from the message to the answer, by plain calls.

A READ whose pages are there is answered in one go. One that lacks pages becomes a ``WaitingRead``, which stands in the
book (``WaitingReads``) until it is answered. Whatever resolves it, it is answered here.
"""

# Rules
#
# 1. A READ is in the book from when it waits until just before it is answered. What fails stays in it while its retries
#    are counted.
# 2. `Engine.settle` answers those whose pages have come (`WaitingRead.wake`), so nothing here may raise, and nothing
#    may start a call of the model: what has to ask again does so in a task.
# 3. Only what seldom happens is a coroutine: failures and their retries, a size that the kernel does not know yet.
# 4. A READ on the short path of a miss is in no book. The core has it, as a `Missed`, and whoever would look for it in
#    the book has it put there first (`Missed.become_access`). So it must be one that nothing has to know of at once:
#    no READ of the file has failed, and nobody may write to it.
#
# How it works
#
#     serve --> there: `_answer`                      +--> `_answer`
#       |-----> failures remembered: `_begin_slowly`  |
#       |-----> absent, one page: `_miss` --> the core has it --> `answer_missed`
#       |                                          |
#       |                                          | somebody looks
#       |                                          v
#       +-----> absent: `_ask` --> in the book --> `_finish` --> failed: `_fail` --> refused
#                 ^                                   |
#                 +------- `_begin_slowly` <----------+  outdated, or cut off meanwhile

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, Protocol, cast

import trio

from vmofs.core.pages.content import Bytes
from vmofs.core.requests.access import Access
from vmofs.core.requests.page_source import PageSource
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import Reader
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import OutOfRangeError, VmoError
from vmofs.units import PAGE_SIZE, PageRange, page_count
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.cache.read_retries import Failure
from vmofs_mount.cache.taken_writes import TakenWrites
from vmofs_mount.cache.waiting_reads import OpenFile, WaitingRead
from vmofs_mount.files.failed_reads import FailedReads
from vmofs_mount.files.kernel_sizes import KernelSizes
from vmofs_mount.loop.engine import Engine
from vmofs_mount.tree.inodes import VmoFile
from vmofs_mount.tree.limits import Limits, Resource
from vmofs_mount.waits.read_watch import LetGoError, ReadWatch


class Replies(Protocol):
    """Where answers go."""

    def answer(self, unique: int, data: Bytes) -> None:
        """Answer a request with data."""

    def refuse(self, unique: int, error: Exception) -> None:
        """Answer a request with an error."""


class Lane(Protocol):
    """By which request lines go."""

    def send_miss(self, source: PageSource, page: int) -> None:
        """Have the line for a page written."""


class Delivery(Protocol):
    """Who knows the lanes."""

    def lane_for_miss(self, port: Port) -> Lane | None:
        """Return the only lane of a port, if it has a reader and room for a line."""


class Surroundings(Protocol):
    """What the READs need of others."""

    @property
    def spawn(self) -> Callable[..., None]:
        """Starts a task."""

    @property
    def replies(self) -> Replies:
        """Where answers go."""

    @property
    def delivery(self) -> Delivery:
        """Who delivers misses."""


class Missed(NamedTuple):
    """A READ of one page on the short path of a miss."""

    reads: VmoReads
    handle: OpenFile
    unique: int
    thread: int
    offset: int

    def become_access(self) -> Access[object]:
        """Be a ``WaitingRead`` from now on, and return its call."""
        return self.reads.put_in_book(self)


class Shared(Protocol):
    """What the READs need of what all VMO files share."""

    engine: Engine
    cache: PageCache
    limits: Limits
    taken: TakenWrites
    sizes: KernelSizes
    failures: FailedReads
    watch: ReadWatch


class VmoReads:
    """The READs of all VMO files."""

    def __init__(self, shared: Shared, surroundings: Surroundings) -> None:
        self._engine = shared.engine
        self._cache = shared.cache
        self._limits = shared.limits
        self._taken = shared.taken
        self._sizes = shared.sizes
        self._failures = shared.failures
        self._watch = shared.watch
        self._replies = surroundings.replies
        self._spawn = surroundings.spawn
        self._delivery = surroundings.delivery
        self._in_tasks = 0

    @property
    def unanswered(self) -> int:
        """How many READs are not answered yet."""
        return len(self._cache.reads) + self._in_tasks

    def serve(self, handle: OpenFile, unique: int, thread: int, offset: int, size: int) -> None:
        """Answer a READ, or let it wait for the pager.

        What a program that reads in sequence is about to come to is stored, and the pager hears of marked pages.

        Raises:
            VmoError: it is to be refused.
        """
        vmo = handle.file.vmo
        ahead = handle.sequence.read(offset, offset + size)
        if ahead is not None and handle.has_page_cache:
            self._cache.store_ahead(handle.file, ahead)
        if vmo.source.marked is not None:
            with self._engine.change():
                vmo.touch(PageRange.of_bytes(offset, size))
        end = min(offset + size, vmo.stream_size)
        data: Bytes | None = b"" if end <= offset else vmo.read_nowait(offset, end - offset)
        if data is not None and not _is_filled_up(handle.file, end, offset + size):
            self._answer(handle, unique, offset, data)
            return
        if data is not None or handle.file in self._failures:
            self._in_task(WaitingRead(handle, unique, thread, offset, size, self._finish), self._begin_slowly)
        elif size != PAGE_SIZE or not self._miss(handle, unique, thread, offset):
            self._ask(WaitingRead(handle, unique, thread, offset, size, self._finish), end)

    # The short path of a miss

    def _miss(self, handle: OpenFile, unique: int, thread: int, offset: int) -> bool:
        """Ask the pager for one page on the short path; return False if that cannot be."""
        file = handle.file
        vmo = file.vmo
        if type(vmo) is not PagerVmo or file.writer_count or not handle.has_page_cache:
            return False
        source = vmo.source
        lane = self._delivery.lane_for_miss(source.port)
        if lane is None:
            return False
        uid = handle.caller.uid
        self._limits.take(Resource.REQUESTS, uid)
        missed = tuple.__new__(Missed, (self, handle, unique, thread, offset))
        is_to_be_sent = vmo.miss(offset, missed, lane, trio.current_time())
        if is_to_be_sent:
            lane.send_miss(source, offset // PAGE_SIZE)
        elif is_to_be_sent is None:
            self._limits.give(Resource.REQUESTS, uid)
            return False
        return True

    def put_in_book(self, missed: Missed) -> Access[object]:
        """Make a ``WaitingRead`` of a READ on the short path, and return its call, which is not started."""
        _, handle, unique, thread, offset = missed
        read = WaitingRead(handle, unique, thread, offset, PAGE_SIZE, self._finish)
        self._note(read, offset + PAGE_SIZE, [])
        return read.access

    def answer_missed(self, readers: Iterable[Reader], data: Bytes) -> None:
        """Answer the READs of a page with the bytes that it was supplied with."""
        for missed in cast("Iterable[Missed]", readers):
            self._limits.give(Resource.REQUESTS, missed.handle.caller.uid)
            self._answer(missed.handle, missed.unique, missed.offset, data)

    # The ordinary path

    def _answer(self, handle: OpenFile, unique: int, offset: int, data: Bytes) -> None:
        if self._taken:
            data = self._taken.overlay(handle.file, offset, data)
        if self._cache.writes and handle.has_page_cache and data:
            self._cache.writes.note_read(handle.file, PageRange.of_bytes(offset, len(data)))
        self._replies.answer(unique, data)

    def _ask(self, read: WaitingRead, end: int, suspects: list[Failure] | None = None) -> None:
        """Ask the pager for what is missing."""
        self._limits.take(Resource.REQUESTS, read.handle.caller.uid)
        self._note(read, end, suspects or [])
        if self._engine.start(read.access):
            self._finish(read)

    def _note(self, read: WaitingRead, end: int, suspects: list[Failure]) -> None:
        """Make the call of a READ, and let those know of it who have to."""
        offset = read.offset
        access = read.handle.file.vmo.read(offset, end - offset)
        access.token = access.origin = read
        read.access, read.end, read.suspects = access, end, suspects
        read.pages = PageRange.of_bytes(offset, end - offset)
        self._cache.reads.add(read)
        self._watch.began(read)

    def _finish(self, read: WaitingRead) -> None:
        """Answer a READ whose call is finished."""
        try:
            self._act_on(read)
        except Exception as error:  # noqa: BLE001 - whoever woke it has nothing to do with that
            self._replies.refuse(read.unique, error)

    def _act_on(self, read: WaitingRead) -> None:
        file = read.handle.file
        try:
            data = read.access.result()
        except LetGoError:
            self._end(read)
            if read.handle.has_page_cache:
                self._failures.killed(read)
            raise
        except OutOfRangeError:
            self._end(read)
            if read.end <= file.vmo.stream_size:
                raise
            self._in_task(read, self._begin_slowly)
        except VmoError as error:
            self._in_task(read, self._fail, file.vmo.absent(read.pages), error)
        else:
            self._end(read)
            if read.is_outdated or read.end > file.vmo.stream_size:
                self._in_task(read, self._begin_slowly)
            elif _is_filled_up(file, read.end, read.offset + read.size):
                self._in_task(read, self._answer_when_known, read.end, data)
            else:
                self._answer(read.handle, read.unique, read.offset, data)

    def _end(self, read: WaitingRead) -> None:
        """Note that a READ is about to be answered."""
        self._limits.give(Resource.REQUESTS, read.handle.caller.uid)
        self._cache.reads.remove(read)
        if read.is_watched:
            self._watch.ended(read)
        read.access.origin = None  # they refer to each other

    def interrupt(self, unique: int) -> None:
        """Let a READ go if its reader was killed. Other signals he sees to later: a page fault would become SIGBUS."""
        read = self._cache.reads.find(unique)
        if read is not None and not read.access.done:
            self._watch.interrupted(read)

    # What seldom happens

    def _in_task(self, read: WaitingRead, go_on: Callable[..., Awaitable[None]], *arguments: object) -> None:
        self._in_tasks += 1
        self._spawn(self._go_on, read, go_on, *arguments)

    async def _go_on(self, read: WaitingRead, go_on: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await go_on(read, *arguments)
        except Exception as error:  # noqa: BLE001 - it must not end the mount
            self._replies.refuse(read.unique, error)
        finally:
            self._in_tasks -= 1

    async def _begin_slowly(self, read: WaitingRead) -> None:
        """Do as ``serve`` does, for a READ that may be a retry of one that failed, or must wait for a size."""
        file, asked = read.handle.file, read.offset + read.size
        end = min(asked, file.vmo.stream_size)
        data: Bytes | None = b"" if end <= read.offset else file.vmo.read_nowait(read.offset, end - read.offset)
        if data is None:
            read.pages = PageRange.of_bytes(read.offset, end - read.offset)
            read.is_outdated = False
            suspects = await self._failures.suspects(read)
            self._ask(read, max(read.offset, min(asked, file.vmo.stream_size)), suspects)
        elif _is_filled_up(file, end, asked):
            await self._answer_when_known(read, end, data)
        else:
            self._answer(read.handle, read.unique, read.offset, data)

    async def _answer_when_known(self, read: WaitingRead, end: int, data: Bytes) -> None:
        """Answer a READ that was cut off, when the kernel knows where the file ends.

        Raises:
            OutOfRangeError: it does not get to know that.
        """
        file, asked = read.handle.file, read.offset + read.size
        if not await self._sizes.wait_known(file):
            sentence = f"{read.offset}+{read.size} was cut off: {file.path} ends at {file.vmo.stream_size}"
            raise OutOfRangeError(sentence)
        if min(asked, file.vmo.stream_size) == end:
            self._answer(read.handle, read.unique, read.offset, data)
        else:  # the size has changed again
            await self._begin_slowly(read)

    async def _fail(self, read: WaitingRead, absent: PageRange, error: VmoError) -> None:
        """Refuse a READ when it is known how often the kernel will ask again."""
        try:
            await self._failures.add(read, absent, error, read.suspects)
        finally:
            self._end(read)
        raise error


def _is_filled_up(file: VmoFile, end: int, asked: int) -> bool:
    """Return whether the kernel asked for a page behind the last one: it would fill it with zeros, and show them.

    With O_DIRECT too: what is missing is then read by way of the page cache.
    """
    return end < asked and asked > page_count(file.vmo.stream_size) * PAGE_SIZE

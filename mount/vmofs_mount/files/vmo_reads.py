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
#
# How it works
#
#     serve --> there: `_answer`                      +--> `_answer`
#       |-----> failures remembered: `_begin_slowly`  |
#       +-----> absent: `_ask` --> in the book --> `_finish` --> failed: `_fail` --> refused
#                 ^                                   |
#                 +------- `_begin_slowly` <----------+  outdated, or cut off meanwhile

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from vmofs.core.pages.content import Bytes
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
    """The READs of all VMO files. Tasks run in ``spawn``'s nursery."""

    def __init__(self, shared: Shared, replies: Replies, spawn: Callable[..., None]) -> None:
        self._engine = shared.engine
        self._cache = shared.cache
        self._limits = shared.limits
        self._taken = shared.taken
        self._sizes = shared.sizes
        self._failures = shared.failures
        self._watch = shared.watch
        self._replies = replies
        self._spawn = spawn
        self._in_tasks = 0

    @property
    def unanswered(self) -> int:
        """How many READs are not answered yet."""
        return len(self._cache.reads) + self._in_tasks

    def serve(self, handle: OpenFile, unique: int, thread: int, offset: int, size: int) -> None:
        """Answer a READ, or let it wait for the pager.

        Raises:
            VmoError: it is to be refused.
        """
        vmo = handle.file.vmo
        end = min(offset + size, vmo.stream_size)
        data: Bytes | None = b"" if end <= offset else vmo.read_nowait(offset, end - offset)
        if data is not None and not _is_filled_up(handle.file, end, offset + size):
            self._answer(handle, unique, offset, data)
            return
        read = WaitingRead(handle, unique, thread, offset, size, self._finish)
        if data is None and handle.file not in self._failures:
            # Here the short path of a miss begins: of a file of which no READ has failed.
            self._ask(read, end)
        else:
            self._in_task(read, self._begin_slowly)

    def _answer(self, handle: OpenFile, unique: int, offset: int, data: Bytes) -> None:
        if self._taken:
            data = self._taken.overlay(handle.file, offset, data)
        if self._cache.writes and handle.has_page_cache and data:
            self._cache.writes.note_read(handle.file, PageRange.of_bytes(offset, len(data)))
        self._replies.answer(unique, data)

    def _ask(self, read: WaitingRead, end: int, suspects: list[Failure] | None = None) -> None:
        """Ask the pager for what is missing."""
        handle, offset = read.handle, read.offset
        self._limits.take(Resource.REQUESTS, handle.caller.uid)
        access = handle.file.vmo.read(offset, end - offset)
        access.token = access.origin = read
        read.access, read.end, read.suspects = access, end, suspects or []
        read.pages = PageRange.of_bytes(offset, end - offset)
        self._cache.reads.add(read)
        self._watch.began(read)
        if self._engine.start(access):
            self._finish(read)

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
        """Let a READ go whose reader has a signal to see to, if that can be told him; else if he was killed."""
        read = self._cache.reads.find(unique)
        if read is None or read.access.done:
            return
        if read.handle.has_page_cache:  # a page fault would become SIGBUS
            self._watch.interrupted(read)
        else:
            self._engine.abort(read.access, LetGoError("interrupted"))

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

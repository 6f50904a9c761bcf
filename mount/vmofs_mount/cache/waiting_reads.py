"""The READs that wait for a pager: one object for each, and the one book in which all of them stand.

Whoever has to know of a READ that waits looks here: the page cache by file and pages, the counting of retries by
process, who looks after locks by file, FUSE_INTERRUPT by its number. The search for deadlocks finds it by the request
that it waits for.

A READ on the short path of a miss is not in the book as long as nobody looks for it. Whoever looks has it put there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import trio

from vmofs.units import PageRange

if TYPE_CHECKING:
    from vmofs.core.pages.content import Bytes
    from vmofs.core.requests.access import Access
    from vmofs_mount.cache.read_retries import Failure
    from vmofs_mount.cache.sequences import Sequence
    from vmofs_mount.linux.caller import Caller
    from vmofs_mount.tree.inodes import VmoFile

_STRIPE_PAGES = 64


class OpenFile(Protocol):
    """The open file that a READ is for.

    ``process`` opened it; ``has_page_cache``: not with O_DIRECT; ``sequence``: whether its READs come in sequence.
    """

    file: VmoFile
    process: int
    caller: Caller
    has_page_cache: bool
    sequence: Sequence


class WaitingRead:
    """A READ of a VMO that cannot be answered at once. ``finish`` is called when its call is finished.

    Attributes:
        handle: the open file that it is for.
        unique: its number, by which it is answered.
        thread: who waits for the answer, if anybody does.
        offset: where it begins.
        size: what it asks for.
        pages: what it waits for. The kernel has them locked, but with O_DIRECT.
        access: the call that waits; this is the call's ``token`` and ``origin``.
        end: what it waits for ends there.
        suspects: failures whose pages it may have met in the page cache.
        is_watched: it is looked whether its process was killed.
        is_outdated: some of its pages were written to while it waited, so it may have copied what was there before.
    """

    __slots__ = (
        "_finish",
        "access",
        "end",
        "handle",
        "is_outdated",
        "is_watched",
        "offset",
        "pages",
        "size",
        "suspects",
        "thread",
        "unique",
    )

    access: Access[Bytes]
    end: int
    pages: PageRange
    suspects: list[Failure]

    def __init__(
        self,
        handle: OpenFile,
        unique: int,
        thread: int,
        offset: int,
        size: int,
        finish: Callable[[WaitingRead], None],
    ) -> None:
        self.handle = handle
        self.unique = unique
        self.thread = thread
        self.offset = offset
        self.size = size
        self.is_watched = self.is_outdated = False
        self._finish = finish

    @property
    def again(self) -> bool:
        """Whether it may be the second time that the kernel asks for it."""
        return bool(self.suspects)

    def wake(self) -> None:
        """Learn that the call is finished."""
        self._finish(self)


def _nothing() -> None:
    """Add none: there is no short path."""


_Stripes = dict[int, dict[WaitingRead, None]]


class WaitingReads:
    """The READs of all files. Ten thousand threads may wait for a page each, so they are not looked through.

    A file is cut into stripes, each of which knows the READs that have pages in it. A READ has at most 256 pages and
    two that wait have seldom one in common, so it is in few stripes, and in a stripe are few.

    ``promote`` has all READs added that are on the short path of a miss.
    """

    def __init__(self, promote: Callable[[], None] = _nothing) -> None:
        self._promote = promote
        self._by_number: dict[int, WaitingRead] = {}
        self._of_process: dict[int, int] = {}
        self._by_file: dict[VmoFile, _Stripes] = {}  # those that have pages locked; no empty one
        self._freed: dict[VmoFile, trio.Event] = {}  # set when no READ of a file waits

    def __len__(self) -> int:
        """Return how many wait."""
        self._promote()
        return len(self._by_number)

    def add(self, read: WaitingRead) -> None:
        """Note that a READ waits."""
        handle = read.handle
        self._by_number[read.unique] = read
        self._of_process[handle.process] = self._of_process.get(handle.process, 0) + 1
        if handle.has_page_cache:
            stripes = self._by_file.setdefault(handle.file, {})
            for stripe in _stripes(read.pages):
                stripes.setdefault(stripe, {})[read] = None

    def remove(self, read: WaitingRead) -> None:
        """Note that it is about to be answered."""
        handle = read.handle
        del self._by_number[read.unique]
        left = self._of_process[handle.process] - 1
        if left:
            self._of_process[handle.process] = left
        else:
            del self._of_process[handle.process]
        if handle.has_page_cache:
            self._remove_from_file(handle.file, read)

    def _remove_from_file(self, file: VmoFile, read: WaitingRead) -> None:
        stripes = self._by_file[file]
        for stripe in _stripes(read.pages):
            reads = stripes[stripe]
            del reads[read]
            if not reads:
                del stripes[stripe]
        if not stripes:
            del self._by_file[file]
            if file in self._freed:
                self._freed.pop(file).set()

    def find(self, unique: int) -> WaitingRead | None:
        """Return the one with a number."""
        self._promote()
        return self._by_number.get(unique)

    def count_of(self, process: int) -> int:
        """Return how many wait of those for what a process has opened."""
        self._promote()
        return self._of_process.get(process, 0)

    def waits(self, file: VmoFile) -> bool:
        """Return whether a READ of a file has pages locked."""
        file.vmo.promote()
        return file in self._by_file

    def of(self, file: VmoFile) -> list[WaitingRead]:
        """Return those that have pages of a file locked."""
        file.vmo.promote()
        return list({read: None for reads in self._by_file.get(file, {}).values() for read in reads})

    async def wait_until_free(self, file: VmoFile) -> None:
        """Wait until no READ has pages of a file locked."""
        file.vmo.promote()
        if file in self._by_file:
            await self._freed.setdefault(file, trio.Event()).wait()

    def written(self, file: VmoFile, pages: PageRange) -> list[PageRange]:
        """Note that pages were written to; return those of them that READs wait for."""
        found = []
        for read in self._over(file, pages):
            read.is_outdated = True
            found.append(read.pages & pages)
        return found

    def over(self, file: VmoFile, pages: PageRange) -> list[PageRange]:
        """Return what READs wait for that have a page in common with ``pages``."""
        return [read.pages for read in self._over(file, pages)]

    def _over(self, file: VmoFile, pages: PageRange) -> Iterable[WaitingRead]:
        file.vmo.promote(pages)
        of_file = self._by_file.get(file)
        if of_file is None or not pages:
            return ()
        start, end = pages
        stripes = _stripes(pages)
        found: dict[WaitingRead, None] = {}
        for stripe in stripes if len(stripes) <= len(of_file) else of_file:
            for read in of_file.get(stripe, ()):
                if read.pages.start < end and start < read.pages.end:
                    found[read] = None
        return found

    def check(self) -> None:
        """Assert that all parts of the book tell the same."""
        reads = self._by_number.values()
        assert sum(self._of_process.values()) == len(reads)
        assert {read for read in reads if read.handle.has_page_cache} == {
            read for file in self._by_file for read in self.of(file)
        }
        assert all(file.open_count for file in self._by_file)


def _stripes(pages: PageRange) -> range:
    start, end = pages
    return range(start // _STRIPE_PAGES, -(-end // _STRIPE_PAGES))

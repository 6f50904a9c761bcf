"""Copy-on-write children of pager VMOs: the calls of a VMO whose absent pages are those of the root's pager.

A read of what the clone has not forked is a read of its ancestors; a gap is READ at the root, in the root's offsets and
with its key, as if the root were read. A write READs too, then forks. The pager knows nothing else of clones: they are
never DIRTY, never modified, not written back. Zircon: zircon-pager 2.8 to 2.12, 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vmofs.core.pages import content
from vmofs.core.pages.account import Account
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.pins import Pin, Pins
from vmofs.core.pages.runs import RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Access, Need, Steps
from vmofs.core.vmos import hints
from vmofs.core.vmos.cow_pages import Node
from vmofs.core.vmos.found import Found
from vmofs.core.vmos.lineage import Lineage
from vmofs.core.vmos.vmo import WRITE_BATCH_PAGES, PagerVmo
from vmofs.status import (
    AccessDeniedError,
    BadStateError,
    NotSupportedError,
    OutOfRangeError,
    UnavailableError,
    VmoError,
)
from vmofs.units import ALL_PAGES, MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, PageRange, page_count


@dataclass(frozen=True, slots=True)
class CloneStatistics:
    """Pages of one clone. ``private``: forked; ``shared``: frozen for several snapshots; ``zero``: zeroed here."""

    size_pages: int
    private: int
    shared: int
    zero: int
    runs: int


class CloneVmo:
    """A clone of a pager VMO, of a clone, or of a slice or reference of one. Made by ``create_child``.

    Has the calls of ``PagerVmo``, with the same meaning where nothing else is said; all pager calls refuse it.
    ``root`` is the VMO whose pager is asked.
    """

    def __init__(
        self,
        root: PagerVmo,
        stream_size: int,
        *,
        resizable: bool = False,
        no_write: bool = False,
        account: Account | None = None,
    ) -> None:
        self.system = root.system
        self.root = root
        self.source = root.source
        self.stream_size = stream_size
        self.size_pages = page_count(stream_size)
        self.resizable = resizable
        self.no_write = no_write
        self.pins = Pins()
        self.pinned = self.pins.pages
        self.node = Node(self.system, RunMap(account), self)
        self.lineage = Lineage()
        self.owner: object = None  # the edge's
        self.system.register(self, self.node.runs)

    @property
    def committed_pages(self) -> int:
        """Pages that occupy memory for this clone: forked ones, and what it shares with other snapshots."""
        return self.node.runs.committed_pages + self.node.shared_pages

    def committed(self, pages: PageRange) -> list[PageRange]:
        """Return the runs of pages in a range that show more than zeros and are there."""
        return self.node.committed(pages)

    def absent(self, pages: PageRange) -> PageRange:
        """Return the rest of a range from its first absent page on; the range itself if none is absent."""
        return next((PageRange(page, pages.end) for page, found in self._found(pages) if found.absent), pages)

    def state_at(self, page: int) -> PageState:
        """Return the state of the page that is shown, wherever it is; zeros without a page are a marker."""
        found = self.node.find(page, page + 1)
        if found.node is self.root.node:
            return self.root.state_at(found.page)
        return PageState.MARKER if found.run is None else found.run.state

    def _found(self, pages: PageRange) -> Iterator[tuple[int, Found]]:
        """Look at what a range shows, piece by piece; between two pieces anything may happen to the rest."""
        page = pages.start
        while page < (end := min(pages.end, self.size_pages)):
            found = self.node.find(page, end)
            yield page, found
            page += found.pages

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside.

        Raises:
            OutOfRangeError: it overflows 64 bits, or ends beyond the size.
        """
        size = self.size_pages * PAGE_SIZE
        if offset + length > min(UINT64_MAX, size):
            raise OutOfRangeError(f"range {offset}+{length} does not lie inside the clone of {size} bytes")

    def check_writable(self) -> None:
        """Check that this may be written to.

        Raises:
            AccessDeniedError: it was made with NO_WRITE.
        """
        if self.no_write:
            raise AccessDeniedError("the clone was made with NO_WRITE")

    # Reading

    def read_nowait(self, offset: int, length: int) -> Bytes | None:
        """Return the bytes if every page is there, else None. Valid until the next call on any object.

        Raises:
            OutOfRangeError: the range does not lie inside.
        """
        self.check_inside(offset, length)
        return self.node.read_present(offset, offset + length) if length else b""

    def read(self, offset: int, length: int) -> Access[bytes]:
        """Read bytes; what is absent at the root is READ there. Fails as ``PagerVmo.read``. Zircon: zx_vmo_read."""
        return Access(self._read_steps(offset, length))

    def _read_steps(self, offset: int, length: int) -> Steps[bytes]:
        self.check_inside(offset, length)
        pieces, position, end = [], offset, offset + length
        while position < end:
            page = position // PAGE_SIZE
            found = self.node.find(page, page_count(end))
            if found.absent:
                yield self.need(found, wanted=found.page)
                self.check_inside(offset, length)
                continue
            base = page * PAGE_SIZE
            stop = min(end, base + found.pages * PAGE_SIZE)
            pieces.append(bytes(self.node.bytes_of(found, position - base, stop - base)))
            position = stop
        return b"".join(pieces)

    def need(self, found: Found, wanted: int | None = None) -> Need:
        """Return the need for a gap that was found."""
        return self.root.need_read(found.range, wanted)

    # Writing

    def write(self, offset: int, data: Bytes) -> Access[int]:
        """Write bytes into forked pages; absent ones are READ first, nothing is ever DIRTY. Zircon: zx_vmo_write.

        Fails as ``PagerVmo.write``, with NO_MEMORY, and with ACCESS_DENIED if made with NO_WRITE.
        """
        return Access(self.write_steps(offset, data))

    def write_steps(self, offset: int, data: Bytes, by: object = None) -> Steps[int]:
        """Write bytes, as steps of a larger call; ``by`` is the slice or reference that was written to."""
        self.check_writable()
        self.check_inside(offset, len(data))
        position, end = offset, offset + len(data)
        while position < end:
            page = position // PAGE_SIZE
            batch_end = min(page_count(end), page + WRITE_BATCH_PAGES)
            while position < min(end, batch_end * PAGE_SIZE):
                page = position // PAGE_SIZE
                found = self.node.find(page, batch_end)
                if found.absent:
                    yield self.need(found)
                    self.check_inside(offset, len(data))
                    continue
                pages = PageRange(page, page + found.pages)
                stop = min(end, pages.end * PAGE_SIZE)
                self.node.own(pages)
                content.write_committed(
                    self.system.frames, self.node.runs, position, data[position - offset : stop - offset]
                )
                self.node.changed(pages, by or self)
                position = stop
        return len(data)

    def op_zero(self, offset: int, length: int) -> Access[None]:
        """Zero bytes of the clone, whose whole pages then never show the root again. Zircon: ZX_VMO_OP_ZERO.

        Parts of pages that do not read as zeros, and pinned pages, are written, and fail as ``write`` does.
        """
        return Access(self.zero_steps(offset, length))

    def zero_steps(self, offset: int, length: int) -> Steps[None]:
        """Zero bytes, as steps of a larger call."""
        self.check_writable()
        self.check_inside(offset, length)
        self.node.runs.check_ranges()
        end = offset + length
        first, last = min(end, page_count(offset) * PAGE_SIZE), max(offset, end - end % PAGE_SIZE)
        for start, stop in ((offset, first), (max(first, last), end)):
            yield from self._part_steps(start, stop)
            self.check_inside(offset, length)
        position, last = first // PAGE_SIZE, last // PAGE_SIZE
        while position < last:
            part = PageRange(position, self.node.reach(position, last))
            self._zero_pages(part)
            position = part.end
            if position < last:
                yield None
                self.check_inside(offset, length)

    def _zero_pages(self, pages: PageRange) -> None:
        for part in self.pinned.over(pages):
            content.wipe_committed(self.system.frames, self.node.runs, part.offset, part.end * PAGE_SIZE)
            self.node.changed(part)
        for part in self.pinned.missing(pages):
            self._mark_stale(part)
            self.node.blank(part)

    def _part_steps(self, start: int, stop: int) -> Steps[None]:
        """Zero bytes of one page, unless there are none or the page reads as zeros anyway."""
        page = start // PAGE_SIZE
        found = self.node.find(page, page + 1)
        if start < stop and (found.absent or found.has_frames):
            yield from self.write_steps(start, content.zeros(stop - start))
            self.node.changed(PageRange(page, page + 1))

    def _mark_stale(self, pages: PageRange) -> None:
        for part in self.node.committed(pages):
            self.node.changed(part)

    # The size

    def set_size(self, size: int) -> Access[None]:
        """Cut or extend the clone. What is cut off is gone, and what comes there later is zero, not the parent's.

        The rest of the last page, of the old size or the new one, is zeroed by a write, whose failure is ignored. Fails
        with ACCESS_DENIED (NO_WRITE), UNAVAILABLE (not resizable), OUT_OF_RANGE (above the largest VMO), BAD_STATE (a
        pinned page would be cut off); then nothing has changed. Zircon: zx_vmo_set_size.
        """
        return Access(self._set_size_steps(size))

    def _set_size_steps(self, size: int) -> Steps[None]:
        self.check_writable()
        if not self.resizable:
            raise UnavailableError(f"the clone of {self.size_pages * PAGE_SIZE} bytes was not made resizable")
        if size > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {size} is above the largest VMO, {MAX_VMO_BYTES}")
        pages = page_count(size)
        pinned = self.pinned.over(PageRange(pages, self.size_pages))
        if pinned:
            raise BadStateError(f"pinned pages {pinned[0]} lie beyond the new size {size}")
        end = min(size, self.stream_size)
        while pages < self.size_pages:
            step = max(pages, self.node.runs.reach_back(pages, self.size_pages, SLICE))
            self._mark_stale(PageRange(step, self.size_pages))
            self.node.cut(step)
            if step > pages:
                self.size_pages, self.stream_size = step, min(self.stream_size, step * PAGE_SIZE)
                yield None
            else:
                break
        self.size_pages, self.stream_size = pages, size
        try:
            yield from self._part_steps(end, end + -end % PAGE_SIZE)
        except VmoError:
            return  # as for a pager VMO: the size has changed

    def set_stream_size(self, size: int) -> Access[None]:
        """Set the size of the content, in bytes; everything beyond the old or the new one, if smaller, is zero then.

        Fails as ``op_zero`` does, and with OUT_OF_RANGE beyond the size. Zircon: zx_vmo_set_stream_size.
        """
        return Access(self._set_stream_size_steps(size))

    def _set_stream_size_steps(self, size: int) -> Steps[None]:
        self.check_writable()
        self.check_inside(size, 0)
        end = min(size, self.stream_size)
        if size != self.stream_size:
            yield from self.zero_steps(end, self.size_pages * PAGE_SIZE - end)
            self.stream_size = size

    # Bringing in, and hints

    def commit(self, offset: int, length: int) -> Access[None]:
        """Fork every page; what is absent at the root is READ there. Other clones between get nothing.

        Fails as ``PagerVmo.commit``, and with ACCESS_DENIED if made with NO_WRITE. Zircon: ZX_VMO_OP_COMMIT.
        """
        return Access(self._commit_steps(offset, length))

    def _commit_steps(self, offset: int, length: int) -> Steps[None]:
        self.check_writable()
        self.check_inside(offset, length)
        yield from self._fork_steps(PageRange.of_bytes(offset, length))

    def _fork_steps(self, pages: PageRange) -> Steps[None]:
        position, count = pages.start, 0
        while position < (end := min(pages.end, self.size_pages)):
            count += 1
            if not count % SLICE:
                yield None
                continue
            found = self.node.find(position, end)
            if found.absent:
                yield self.need(found)
                continue
            self.node.own(PageRange(position, position + found.pages))
            position += found.pages

    def prefetch(self, offset: int, length: int) -> Access[None]:
        """READ what is absent at the root; nothing is forked. Fails as ``commit`` of a pager VMO. Zircon: PREFETCH."""
        return Access(self._prefetch_steps(offset, length, best_effort=False))

    def always_need(self, offset: int, length: int) -> Access[None]:
        """Protect the pages of the root that are seen from eviction, and READ the absent ones; failures are skipped.

        Fails only with OUT_OF_RANGE. Zircon: ZX_VMO_OP_ALWAYS_NEED.
        """
        return Access(self._prefetch_steps(offset, length, best_effort=True))

    def _prefetch_steps(self, offset: int, length: int, *, best_effort: bool) -> Steps[None]:
        self.check_inside(offset, length)
        pages = PageRange.of_bytes(offset, length)
        if best_effort:
            for part in self._of_root(pages):
                hints.always_need(self.root, part)
        position, count = pages.start, 0
        while position < (end := min(pages.end, self.size_pages)):
            count += 1
            if not count % SLICE:
                yield None
                continue
            found = self.node.find(position, end)
            if not found.absent:
                position += found.pages
                continue
            try:
                yield self.need(found)
            except VmoError:
                if not best_effort:
                    raise
                position += found.pages

    def dont_need(self, offset: int, length: int) -> None:
        """Let the pages of the root that are seen go before others when memory is short.

        Raises:
            OutOfRangeError: the range does not lie inside.

        Zircon: ZX_VMO_OP_DONT_NEED.
        """
        self.check_inside(offset, length)
        for part in self._of_root(PageRange.of_bytes(offset, length)):
            self.root.dont_need(part.offset, part.length)

    def _of_root(self, pages: PageRange) -> list[PageRange]:
        """Return the pages of the root, present or not, that no node on the way hides."""
        return [found.range for _, found in self._found(pages) if found.node is self.root.node]

    def decommit(self, offset: int, length: int) -> None:
        """Refuse, as for every VMO of a pager family.

        Raises:
            OutOfRangeError: the range does not lie inside.
            NotSupportedError: always, unless the range is empty.

        Zircon: ZX_VMO_OP_DECOMMIT.
        """
        self.check_inside(offset, length)
        if length:
            raise NotSupportedError("pages of a clone of a pager VMO cannot be decommitted")

    def pin(self, offset: int, length: int, *, write: bool = False) -> Access[Pin]:
        """Fork pages and keep them until ``unpin``; to a clone ``write`` makes no difference. Fails as ``commit``."""
        return Access(self._pin_steps(offset, length, write=write))

    def _pin_steps(self, offset: int, length: int, *, write: bool) -> Steps[Pin]:
        if write:
            self.check_writable()
        self.check_inside(offset, length)
        pages = PageRange.of_bytes(offset, length)
        yield from self._fork_steps(pages)
        self.check_inside(offset, length)
        self.node.own(pages)  # what was forked and zeroed while this waited; nothing can be absent again
        return self.pins.add(pages)

    # The end

    def charge_to(self, account: Account | None) -> None:
        """Let its pages be another's from now on, whatever his limits. Not those that it shares."""
        self.node.runs.charge_to(account)

    def close(self) -> None:
        """Give up the handle. What no child needs is freed; the last of the family frees the root, too."""
        self.lineage.close()
        self.node.close(self)

    def freed(self) -> None:
        """End, for the family: the last reference is gone."""
        self.system.unregister(self)

    def statistics(self) -> CloneStatistics:
        """Return the present page counts."""
        runs = self.node.runs
        return CloneStatistics(
            size_pages=self.size_pages,
            private=runs.committed_pages,
            shared=self.node.shared_pages,
            zero=runs.pages_in(PageState.MARKER),
            runs=len(runs),
        )

    def check(self) -> None:
        """Assert that pages lie inside and pinned ones are forked."""
        self.node.runs.check()
        self.node.check()
        self.pins.check()
        assert not self.node.runs.whole_over(PageRange(self.size_pages, ALL_PAGES.end))
        assert self.node.limit <= self.size_pages
        for part in self.pinned:
            assert all(found.node is self.node and found.has_frames for _, found in self.node.find_all(part)), part

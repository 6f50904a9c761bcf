"""Waiting until what is dirty was written back: fsync for VMOs whose pager takes part in it.

Zircon has no such call: there a filesystem is its own pager. Its page source does know a third kind of request, though,
WRITEBACK, which no user pager declares. A VMO made with the option ``writeback`` declares it: waiting for dirty pages
asks for them with WRITEBACK, and the pager answers with WRITEBACK_BEGIN, its own work, and WRITEBACK_END, or by failing
the range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core import writeback
from vmofs.core.access import Need, Steps
from vmofs.core.ranges import RangeSet
from vmofs.core.request import Command
from vmofs.units import PageRange

if TYPE_CHECKING:
    from vmofs.core.vmo import PagerVmo


class Syncs:
    """Those who wait for pages of one VMO to be written back, each with the pages that were not yet."""

    def __init__(self) -> None:
        self._left: dict[int, RangeSet] = {}
        self._serial = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._left)

    def steps(self, vmo: PagerVmo) -> Steps[None]:
        """Wait until every page that is dirty now was through WRITEBACK_END, or is gone."""
        left = RangeSet()
        for record in writeback.dirty_ranges(vmo.runs, PageRange(0, vmo.size_pages)):
            left.add(record.range)
        self._serial += 1
        serial = self._serial
        self._left[serial] = left
        try:
            while left:
                vmo.source.check_attached()
                yield Need(vmo.source, Command.WRITEBACK, next(iter(left)))
        finally:
            del self._left[serial]

    def written_back(self, vmo: PagerVmo, pages: PageRange) -> None:
        """Note that no page of a range is dirty as it was: count those that are clean by now, and wake who waited."""
        if not self._left:
            return
        still_dirty = RangeSet()
        for record in writeback.dirty_ranges(vmo.runs, pages):
            still_dirty.add(record.range)
        for clean in still_dirty.missing(pages):
            for left in self._left.values():
                left.discard(clean)
            vmo.source.resolve(Command.WRITEBACK, clean)

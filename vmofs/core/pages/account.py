"""Who pays for memory: every object's pages are counted in one account, where they come and where they go.

Frames are counted when they are put into the pages of an object and when they are taken out (``RunMap``), so an account
is exact whatever was done by whatever call. Growth is checked before anything changes: where new frames are made
(``Frames.allocate``), and where pages go from one account to another. So no account ever passes its limit.

Ranges are counted too: what a map of pages costs that occupy nothing, such as zeros. Those of pages with a frame cost
a hundredth of the frame.
"""

from __future__ import annotations

from collections import Counter

from vmofs.status import NoMemoryError
from vmofs.units import PAGE_SIZE

SPARE_RANGES = 1024
"""A call makes less than so many. They are left free, so that none has to count before."""


class Account:
    """What one payer holds. A limit of 0 is none. ``payer`` is for messages: 'uid 1000'.

    ``refused`` counts what was refused, as ``memory`` or ``ranges``; several accounts may have it in common.
    """

    __slots__ = ("__weakref__", "limit_pages", "limit_ranges", "pages", "payer", "ranges", "refused")

    def __init__(
        self,
        payer: str = "nobody",
        limit_pages: int = 0,
        limit_ranges: int = 0,
        refused: Counter[str] | None = None,
    ) -> None:
        self.payer = payer
        self.limit_pages = limit_pages
        self.limit_ranges = limit_ranges
        self.pages = 0
        """Pages that have a frame."""
        self.ranges = 0
        """Ranges of pages that have none."""
        self.refused = Counter() if refused is None else refused

    def has_room(self, pages: int) -> bool:
        """Return whether so many pages may come."""
        return not self.limit_pages or self.pages + pages <= self.limit_pages

    def check(self, pages: int) -> None:
        """Check that so many pages may come. To be called before anything changes.

        Raises:
            NoMemoryError: they would be too many.
        """
        if pages > 0 and not self.has_room(pages):
            self.refused["memory"] += 1
            # Not how much there is: whoever may write one of the files may ask.
            raise NoMemoryError(
                f"the files of {self.payer} may hold no more than {self.limit_pages * PAGE_SIZE} bytes of memory"
            )

    def check_ranges(self) -> None:
        """Check that some more ranges may come.

        Raises:
            NoMemoryError: there are nearly as many as there may be.
        """
        if self.limit_ranges and self.ranges + SPARE_RANGES > self.limit_ranges:
            self.refused["ranges"] += 1
            raise NoMemoryError(f"the files of {self.payer} may consist of no more than {self.limit_ranges} ranges")

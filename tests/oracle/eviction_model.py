"""A naive model of what goes when memory is short: page by page, with one list of groups, the oldest first.

It knows pages with frames only, and calls that need not wait. Who waits for a pager is the business of ``model``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GROUP = 16


@dataclass(eq=False)
class EvictionVmo:
    """A VMO: its pages (page -> dirty or not), and what protects them. ``takes_part``: it was made without NOEVICT."""

    takes_part: bool
    pages: dict[int, bool] = field(default_factory=dict)
    pins: list[range] = field(default_factory=list)
    always_needed: set[int] = field(default_factory=set)
    unneeded: set[int] = field(default_factory=set)
    evicted: set[int] = field(default_factory=set)

    def evictable(self, pages: range) -> list[int]:
        """Return the pages that may go: those that are clean, and not protected."""
        free = [page for page in pages if self.pages.get(page) is False and page not in self.always_needed]
        return [page for page in free if not any(page in pin for pin in self.pins)]


class EvictionModel:
    """All VMOs, and anonymous memory, of which only the size matters."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.vmos: list[EvictionVmo] = []
        self.anonymous = 0
        self.order: list[tuple[EvictionVmo, int]] = []
        self.hinted: list[EvictionVmo] = []
        """Those that have unneeded pages, in the order in which they got their first."""
        self.evicted_total = 0
        self.refaulted_total = 0

    @property
    def used(self) -> int:
        """How many frames are in use."""
        return self.anonymous + sum(len(vmo.pages) for vmo in self.vmos)

    def allocate(self, pages: int) -> bool:
        """Take frames for anonymous memory, if room can be made for them."""
        if pages <= self.limit:
            self._make_room(self.limit - pages)
        if self.used + pages > self.limit:
            return False
        self.anonymous += pages
        return True

    def _make_room(self, enough: int) -> None:
        while self.hinted and self.used > enough:
            vmo = self.hinted[0]
            self._evict_unneeded(vmo, enough)
            if not vmo.unneeded:
                self.hinted.remove(vmo)
        while self.order and self.used > enough:
            vmo, group = self.order.pop(0)
            self._evict(vmo, range(group * GROUP, (group + 1) * GROUP))

    def _evict_unneeded(self, vmo: EvictionVmo, enough: int) -> None:
        """Evict a group's worth of neighbours at a time, beginning with the first page that is there."""
        while vmo.unneeded and self.used > enough:
            first = min(vmo.unneeded)
            end = next(page for page in range(first, first + len(vmo.unneeded) + 1) if page not in vmo.unneeded)
            start = next((page for page in range(first, end) if page in vmo.pages), end)
            window = range(start, min(end, start + GROUP))
            vmo.unneeded -= set(range(first, window.stop))
            self._evict(vmo, window)

    def _evict(self, vmo: EvictionVmo, pages: range) -> None:
        for page in vmo.evictable(pages) if vmo in self.vmos else []:
            del vmo.pages[page]
            vmo.evicted.add(page)
            self.evicted_total += 1

    def use(self, vmo: EvictionVmo, pages: list[int]) -> None:
        """Let the groups of pages be those that were used last."""
        if vmo.takes_part:
            for group in sorted({page // GROUP for page in pages}):
                if (vmo, group) in self.order:
                    self.order.remove((vmo, group))
                self.order.append((vmo, group))
            vmo.unneeded -= set(pages)

    def _became_evictable(self, vmo: EvictionVmo, pages: list[int]) -> None:
        """Give the groups of clean pages a place, if they have none."""
        groups = sorted({page // GROUP for page in pages if vmo.pages.get(page) is False})
        self.order += [(vmo, group) for group in groups if vmo.takes_part and (vmo, group) not in self.order]

    # Calls

    def supply(self, vmo: EvictionVmo, pages: range) -> list[int] | None:
        """Supply pages, which are in anonymous memory before; return those that were filled, None without memory."""
        if not self.allocate(len(pages)):
            return None
        self.anonymous -= len(pages)
        filled = [page for page in pages if page not in vmo.pages]
        vmo.pages.update(dict.fromkeys(filled, False))
        self.use(vmo, filled)
        self.refaulted_total += len(vmo.evicted & set(filled))
        vmo.evicted -= set(filled)
        return filled

    def write(self, vmo: EvictionVmo, pages: range) -> None:
        """Write to present pages."""
        vmo.pages.update(dict.fromkeys(pages, True))
        self.use(vmo, list(pages))

    def write_back(self, vmo: EvictionVmo, pages: range) -> None:
        """Write back what is dirty and not pinned."""
        cleaned = [page for page in pages if vmo.pages.get(page) and not any(page in pin for pin in vmo.pins)]
        vmo.pages.update(dict.fromkeys(cleaned, False))
        self._became_evictable(vmo, cleaned)

    def pin(self, vmo: EvictionVmo, pages: range) -> None:
        """Pin present pages. They are held while they are gathered, and let go of when they are pinned.

        That gives their groups a place, which promises nothing.
        """
        self._became_evictable(vmo, list(pages))
        vmo.pins.append(pages)

    def unpin(self, vmo: EvictionVmo, pin: range) -> None:
        """Lift a pin."""
        vmo.pins.remove(pin)
        self._became_evictable(vmo, [page for page in pin if not any(page in other for other in vmo.pins)])

    def dont_need(self, vmo: EvictionVmo, pages: range) -> None:
        """Let pages go before others, except those that are always needed."""
        vmo.unneeded |= set(pages) - vmo.always_needed
        if vmo.unneeded and vmo.takes_part and vmo not in self.hinted:
            self.hinted.append(vmo)

    def always_need(self, vmo: EvictionVmo, pages: range) -> None:
        """Protect present pages for good."""
        vmo.always_needed |= set(pages)
        vmo.unneeded -= set(pages)

    def evict(self, vmo: EvictionVmo, pages: range) -> list[int]:
        """Evict on command, which no counter counts."""
        gone = vmo.evictable(pages)
        for page in gone:
            del vmo.pages[page]
        return gone

    def close(self, vmo: EvictionVmo) -> None:
        """Close a VMO."""
        self.vmos.remove(vmo)
        if vmo in self.hinted:
            self.hinted.remove(vmo)

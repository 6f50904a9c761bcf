"""Page requests and those who wait for them: plain records; ``page_source`` holds the rules."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmofs.status import Status
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.requests.access import Access
    from vmofs.core.requests.page_source import PageSource


SIZE_PAGE = PageRange(2**52, 2**52 + 1)
"""Stands for the size of a VMO in WRITEBACK requests: behind the last page that any VMO can have."""


class SourceState(Enum):
    """Whether a pager answers."""

    ATTACHED = "attached"
    DETACHED = "detached"
    PAGER_CLOSED = "pager closed"

    __hash__ = object.__hash__


class Reader(Protocol):
    """Who reads a page on the short path of a miss. The edge has one for each read."""

    def become_access(self) -> Access[object]:
        """Return the same read as an access, not started, and be that from now on. Nothing of the model is called."""


class Miss(NamedTuple):
    """One page that was asked for on the short path, see port.py.

    ``raised_at`` is in seconds of the edge's clock; ``lane`` has the packet; ``readers`` may become more.
    """

    raised_at: float
    lane: object
    readers: list[Reader]


class Packet(NamedTuple):
    """One packet of a port, as dequeued. Offset and length are bytes, page aligned; 0 for COMPLETE and a size alone."""

    command: PacketCommand
    key: Key
    offset: int
    length: int
    source: PageSource


class Failed(NamedTuple):
    """How often requests of a VMO failed, and how the last did. ``reason``: what the pager said of it, or nothing."""

    times: int
    status: Status
    range: PageRange
    reason: str


class Waiter:
    """One blocked access at one page request.

    ``range`` is what it asked for, ``wanted`` the page it needs next (None: it needs the whole range before it can go
    on), ``latched`` the failure that it will meet when it wakes, ``reason`` what the pager said of that.
    """

    __slots__ = ("access", "latched", "range", "reason", "request", "wanted")

    def __init__(self, access: Access[object], pages: PageRange, wanted: int | None) -> None:
        self.access = access
        self.range = pages
        self.wanted = wanted
        self.latched: Status | None = None
        self.reason = ""
        self.request: PageRequest | None = None


_NOBODY: OrderedDict[Waiter, None] = OrderedDict()  # replaced, never changed


class PageRequest:
    """A range of pages that was asked for and must be answered: supplied, failed, or made pointless.

    ``pending_count`` is a number, not a set: pages resolved twice count twice, and the waiter asks again for what it
    then finds missing (zircon-pager 3.5). ``raised_at`` and ``delivered_at``, of the last of ``deliveries``, are in
    seconds of the edge's clock.
    """

    __slots__ = (
        "command",
        "delivered_at",
        "deliveries",
        "overlaps",
        "pending_count",
        "primary",
        "raised_at",
        "range",
        "source",
    )

    def __init__(self, source: PageSource, command: PacketCommand, pages: PageRange, raised_at: float) -> None:
        self.source = source
        self.command = command
        self.range = pages
        self.pending_count = pages.pages
        self.raised_at = raised_at
        self.primary: Waiter | None = None
        self.overlaps = _NOBODY
        self.deliveries = 0
        self.delivered_at = raised_at

    def overlap(self, waiter: Waiter) -> None:
        """Let somebody else wait here, too."""
        if self.overlaps is _NOBODY:
            self.overlaps = OrderedDict()
        self.overlaps[waiter] = None

    def waiters(self) -> list[Waiter]:
        """Return all who wait here, the primary first."""
        return [*([self.primary] if self.primary else []), *self.overlaps]

    def packet(self) -> Packet:
        """Return the packet that asks for this request."""
        start, end = (0, 0) if self.range == SIZE_PAGE else self.range
        return Packet(self.command, self.source.key, start * PAGE_SIZE, (end - start) * PAGE_SIZE, self.source)

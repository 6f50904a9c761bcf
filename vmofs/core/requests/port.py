"""Ports: where page requests are delivered.

Zircon: zircon-pager 3.4. At most one packet per VMO is in a port; further requests of the VMO wait at their source and
come up one by one. Dequeuing is not acknowledging: a request stays outstanding until it is answered.
"""

# Rules
#
# 1. A source is in `_sources` exactly while it has a packet in this port, and then with one only.
# 2. What was delivered and not answered is in `_delivered`, with the lane that has it. It is never in `_returned` too.
# 3. `_returned` goes before `_sources`: what was delivered once is older than all that never was.
# 4. An answered request is in neither: `forget` is called for each that ends.
# 5. COMPLETE and TOUCH are no requests. When they are taken, nothing of them is left here.
#
# How it works
#
#     put --> _sources --take--> _delivered --forget--> (answered)
#                                  |    ^
#                requeue_delivered v    | take
#                                _returned (before all else)
#
# A lane is one of several workers that dequeue from one port; in a mount, a FIFO. Its load is how many requests it has
# that are not answered. A lane that lost a request to another one (`redeliver`) counts as stalled until one of its own
# is answered.
#
# The short path of a miss
#
# Most reads that meet a gap need one page, are asked for at once, and are answered with just that page. For these a
# record does: when it was raised, the lane that was given its packet, and who reads. `PagerVmo.miss` makes it, and
# `Pager.supply_page` ends it with the bytes that the readers get. Everything else is done by ordinary requests and
# accesses: whatever looks at those of a VMO, of a port or of all of them makes them of the records first. That is to
# promote them. So no rule of the contract is written twice, and nothing but these two calls knows records.
#
# 6. A record is an outstanding READ of one page that was delivered. Its page is absent, and all of it is content. No
#    ordinary READ covers the page.
# 7. Whoever looks up who waits, or what was delivered, promotes. The doors are `PageSource._outstanding`,
#    `Port._delivered` and `_loads`, `System.requests` and `waiters`: properties, so it cannot be forgotten. What has a
#    request in its hand uses what lies behind them: `_requests`, `handed`, `_handed_to`, `ordinary`, `waiting`.
# 8. `PageSource.wait` promotes before it raises a request, and no record is made while anything is queued. So all
#    records of a port are younger than its requests, and were delivered later.
# 9. A whole port is promoted, in order. `PageSource.resolve` alone promotes only what it then completes.
# 10. A promoted read is an access that has not started. When it is woken it looks for the first time, as any that is
#     woken looks again. So it does not matter whether its page has come by then.
#
#     miss --> record --> end_miss: the readers get the bytes
#                |
#                +--> promote: a PageRequest, and an Access for each reader (`Reader.become_access`)
#
# What is not nice
#
# A request that another VMO of the same port raises promotes all records there. Where such requests are as many as
# misses of one page, these cost more than without the short path, if `MOST_HANDED` does not end it. `System.requests`
# sorts when records of several ports were promoted.
#
# `requeue_delivered` goes through all that is delivered, also by other lanes: it is called when a reader closes, which
# is seldom. `peek` and `cancel_key` are used by tests only. A lane is an object of the edge, known by nothing but its
# identity.
#
# What else changes with this file
#
# page_source.py (`pop_packet`, `send_note`); system.py and `PagerPages.answer`, which know records;
# pagers/delivery.py in the mount, which is the lanes; tests/oracle/ has
# a model of a port. Rule 3.4 in tests/rules.toml. Tests: tests/unit/test_core_delivery.py,
# tests/unit/test_core_lanes.py, tests/unit/test_core_misses.py, which knows every door, and
# tests/model/test_misses_against_model.py.

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmofs.core.requests.request import Miss, Packet, PageRequest, SourceState
from vmofs.units import Key, PageRange
from vmofs.vocabulary import NOTES, PacketCommand

if TYPE_CHECKING:
    from vmofs.core.requests.page_source import PageSource
    from vmofs.core.requests.request import Reader
    from vmofs.core.requests.system import System


MOST_MISSING = 256
"""Readers on the short path, in all ports: to promote them all takes some 4 ms, in one go."""

MOST_HANDED = 64
"""Unanswered requests of a port with which misses take the short path. With more, most would be promoted."""


@dataclass(frozen=True, slots=True)
class PortStatistics:
    """``queued``: packets in the port; ``delivered``: dequeued requests that are not answered."""

    queued: int
    delivered: int
    packets_total: int


class Port:
    """A queue of packets. ``lane`` in its methods tells apart several workers who dequeue from one port."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._sources: OrderedDict[PageSource, None] = OrderedDict()  # with a packet in the port, oldest packet first
        self._returned: OrderedDict[PageRequest, None] = (
            OrderedDict()
        )  # delivered once, to be delivered before all else
        self.misses: dict[tuple[PageSource, int], Miss] = {}  # by page, in the order in which they were raised
        self.handed: dict[PageRequest, object] = {}  # -> lane, in the order of delivery
        self._handed_to: dict[object, int] = {}  # lane -> how many of these
        self._stalled: set[object] = set()  # lanes that lost a request to another one and have answered none since
        self._packets_total = 0
        self._closed = False

    # Misses

    def miss(self, source: PageSource, page: int, reader: Reader, lane: object, now: float) -> bool | None:
        """Let somebody wait for a page on the short path, whose packet goes to ``lane``; the page is absent.

        Return whether that packet is to be sent: it counts as delivered. It is not if somebody waits already. None if
        the read has to be an access; then nothing has changed.
        """
        system = self._system
        key = (source, page)
        if source.state is not SourceState.ATTACHED or system.missing_readers >= MOST_MISSING:
            return None
        known = self.misses.get(key)
        if known is not None:
            known.readers.append(reader)
            system.missing_readers += 1
            return False
        # What is queued goes first, and a page is asked for once.
        if self._sources or self._returned or self._closed or len(self.handed) >= MOST_HANDED or source.is_asked(page):
            return None
        if not self.misses:
            system.missing[self] = None
        system.missing_readers += 1
        self.misses[key] = tuple.__new__(Miss, (now, lane, [reader]))
        self._packets_total += 1
        source.misses += 1
        source.count(PacketCommand.READ)
        return True

    def end_miss(self, source: PageSource, page: int) -> list[Reader]:
        """End a miss whose page is there; return who waits for it. There must be one."""
        _, lane, readers = self.misses.pop((source, page))
        self._system.missing_readers -= len(readers)
        self._stalled.discard(lane)
        source.misses -= 1
        source.tally.outstanding -= 1
        return readers

    @property
    def _delivered(self) -> dict[PageRequest, object]:
        """The delivered requests with their lanes; misses become requests by this."""
        if self.misses:
            self.promote()
        return self.handed

    @property
    def _loads(self) -> dict[object, int]:
        """How many requests each lane was given that are not answered; misses become requests by this."""
        if self.misses:
            self.promote()
        return self._handed_to

    def promote(self) -> None:
        """Make requests of all misses."""
        misses, self.misses = self.misses, {}  # first: while that is done, there are none
        for (source, page), miss in misses.items():
            self._hand(source.promote(page, miss), miss.lane)

    def promote_within(self, source: PageSource, pages: PageRange) -> None:
        """Make requests of the misses among some pages of a VMO, which are resolved by the next call."""
        for page in self.missed(source, pages):
            miss = self.misses.pop((source, page))
            self._hand(source.promote(page, miss), miss.lane)

    def missed(self, source: PageSource, pages: PageRange) -> list[int]:
        """Return which of some pages of a VMO are missed."""
        start, end = pages
        if end - start < len(self.misses):
            return [page for page in range(start, end) if (source, page) in self.misses]
        return [page for of, page in self.misses if of is source and start <= page < end]

    def _hand(self, request: PageRequest, lane: object) -> None:
        self.handed[request] = lane
        self._handed_to[lane] = self._handed_to.get(lane, 0) + 1

    # Packets

    def __bool__(self) -> bool:
        """Return whether a packet is queued."""
        return bool(self._returned or self._sources)

    def put(self, source: PageSource) -> None:
        """Queue the next packet of a source that has none in the port. In a closed port it vanishes."""
        if source not in self._sources and not self._closed:
            self._sources[source] = None
            # The edge delivers when it settles, not now: more may come in the same call.
            self._system.ports_ready[self] = None

    def withdraw(self, source: PageSource) -> None:
        """Take back the packet of a source."""
        self._sources.pop(source, None)

    def oldest(self) -> PageRequest | None:
        """Return what the oldest packet asks for without dequeuing it, None if there is none."""
        for request in self._returned:
            return request
        for source in self._sources:
            return source.head_packet()
        return None

    def peek(self) -> Packet | None:
        """Return the oldest packet without dequeuing it, None if there is none."""
        request = self.oldest()
        return None if request is None else request.packet()

    def dequeue(self, lane: object = None, now: float = 0.0) -> Packet | None:
        """Return the oldest packet, None if there is none. Its request then counts as delivered to ``lane``."""
        request = self.take(lane, now)
        return None if request is None else request.packet()

    def take(self, lane: object, now: float) -> PageRequest | None:
        """Do as ``dequeue``, and return what the packet asks for."""
        # Rule 3.
        if self._returned:
            request, _ = self._returned.popitem(last=False)
        elif self._sources:
            source, _ = self._sources.popitem(last=False)
            request = source.pop_packet()
        else:
            return None
        request.deliveries += 1
        request.delivered_at = now
        # Rule 5.
        if request.command not in NOTES:
            self._hand(request, lane)
        self._packets_total += 1
        return request

    def redeliver(self, request: PageRequest, lane: object, now: float) -> None:
        """Note that a delivered request was handed to another lane as well, which it counts for now.

        For a worker that stalls: who answers does not matter.
        """
        # Counted for the other lane from now on. Either of the two may answer.
        if self.misses:  # they were delivered before
            self.promote()
        stalled = self._take_delivered(request)
        request.deliveries += 1
        request.delivered_at = now
        self._hand(request, lane)
        self._stalled.add(stalled)
        self._packets_total += 1

    def load(self, lane: object) -> int:
        """Return how many requests were delivered to a lane and are not answered."""
        return self._loads.get(lane, 0)

    def is_stalled(self, lane: object) -> bool:
        """Return whether a request of a lane was delivered to another, and none that it has was answered since."""
        return lane in self._stalled

    def _take_delivered(self, request: PageRequest) -> object:
        lane = self.handed.pop(request)
        self._handed_to[lane] -= 1
        if not self._handed_to[lane]:
            del self._handed_to[lane]
        return lane

    def is_queued(self, request: PageRequest) -> bool:
        """Return whether the request is queued to be delivered again."""
        return request in self._returned

    def delivered(self) -> dict[PageRequest, object]:
        """Return the delivered, unanswered requests with their lanes, in the order of delivery."""
        return self._delivered

    def forget(self, request: PageRequest) -> None:
        """Drop an answered request: it is not delivered again."""
        if request in self.handed:
            # It answers, so it does not stall.
            self._stalled.discard(self._take_delivered(request))
        self._returned.pop(request, None)

    def requeue_delivered(self, lane: object = None) -> int:
        """Put what ``lane`` was given and did not answer back to the front of the queue; return how many requests.

        For a worker that is gone: the next one that dequeues gets them all, in the order of the first delivery. They
        were dequeued before, so each VMO may have one more packet in the port.
        """
        given = [request for request, to in self._delivered.items() if to == lane]
        for request in given:
            self._take_delivered(request)
        self._stalled.discard(lane)
        self._returned = OrderedDict.fromkeys([*given, *self._returned])
        if given:
            self._system.ports_ready[self] = None
        return len(given)

    def cancel_key(self, key: Key) -> bool:
        """Drop the queued packets of a key; return whether there were any. Their requests stay outstanding.

        What else the VMO asks for is delivered as before. Zircon: zx_port_cancel_key.
        """
        returned = [request for request in self._returned if request.source.key == key]
        for request in returned:
            del self._returned[request]
        sources = [source for source in self._sources if source.key == key]
        for source in sources:
            del self._sources[source]
            source.pop_packet()
        return bool(returned or sources)

    def close(self) -> None:
        """Close the port: queued packets and those to come vanish. Requests stay outstanding and can be answered."""
        self._closed = True
        self._sources.clear()
        self._returned.clear()
        self._delivered.clear()
        self._loads.clear()
        self._stalled.clear()

    def statistics(self) -> PortStatistics:
        """Return the present counts."""
        return PortStatistics(len(self._returned) + len(self._sources), len(self._delivered), self._packets_total)

    def check_source(self, source: PageSource) -> None:
        """Assert that a source has its place in the port exactly if it has a packet."""
        assert (source in self._sources) == (source.has_packet() and not self._closed)

    def check(self) -> None:
        """Assert that every queued source has a packet and every delivered request is outstanding."""
        assert all(source.has_packet() for source in self._sources)
        assert all(request.source.is_outstanding(request) for request in (*self.handed, *self._returned))
        assert not self.handed.keys() & self._returned.keys()
        assert self._handed_to == Counter(self.handed.values())
        assert not (self._closed and (self._sources or self._returned or self.handed or self.misses))
        self._check_misses()

    def _check_misses(self) -> None:
        """Assert that each miss has a reader and nothing else asks for its page, and that they are in order."""
        assert not self.misses or self in self._system.missing
        assert Counter(source for source, _ in self.misses) == Counter(
            {source: source.misses for source, _ in self.misses}
        )
        for (source, page), miss in self.misses.items():
            assert source.port is self
            assert miss.readers
            assert not source.is_asked(page), page
        times = [miss.raised_at for miss in self.misses.values()]
        assert times == sorted(times)

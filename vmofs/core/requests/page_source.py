"""The page source of a pager VMO: its outstanding page requests, and the packets that wait for a place in the port.

Zircon: zircon-pager 3.3 (overlap), 3.4 (delivery), 3.5 (wake-ups), 3.6 (failures), 3.8 (cancellation). Requests of one
command never overlap; READ and DIRTY do not interact.
"""

# Rules
#
# 1. A request is outstanding until it is answered, failed, or left by its last waiter. Then it is nowhere: not in
#    `_requests`, not in `System.requests`, not in the port.
# 2. Requests of one command never overlap. READ and DIRTY know nothing of each other.
# 3. A request has a primary waiter, and perhaps others behind it. When the primary leaves, the first of those inherits.
# 4. No request exists once nobody can answer: `check_attached` is called before, `fail_all` or `fail_some` at the end.
# 5. A waiter that is woken looks again. Nothing is promised to it but that something has happened.
#
# How it works
#
#     wait: a request covers the start of the range --> wait behind it, as far as it goes; no packet
#           none does                               --> a new request, up to the next one; its packet is queued
#
#     resolve: counts the pages down in each request that they meet
#         all are there  --> the request is complete, everybody wakes
#         the one page that the primary wants next is there --> it wakes early, and those behind it whose page came too
#
# A miss of one page may be a record instead, see port.py. `_outstanding` makes requests of records, `_requests` not.
#
# At most one packet of a source is in the port, the head of `_packets`. The others move up one by one, by `pop_packet`.
# A failure is latched at the waiters whose first or wanted page begins the failed part. The others wake, look again,
# and ask again for what is still missing.
#
# What is not nice
#
# `pending_count` is a number, as in Zircon: pages that are resolved twice count twice. So a waiter may wake too early,
# and ask again. The empty containers are shared by all sources, to save memory for each of very many VMOs, and so are
# replaced, never changed: `_requests` is a new dictionary with each command that begins or ends.
#
# What else changes with this file
#
# port.py and request.py; `Access._wait`, which keeps a waiter where it is if it was woken early; outstanding.py. The
# rules are 3.3 to 3.8 in tests/rules.toml. Tests: tests/unit/test_core_requests.py, tests/unit/test_core_wake.py,
# tests/unit/test_core_overlap.py, tests/unit/test_core_delivery.py.

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from vmofs.core.pages.spans import SLICE, Spans
from vmofs.core.requests.outstanding import Outstanding
from vmofs.core.requests.request import SIZE_PAGE, Failed, PageRequest, SourceState, Waiter
from vmofs.status import BadStateError, Status
from vmofs.units import Key, PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.pages.ranges import RangeSet
    from vmofs.core.requests.port import Port
    from vmofs.core.requests.request import Miss
    from vmofs.core.requests.system import System


_NO_PAGES = PageRange(0, 0)
_NO_REQUESTS = Spans()  # these three are replaced, never changed
_NOTHING_OUTSTANDING: dict[PacketCommand, Outstanding] = {}
_NO_PACKETS: OrderedDict[PageRequest, None] = OrderedDict()

MOST_TOUCHES = 1024
"""TOUCH packets of one pager that wait to be dequeued. One who reads no FIFO, and goes on marking, gets no more."""


@dataclass(slots=True)
class Tally:
    """The requests of all sources of one pager. ``*_total`` only grow."""

    outstanding: int = 0
    read_requests_total: int = 0
    dirty_requests_total: int = 0
    queued_touches: int = 0

    def may_touch(self) -> bool:
        """Count a TOUCH packet that is about to be queued; return whether there is room for it."""
        has_room = self.queued_touches < MOST_TOUCHES
        self.queued_touches += has_room
        return has_room


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Counts of requests and packets. ``*_total`` only grow."""

    outstanding: int
    waiters: int
    queued_packets: int
    read_requests_total: int
    dirty_requests_total: int


class PageSource:
    """Keeps page requests from being lost: each one stays outstanding until answered, cancelled or failed."""

    __slots__ = (
        "__weakref__",
        "_dirty_requests_total",
        "_packets",
        "_read_requests_total",
        "_requests",
        "_system",
        "failed",
        "key",
        "marked",
        "misses",
        "owner",
        "port",
        "state",
        "tally",
    )

    def __init__(self, system: System, port: Port, key: Key, tally: Tally) -> None:
        self._system = system
        self.tally = tally
        self.port = port
        self.key = key
        self.owner: object = None  # the edge's: what the packet lines name
        self.state = SourceState.ATTACHED
        self.failed: Failed | None = None
        self.marked: RangeSet | None = None  # see ``marks``; never an empty one
        self._requests = _NOTHING_OUTSTANDING  # only what is not empty
        self.misses = 0  # records of misses, in the port
        self._packets = _NO_PACKETS  # not dequeued, oldest first; the first is the one in the port
        self._read_requests_total = 0
        self._dirty_requests_total = 0

    @property
    def _outstanding(self) -> dict[PacketCommand, Outstanding]:
        """The outstanding requests, for those who look up who waits: misses become requests by this."""
        if self.misses:
            self.port.promote()
        return self._requests

    # Waiting

    def is_asked(self, page: int) -> bool:
        """Return whether an ordinary request covers a page."""
        reads = self._requests.get(PacketCommand.READ)
        return reads is not None and reads.covering(page) is not None

    def promote(self, page: int, miss: Miss) -> PageRequest:
        """Make a request of a miss that is not in the port any more, and return it. For ``Port`` only."""
        self.misses -= 1
        self._system.missing_readers -= len(miss.readers)
        request = PageRequest(self, PacketCommand.READ, PageRange(page, page + 1), miss.raised_at)
        request.deliveries = 1
        requests = self._requests.get(PacketCommand.READ)
        if requests is None:
            requests = Outstanding()
            self._requests = {**self._requests, PacketCommand.READ: requests}
        requests.add(request)
        for reader in miss.readers:
            reader.become_access().wait_at(request)
        self._system.add_promoted(request, len(miss.readers))
        return request

    def check_attached(self) -> None:
        """Refuse to ask a pager that is gone.

        Raises:
            BadStateError: detached, or the pager was closed.
        """
        if self.state is not SourceState.ATTACHED:
            raise BadStateError(f"the page is absent and the VMO with key {self.key} is {self.state.value}")

    def wait(self, waiter: Waiter, command: PacketCommand, now: float) -> None:
        """Let a waiter wait for its range: silently behind a request that covers its start, else by a new request."""
        start, end = waiter.range
        if self.port.misses:  # all requests of a port are older than its misses
            self.port.promote()
        requests = self._requests.get(command)
        request = None
        if requests is None:
            requests = Outstanding()
            self._requests = {**self._requests, command: requests}
        else:
            request = requests.covering(start)
        if request is not None:
            # Beyond that request it asks by itself, when it has looked again.
            waiter.range = PageRange(start, min(end, request.range.end))
            request.overlap(waiter)
        else:
            if requests:
                # Up to the next request: two of one command never overlap.
                waiter.range = PageRange(start, requests.next_start(start, end))
            request = PageRequest(self, command, waiter.range, now)
            request.primary = waiter
            requests.add(request)
            self.count(command)
            # In the order in which they were raised: the deadline looks from the front.
            self._system.ordinary[request] = None
            self._send(request)
        waiter.request = request
        self._system.waiting += 1

    def count(self, command: PacketCommand) -> None:
        """Count a request, or a miss."""
        self.tally.outstanding += 1
        if command is PacketCommand.READ:
            self._read_requests_total += 1
            self.tally.read_requests_total += 1
        elif command is PacketCommand.DIRTY:
            self._dirty_requests_total += 1
            self.tally.dirty_requests_total += 1

    def leave(self, waiter: Waiter) -> None:
        """Let a waiter go. If it was the primary, the first who waits behind it inherits; else the request ends."""
        request, waiter.request = waiter.request, None
        assert request is not None
        self._system.waiting -= 1
        if request.primary is not waiter:
            del request.overlaps[waiter]
        elif request.overlaps:
            # The one that has waited longest. The pager was asked already, and is not asked again.
            request.primary, _ = request.overlaps.popitem(last=False)
        else:
            request.primary = None
            self._remove(request)

    # Answers

    def resolve(
        self, command: PacketCommand, pages: PageRange, failure: Status | None = None, reason: str = ""
    ) -> None:
        """Count pages as resolved (or failed) in every request of the command that they meet; wake whom that helps."""
        if self.misses and command is PacketCommand.READ:
            self.port.promote_within(self, pages)
        outstanding = self._requests.get(command)
        if outstanding is None:
            return
        # A list: `_complete` takes requests out.
        for request in outstanding.meeting(pages):
            if failure is not None:
                self._note_failed(failure, request.range & pages, reason)
                _latch(request, pages, failure, reason)
            if request.range == pages or (request.range & pages).pages >= request.pending_count:  # mostly the former
                self._complete(request)
                continue
            cut = request.range & pages
            request.pending_count -= cut.pages
            # Only the page that the primary needs next wakes anybody early (rule 3.5).
            if request.primary is not None and request.primary.wanted == cut.start:
                self._wake(request.primary)
                for waiter in request.overlaps:
                    if waiter.wanted is not None and waiter.wanted < cut.end:
                        self._wake(waiter)

    def fail_request(self, request: PageRequest, status: Status) -> None:
        """End one request: all who wait for it get ``status``."""
        self._note_failed(status, request.range, "")
        for waiter in request.waiters():
            waiter.latched = status
        self._complete(request)

    def _note_failed(self, status: Status, pages: PageRange, reason: str) -> None:
        shown = _NO_PAGES if pages == SIZE_PAGE else pages
        self.failed = Failed(1 + (self.failed.times if self.failed else 0), status, shown, reason)

    def fail_all(self, status: Status) -> None:
        """End every request with ``status``."""
        while self.fail_some(status):
            pass

    def fail_some(self, status: Status) -> bool:
        """End some requests with ``status``; return whether there are more."""
        for requests in list(self._outstanding.values()):
            # A slice: 50,000 may wait at one VMO.
            for request in list(islice(requests, SLICE)):
                self.fail_request(request, status)
        return bool(self._outstanding)

    def outstanding(self, command: PacketCommand) -> Spans:
        """Return where requests of a command lie."""
        return self._outstanding.get(command, _NO_REQUESTS)

    def _complete(self, request: PageRequest) -> None:
        self._remove(request)
        for waiter in request.waiters():
            waiter.request = None
            self._system.waiting -= 1
            self._wake(waiter)

    def _wake(self, waiter: Waiter) -> None:
        self._system.woken[waiter.access] = None

    def _remove(self, request: PageRequest) -> None:
        self.tally.outstanding -= 1
        requests = self._requests[request.command]
        # Mostly it is the only one; then nothing is looked for.
        if not requests.is_single:
            requests.remove(request)
        elif len(self._requests) == 1:
            self._requests = _NOTHING_OUTSTANDING
        else:
            self._requests = {c: others for c, others in self._requests.items() if others is not requests}
        del self._system.ordinary[request]
        self._withdraw(request)
        self.port.forget(request)

    # Packets

    def send_note(self, command: PacketCommand, pages: PageRange = _NO_PAGES) -> None:
        """Queue a packet that nobody answers: one of ``NOTES``. Of TOUCH, a hint, what is too much is lost."""
        if command is not PacketCommand.TOUCH or self.tally.may_touch():
            self._send(PageRequest(self, command, pages, 0.0))

    def withdraw_all(self) -> None:
        """Take back every packet that was not dequeued, COMPLETE included."""
        self.tally.queued_touches -= sum(request.command is PacketCommand.TOUCH for request in self._packets)
        self._packets = _NO_PACKETS
        self.port.withdraw(self)

    def _send(self, request: PageRequest) -> None:
        if self._packets:
            self._packets[request] = None
        else:
            self._packets = OrderedDict({request: None})
            self.port.put(self)

    def _withdraw(self, request: PageRequest) -> None:
        if request not in self._packets:
            return
        # Only the head is in the port. Any other is taken out of the queue without a word to it.
        in_port = self.head_packet() is request
        self._drop_packet(request)
        if in_port:
            self.port.withdraw(self)
            if self._packets:
                self.port.put(self)

    def _drop_packet(self, request: PageRequest) -> None:
        del self._packets[request]
        self.tally.queued_touches -= request.command is PacketCommand.TOUCH
        if not self._packets:
            self._packets = _NO_PACKETS

    def head_packet(self) -> PageRequest:
        """Return the request whose packet is in the port."""
        return next(iter(self._packets))

    def pop_packet(self) -> PageRequest:
        """Return the request whose packet is in the port, and put the next one there. For ``Port.dequeue``."""
        request = self.head_packet()
        self._drop_packet(request)
        if self._packets:
            self.port.put(self)
        return request

    def has_packet(self) -> bool:
        """Return whether a packet waits to be dequeued."""
        return bool(self._packets)

    def is_outstanding(self, request: PageRequest) -> bool:
        """Return whether the request is not answered yet."""
        requests = self._requests.get(request.command)
        return requests is not None and requests.has(request)

    def is_queued(self, request: PageRequest) -> bool:
        """Return whether the request's packet was not dequeued yet."""
        return request in self._packets or self.port.is_queued(request)

    def statistics(self) -> SourceStatistics:
        """Return the present counts."""
        requests = [request for outstanding in self._outstanding.values() for request in outstanding]
        return SourceStatistics(
            outstanding=len(requests),
            waiters=sum(len(request.waiters()) for request in requests),
            queued_packets=len(self._packets),
            read_requests_total=self._read_requests_total,
            dirty_requests_total=self._dirty_requests_total,
        )

    @property
    def outstanding_count(self) -> int:
        """How many requests are outstanding, misses included."""
        return sum(map(len, self._requests.values())) + self.misses

    def check(self) -> None:
        """Assert that requests do not overlap, each has a waiter, and none exists once nobody can answer."""
        for command, requests in self._requests.items():
            assert requests
            requests.check()
            for request in requests:
                assert request.command is command
                assert request.primary is not None
                assert 0 < request.pending_count <= request.range.pages
                assert all(waiter.request is request for waiter in request.waiters())
                assert request in self._system.ordinary
                assert not (self.is_queued(request) and request in self.port.handed), request.range
            assert self.state is SourceState.ATTACHED
        self.port.check_source(self)


def _latch(request: PageRequest, failed: PageRange, status: Status, reason: str) -> None:
    """Mark those who will get the error: the failed range begins at their first or their wanted page (3.6)."""
    for waiter in request.waiters():
        cut = waiter.range & failed
        if cut and cut.start in {waiter.range.start, waiter.wanted}:
            waiter.latched, waiter.reason = status, reason

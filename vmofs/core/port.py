"""Ports: where page requests are delivered.

Zircon: zircon-pager 3.4. At most one packet per VMO is in a port; further requests of the VMO wait at their source and
come up one by one. Dequeuing is not acknowledging: a request stays outstanding until it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmofs.core.request import Command, Packet, PageRequest

if TYPE_CHECKING:
    from vmofs.core.source import PageSource
    from vmofs.core.system import System


@dataclass(frozen=True, slots=True)
class PortStatistics:
    """``queued``: VMOs with a packet in the port; ``delivered``: dequeued requests that are not answered."""

    queued: int
    delivered: int
    packets_total: int


class Port:
    """A queue of packets. ``lane`` in its methods tells apart several workers who dequeue from one port."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._sources: dict[PageSource, None] = {}  # those with a packet in the port, oldest packet first
        self._delivered: dict[PageRequest, object] = {}  # -> lane, in the order of delivery
        self._packets_total = 0

    def __bool__(self) -> bool:
        """Return whether a packet is queued."""
        return bool(self._sources)

    def put(self, source: PageSource) -> None:
        """Queue the next packet of a source that has none in the port."""
        if source not in self._sources:
            self._sources[source] = None
            self._system.ports_ready[self] = None

    def withdraw(self, source: PageSource) -> None:
        """Take back the packet of a source."""
        self._sources.pop(source, None)

    def dequeue(self, lane: object = None) -> Packet | None:
        """Return the oldest packet, None if there is none. Its request then counts as delivered to ``lane``."""
        if not self._sources:
            return None
        source = next(iter(self._sources))
        del self._sources[source]
        request = source.pop_packet()
        request.deliveries += 1
        if request.command is not Command.COMPLETE:
            self._delivered[request] = lane
        self._packets_total += 1
        return request.packet()

    def delivered(self) -> dict[PageRequest, object]:
        """Return the delivered, unanswered requests with their lanes, in the order of delivery."""
        return self._delivered

    def forget(self, request: PageRequest) -> None:
        """Drop an answered request from the delivered ones."""
        self._delivered.pop(request, None)

    def requeue_delivered(self, lane: object = None) -> int:
        """Put what ``lane`` was given and did not answer back to the front of the queue; return how many requests.

        For a worker that is gone: the next one that dequeues gets them all, in the order of the first delivery.
        """
        given = [request for request, to in self._delivered.items() if to == lane]
        by_source: dict[PageSource, list[PageRequest]] = {}
        for request in given:
            del self._delivered[request]
            by_source.setdefault(request.source, []).append(request)
        for source, requests in by_source.items():
            source.push_back(requests)
        self._sources = dict.fromkeys([*by_source, *self._sources])
        if given:
            self._system.ports_ready[self] = None
        return len(given)

    def statistics(self) -> PortStatistics:
        """Return the present counts."""
        return PortStatistics(len(self._sources), len(self._delivered), self._packets_total)

    def check(self) -> None:
        """Assert that every queued source has a packet and every delivered request is outstanding."""
        assert all(source.has_packet() for source in self._sources)
        assert all(request.source.is_outstanding(request) for request in self._delivered)

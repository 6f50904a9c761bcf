"""The root of the model: everything that shares one memory, and the events that the edge must act on."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from vmofs.core.pages.account import Account
from vmofs.core.pages.content import free_runs
from vmofs.core.pages.eviction import Eviction
from vmofs.core.pages.frames import FrameRun, Frames, FramesStatistics
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import PageRequest
from vmofs.status import Status
from vmofs.units import ALL_PAGES, PageRange


@dataclass(frozen=True, slots=True)
class SystemStatistics:
    """Counts over all objects."""

    frames: FramesStatistics
    objects: int
    requests_outstanding: int
    waiters: int


class System:
    """Memory, outstanding requests, and what happened since the edge last looked.

    After any call that may have woken somebody the edge calls ``run_ready``, ``take_ports`` and ``take_stale``.

    Stale are the pages whose bytes somebody outside may have kept and that have changed under him by another way than
    a write: zeroed, cut off, dropped, or cleaned so that they must be asked for again. Who keeps copies drops them.
    """

    def __init__(self, limit_pages: int | None = None) -> None:
        self.frames = Frames(limit_pages)
        self.eviction: Eviction | None = None
        """Where there is a limit, what makes room for more."""
        if limit_pages is not None:
            self.eviction = Eviction(self.frames)
            self.frames.reclaim = self.reclaim
        self.ordinary: dict[PageRequest, None] = {}  # outstanding requests; what lies behind `requests`
        self.waiting = 0  # accesses at these; what lies behind `waiters`
        self.missing: dict[Port, None] = {}  # ports that may have misses, see port.py
        self.missing_readers = 0  # who waits there
        self._is_in_order = True
        # Queues are ordered dictionaries: the first entry of a dict lies behind all those that were taken before it.
        self.woken: OrderedDict[Access[object], None] = OrderedDict()
        self.ports_ready: dict[Port, None] = {}  # ports that got a packet
        self.stale: dict[object, PageRange | RangeSet] = {}  # owner -> pages; mostly it is one range
        self._objects: dict[object, RunMap] = {}  # owner -> its pages
        self.resting: dict[Access[object], None] = {}  # woken ones that are to go on
        self.buries_later = False
        self.graves: list[RunMap] = []  # pages of objects that are gone

    @property
    def requests(self) -> dict[PageRequest, None]:
        """All outstanding requests, oldest first; misses become requests by this."""
        if self.missing or not self._is_in_order:
            self.promote()
        return self.ordinary

    @property
    def waiters(self) -> int:
        """How many accesses wait at requests; misses become requests by this."""
        if self.missing:
            self.promote()
        return self.waiting

    def promote(self) -> None:
        """Make requests of all misses."""
        missing, self.missing = self.missing, {}
        for port in missing:
            port.promote()
        if not self._is_in_order:
            in_order = sorted(self.ordinary, key=lambda request: request.raised_at)
            self.ordinary.clear()  # the same dictionary: somebody may be in the middle of it
            self.ordinary.update(dict.fromkeys(in_order))
            self._is_in_order = True

    def add_promoted(self, request: PageRequest, waiters: int) -> None:
        """Count a request that was made of a miss. Those of other ports may be younger."""
        if self.ordinary and next(reversed(self.ordinary)).raised_at > request.raised_at:
            self._is_in_order = False
        self.ordinary[request] = None
        self.waiting += waiters

    def register(self, owner: object, runs: RunMap) -> None:
        """Count an object whose pages are ``runs``."""
        self._objects[owner] = runs

    def unregister(self, owner: object) -> None:
        """Stop counting an object."""
        del self._objects[owner]
        self.stale.pop(owner, None)

    def mark_stale(self, owner: object, pages: PageRange) -> None:
        """Note that copies of these pages of an object are no longer what the object has."""
        if not pages:
            return
        known = self.stale.setdefault(owner, pages)
        if isinstance(known, RangeSet):
            known.add(pages)
        elif known is not pages:
            both = self.stale[owner] = RangeSet()
            both.add(known)
            both.add(pages)

    def forget_stale(self, owner: object) -> None:
        """Drop what was noted for an object that nobody has open any more."""
        self.stale.pop(owner, None)

    def run_ready(self, now: float, most: int | None = None) -> list[Access[object]]:
        """Let every woken access look again, or ``most`` of them; return those that finished. ``now`` is in seconds."""
        finished = []
        while self.woken and most != 0:
            most = None if most is None else most - 1
            access, _ = self.woken.popitem(last=False)
            if access.done:
                continue
            if access.step(now):
                finished.append(access)
            elif access.is_resting:
                self.resting[access] = None
        return finished

    def bury(self, runs: RunMap) -> None:
        """Free all pages of an object that is gone: at once, or later if they are many and the edge says so."""
        if not self.buries_later or runs.reach(*ALL_PAGES, SLICE) == ALL_PAGES.end:
            free_runs(self.frames, runs.take(ALL_PAGES))
            return
        grave = RunMap(runs.account)
        grave.swap(runs)
        self.graves.append(grave)

    def bury_some(self) -> None:
        """Free some pages of objects that are gone. For as long as there are ``graves``."""
        runs = self.graves[-1]
        free_runs(self.frames, runs.take(PageRange(0, runs.reach(*ALL_PAGES, SLICE))))
        if not runs:
            self.graves.pop()

    def reclaim(self, pages: int, spared: Iterable[FrameRun] = ()) -> None:
        """Make room for pages: what is gone anyway goes first, then what may be evicted."""
        enough = self.frames.used - pages
        while self.graves and self.frames.used > enough:
            self.bury_some()
        if self.eviction is not None and self.frames.used > enough:
            self.eviction.reclaim(self.frames.used - enough, spared)

    def take_ports(self) -> list[Port]:
        """Return the ports that got a packet since the last call."""
        ports, self.ports_ready = list(self.ports_ready), {}
        return ports

    def take_stale(self) -> dict[object, list[PageRange]]:
        """Return the pages that became stale since the last call, by the object (PagerVmo or AuxVmo) they belong to."""
        stale, self.stale = self.stale, {}
        return {owner: list(pages) if isinstance(pages, RangeSet) else [pages] for owner, pages in stale.items()}

    def expire(self, raised_before: float, requests: list[PageRequest] | None = None) -> list[PageRequest]:
        """Fail the requests raised before a time with TIMED_OUT (all, or those of ``requests``); return them."""
        outstanding = self.requests
        if requests is None:
            expired = list(takewhile(lambda request: request.raised_at < raised_before, outstanding))
        else:
            expired = [it for it in requests if it in outstanding and it.raised_at < raised_before]
        for request in expired:
            request.source.fail_request(request, Status.TIMED_OUT)
        return expired

    def statistics(self) -> SystemStatistics:
        """Return the present counts."""
        return SystemStatistics(self.frames.statistics(), len(self._objects), len(self.requests), self.waiters)

    def check(self) -> None:
        """Assert that every frame has one owner and that every object's own invariants hold."""
        owned = [run for runs in (*self._objects.values(), *self.graves) for run in runs.frames()]
        self.frames.check(owned)
        if self.eviction is not None:
            self.eviction.check()
        for owner in self._objects:
            owner.check()  # type: ignore[attr-defined]
        self._check_accounts()
        for request in self.ordinary:
            assert request.source.is_outstanding(request)
        assert self.missing_readers == sum(len(miss.readers) for port in self.missing for miss in port.misses.values())
        assert self.waiting == sum(len(request.waiters()) for request in self.ordinary)

    def _check_accounts(self) -> None:
        """Assert that each account has what the objects of its payer hold."""
        pages, ranges = Counter[Account](), Counter[Account]()
        for runs in (*self._objects.values(), *self.graves):
            if runs.account is not None:
                pages[runs.account] += runs.committed_pages
                ranges[runs.account] += runs.frameless_ranges()
        assert all(account.pages == count for account, count in pages.items())
        assert all(account.ranges == count for account, count in ranges.items())

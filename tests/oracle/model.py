"""A naive model of pagers, pager VMOs and ports: what the contract says, with dicts, lists and loops over pages.

Written from the text of zircon-pager, not from ``vmofs.core``; tests compare the two after every step. It is slow on
purpose, and it has no ranges that could be merged wrongly: a VMO is a dict of pages, a request a list of page numbers.

Whoever is woken stands in ``Model.woken`` until ``run``. An operation that another section of the contract adds is a
method of ``Model`` that changes ``ModelVmo.pages`` and calls ``resolve``; a new kind of access is a subclass of
``ModelAccess``. Errors are those of ``vmofs.status``; their sentences are not part of the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

from vmofs.core.pages.states import PageState
from vmofs.core.requests.request import SourceState
from vmofs.status import Status, VmoError
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

ZEROS = bytes(PAGE_SIZE)
WRITE_BATCH = 16
OK = "ok"
"""The outcome of accesses that return nothing."""

REAL = (PageState.CLEAN, PageState.DIRTY, PageState.AWAITING)


@dataclass
class ModelPage:
    """A page that is present: its state, and its bytes."""

    state: PageState
    data: bytes = ZEROS


@dataclass(eq=False)
class ModelAux:
    """Anonymous memory: a list of pages, None where nothing is committed."""

    pages: list[bytes | None]
    pinned: set[int] = field(default_factory=set)


@dataclass(eq=False)
class ModelPort:
    """``queue``: VMOs that have a packet here; ``returned``: requests to be delivered again, before these."""

    queue: list[ModelVmo] = field(default_factory=list)
    returned: list[ModelRequest] = field(default_factory=list)
    delivered: list[tuple[ModelRequest, object]] = field(default_factory=list)
    closed: bool = False


@dataclass(eq=False)
class ModelPager:
    """``vmos``: all that it made and that are not closed; ``all_vmos``: those that are, too."""

    vmos: list[ModelVmo] = field(default_factory=list)
    all_vmos: list[ModelVmo] = field(default_factory=list)


@dataclass(eq=False)
class ModelVmo:
    """A pager VMO. Pages that are not in ``pages`` are gaps; in an unbounded VMO, untracked zeros beyond the stream."""

    port: ModelPort
    key: int
    stream_size: int
    trap_dirty: bool = False
    unbounded: bool = False
    pages: dict[int, ModelPage] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    modified: bool = False
    attachment: SourceState = SourceState.ATTACHED
    packets: list[ModelRequest] = field(default_factory=list)  # the first is the one in the port

    @property
    def size(self) -> int:
        """The size in pages."""
        return 2**51 - 1 if self.unbounded else -(-self.stream_size // PAGE_SIZE)

    def state(self, page: int) -> PageState:
        """Return the state of a page."""
        if page in self.pages:
            return self.pages[page].state
        beyond = self.unbounded and page >= -(-self.stream_size // PAGE_SIZE)
        return PageState.UNTRACKED if beyond else PageState.GAP

    def data(self, page: int) -> bytes:
        """Return the bytes of a present page."""
        return self.pages[page].data if page in self.pages else ZEROS

    def run(self, page: int, end: int, *states: PageState) -> list[int]:
        """Return the pages from ``page`` on, below ``end``, that are in one of these states without interruption."""
        found = []
        while page < end and self.state(page) in states:
            found.append(page)
            page += 1
        return found

    def check_inside(self, offset: int, length: int) -> None:
        """Fail with OUT_OF_RANGE unless the bytes lie inside (2.8)."""
        if offset + length > self.size * PAGE_SIZE:
            raise VmoError.of(Status.OUT_OF_RANGE, "")

    def check_attached(self) -> None:
        """Fail with BAD_STATE unless a pager answers (3.7)."""
        if self.attachment is not SourceState.ATTACHED:
            raise VmoError.of(Status.BAD_STATE, "")


@dataclass(eq=False)
class ModelRequest:
    """What was asked for: page numbers in order, how many are not resolved, and who waits (the first asked)."""

    vmo: ModelVmo
    command: PacketCommand
    pages: list[int]
    count: int
    waiters: list[ModelWaiter] = field(default_factory=list)
    raised_at: float = 0.0


@dataclass(eq=False)
class ModelWaiter:
    """One who waits: for which pages of the request, for which of them first, and the failure he will meet."""

    access: ModelAccess
    pages: list[int]
    wanted: int | None
    request: ModelRequest | None = None
    latched: Status | None = None


@dataclass
class ModelNeed:
    """What an access lacks."""

    command: PacketCommand
    pages: list[int]
    wanted: int | None = None


class ModelAccess(ABC):
    """A call in progress on one VMO. ``outcome`` is its result or its error, None while it runs."""

    def __init__(self, vmo: ModelVmo, offset: int, length: int) -> None:
        self.vmo = vmo
        self.offset = offset
        self.length = length
        self.position = offset
        self.outcome: object = None
        self.waiter: ModelWaiter | None = None

    @property
    def end(self) -> int:
        """The first byte behind the access."""
        return self.offset + self.length

    @abstractmethod
    def go_on(self) -> ModelNeed | None:
        """Do what can be done; return what is lacking, or None with ``outcome`` set."""


class ModelRead(ModelAccess):
    """vmo_read (2.8)."""

    def __init__(self, vmo: ModelVmo, offset: int, length: int) -> None:
        super().__init__(vmo, offset, length)
        self.data = b""

    def go_on(self) -> ModelNeed | None:
        """Take what is there; a gap is asked for up to the next present page or the end of the read."""
        self.vmo.check_inside(self.offset, self.length)
        while self.position < self.end:
            page = self.position // PAGE_SIZE
            if self.vmo.state(page) is PageState.GAP:
                self.vmo.check_attached()
                gap = self.vmo.run(page, -(-self.end // PAGE_SIZE), PageState.GAP)
                return ModelNeed(PacketCommand.READ, gap, wanted=page)
            stop = min(self.end, (page + 1) * PAGE_SIZE)
            self.data += self.vmo.data(page)[self.position - page * PAGE_SIZE : stop - page * PAGE_SIZE]
            self.position = stop
        self.outcome = self.data
        return None


class ModelWrite(ModelAccess):
    """vmo_write (2.9, 3.2, 4.1)."""

    def __init__(self, vmo: ModelVmo, offset: int, data: bytes) -> None:
        super().__init__(vmo, offset, len(data))
        self.bytes = data
        self.batch_end = 0

    def go_on(self) -> ModelNeed | None:
        """Write batch by batch: READ what is absent, then DIRTY under TRAP, then copy."""
        self.vmo.check_inside(self.offset, self.length)
        while self.position < self.end:
            page = self.position // PAGE_SIZE
            if page >= self.batch_end:
                self.batch_end = page + WRITE_BATCH
            need = self._prepare(page, min(self.batch_end, -(-self.end // PAGE_SIZE)))
            if need is not None:
                return need
            stop = min(self.end, (page + 1) * PAGE_SIZE)
            new = bytearray(self.vmo.pages[page].data)
            new[self.position - page * PAGE_SIZE : stop - page * PAGE_SIZE] = self.bytes[
                self.position - self.offset : stop - self.offset
            ]
            self.vmo.pages[page].data = bytes(new)
            self.vmo.modified = True
            self.position = stop
        self.outcome = self.length
        return None

    def _prepare(self, page: int, end: int) -> ModelNeed | None:
        vmo = self.vmo
        state = vmo.state(page)
        if state is PageState.DIRTY:
            return None
        if state is PageState.GAP:
            vmo.check_attached()
            return ModelNeed(PacketCommand.READ, vmo.run(page, end, PageState.GAP))
        if vmo.trap_dirty:
            vmo.check_attached()
            present = [other for other in PageState if other not in {PageState.GAP, PageState.DIRTY}]
            return ModelNeed(PacketCommand.DIRTY, vmo.run(page, end, *present))
        for other in vmo.run(page, end, *REAL) or [page]:
            vmo.pages[other] = ModelPage(PageState.DIRTY, vmo.data(other))
        return None


class Model:
    """All objects. ``requests``: outstanding ones, oldest first; ``woken``: accesses that will look again."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []
        self.woken: list[ModelAccess] = []

    # Accesses

    def start(self, access: ModelAccess, now: float) -> None:
        """Run an access until it ends or must wait."""
        waiter = access.waiter
        try:
            if waiter is not None and waiter.latched is not None:
                raise VmoError.of(waiter.latched, "")
            need = access.go_on()
        except VmoError as error:
            access.outcome = error.status
            need = None
        if need is None:
            self.end(access)
        else:
            self._wait(access, need, now)

    def run(self, now: float) -> list[ModelAccess]:
        """Let the woken look again; return those that ended."""
        looked = []
        while self.woken:
            access = self.woken.pop(0)
            if access.outcome is None:
                self.start(access, now)
                looked.append(access)
        return [access for access in looked if access.outcome is not None]

    def cancel(self, access: ModelAccess) -> None:
        """Kill the one who waits (3.8)."""
        if access.outcome is None:
            access.outcome = "killed"
        self.end(access)

    def end(self, access: ModelAccess) -> None:
        """Let an access leave the request that it still hangs on."""
        if access.waiter is not None and access.waiter.request is not None:
            self._leave(access.waiter)

    def _wait(self, access: ModelAccess, need: ModelNeed, now: float) -> None:
        waiter = access.waiter
        if waiter is not None and waiter.request is not None:
            if waiter.request.command is need.command and need.pages[0] in waiter.request.pages:
                waiter.wanted = need.wanted
                return
            self._leave(waiter)
        waiter = access.waiter = ModelWaiter(access, need.pages, need.wanted)
        others = [r for r in self.requests if r.vmo is access.vmo and r.command is need.command]
        for request in others:
            if need.pages[0] in request.pages:  # starts inside: silent
                waiter.pages = [page for page in need.pages if page in request.pages]
                waiter.request = request
                request.waiters.append(waiter)
                return
        for request in others:  # runs into another: stops just before it
            start = request.pages[0]
            waiter.pages = [page for page in waiter.pages if page < start or start < need.pages[0]]
        waiter.request = ModelRequest(
            access.vmo, need.command, waiter.pages, len(waiter.pages), waiters=[waiter], raised_at=now
        )
        self.requests.append(waiter.request)
        self._send(waiter.request)

    def _leave(self, waiter: ModelWaiter) -> None:
        request = waiter.request
        assert request is not None
        request.waiters.remove(waiter)  # if it was the first, the next one inherits
        waiter.request = None
        if not request.waiters:
            self._remove(request)

    def _wake(self, waiter: ModelWaiter) -> None:
        if waiter.access not in self.woken:
            self.woken.append(waiter.access)

    # Answers: sections 3.5 and 3.6

    def resolve(
        self, vmo: ModelVmo, command: PacketCommand, pages: Iterable[int], failure: Status | None = None
    ) -> None:
        """Count a run of pages as resolved, or failed."""
        run = sorted(pages)
        requests = [r for r in self.requests if r.vmo is vmo and r.command is command]
        for request in sorted(requests, key=lambda r: r.pages[0]):
            cut = [page for page in run if page in request.pages]
            if not cut:
                continue
            for waiter in request.waiters if failure is not None else []:
                own = [page for page in run if page in waiter.pages]
                if own and (own[0] == waiter.pages[0] or own[0] == waiter.wanted):
                    waiter.latched = failure
            if len(cut) >= request.count:
                self._complete(request)
                continue
            request.count -= len(cut)
            if request.waiters[0].wanted == cut[0]:
                self._wake(request.waiters[0])
                for waiter in request.waiters[1:]:
                    if waiter.wanted is not None and waiter.wanted <= cut[-1]:
                        self._wake(waiter)

    def _complete(self, request: ModelRequest, status: Status | None = None) -> None:
        self._remove(request)
        for waiter in request.waiters:
            waiter.request = None
            waiter.latched = status if status is not None else waiter.latched
            self._wake(waiter)

    def _remove(self, request: ModelRequest) -> None:
        self.requests.remove(request)
        self._withdraw(request)

    def expire(self, before: float) -> list[ModelRequest]:
        """Fail old requests with TIMED_OUT."""
        old = [request for request in self.requests if request.raised_at < before]
        for request in old:
            self._complete(request, Status.TIMED_OUT)
        return old

    # Packets: section 3.4

    def _send(self, request: ModelRequest) -> None:
        vmo = request.vmo
        vmo.packets.append(request)
        if len(vmo.packets) == 1:
            self._put(vmo)

    def _put(self, vmo: ModelVmo) -> None:
        if not vmo.port.closed and vmo.packets:
            vmo.port.queue.append(vmo)

    def _withdraw(self, request: ModelRequest) -> None:
        vmo, port = request.vmo, request.vmo.port
        port.returned = [other for other in port.returned if other is not request]
        port.delivered = [(other, lane) for other, lane in port.delivered if other is not request]
        if request in vmo.packets:
            first = vmo.packets[0] is request
            vmo.packets.remove(request)
            if first:
                port.queue = [other for other in port.queue if other is not vmo]
                self._put(vmo)

    def dequeue(self, port: ModelPort, lane: object) -> ModelRequest | None:
        """Take the next packet: first what is to be delivered again, then VMO by VMO."""
        if port.returned:
            request = port.returned.pop(0)
        elif port.queue:
            vmo = port.queue.pop(0)
            request = vmo.packets.pop(0)
            self._put(vmo)
        else:
            return None
        if request.command is not PacketCommand.COMPLETE:
            port.delivered.append((request, lane))
        return request

    def requeue_delivered(self, port: ModelPort, lane: object) -> int:
        """Deliver again what a lane did not answer."""
        given = [request for request, to in port.delivered if to == lane]
        port.delivered = [(request, to) for request, to in port.delivered if to != lane]
        port.returned = given + port.returned
        return len(given)

    def cancel_key(self, port: ModelPort, key: int) -> bool:
        """Drop queued packets; the requests stay."""
        returned = [request for request in port.returned if request.vmo.key == key]
        port.returned = [request for request in port.returned if request.vmo.key != key]
        vmos = [vmo for vmo in port.queue if vmo.key == key]
        for vmo in vmos:
            port.queue.remove(vmo)
            del vmo.packets[0]
            self._put(vmo)
        return bool(returned or vmos)

    def close_port(self, port: ModelPort) -> None:
        """Let all packets vanish, from now on."""
        port.closed = True
        port.queue, port.returned, port.delivered = [], [], []

    # Pager calls

    def create_vmo(self, pager: ModelPager, vmo: ModelVmo) -> None:
        """Count a VMO as made by this pager."""
        pager.vmos.append(vmo)
        pager.all_vmos.append(vmo)

    def supply(
        self, pager: ModelPager, vmo: ModelVmo, offset: int, length: int, aux: ModelAux | ModelVmo, aux_offset: int
    ) -> list[int]:
        """Supply pages in the order of checks of 2.4; return the newly filled ones."""
        if offset % PAGE_SIZE or length % PAGE_SIZE or aux_offset % PAGE_SIZE or vmo not in pager.vmos:
            raise VmoError.of(Status.INVALID_ARGS, "")
        if length == 0:
            return []
        first, count, aux_first = offset // PAGE_SIZE, length // PAGE_SIZE, aux_offset // PAGE_SIZE
        if isinstance(aux, ModelVmo):
            aux.check_inside(aux_offset, length)
            raise VmoError.of(Status.NOT_SUPPORTED, "")
        if aux_first + count > len(aux.pages):
            raise VmoError.of(Status.OUT_OF_RANGE, "")
        if any(page in aux.pinned for page in range(aux_first, aux_first + count)):
            raise VmoError.of(Status.BAD_STATE, "")
        taken = aux.pages[aux_first : aux_first + count]
        aux.pages[aux_first : aux_first + count] = [None] * count
        vmo.check_inside(offset, length)
        vmo.check_attached()
        filled = []
        for page, data in enumerate(taken, start=first):
            if vmo.state(page) is PageState.GAP:
                vmo.pages[page] = _supplied(vmo, page, data)
                filled.append(page)
        for run in runs(filled):
            self.resolve(vmo, PacketCommand.READ, run)
        return filled

    def fail(self, pager: ModelPager, vmo: ModelVmo, offset: int, length: int, code: int) -> None:
        """OP_FAIL in the order of checks of 2.5."""
        if offset % PAGE_SIZE or length % PAGE_SIZE or vmo not in pager.vmos:
            raise VmoError.of(Status.INVALID_ARGS, "")
        if code not in {-40, -42, -20, -54, -15}:
            raise VmoError.of(Status.INVALID_ARGS, "")
        vmo.check_inside(offset, length)
        vmo.check_attached()
        pages = range(offset // PAGE_SIZE, (offset + length) // PAGE_SIZE)
        for command in (PacketCommand.READ, PacketCommand.DIRTY):
            self.resolve(vmo, command, pages, Status(code))

    def evict(self, pager: ModelPager, vmo: ModelVmo, offset: int, length: int) -> list[int]:
        """Drop clean, unpinned pages (5.1); return them."""
        if vmo not in pager.vmos:
            raise VmoError.of(Status.INVALID_ARGS, "")
        vmo.check_inside(offset, length)
        touched = range(offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE) if length else 0)
        return _drop(vmo, [page for page in touched if vmo.state(page) is PageState.CLEAN])

    def detach(self, pager: ModelPager, vmo: ModelVmo) -> list[int]:
        """End the bond (2.3, 3.7); return the pages that were dropped."""
        if vmo not in pager.vmos:
            raise VmoError.of(Status.INVALID_ARGS, "")
        self._lose(vmo, SourceState.DETACHED)
        clean = (PageState.CLEAN, PageState.MARKER)
        return _drop(vmo, [page for page in sorted(vmo.pages) if vmo.state(page) in clean])

    def close_vmo(self, pager: ModelPager, vmo: ModelVmo) -> None:
        """Drop the last reference to a VMO."""
        self._lose(vmo, SourceState.DETACHED)
        vmo.pages.clear()
        if vmo in pager.vmos:
            pager.vmos.remove(vmo)

    def close_pager(self, pager: ModelPager) -> None:
        """Close the last handle of the pager: no packet is left behind."""
        for vmo in pager.all_vmos:
            self._lose(vmo, SourceState.PAGER_CLOSED)
            vmo.packets.clear()
            vmo.port.queue = [other for other in vmo.port.queue if other is not vmo]
        pager.vmos.clear()

    def _lose(self, vmo: ModelVmo, attachment: SourceState) -> None:
        if vmo.attachment is not SourceState.ATTACHED:
            return
        vmo.attachment = attachment
        for command in (PacketCommand.READ, PacketCommand.DIRTY):
            waiting = [r for r in self.requests if r.vmo is vmo and r.command is command]
            for request in sorted(waiting, key=lambda r: r.pages[0]):
                self._complete(request, Status.BAD_STATE)
        if attachment is SourceState.DETACHED:
            self._send(ModelRequest(vmo, PacketCommand.COMPLETE, [], 0))


def runs(pages: list[int]) -> list[list[int]]:
    """Return ascending page numbers as runs without holes."""
    found: list[list[int]] = []
    for page in pages:
        if found and found[-1][-1] == page - 1:
            found[-1].append(page)
        else:
            found.append([page])
    return found


def _drop(vmo: ModelVmo, pages: list[int]) -> list[int]:
    dropped = [page for page in pages if page not in vmo.pinned]
    for page in dropped:
        del vmo.pages[page]
    return dropped


def _supplied(vmo: ModelVmo, page: int, data: bytes | None) -> ModelPage:
    if data is None:
        return ModelPage(PageState.MARKER)
    inside = max(0, min(PAGE_SIZE, vmo.stream_size - page * PAGE_SIZE))
    return ModelPage(PageState.CLEAN, data[:inside] + bytes(PAGE_SIZE - inside))

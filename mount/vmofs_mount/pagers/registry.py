"""Pagers as directories: a core pager, its command files, and its FIFOs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from vmofs.core.pager import Pager
from vmofs.core.requests.access import Access
from vmofs.core.requests.page_source import PageSource
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import PageRequest
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadHandleError, InvalidArgsError, OutOfRangeError, WrongTypeError
from vmofs.units import Key
from vmofs.wire.commands import CommandKind
from vmofs.wire.metrics import format_metrics
from vmofs.wire.names import escape, quote
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.linux.mountinfo import Place
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.observe.dirty import Dirty
from vmofs_mount.pagers.delivery import SETTLE_SECONDS, PagerPorts
from vmofs_mount.pagers.delivery import Fifo as FifoLane
from vmofs_mount.pagers.fifo_threads import ClosedReaders, end_opens
from vmofs_mount.pagers.supply_tree import SupplyDirectory, SupplyFile, SupplyRealm
from vmofs_mount.rights.identity import can_open_inodes
from vmofs_mount.tree.inodes import AuxFile, CommandFile, Directory, Fifo, Node, TextFile, VmoFile
from vmofs_mount.waits.self_deadlock import PagerFiles

if TYPE_CHECKING:
    from vmofs_mount.linux.caller import Caller
    from vmofs_mount.loop.engine import Engine
    from vmofs_mount.tree.tree import Tree

PAGER_COMMANDS = (
    CommandKind.CREATE_VMO,
    CommandKind.SERVE_DIRECTORY,
    CommandKind.SUPPLY_PAGES,
    CommandKind.DETACH_VMO,
    CommandKind.OP_RANGE,
    CommandKind.EVICT,
    CommandKind.QUERY_DIRTY_RANGES,
    CommandKind.QUERY_VMO_STATS,
)
DEFAULT_PORT = "requests"

_PAGER_SETTLE_SECONDS = 0.02
_REQUESTS_PER_PIECE = 100  # that are looked at, or VMOs, before others may have their turn
_REST_PER_WAIT = 9
"""Waiting before pagers are removed takes a tenth of the time at most. Who is late to open a FIFO is let go as well."""

_FORGETTERS = 8  # threads for each user, and one for each pager: the directories may be locked
_LATE_OPENS = 8  # threads for each user: FIFOs that are gone may be locked


class PagerDirectory:
    """One pager: what ``mkdir control/NAME`` made."""

    def __init__(
        self,
        directory: Directory,
        engine: Engine,
        deadline: float,
        max_deadline: float,
        when_freed: Callable[[PagerVmo], None],
    ) -> None:
        self.directory = directory
        self.pager = Pager(engine.system, when_freed)
        self.ports = PagerPorts(Port(engine.system))
        self.deadline = deadline
        self._max_deadline = max_deadline
        self.scopes: dict[Fifo, trio.CancelScope] = {}
        self._engine = engine

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.directory.name.decode()

    def pending_lines(self) -> Iterator[str]:
        """Yield the unanswered requests, oldest first: the request line, its age, deliveries, and by which FIFO."""
        for number, request in enumerate(list(self._engine.system.requests)):
            if request.source.tally is self.pager.tally and request.source.is_outstanding(request):
                yield self._pending_line(request)
            elif not number % _REQUESTS_PER_PIECE:
                yield ""

    def _pending_line(self, request: PageRequest) -> str:
        packet = request.packet()
        lane = packet.source.port.delivered().get(request)
        by = next((name for name, fifo in self.ports.fifos.items() if fifo is lane), None)
        state = f"delivered={escape(by)}" if by is not None else "queued"
        return (
            f"{packet.command.name} {packet.key} {packet.offset} {packet.length} {escape(vmo_name(packet.source))} "
            f"age={trio.current_time() - request.raised_at:.3f} deliveries={request.deliveries} {state}\n"
        )

    def stats_text(self) -> Iterator[str]:
        """Yield the counters of the pager and of its FIFOs."""
        values = asdict(self.pager.statistics())
        lanes = [fifo.statistics() for fifo in self.ports.fifos.values()]
        values["fifos_attached"] = sum(lane.attached for lane in lanes)
        values["requests_delivered"] = sum(lane.delivered for lane in lanes)
        values["request_lines_total"] = sum(lane.lines_total for lane in lanes)
        values["handovers_total"] = sum(lane.handovers_total for lane in lanes)
        yield format_metrics("vmofs_pager", values, {"pager": self.name})

    def deadline_text(self) -> Iterator[str]:
        """Yield the deadline in seconds."""
        yield f"{self.deadline:g}\n"

    def set_deadline(self, data: bytes) -> None:
        """Set the deadline to a number of seconds, 0 for never.

        Raises:
            InvalidArgsError: it is no number of seconds.
            OutOfRangeError: the mount allows no such long deadline.
        """
        text = data.decode("ascii", "replace").strip()
        if not text:
            return  # the shell's ``: >``
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise InvalidArgsError(f"deadline {quote(text)} is not a number of seconds")
        if self._max_deadline and not 0 < seconds <= self._max_deadline:
            raise OutOfRangeError(f"deadline {quote(text)} is longer than this mount allows, {self._max_deadline:g} s")
        self.deadline = seconds

    def port(self, name: str | None) -> Port:
        """Return the port of a FIFO of this pager; None stands for the default one.

        Raises:
            BadHandleError: there is nothing of that name.
            WrongTypeError: it is no FIFO.
        """
        if name is None or name == DEFAULT_PORT:
            return self.ports.default
        fifo = self.ports.fifos.get(name)
        if fifo is None:
            if name.encode() in self.directory.children:
                raise WrongTypeError(f"{quote(name)} in {quote(self.directory.path)} is no FIFO")
            raise BadHandleError(f"there is no FIFO {quote(name)} in {quote(self.directory.path)}")
        return fifo.ports[0]


class Pagers:
    """All pagers of a mount."""

    def __init__(
        self,
        tree: Tree,
        vmo: Directory,
        engine: Engine,
        place: Place,
        kernel: Kernel,
        nursery: trio.Nursery,
        *,
        deadline: float,
        max_deadline: float = 0.0,
    ) -> None:
        self._tree = tree
        self._kernel = kernel
        self._vmo = vmo
        self._engine = engine
        self._place = place
        self._nursery = nursery
        self._deadline = deadline
        self._max_deadline = max_deadline
        self._closed_readers = ClosedReaders()
        self._by_directory: dict[Directory, PagerDirectory] = {}
        self._by_pager: dict[Pager, PagerDirectory] = {}
        self._by_port: dict[Port, PagerPorts] = {}
        self._lanes: dict[Fifo, FifoLane] = {}
        self._keys = itertools.count(1)
        self._may_wait_at = 0.0  # before a pager is removed
        self._to_forget: dict[Directory, list[tuple[int, bytes]]] = {}  # of pagers on whose names a task works
        self._forgetters = Lanes(_FORGETTERS)
        self._late_opens = Lanes(_LATE_OPENS)
        nursery.start_soon(self._closed_readers.run)

    def __iter__(self) -> Iterator[PagerDirectory]:
        """Yield the pagers."""
        return iter(self._by_directory.values())

    def new_key(self) -> Key:
        """Return a key that no VMO of the mount was given by default before."""
        return Key(next(self._keys))

    def open(self, directory: Directory, caller: Caller) -> None:
        """Make a pager out of a new directory, with files that belong to the caller."""
        pager = PagerDirectory(directory, self._engine, self._deadline, self._max_deadline, self._vmo_freed)
        self._by_directory[directory] = self._by_pager[pager.pager] = pager
        uid, gid = caller.uid, directory.gid
        requests = Fifo(0o600, uid, gid, builtin=True)
        self._tree.add(directory, DEFAULT_PORT.encode(), requests)
        self._add_fifo(pager, requests, pager.ports.default)
        for kind in PAGER_COMMANDS:
            self._tree.add(directory, kind.value.encode(), CommandFile(0o600, uid, gid, kind, pager))
        supply_realm = SupplyRealm(self._tree, self._vmo, pager.pager)
        self._tree.add(directory, b"supply", SupplyDirectory(0o700, uid, gid, supply_realm, self._vmo))
        texts = {
            b"pending": TextFile(0o400, uid, gid, pager.pending_lines),
            b"stats": TextFile(0o400, uid, gid, pager.stats_text),
            b"deadline": TextFile(0o600, uid, gid, pager.deadline_text, pager.set_deadline),
        }
        for name, file in texts.items():
            self._tree.add(directory, name, file)

    def _vmo_freed(self, vmo: PagerVmo) -> None:
        file = vmo.owner
        if isinstance(file, VmoFile):
            pager = self._by_pager.get(file.pager)
            if pager is not None:
                self._forget_soon(pager.directory, _supply_of(pager.directory).names(file))
            self._tree.let_go(file)

    def add_fifo(self, directory: Directory, fifo: Fifo) -> None:
        """Make another port out of a FIFO that was made in a pager's directory."""
        pager = self._by_directory[directory]
        self._add_fifo(pager, fifo, Port(self._engine.system), pager.ports.default)

    def _add_fifo(self, pager: PagerDirectory, fifo: Fifo, *ports: Port) -> None:
        lane = FifoLane(
            ports,
            lambda: f"{self._place.mountpoint}/{fifo.path}",
            self._place.device,
            vmo_name,
            self._closed_readers,
            pager.ports.kick,
            self._nursery.start_soon,
        )
        for port in ports:
            self._by_port[port] = pager.ports
        pager.ports.fifos[fifo.name.decode()] = lane
        self._lanes[fifo] = lane
        scope = pager.scopes[fifo] = trio.CancelScope()
        self._nursery.start_soon(_run_in, scope, lane)

    async def prepare_removal(self, node: Node) -> None:
        """Do what may wait before a FIFO or a pager goes."""
        pager = self._by_directory.get(node) if isinstance(node, Directory) else None
        if isinstance(node, Fifo):
            await self._wait_settled([node])
        elif pager is not None:
            # All have their pagers in ``control/``, which is locked meanwhile: who removes one after the other would
            # keep it locked for good.
            began = trio.current_time()
            if not can_open_inodes():
                await self._wait_settled(pager.scopes)
            elif began >= self._may_wait_at:
                await self._wait_settled(pager.scopes, _PAGER_SETTLE_SECONDS)
                ended = trio.current_time()
                self._may_wait_at = ended + _REST_PER_WAIT * (ended - began)
            await self._close_slowly(pager)

    async def _wait_settled(self, fifos: Iterable[Fifo], seconds: float = SETTLE_SECONDS) -> None:
        """Wait until nobody is just opening a FIFO that is about to go."""
        with trio.move_on_after(seconds):
            for lane in [self._lanes[fifo] for fifo in fifos if fifo in self._lanes]:
                await lane.wait_settled()

    async def _close_slowly(self, pager: PagerDirectory) -> None:
        """Close the core's pager: it may have very many VMOs, and they very many who wait."""
        access = Access(pager.pager.close_steps())
        if not await self._engine.start_patiently(access):
            await self._engine.wait(access)

    def remove_fifo(self, fifo: Fifo) -> None:
        """End a FIFO that lost its name: its readers see the end of the stream. Its VMOs' requests wait."""
        if fifo.lookup_count and can_open_inodes():
            self._nursery.start_soon(self._end_late_opens, fifo)
        lane = self._lanes.pop(fifo, None)
        pager = None if fifo.parent is None else self._by_directory.get(fifo.parent)
        if pager is not None and fifo in pager.scopes:
            pager.scopes.pop(fifo).cancel()
            pager.ports.fifos = {name: known for name, known in pager.ports.fifos.items() if known is not lane}
            for port in lane.ports if lane is not None else ():
                if port is not pager.ports.default:
                    self._by_port.pop(port, None)  # nothing delivers it any more

    async def _end_late_opens(self, fifo: Fifo) -> None:
        """Let those go on who looked up the name of a FIFO in time, but open it now: nobody else would open it.

        While the kernel knows the FIFO somebody may be about to. He waits as long again as he was late, at most.
        """
        delay = SETTLE_SECONDS
        await trio.sleep(delay)
        while fifo.lookup_count:
            await self._late_opens.run(fifo.uid, partial(end_opens, self._place, fifo.ino))
            await trio.sleep(delay)
            delay *= 2

    def remove(self, directory: Directory) -> None:
        """Close a pager whose directory is about to go.

        The kernel does not know that names went with their directory. Those that are open now it would keep when they
        are closed, and the pager with them, until it is short of memory.
        """
        supply = _supply_of(directory)
        self.close(directory)
        supply.close()
        self._forget_soon(directory, [(directory.ino, name) for name in directory.children] + list(supply.names()))

    def directory_removed(self, directory: Directory) -> None:
        """Let the kernel forget what stood for a directory in ``supply/``."""
        for pager in self:
            self._forget_soon(pager.directory, _supply_of(pager.directory).names(directory))

    def _forget_soon(self, pager: Directory, names: Iterable[tuple[int, bytes]]) -> None:
        """Let the kernel forget names of a pager's, each in the directory of a number."""
        is_running = pager in self._to_forget
        waiting = self._to_forget.get(pager, [])
        waiting += names
        if waiting and not is_running:
            self._to_forget[pager] = waiting
            self._nursery.start_soon(self._forget_names, pager, waiting)

    async def _forget_names(self, pager: Directory, waiting: list[tuple[int, bytes]]) -> None:
        def forget_all() -> None:
            for directory_ino, name in names:
                self._kernel.forget_name(directory_ino, name)

        try:
            while names := list(waiting):
                await self._forgetters.run(pager.uid, forget_all)
                del waiting[: len(names)]
        finally:
            del self._to_forget[pager]

    def close(self, directory: Directory) -> None:
        """Close a pager: its waiters get BAD_STATE, what is present stays readable."""
        pager = self._by_directory.pop(directory)
        del self._by_pager[pager.pager]
        for scope in pager.scopes.values():
            scope.cancel()
        for lane in pager.ports.fifos.values():
            for port in lane.ports:
                self._by_port.pop(port, None)
        for fifo in pager.scopes:
            self._lanes.pop(fifo, None)
        pager.pager.close()
        self._engine.settle()

    def close_all(self) -> None:
        """Close every pager: the mount is going down."""
        for directory in list(self._by_directory):
            self.close(directory)

    def kick(self, port: Port) -> None:
        """Deliver the packets of a port."""
        ports = self._by_port.get(port)
        if ports is not None:
            ports.kick(port)

    def looked_up(self, fifo: Fifo) -> trio.Event | None:
        """Note that somebody may be about to open a FIFO; return what he should wait for, if anything."""
        lane = self._lanes.get(fifo)
        return None if lane is None else lane.looked_up()

    def deadline_of(self, request: PageRequest) -> float:
        """Return the deadline of the pager that a request asks, in seconds; 0 is never."""
        file = request.source.owner
        pager = self._by_pager.get(file.pager) if isinstance(file, VmoFile) else None
        return 0.0 if pager is None else pager.deadline

    def controller_of(self, file: VmoFile | AuxFile) -> int:
        """Return the user who decides how long pages of a file stay locked: he answers for them, or owns the file."""
        source = file.vmo.source.owner if isinstance(file, VmoFile) else None
        pager = self._by_pager.get(source.pager) if isinstance(source, VmoFile) else None
        return file.uid if pager is None else pager.directory.uid

    def shortest_deadline(self) -> float:
        """Return the shortest deadline of all pagers, infinite without any."""
        return min((pager.deadline for pager in self if pager.deadline), default=float("inf"))

    def files_of(self, port: Port, opened: Iterable[Node]) -> PagerFiles | None:
        """Return the files by which the requests of a port are delivered and answered, None if nobody reads them.

        ``opened``: all that is open; files in ``supply/`` are not found otherwise.
        """
        for pager in self:
            fifos = {fifo: lane for fifo in pager.scopes if port in (lane := self._lanes[fifo]).ports}
            if fifos:
                if not any(lane.attached for lane in fifos.values()):
                    return None
                nodes = {pager.directory, *pager.directory.descendants()}
                nodes |= {node for node in opened if isinstance(node, SupplyFile) and node.pager is pager.pager}
                return PagerFiles(frozenset(fifo.ino for fifo in fifos), frozenset(node.ino for node in nodes))
        return None

    def dirty(self) -> Dirty:
        """Return what pagers have not written back."""
        return list(self.count_dirty())[-1]

    def count_dirty(self) -> Iterator[Dirty]:
        """Yield what pagers have not written back, more and more of it, and in the end all."""
        pages = vmos = 0
        for pager in list(self):
            for number, vmo in enumerate(list(pager.pager.vmos)):
                pages, vmos = pages + vmo.dirty_pages, vmos + bool(vmo.dirty_pages)
                if not number % _REQUESTS_PER_PIECE:
                    yield Dirty(pages, vmos)
        yield Dirty(pages, vmos)

    def deliver_again(self, request: PageRequest) -> bool:
        """Deliver a request by another FIFO than the one that does not answer it; return whether there is one."""
        file = request.source.owner
        pager = self._by_pager.get(file.pager) if isinstance(file, VmoFile) else None
        return pager is not None and len(pager.ports.fifos) > 1 and pager.ports.deliver_again(request)

    def check(self) -> None:
        """Assert that every FIFO has its lane."""
        for pager in self._by_directory.values():
            pager.pager.check()
            assert set(pager.scopes) <= set(self._lanes)


def vmo_name(source: PageSource) -> str:
    """Return the name of the VMO that a page source belongs to, the last one it had if it was unlinked."""
    file = source.owner
    assert isinstance(file, VmoFile)
    return file.path


def _supply_of(directory: Directory) -> SupplyRealm:
    """Return what shows ``supply/`` in a pager's directory."""
    realm = cast("Directory", directory.children[b"supply"]).realm
    assert isinstance(realm, SupplyRealm)
    return realm


async def _run_in(scope: trio.CancelScope, lane: FifoLane) -> None:
    with scope:
        await lane.run()

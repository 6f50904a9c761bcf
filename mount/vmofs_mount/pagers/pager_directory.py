"""One pager: its directory in ``control/``, its ports, what its text files say, and the directories that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple
from weakref import ReferenceType

import trio

from vmofs.core.pager import Pager
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import PageRequest
from vmofs.core.requests.system import System
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import BadHandleError, BadStateError, InvalidArgsError, OutOfRangeError, WrongTypeError
from vmofs.units import Key
from vmofs.wire.commands import CommandKind
from vmofs.wire.metrics import format_metrics
from vmofs.wire.names import escape, printable, quote
from vmofs_mount.linux.caller import Caller
from vmofs_mount.pagers.delivery import DEFAULT_PORT, PagerPorts, vmo_name
from vmofs_mount.pagers.supply_tree import SupplyRealm
from vmofs_mount.tree.inodes import CommandFile, Directory, VmoFile
from vmofs_mount.tree.limits import Limits
from vmofs_mount.tree.reading import Reading

_REQUESTS_PER_PIECE = 100
"""That are looked at before others may have their turn."""


class Deadlines(NamedTuple):
    """In seconds: what a pager begins with, and the longest that it may have; 0 is never, and no bound."""

    default: float
    longest: float = 0.0


class PagerDirectory:
    """One pager: what ``mkdir control/NAME`` made. ``supply`` shows its VMOs in ``supply/``."""

    def __init__(
        self, directory: Directory, pager: Pager, system: System, supply: SupplyRealm, deadlines: Deadlines
    ) -> None:
        self.directory = directory
        self.pager = pager
        self.supply = supply
        self.ports = PagerPorts(Port(system))
        self.deadline = deadlines.default
        self._longest_deadline = deadlines.longest
        self._system = system

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.directory.name.decode()

    def pending_lines(self) -> Iterator[str]:
        """Yield the unanswered requests, oldest first: the request line, its age, deliveries, by which FIFO, if any.

        Behind that stands how many requests of the VMO failed before, and the reason that was given for the last.
        """
        for number, request in enumerate(list(self._system.requests)):
            if request.source.tally is self.pager.tally and request.source.is_outstanding(request):
                yield self._pending_line(request)
            elif not number % _REQUESTS_PER_PIECE:
                yield ""

    def _pending_line(self, request: PageRequest) -> str:
        packet = request.packet()
        lane = packet.source.port.delivered().get(request)
        by = next((name for name, fifo in self.ports.fifos.items() if fifo is lane), None)
        state = f"delivered={escape(by)}" if by is not None else "queued"
        if not self.ports.has_reader(packet.source.port):
            state = f"{state} no_reader"
        failed = packet.source.failed
        before = "" if failed is None else f" failed={failed.times}"
        if failed is not None and failed.reason:
            before += f" reason={escape(printable(failed.reason))}"
        return (
            f"{packet.command.name} {packet.key} {packet.offset} {packet.length} {escape(vmo_name(packet.source))} "
            f"age={trio.current_time() - request.raised_at:.3f} deliveries={request.deliveries} {state}"
            f"{before}\n"
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
        longest = self._longest_deadline
        if longest and not 0 < seconds <= longest:
            raise OutOfRangeError(f"deadline {quote(text)} is longer than this mount allows, {longest:g} s")
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


class PagerCommandFile(CommandFile):
    """A command file in the directory of a pager, ``of``."""

    __slots__ = ("of",)

    def __init__(self, permissions: int, uid: int, gid: int, kind: CommandKind, of: PagerDirectory) -> None:
        super().__init__(permissions, uid, gid, kind, of.pager)
        self.of = of


@dataclass(frozen=True, slots=True)
class ServedDirectory:
    """What files become that are made in a directory of ``vmo/``. A directory keeps no pager alive that was closed.

    ``keys`` are those that no VMO of the mount was given by default before.
    """

    pager: ReferenceType[PagerDirectory]
    port: Port
    options: VmoOptions
    keys: Iterator[Key]
    limits: Limits
    reading: Reading

    def make_file(self, mode: int, caller: Caller) -> VmoFile:
        """Make an empty VMO, and its file.

        Raises:
            BadStateError: the pager was closed.
        """
        directory = self.pager()
        if directory is None:
            raise BadStateError("the pager is closed")
        pager, account = directory.pager, self.limits.account(caller.uid)
        vmo = pager.create_vmo(self.port, next(self.keys), 0, self.options, account)
        return VmoFile(mode, caller.uid, caller.gid, vmo, pager, self.reading)

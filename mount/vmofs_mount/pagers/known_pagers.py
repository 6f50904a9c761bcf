"""The pagers that there are: who answers a request, by which FIFOs, within which time, and what is lost with them."""

from __future__ import annotations

from collections.abc import Iterator

from vmofs.core.pager import Pager
from vmofs.core.requests.page_source import PageSource
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import PageRequest
from vmofs_mount.files.open_files import Handles
from vmofs_mount.observe.dirty import Dirty
from vmofs_mount.pagers.delivery import FifoLane, PagerPorts
from vmofs_mount.pagers.pager_directory import Deadlines, PagerDirectory
from vmofs_mount.pagers.supply_tree import SupplyFile
from vmofs_mount.tree.inodes import AuxFile, Directory, VmoFile
from vmofs_mount.waits.self_deadlock import PagerFiles

_VMOS_PER_PIECE = 100
"""That are looked at before others may have their turn."""


class KnownPagers:
    """All pagers of a mount, by directory, by what they are in the core, and by port. ``Pagers`` makes and ends them.

    ``deadlines``: what a new one begins with.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self._by_directory: dict[Directory, PagerDirectory] = {}
        self._by_pager: dict[Pager, PagerDirectory] = {}
        self._by_port: dict[Port, PagerPorts] = {}

    def __iter__(self) -> Iterator[PagerDirectory]:
        """Yield the pagers."""
        return iter(self._by_directory.values())

    def add(self, pager: PagerDirectory) -> None:
        """Know a pager."""
        self._by_directory[pager.directory] = self._by_pager[pager.pager] = pager

    def discard(self, pager: PagerDirectory) -> None:
        """Know a pager, and its ports, no longer."""
        del self._by_directory[pager.directory], self._by_pager[pager.pager]
        for lane in pager.ports.fifos.values():
            self.forget_ports(*lane.ports)

    def add_ports(self, ports: tuple[Port, ...], of: PagerPorts) -> None:
        """Have the packets of ports delivered by the FIFOs of a pager."""
        for port in ports:
            self._by_port[port] = of

    def forget_ports(self, *ports: Port) -> None:
        """Let nothing deliver the packets of ports any more."""
        for port in ports:
            self._by_port.pop(port, None)

    def of_directory(self, directory: Directory) -> PagerDirectory | None:
        """Return the pager that a directory is, if it is one."""
        return self._by_directory.get(directory)

    def kick(self, port: Port) -> None:
        """Deliver the packets of a port."""
        ports = self._by_port.get(port)
        if ports is not None:
            ports.kick(port)

    def lane_for_miss(self, port: Port) -> FifoLane | None:
        """Return the FIFO that gets the misses of a port, if they can be delivered at once."""
        ports = self._by_port.get(port)
        return None if ports is None else ports.lane_for_miss(port)

    def of_file(self, file: VmoFile) -> PagerDirectory | None:
        """Return the pager that made the VMO of a file, if it still is there."""
        return None if file.pager is None else self._by_pager.get(file.pager)

    def _of_source(self, source: PageSource) -> PagerDirectory | None:
        file = source.owner
        return self.of_file(file) if isinstance(file, VmoFile) else None

    def deadline_of(self, request: PageRequest) -> float:
        """Return the deadline of the pager that a request asks, in seconds; 0 is never."""
        pager = self._of_source(request.source)
        return 0.0 if pager is None else pager.deadline

    def shortest_deadline(self) -> float:
        """Return the shortest deadline of all pagers, infinite without any."""
        return min((pager.deadline for pager in self if pager.deadline), default=float("inf"))

    def deliver_again(self, request: PageRequest) -> bool:
        """Deliver a request by another FIFO than the one that does not answer it; return whether there is one."""
        pager = self._of_source(request.source)
        return pager is not None and pager.ports.deliver_again(request)

    def controller_of(self, file: VmoFile | AuxFile) -> int:
        """Return the user who decides how long pages of a file stay locked: he answers for them, or owns the file."""
        pager = self._of_source(file.vmo.source) if isinstance(file, VmoFile) else None
        return file.uid if pager is None else pager.directory.uid

    def files_of(self, opened: Handles, port: Port) -> PagerFiles | None:
        """Return the files by which the requests of a port are delivered and answered, None if nobody reads them.

        ``opened``: all that is open; files in ``supply/`` are not found otherwise.
        """
        for pager in self:
            lanes = [lane for lane in pager.ports.fifos.values() if port in lane.ports]
            if lanes:
                if not any(lane.attached for lane in lanes):
                    return None
                nodes = {pager.directory, *pager.directory.descendants()}
                nodes |= {node for node in opened.nodes() if isinstance(node, SupplyFile) and node.pager is pager.pager}
                return PagerFiles(frozenset(lane.node.ino for lane in lanes), frozenset(node.ino for node in nodes))
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
                if not number % _VMOS_PER_PIECE:
                    yield Dirty(pages, vmos)
        yield Dirty(pages, vmos)

    def check(self) -> None:
        """Assert the invariants of all pagers, and that each port of a FIFO is known."""
        for pager in self:
            pager.pager.check()
            assert all(self._by_port[port] is pager.ports for lane in pager.ports.fifos.values() for port in lane.ports)

"""Making and ending pagers: a core pager, its command files, and its FIFOs."""

from __future__ import annotations

import trio

from vmofs.core.pager import Pager
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.wire.commands import CommandKind
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.engine import Engine
from vmofs_mount.pagers.answers_file import AnswersFile
from vmofs_mount.pagers.delivery import DEFAULT_PORT
from vmofs_mount.pagers.fifos import Fifos
from vmofs_mount.pagers.forgotten_names import ForgottenNames
from vmofs_mount.pagers.known_pagers import KnownPagers
from vmofs_mount.pagers.pager_directory import PagerCommandFile, PagerDirectory
from vmofs_mount.pagers.supply_tree import SupplyDirectory, SupplyRealm
from vmofs_mount.rights.identity import can_open_inodes
from vmofs_mount.tree.inodes import Directory, Fifo, Node, VmoFile
from vmofs_mount.tree.text_file import TextFile
from vmofs_mount.tree.tree import Tree

PAGER_COMMANDS = (
    CommandKind.CREATE_VMO,
    CommandKind.SERVE_DIRECTORY,
    CommandKind.SUPPLY_PAGES,
    CommandKind.DETACH_VMO,
    CommandKind.OP_RANGE,
    CommandKind.EVICT,
    CommandKind.MARK,
    CommandKind.QUERY_DIRTY_RANGES,
    CommandKind.QUERY_VMO_STATS,
)

_PAGER_SETTLE_SECONDS = 0.02
_REST_PER_WAIT = 9
"""Waiting before pagers are removed takes a tenth of the time at most. Who is late to open a FIFO is let go as well."""


class Pagers:
    """Makes and ends the pagers of a mount; ``known`` are those that there are.

    ``vmo`` is the directory that they see in ``supply/``.
    """

    def __init__(
        self,
        known: KnownPagers,
        fifos: Fifos,
        forgotten: ForgottenNames,
        vmo: Directory,
        tree: Tree,
        engine: Engine,
    ) -> None:
        self.fifos = fifos
        self._known = known
        self._forgotten = forgotten
        self._vmo = vmo
        self._tree = tree
        self._engine = engine
        self._may_wait_at = 0.0  # before a pager is removed

    def controller_of(self, file: VmoFile) -> int:
        """Return who answers for the pages of a file: the owner of its pager, or of the file if it has none."""
        return self._known.controller_of(file)

    def open(self, directory: Directory, caller: Caller) -> None:
        """Make a pager out of a new directory, with files that belong to the caller."""
        system = self._engine.system
        core_pager = Pager(system, self._vmo_freed)
        core_pager.owner = directory
        supply = SupplyRealm(self._tree, self._vmo, core_pager)
        pager = PagerDirectory(directory, core_pager, system, supply, self._known.deadlines)
        self._known.add(pager)
        uid, gid = caller.uid, directory.gid
        requests = Fifo(0o600, uid, gid, builtin=True)
        self._tree.add(directory, DEFAULT_PORT.encode(), requests)
        self._add_fifo(pager, requests, pager.ports.default)
        for kind in PAGER_COMMANDS:
            self._tree.add(directory, kind.value.encode(), PagerCommandFile(0o600, uid, gid, kind, pager))
        self._tree.add(directory, b"supply", SupplyDirectory(0o700, uid, gid, supply, self._vmo))
        self._tree.add(directory, b"answers", AnswersFile(0o600, uid, gid, core_pager))
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
            pager = self._known.of_file(file)
            if pager is not None:
                self._forgotten.forget_soon(pager.directory, pager.supply.names(file))
            self._tree.let_go(file)

    def add_fifo(self, directory: Directory, fifo: Fifo) -> None:
        """Make another port out of a FIFO that was made in a pager's directory."""
        pager = self._known.of_directory(directory)
        assert pager is not None
        self._add_fifo(pager, fifo, Port(self._engine.system), pager.ports.default)

    def _add_fifo(self, pager: PagerDirectory, fifo: Fifo, *ports: Port) -> None:
        self._known.add_ports(ports, pager.ports)
        self.fifos.add(fifo, ports, pager.ports)

    async def prepare_removal(self, node: Node) -> None:
        """Do what may wait before a FIFO or a pager goes."""
        pager = self._known.of_directory(node) if isinstance(node, Directory) else None
        if isinstance(node, Fifo):
            await self.fifos.wait_settled([node])
        elif pager is not None:
            # All have their pagers in ``control/``, which is locked meanwhile: who removes one after the other would
            # keep it locked for good.
            began = trio.current_time()
            fifos = [lane.node for lane in pager.ports.fifos.values()]
            if not can_open_inodes():
                await self.fifos.wait_settled(fifos)
            elif began >= self._may_wait_at:
                await self.fifos.wait_settled(fifos, _PAGER_SETTLE_SECONDS)
                ended = trio.current_time()
                self._may_wait_at = ended + _REST_PER_WAIT * (ended - began)
            await self._close_slowly(pager)

    async def _close_slowly(self, pager: PagerDirectory) -> None:
        """Close the core's pager: it may have very many VMOs, and they very many who wait."""
        access = Access(pager.pager.close_steps())
        if not await self._engine.start_patiently(access):
            await self._engine.wait(access)

    def remove_fifo(self, fifo: Fifo) -> None:
        """End a FIFO that lost its name: its readers see the end of the stream. Its VMOs' requests wait."""
        self.fifos.let_late_ones_go(fifo)
        lane = self.fifos.end(fifo)
        pager = None if fifo.parent is None else self._known.of_directory(fifo.parent)
        if lane is not None and pager is not None:
            pager.ports.fifos = {name: known for name, known in pager.ports.fifos.items() if known is not lane}
            self._known.forget_ports(*(port for port in lane.ports if port is not pager.ports.default))

    def remove(self, directory: Directory) -> None:
        """Close a pager whose directory is about to go."""
        pager = self._known.of_directory(directory)
        assert pager is not None
        self._close(pager)
        pager.supply.close()
        names = [(directory.ino, name) for name in directory.children]
        self._forgotten.forget_soon(directory, names + list(pager.supply.names()))

    def _close(self, pager: PagerDirectory) -> None:
        """Close a pager: its waiters get BAD_STATE, what is present stays readable."""
        self._known.discard(pager)
        for lane in pager.ports.fifos.values():
            self.fifos.end(lane.node)
        with self._engine.change():
            pager.pager.close()

    def close_all(self) -> None:
        """Close every pager: the mount is going down."""
        for pager in list(self._known):
            self._close(pager)

    def check(self) -> None:
        """Assert the invariants of all pagers, and that every FIFO has its lane."""
        self._known.check()
        assert all(lane.node in self.fifos for pager in self._known for lane in pager.ports.fifos.values())

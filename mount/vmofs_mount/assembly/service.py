"""The running mount: puts the parts together behind the layout's seams, and ends all waits when it goes down."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import trio

from vmofs.core.pages.frames import FrameRun
from vmofs.core.requests.access import Access
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError
from vmofs.units import ALL_PAGES, PAGE_SIZE, PageRange, page_count
from vmofs.wire.commands import CommandKind
from vmofs.wire.metrics import format_labelled_metrics, format_metrics
from vmofs_mount.cache.direct_writes import DirectWrites
from vmofs_mount.cache.mapped_stores import MappedStores
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.commands.pager_commands import Commands, PagerCommands, vmo_of
from vmofs_mount.commands.vmo_commands import VmoCommands
from vmofs_mount.files.command_file import CommandHandle
from vmofs_mount.files.open_files import TextHandle
from vmofs_mount.files.vmo_file import OpenVmos, VmoHandle
from vmofs_mount.linux.mountinfo import Place
from vmofs_mount.linux.procfs import thread_group
from vmofs_mount.loop.engine import Engine
from vmofs_mount.loop.slices import Slices
from vmofs_mount.loop.timeouts import Ageing
from vmofs_mount.loop.trim import Idleness
from vmofs_mount.observe.dirty import Dirty
from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.pagers.delivery import CLOSE_SECONDS
from vmofs_mount.pagers.fifo_threads import attaching_threads
from vmofs_mount.pagers.registry import Pagers
from vmofs_mount.pagers.supply_tree import SupplyFile, SupplyHandle
from vmofs_mount.rights.identity import Identity
from vmofs_mount.rights.resolver import Names
from vmofs_mount.rights.set_id import drop_privileges
from vmofs_mount.tree.inodes import AuxFile, CommandFile, Directory, Fifo, TextFile, VmoFile
from vmofs_mount.waits.listers import Listers
from vmofs_mount.waits.self_deadlock import Deadlocks, PagerFiles, SelfDeadlockError

if TYPE_CHECKING:
    from vmofs.core.requests.system import System
    from vmofs_mount.assembly.layout import Layout
    from vmofs_mount.front.session import Session
    from vmofs_mount.linux.caller import Caller

_log = logging.getLogger(__name__)

_COMMANDS = (
    CommandKind.VMO_CREATE,
    CommandKind.VMO_CREATE_CHILD,
    CommandKind.VMO_OP_RANGE,
    CommandKind.VMO_SET_STREAM_SIZE,
    CommandKind.VMO_PIN,
)


STORE_SECONDS = 1.0
"""How long an open for writing waits for a store into the page cache: one that a waiting READ holds up is undone."""

_LOGGED_CHARACTERS = 500
"""Of a command in ``control/log``: a line may be 64 KiB long."""


class Service:
    """The parts of one mount at work. Must be made inside the event loop; tasks run in the session's nursery."""

    def __init__(
        self,
        system: System,
        layout: Layout,
        session: Session,
        *,
        warn: float,
        deadline: float,
        max_deadline: float,
        stall: float | None,
    ) -> None:
        self.system = system
        self.log = EventLog()
        self._layout = layout
        self._handles = session.handles
        nursery, place = session.nursery, Place.of(session.mountpoint)
        self._slices = Slices(nursery.start_soon, lambda: session.turns.requests)
        self.engine = Engine(system, self._kick, self._stale, session.turns, self._slices)
        kernel = session.kernel
        controller_of = lambda file: self.pagers.controller_of(file)  # noqa: E731, PLW0108 - they are made below
        self.cache = PageCache(kernel, system.frames, nursery.start_soon, controller_of)
        self._stores = MappedStores(self.cache)
        self._direct_writes = DirectWrites(self.cache)
        self.opened = OpenVmos(
            self.engine,
            self.cache,
            nursery.start_soon,
            place,
            layout.tree.modified,
            layout.limits,
            self._stores,
            self._direct_writes,
            self._content_changed,
        )
        self.pagers: Pagers = Pagers(
            layout.tree,
            layout.vmo,
            self.engine,
            place,
            kernel,
            nursery,
            deadline=deadline,
            max_deadline=max_deadline,
        )
        names = self._names = Names(layout.tree, place)
        self._pager_commands = PagerCommands(self.engine, names, self.pagers, self.cache, self.opened, self._stores)
        self._commands = Commands(
            self.engine,
            self.cache,
            self._pager_commands.methods,
            VmoCommands(self.engine, names, self.cache, self._stores).methods,
        )
        self._spawn = nursery.start_soon
        self._will_settle = False
        if system.eviction is not None:
            system.frames.reclaim = self._reclaim
        self._plug_in()
        ageing = Ageing(
            self.engine,
            self.log,
            warn,
            self.pagers.deadline_of,
            self.pagers.shortest_deadline,
            stall,
            self.pagers.deliver_again,
        )
        nursery.start_soon(ageing.run)
        deadlocks = Deadlocks(system, place.minor, self._pager_files, self._end_deadlock)
        nursery.start_soon(deadlocks.run)
        shared = (layout.tree.root, layout.vmo, layout.aux, layout.control)
        listers = Listers(system, place.minor, shared, self.opened.directories, self._end_listing)
        nursery.start_soon(listers.run)
        nursery.start_soon(Idleness(system.frames, session.turns).run)

    def _plug_in(self) -> None:
        seams = self._layout.seams
        seams.openers[VmoFile] = self._open_vmo
        seams.openers[CommandFile] = self._open_command
        seams.openers[TextFile] = self._open_text
        seams.openers[SupplyFile] = self._open_supply
        seams.opened_to_write = lambda file: self.cache.wait_stored(file, STORE_SECONDS)
        seams.releasers[VmoFile] = self._release_vmo
        seams.releasers[Fifo] = self.pagers.remove_fifo
        seams.releasers[Directory] = self.pagers.directory_removed
        seams.make_vmo = self._pager_commands.make_vmo
        seams.vmo_set_size = self._set_size
        seams.content_changed = self._content_changed
        seams.shown_elsewhere = self._shown_elsewhere
        seams.written_directly = self._direct_writes.written
        seams.aux_set_size = self._set_aux_size
        seams.releasers[AuxFile] = self._release_aux
        seams.computed_xattrs[VmoFile] = _vmo_xattrs
        seams.on_fifo_lookup = self._looked_up
        seams.open_pager = self.pagers.open
        seams.before_removal = self.pagers.prepare_removal
        seams.close_pager = self.pagers.remove
        seams.add_fifo = self.pagers.add_fifo
        tree, control = self._layout.tree, self._layout.control
        for name, file in {
            b"stats": TextFile(0o444, control.uid, control.gid, self._stats_text, personal=self._user_stats_text),
            b"log": TextFile(0o400, control.uid, control.gid, self.log.text),
        }.items():
            tree.add(control, name, file)
        for kind in _COMMANDS:  # whom they may be used on is decided by the rights on the files that are named
            tree.add(control, kind.value.encode(), CommandFile(0o666, control.uid, control.gid, kind))

    def _reclaim(self, pages: int, spared: Iterable[FrameRun]) -> None:
        """Evict pages, and soon drop them from the page cache: who wants memory need not have anything to settle."""
        self.system.reclaim(pages, spared)
        if not self._will_settle:
            self._will_settle = True
            self._spawn(self._settle_soon)

    async def _settle_soon(self) -> None:
        self._will_settle = False
        self.engine.settle()

    def _pager_files(self, access: Access[object]) -> PagerFiles | None:
        waiter = access.waits_for
        request = None if waiter is None else waiter.request
        return None if request is None else self.pagers.files_of(request.source.port, self._handles.nodes())

    def _end_deadlock(self, access: Access[object], error: SelfDeadlockError) -> None:
        self.log.add("deadlock", str(error))
        self.engine.abort(access, error)

    def _end_listing(self, access: Access[object], error: BadStateError) -> None:
        self.log.add("listing", str(error))
        self.engine.abort(access, error)

    def _kick(self, port: object) -> None:
        self.pagers.kick(port)  # type: ignore[arg-type]

    def _open_vmo(self, file: VmoFile, flags: int, caller: Caller) -> VmoHandle:
        file.maybe_cached = True
        return VmoHandle(file, flags, caller, self.opened)

    def _open_command(self, file: CommandFile, flags: int, caller: Caller) -> CommandHandle:
        limits = self._layout.limits
        return CommandHandle(file, flags, caller, self._commands.execute, self._log_command, limits, self._slices)

    def _open_text(self, file: TextFile, flags: int, caller: Caller) -> TextHandle:
        return TextHandle(file, flags, caller, self._layout.limits, self._slices)

    def _open_supply(self, file: SupplyFile, flags: int, caller: Caller) -> SupplyHandle:
        return SupplyHandle(file, flags, caller, self._names, self._pager_commands.supplied)

    def _stale(self, owner: object, pages: list[PageRange]) -> None:
        file = owner.owner  # type: ignore[attr-defined] # every object of the core has one
        if isinstance(file, VmoFile | AuxFile):
            self.cache.drop(file, pages)

    def _log_command(self, handle: CommandHandle, line: str, result: str) -> None:
        shown = line.strip()
        if len(shown) > _LOGGED_CHARACTERS:
            shown = f"{shown[:_LOGGED_CHARACTERS]}..."
        self.log.add("command", f"uid={handle.identity.uid} {handle.file.path} {shown} -> {result}")

    def _content_changed(self, file: VmoFile | AuxFile, caller: Caller, own: bool) -> None:
        def keeps() -> bool:
            return Identity.of_process(caller.uid, caller.gid, caller.pid).keeps_set_id

        drop_privileges(file, keeps, self.cache.mode_changed, own=own)

    async def _shown_elsewhere(self, file: AuxFile) -> None:
        """Let those see what has become of an aux who know it by another name."""
        self.cache.size_changed(file.aux)
        self.engine.settle()
        await self.cache.wait_dropped_everywhere(file.aux, DROP_SECONDS, but=file)

    async def _bring_in_for_size(self, file: VmoFile | AuxFile, size_bytes: int) -> None:
        """Bring in what was stored by other names of the memory: of this one the kernel holds it back, and cuts it."""
        vmo = vmo_of(file)
        first = min(size_bytes, file.size_bytes) // PAGE_SIZE
        await self._stores.bring_in(vmo, PageRange(first, vmo.size_pages), but=file)

    async def _set_size(self, file: VmoFile, size_bytes: int, thread: int) -> None:
        await self._bring_in_for_size(file, size_bytes)
        self.cache.size_changed(file.vmo)  # while this waits for a pager, the size has changed already
        process = thread_group(thread)
        try:
            await self.opened.run_unless_killed(file.vmo.set_size(size_bytes), process, file)
        finally:
            self.cache.size_changed(file.vmo)
        await self.cache.wait_dropped_everywhere(file.vmo, DROP_SECONDS, but=file)
        await self.opened.wait_until_unread(file, process)  # last: none may begin before the answer
        self.opened.reads.size_answered(file, thread)

    async def _set_aux_size(self, file: AuxFile, size_bytes: int) -> None:
        await self._bring_in_for_size(file, size_bytes)
        access = Access(file.aux.set_size_steps(size_bytes))
        if not await self.engine.start_patiently(access):
            await self.engine.wait(access)
        access.result()
        file.note_changed(PageRange(page_count(size_bytes), ALL_PAGES.end))
        if file.aux.node.windows:
            await self._shown_elsewhere(file)

    def _release_aux(self, file: AuxFile) -> None:
        file.aux.close()
        self.engine.settle()

    def _release_vmo(self, file: VmoFile) -> None:
        if file.vmo is not None:
            file.vmo.close()
            if file.pager is not None and file.vmo in file.pager.vmos:  # it has children, which go on asking for pages
                self._layout.tree.keep(file)
            self.engine.settle()

    async def _looked_up(self, fifo: Fifo, thread: int) -> None:
        if thread not in attaching_threads:
            let_go = self.pagers.looked_up(fifo)
            if let_go is not None:
                with trio.move_on_after(CLOSE_SECONDS):
                    await let_go.wait()

    def _stats_text(self) -> Iterator[str]:
        dirty = Dirty(0, 0)
        for counted in self.pagers.count_dirty():
            dirty = counted
            yield ""
        system = self.system.statistics()
        frames = asdict(system.frames)
        values = {
            "frames_used": frames["used"],
            "frames_peak": frames["peak"],
            "frames_held": frames["held"],
            "frames_limit": frames["limit"] or 0,
            **({} if self.system.eviction is None else asdict(self.system.eviction.statistics())),
            "objects": system.objects,
            "requests_outstanding": system.requests_outstanding,
            "waiters": system.waiters,
            "nodes": self._layout.tree.node_count,
            "pagers": sum(1 for _ in self.pagers),
            "dirty_pages": dirty.pages,
            "dirty_vmos": dirty.vmos,
            "log_lines_total": self.log.lines_total,
            **self._layout.limits.statistics(),
            **{f"pagecache_{name}": value for name, value in asdict(self.cache.statistics()).items()},
        }
        yield format_metrics("vmofs", values)

    def _user_stats_text(self, asked_by: int) -> str:
        return format_labelled_metrics("vmofs", self._layout.limits.of_users(asked_by), "uid")

    def shut_down(self) -> Dirty:
        """End all waits with an error: the mount is going down. Return what the pagers have not written back."""
        dirty = self.pagers.dirty()
        self.pagers.close_all()
        self.engine.settle()
        return dirty

    def check(self) -> None:
        """Assert the invariants of all parts."""
        self.system.check()
        self._layout.tree.check()
        self._layout.limits.check(self._layout.tree.nodes())
        self.cache.check()
        self.opened.check()
        self.pagers.check()


def _vmo_xattrs(file: VmoFile) -> dict[bytes, bytes]:
    """Return key, options, state, and the page counts of a VMO or a child."""
    vmo = file.vmo
    counts = {f"{name}_pages": value for name, value in asdict(vmo.statistics()).items() if isinstance(value, int)}
    counts["size_pages"] = counts.pop("size_pages_pages", vmo.size_pages)
    counts["runs"] = counts.pop("runs_pages", 0)
    options = asdict(vmo.node.options) if isinstance(vmo, PagerVmo) else {"resizable": vmo.resizable}
    values = {
        "key": vmo.source.key,
        "state": vmo.source.state.value,
        "options": ",".join(name for name, is_set in options.items() if is_set),
        "children": vmo.lineage.num_children,
        **counts,
    }
    return {name.encode(): str(value).encode() for name, value in values.items()}

"""Carrying out the commands of a pager's directory, in Zircon's order of checks; and finding who carries out which."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

from vmofs.core.pager import Pager, PagerOp, Vmo, check_page_aligned
from vmofs.core.port import Port
from vmofs.core.vmo import VmoOptions
from vmofs.status import AccessDeniedError, BadStateError, NotSupportedError, OutOfRangeError, Status, VmoError
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.wire.commands import (
    Command,
    CreateVmo,
    DetachVmo,
    Evict,
    OpRange,
    QueryDirtyRanges,
    QueryVmoStats,
    ServeDirectory,
    SupplyPages,
)
from vmofs.wire.names import quote
from vmofs.wire.results import format_dirty_ranges, format_done, format_result, format_vmo_stats
from vmofs_mount.caller import Caller
from vmofs_mount.control import CommandHandle, Waiting
from vmofs_mount.engine import Engine
from vmofs_mount.names import Names
from vmofs_mount.nodes import AuxFile, Directory, VmoFile
from vmofs_mount.pagecache import DROP_SECONDS, PageCache
from vmofs_mount.pagers import PagerDirectory, Pagers
from vmofs_mount.vmo_handle import OpenVmos

_MAX_CHECKED_BYTES = 2**28
"""Others wait while a sum is made: 0.1 s for this many."""

OK = format_result(Status.OK)


@dataclass(frozen=True, slots=True)
class ServedDirectory:
    """What files become that are made in a directory of ``vmo/``. A directory keeps no pager alive that was closed."""

    pager: ReferenceType[PagerDirectory]
    port: Port
    options: VmoOptions


Method = Callable[[Any, CommandHandle], Awaitable[str | Waiting]]


class Commands:
    """Carries out commands by the methods of several parts."""

    def __init__(self, engine: Engine, *parts: dict[type[Command], Method]) -> None:
        self._engine = engine
        self._methods = {command: method for part in parts for command, method in part.items()}

    async def execute(self, command: Command, handle: CommandHandle) -> str | Waiting:
        """Carry out one command and return its result text, or what remains to be waited for.

        Raises:
            VmoError: it failed.
        """
        try:
            return await self._methods[type(command)](command, handle)
        finally:
            self._engine.settle()


class PagerCommands:
    """The commands by which a pager answers for its VMOs."""

    def __init__(self, engine: Engine, names: Names, pagers: Pagers, cache: PageCache, opened: OpenVmos) -> None:
        self._engine = engine
        self._names = names
        self._pagers = pagers
        self._cache = cache
        self._opened = opened
        self.methods: dict[type[Command], Method] = {
            CreateVmo: self._create_vmo,
            ServeDirectory: self._serve_directory,
            SupplyPages: self._supply_pages,
            DetachVmo: self._detach_vmo,
            OpRange: self._op_range,
            Evict: self._evict,
            QueryDirtyRanges: self._query_dirty_ranges,
            QueryVmoStats: self._query_vmo_stats,
        }

    async def _create_vmo(self, command: CreateVmo, handle: CommandHandle) -> str:
        pager = _pager_directory_of(handle)
        port = pager.port(command.port)
        parent, name = await self._names.new_name(handle, command.vmo, "vmo")
        options = VmoOptions(
            command.resizable, command.trap_dirty, command.unbounded, command.writeback, command.noevict
        )
        permissions = 0o644 if command.mode is None else command.mode
        file = VmoFile(
            permissions & ~handle.identity.umask, handle.identity.uid, handle.identity.gid, None, pager.pager
        )
        self._names.add(parent, name, file, command.vmo)
        try:
            key = self._pagers.new_key() if command.key is None else Key(command.key)
            file.vmo = pager.pager.create_vmo(port, key, command.size, options)
        except VmoError:
            self._names.discard(file)
            raise
        file.vmo.owner = file.vmo.source.owner = file
        return OK

    async def _serve_directory(self, command: ServeDirectory, handle: CommandHandle) -> str:
        pager = _pager_directory_of(handle)
        port = pager.port(command.port)
        directory = await self._names.directory(handle, command.directory, "vmo")
        # What others make there, and the names below, become this pager's business: as with the sticky bit, that
        # they may write there is not enough.
        if not (handle.identity.overrides or handle.identity.uid == directory.uid):
            raise AccessDeniedError(f"only its owner may have {quote(command.directory)} served")
        options = VmoOptions(resizable=True, trap_dirty=command.trap_dirty, writeback=command.writeback)
        directory.default_pager = ServedDirectory(ref(pager), port, options)
        return OK

    def make_vmo(self, parent: Directory, mode: int, caller: Caller) -> VmoFile:
        """Make an empty VMO for a file that is made in a directory that a pager serves.

        Raises:
            BadStateError: the pager was closed.
        """
        served: ServedDirectory = parent.default_pager
        directory = served.pager()
        if directory is None:
            raise BadStateError("the pager is closed")
        pager = directory.pager
        vmo = pager.create_vmo(served.port, self._pagers.new_key(), 0, served.options)
        file = VmoFile(mode, caller.uid, caller.gid, vmo, pager)
        vmo.owner = vmo.source.owner = file
        return file

    async def _supply_pages(self, command: SupplyPages, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        check_page_aligned(offset=command.offset, length=command.length, aux_offset=command.aux_offset)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        source = await self._names.file(handle, command.aux, os.R_OK | os.W_OK)
        if command.xxh3 is not None and command.length > _MAX_CHECKED_BYTES:
            raise OutOfRangeError(f"length {command.length} is above {_MAX_CHECKED_BYTES}, the most with a checksum")
        if source.uid != file.uid:
            handle.limits.reserve(file, min(command.length, source.committed_pages * PAGE_SIZE))
        access = pager.supply_pages_access(
            file.vmo, command.offset, command.length, vmo_of(source), command.aux_offset, command.xxh3
        )

        async def finish() -> str:
            await self._engine.wait(access)
            await self.supplied(file, access.result())
            return format_done(await self._cache.wait_dropped(source, DROP_SECONDS))

        # Only a clone of a pager VMO as aux has to wait, for what it has to fetch from its own pager.
        return await finish() if self._engine.start(access) else finish

    async def supplied(self, file: VmoFile, filled: list[PageRange]) -> None:
        """Act on newly filled pages: who waits is answered first, the other pages go to the page cache."""
        self._engine.settle()
        self._opened.supplied(file, filled)
        self._cache.supplied(file, filled)
        await self._engine.answer_first()

    async def _op_range(self, command: OpRange, handle: CommandHandle) -> str:
        pager = _pager_of(handle)
        check_page_aligned(offset=command.offset, length=command.length)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        if command.op is None:
            raise NotSupportedError(f"there is no operation {quote(command.op_text)}")
        if PagerOp(command.op) is PagerOp.DIRTY:
            handle.limits.reserve_range(file, command.length)  # zeros get memory
        pager.op_range(PagerOp(command.op), file.vmo, command.offset, command.length, command.data)
        self._engine.settle()
        if (
            PagerOp(command.op) is PagerOp.WRITEBACK_END
        ):  # zeros became absent: who still sees them sees what was written
            await self._cache.wait_dropped_everywhere(file.vmo, DROP_SECONDS)
        return OK

    async def _detach_vmo(self, command: DetachVmo, handle: CommandHandle) -> str:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        pager.detach_vmo(file.vmo)
        self._engine.settle()
        return format_done(await self._cache.wait_dropped_everywhere(file.vmo, DROP_SECONDS))

    async def _evict(self, command: Evict, handle: CommandHandle) -> str:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        dropped = pager.evict(file.vmo, command.offset, command.length)
        self._engine.settle()
        held = await self._cache.wait_dropped_everywhere(file.vmo, DROP_SECONDS)
        return format_done(held, f"pages={sum(pages.pages for pages in dropped)}")

    async def _query_dirty_ranges(self, command: QueryDirtyRanges, handle: CommandHandle) -> str:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.R_OK, pager)
        records = pager.query_dirty_ranges(file.vmo, command.offset, command.length)
        return format_dirty_ranges((pages.offset, pages.length, is_zero) for pages, is_zero in records)

    async def _query_vmo_stats(self, command: QueryVmoStats, handle: CommandHandle) -> str:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.R_OK, pager)
        return format_vmo_stats(modified=pager.query_vmo_stats(file.vmo, reset=command.reset))

    async def _file(self, handle: CommandHandle, path: str, mode: int, pager: Pager) -> VmoFile:
        """Return the file of a VMO of this pager.

        Raises:
            InvalidArgsError: it is another's, or what ``Names.file`` raises.
        """
        file = await self._names.file(handle, path, mode)
        pager.check_vmo(vmo_of(file))
        assert isinstance(file, VmoFile)
        return file


def _pager_directory_of(handle: CommandHandle) -> PagerDirectory:
    pager = handle.file.pager
    assert isinstance(pager, PagerDirectory)
    return pager


def _pager_of(handle: CommandHandle) -> Pager:
    return _pager_directory_of(handle).pager


def vmo_of(file: VmoFile | AuxFile) -> Vmo:
    """Return what a file is in the core."""
    vmo: Vmo = file.aux if isinstance(file, AuxFile) else file.vmo
    return vmo

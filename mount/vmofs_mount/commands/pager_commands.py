"""Carrying out the commands of a pager's directory, in Zircon's order of checks; and finding who carries out which."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import ReferenceType, ref

from vmofs.core.pager import Pager, Vmo, check_page_aligned
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import AccessDeniedError, BadStateError, NotSupportedError, OutOfRangeError, Status, VmoError
from vmofs.units import ALL_PAGES, Key, PageRange
from vmofs.vocabulary import DirtyRange
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
from vmofs.wire.results import add_held, format_dirty_range_lines, format_result, format_vmo_stats
from vmofs_mount.cache.mapped_stores import MappedStores, may_have_stores
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.files.command_file import CommandHandle, Waiting
from vmofs_mount.files.vmo_file import OpenVmos
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.engine import Engine
from vmofs_mount.pagers.registry import PagerDirectory, Pagers
from vmofs_mount.rights.resolver import Names
from vmofs_mount.rights.set_id import SET_ID, drop_privileges
from vmofs_mount.tree.inodes import AuxFile, Directory, VmoFile

_MAX_CHECKED_BYTES = 2**25
"""Others wait while a sum is made, and all moves at one moment: 15 ms for this many."""

_PATIENCE_SECONDS = 10.0
"""How long a command is carried out, slice by slice, before its result comes later. Only its pager's file is locked."""

_PIECES = 100
"""Ranges that are dealt with in one go, in a part of a millisecond."""

T = TypeVar("T")

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

    def __init__(self, engine: Engine, cache: PageCache, *parts: dict[type[Command], Method]) -> None:
        self._engine = engine
        self._cache = cache
        self._methods = {command: method for part in parts for command, method in part.items()}

    async def execute(self, command: Command, handle: CommandHandle) -> str | Waiting:
        """Carry out one command and return its result text, or what remains to be waited for.

        It is answered, whatever the answer, when what it changed or took of the files that it names has gone from the
        page cache, as far as nobody owes that: whoever reads then sees it. Otherwise the answer says ``held=N``, of the
        file that it took pages from; but not of a VMO that is being written back, whose zeros became absent: whoever
        still sees them sees what was written.

        Raises:
            VmoError: it failed.
        """
        named: list[VmoFile | AuxFile] = []
        handle.named = named
        held = 0
        try:
            result = await self._methods[type(command)](command, handle)
        finally:
            self._engine.settle()
            if self._cache.is_behind:
                held = await self._wait_dropped(named)
        if not isinstance(result, str):
            return partial(self._rest, named, result)
        return result if isinstance(command, OpRange) else add_held(result, held)

    async def _rest(self, named: list[VmoFile | AuxFile], rest: Waiting) -> str:
        held = 0
        try:
            result = await rest()
        finally:
            self._engine.settle()
            held = await self._wait_dropped(named)
        return add_held(result, held)

    async def _wait_dropped(self, files: list[VmoFile | AuxFile]) -> int:
        """Wait for all files, and return what is left of the last: of a supply that is the aux."""
        held = 0
        for file in files:
            held = await self._cache.wait_dropped_everywhere(vmo_of(file), DROP_SECONDS)
        return held


class PagerCommands:
    """The commands by which a pager answers for its VMOs."""

    def __init__(
        self,
        engine: Engine,
        names: Names,
        pagers: Pagers,
        cache: PageCache,
        opened: OpenVmos,
        stores: MappedStores,
    ) -> None:
        self._engine = engine
        self._names = names
        self._pagers = pagers
        self._cache = cache
        self._opened = opened
        self._stores = stores
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
            account = handle.limits.account(file.uid)
            file.vmo = pager.pager.create_vmo(port, key, command.size, options, account)
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
        account = self._opened.limits.account(caller.uid)
        vmo = pager.create_vmo(served.port, self._pagers.new_key(), 0, served.options, account)
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
        if may_have_stores(source):
            await self._stores.bring_in(vmo_of(source), PageRange.of_bytes(command.aux_offset, command.length))
        access = pager.supply_pages_access(
            file.vmo, command.offset, command.length, vmo_of(source), command.aux_offset, command.xxh3
        )

        if source.mode & SET_ID or vmo_of(source).node.windows:
            drop_privileges(source, lambda: handle.identity.keeps_set_id, self._cache.mode_changed, own=True)

        async def finish() -> str:
            await self._engine.wait(access)
            await self.supplied(file, access.result())
            return OK

        # Only a clone of a pager VMO as aux has to wait, for what it has to fetch from its own pager.
        return await finish() if await self._engine.start_patiently(access, _PATIENCE_SECONDS) else finish

    async def _carry_out(self, access: Access[T], then: Callable[[T], Awaitable[str]]) -> str | Waiting:
        """Do something that does not wait for a pager, but may take long."""

        async def finish() -> str:
            await self._engine.wait(access)
            return await then(access.result())

        return await finish() if await self._engine.start_patiently(access, _PATIENCE_SECONDS) else finish

    async def supplied(self, file: VmoFile, filled: list[PageRange]) -> None:
        """Act on newly filled pages: who waits is answered first, the other pages go to the page cache."""
        self._engine.settle()
        work = self._engine.begin_work(file.uid)
        for first in range(0, len(filled), _PIECES) or (0,):
            if work.is_over:
                await work.rest()
            self._opened.supplied(file, filled[first : first + _PIECES])
            self._cache.supplied(file, filled[first : first + _PIECES])
        await self._engine.answer_first()

    async def _op_range(self, command: OpRange, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        check_page_aligned(offset=command.offset, length=command.length)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        if command.op is None:
            raise NotSupportedError(f"there is no operation {quote(command.op_text)}")
        steps = pager.op_range_steps(command.op, file.vmo, command.offset, command.length, command.data)
        return await self._carry_out(Access(steps), _done)

    async def _detach_vmo(self, command: DetachVmo, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        await self._stores.bring_in(file.vmo, ALL_PAGES)  # pages that are dirty stay
        return await self._carry_out(Access(pager.detach_steps(file.vmo)), _done)

    async def _evict(self, command: Evict, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        await self._stores.bring_in(file.vmo, PageRange.of_bytes(command.offset, command.length))

        async def then(dropped: list[PageRange]) -> str:
            return format_result(Status.OK, f"pages={sum(pages.pages for pages in dropped)}")

        return await self._carry_out(Access(pager.evict_steps(file.vmo, command.offset, command.length)), then)

    async def _query_dirty_ranges(self, command: QueryDirtyRanges, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.R_OK, pager)

        async def then(records: list[DirtyRange]) -> str:
            pieces, work = [], self._engine.begin_work(handle.identity.uid)
            for first in range(0, len(records), _PIECES):
                if work.is_over:
                    await work.rest()
                pieces.append(format_dirty_range_lines(records[first : first + _PIECES]))
            return format_result(Status.OK, str(len(records))) + "".join(pieces)

        steps = pager.query_dirty_ranges_steps(file.vmo, command.offset, command.length)
        return await self._carry_out(Access(steps), then)

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


async def _done(_result: object) -> str:
    return OK


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

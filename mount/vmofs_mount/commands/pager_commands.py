"""Carrying out the commands of a pager's directory, in Zircon's order of checks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from weakref import ref

from vmofs.core.pager import Pager, check_page_aligned
from vmofs.core.requests.access import Access
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import AccessDeniedError, NotSupportedError, OutOfRangeError, Status, VmoError
from vmofs.units import ALL_PAGES, Key, PageRange
from vmofs.vocabulary import DirtyRange
from vmofs.wire.commands import (
    Command,
    CreateVmo,
    DetachVmo,
    Evict,
    Mark,
    OpRange,
    QueryDirtyRanges,
    QueryVmoStats,
    ServeDirectory,
    SupplyPages,
)
from vmofs.wire.names import quote
from vmofs.wire.results import format_dirty_range_lines, format_result, format_vmo_stats
from vmofs_mount.cache.mapped_stores import MappedStores, may_have_stores
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.commands.execute import OK, Method
from vmofs_mount.files.command_file import CommandHandle, Waiting
from vmofs_mount.loop.engine import Engine
from vmofs_mount.pagers.answers import PATIENCE_SECONDS, Answers, Rest
from vmofs_mount.pagers.pager_directory import PagerCommandFile, PagerDirectory, ServedDirectory
from vmofs_mount.rights.resolver import Names
from vmofs_mount.rights.set_id import SET_ID, drop_privileges
from vmofs_mount.tree.inodes import SOURCE, VERSION, VmoFile, vmo_of
from vmofs_mount.tree.reading import Reading, check_block, check_readahead

_MAX_CHECKED_BYTES = 2**25
"""Others wait while a sum is made, and all moves at one moment: 15 ms for this many."""

_PIECES = 100
"""Ranges that are dealt with in one go, in a part of a millisecond."""

T = TypeVar("T")


class PagerCommands:
    """The commands by which a pager answers for its VMOs."""

    def __init__(
        self,
        engine: Engine,
        names: Names,
        cache: PageCache,
        stores: MappedStores,
        answers: Answers,
        reading: Reading,
    ) -> None:
        self._engine = engine
        self._names = names
        self._cache = cache
        self._stores = stores
        self._answers = answers
        self._reading = reading
        self._keys = map(Key, itertools.count(1))  # that VMOs are given by default
        self.methods: dict[type[Command], Method] = {
            CreateVmo: self._create_vmo,
            ServeDirectory: self._serve_directory,
            SupplyPages: self._supply_pages,
            DetachVmo: self._detach_vmo,
            OpRange: self._op_range,
            Evict: self._evict,
            Mark: self._mark,
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
        permissions &= ~handle.identity.umask
        reading = self._reading_of(command)
        file = VmoFile(permissions, handle.identity.uid, handle.identity.gid, pager=pager.pager, reading=reading)
        file.say(SOURCE, command.source)
        file.say(VERSION, command.version)
        self._names.add(parent, name, file, command.vmo)
        try:
            key = next(self._keys) if command.key is None else Key(command.key)
            account = handle.limits.account(file.uid)
            file.show(pager.pager.create_vmo(port, key, command.size, options, account))
        except VmoError:
            self._names.discard(file)
            raise
        return OK

    def _reading_of(self, command: CreateVmo) -> Reading:
        if command.readahead is None and command.blksize is None:
            return self._reading  # mostly: one for all
        return Reading(
            None if command.readahead is None else check_readahead(command.readahead),
            self._reading.block_bytes if command.blksize is None else check_block(command.blksize),
        )

    async def _serve_directory(self, command: ServeDirectory, handle: CommandHandle) -> str:
        pager = _pager_directory_of(handle)
        port = pager.port(command.port)
        directory = await self._names.directory(handle, command.directory, "vmo")
        # What others make there, and the names below, become this pager's business: as with the sticky bit, that
        # they may write there is not enough.
        if not (handle.identity.overrides or handle.identity.uid == directory.uid):
            raise AccessDeniedError(f"only its owner may have {quote(command.directory)} served")
        options = VmoOptions(resizable=True, trap_dirty=command.trap_dirty, writeback=command.writeback)
        directory.maker = ServedDirectory(ref(pager), port, options, self._keys, handle.limits, self._reading)
        return OK

    async def _supply_pages(self, command: SupplyPages, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        check_page_aligned(offset=command.offset, length=command.length, aux_offset=command.aux_offset)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        source = await self._names.file(handle, command.aux, os.R_OK | os.W_OK)
        if command.xxh3 is not None and command.length > _MAX_CHECKED_BYTES:
            raise OutOfRangeError(f"length {command.length} is above {_MAX_CHECKED_BYTES}, the most with a checksum")
        if may_have_stores(source):
            await self._stores.bring_in(vmo_of(source), PageRange.of_bytes(command.aux_offset, command.length))
        if source.mode & SET_ID or vmo_of(source).node.windows:
            drop_privileges(source, lambda: handle.identity.keeps_set_id, self._cache.mode_changed, own=True)
        rest = await self._answers.supply_pages(pager, file, vmo_of(source), command)
        return OK if rest is None else partial(_ok_after, rest)

    async def _carry_out(self, access: Access[T], then: Callable[[T], Awaitable[str]]) -> str | Waiting:
        """Do something that does not wait for a pager, but may take long."""

        async def finish() -> str:
            await self._engine.wait(access)
            return await then(access.result())

        return await finish() if await self._engine.start_patiently(access, PATIENCE_SECONDS) else finish

    async def _op_range(self, command: OpRange, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        check_page_aligned(offset=command.offset, length=command.length)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        if command.op is None:
            raise NotSupportedError(f"there is no operation {quote(command.op_text)}")
        rest = await self._answers.op_range(
            pager, file, command.op, command.offset, command.length, command.data, command.reason or ""
        )
        return OK if rest is None else partial(_ok_after, rest)

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

    async def _mark(self, command: Mark, handle: CommandHandle) -> str | Waiting:
        pager = _pager_of(handle)
        file = await self._file(handle, command.vmo, os.W_OK, pager)
        return await self._carry_out(Access(pager.mark_steps(file.vmo, command.offset, command.length)), _done)

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


async def _ok_after(rest: Rest) -> str:
    await rest()
    return OK


def _pager_directory_of(handle: CommandHandle) -> PagerDirectory:
    assert isinstance(handle.file, PagerCommandFile)
    return handle.file.of


def _pager_of(handle: CommandHandle) -> Pager:
    return _pager_directory_of(handle).pager

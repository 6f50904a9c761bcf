"""Carrying out commands: from parsed text to a call of the core and to its result text, in Zircon's order of checks."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from vmofs.core.pager import PagerOp, Vmo, check_page_aligned
from vmofs.core.vmo import VmoOptions
from vmofs.status import AlreadyExistsError, InvalidArgsError, NotSupportedError, Status, VmoError
from vmofs.units import Key, PageRange
from vmofs.wire.commands import Command, CreateVmo, DetachVmo, OpRange, SupplyPages
from vmofs.wire.names import quote
from vmofs.wire.results import format_result
from vmofs_mount.control import CommandHandle
from vmofs_mount.engine import Engine
from vmofs_mount.names import Names
from vmofs_mount.nodes import AuxFile, Directory, VmoFile
from vmofs_mount.pagecache import PageCache
from vmofs_mount.pagers import PagerDirectory, Pagers
from vmofs_mount.realms import adopt
from vmofs_mount.tree import Tree
from vmofs_mount.vmo_handle import OpenVmos

_DROP_SECONDS = 1.0
"""How long a command waits for the kernel to drop pages, which cannot take long once all readers have their error."""

OK = format_result(Status.OK)


class Commands:
    """Carries out every kind of command."""

    def __init__(
        self, tree: Tree, engine: Engine, names: Names, pagers: Pagers, cache: PageCache, opened: OpenVmos
    ) -> None:
        self._tree = tree
        self._engine = engine
        self._names = names
        self._pagers = pagers
        self._cache = cache
        self._opened = opened
        self._methods: dict[type[Command], Callable[[Any, CommandHandle], Awaitable[str]]] = {
            CreateVmo: self._create_vmo,
            SupplyPages: self._supply_pages,
            DetachVmo: self._detach_vmo,
            OpRange: self._op_range,
        }

    async def execute(self, command: Command, handle: CommandHandle) -> str:
        """Carry out one command and return its result text.

        Raises:
            VmoError: it failed.
        """
        method = self._methods.get(type(command))
        if method is None:
            raise NotSupportedError(f"{handle.kind} is not supported")
        try:
            return await method(command, handle)
        finally:
            self._engine.settle()

    async def _create_vmo(self, command: CreateVmo, handle: CommandHandle) -> str:
        pager = _pager_of(handle)
        port = pager.port(command.port)
        parent, name = await self._names.new_name(handle, command.vmo, "vmo")
        options = VmoOptions(command.resizable, command.trap_dirty, command.unbounded)
        mode = (0o644 if command.mode is None else command.mode) & ~handle.caller.umask
        file = VmoFile(mode, handle.identity.uid, handle.identity.gid, None, pager.pager)
        adopt(parent, file)
        self._add(parent, name, file, command.vmo)
        try:
            key = self._pagers.new_key() if command.key is None else Key(command.key)
            file.vmo = pager.pager.create_vmo(port, key, command.size, options)
        except VmoError:
            self._tree.discard(file)
            raise
        file.vmo.source.owner = file
        return OK

    def _add(self, parent: Directory, name: bytes, file: VmoFile | AuxFile, path: str) -> None:
        try:
            self._tree.add(parent, name, file)
        except FileExistsError:
            raise AlreadyExistsError(f"{quote(path)} exists") from None
        except OSError as error:
            raise InvalidArgsError(f"{quote(path)} cannot be made: {error.strerror}") from None

    async def _supply_pages(self, command: SupplyPages, handle: CommandHandle) -> str:
        pager = _pager_of(handle).pager
        check_page_aligned(offset=command.offset, length=command.length, aux_offset=command.aux_offset)
        file = await self._names.file(handle, command.vmo, os.W_OK)
        pager.check_vmo(_vmo_of(file))
        source = await self._names.file(handle, command.aux, os.R_OK | os.W_OK)
        aux = _vmo_of(source)
        committed = source.committed_pages
        try:
            filled = pager.supply_pages(
                _vmo_of(file), command.offset, command.length, aux, command.aux_offset, command.xxh3
            )
        finally:
            if source.committed_pages != committed:
                self._cache.drop(source, [PageRange.of_bytes(command.aux_offset, command.length)])
        assert isinstance(file, VmoFile)
        self._engine.settle()  # who waits is answered first
        self._opened.supplied(file, filled)
        self._cache.supplied(file, filled)
        await self._cache.wait_dropped(source, _DROP_SECONDS)
        return OK

    async def _op_range(self, command: OpRange, handle: CommandHandle) -> str:
        pager = _pager_of(handle).pager
        check_page_aligned(offset=command.offset, length=command.length)
        file = await self._names.file(handle, command.vmo, os.W_OK)
        op = None if command.op is None else PagerOp(command.op)
        if op is None:
            pager.check_vmo(_vmo_of(file))
            raise NotSupportedError(f"there is no operation {quote(command.op_text)}")
        pager.op_range(op, _vmo_of(file), command.offset, command.length, command.data)
        return OK

    async def _detach_vmo(self, command: DetachVmo, handle: CommandHandle) -> str:
        file = await self._names.file(handle, command.vmo, os.W_OK)
        stale = _pager_of(handle).pager.detach_vmo(_vmo_of(file))
        assert isinstance(file, VmoFile)
        self._engine.settle()
        self._cache.drop(file, stale)
        await self._cache.wait_dropped(file, _DROP_SECONDS)
        return OK


def _pager_of(handle: CommandHandle) -> PagerDirectory:
    pager = handle.file.pager
    assert isinstance(pager, PagerDirectory)
    return pager


def _vmo_of(file: VmoFile | AuxFile) -> Vmo:
    vmo: Vmo = file.aux if isinstance(file, AuxFile) else file.vmo
    return vmo

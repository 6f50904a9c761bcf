"""Carrying out the commands of ``control/``: what a user of a VMO, not its pager, does with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from vmofs.core import operations
from vmofs.core.pages.pins import Pin
from vmofs.core.requests.access import Access
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.status import AccessDeniedError, NotSupportedError, OutOfRangeError, VmoError
from vmofs.units import ALL_PAGES, MAX_VMO_BYTES, PAGE_SIZE, PageRange
from vmofs.vocabulary import ChildKind, VmoOp
from vmofs.wire.commands import Command, VmoCreate, VmoCreateChild, VmoOpRange, VmoPin, VmoSetStreamSize
from vmofs.wire.names import quote
from vmofs_mount.cache.mapped_stores import MappedStores
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.commands.execute import OK, Method
from vmofs_mount.files.command_file import CommandHandle, Waiting
from vmofs_mount.loop.engine import Engine
from vmofs_mount.rights.resolver import Names
from vmofs_mount.rights.set_id import drop_privileges
from vmofs_mount.tree.inodes import AuxFile, VmoFile, vmo_of
from vmofs_mount.tree.limits import Resource

T = TypeVar("T")

PIN_BYTES = 500
"""What one takes in memory, about."""

_RIGHTS = {VmoOp.PREFETCH: os.R_OK, VmoOp.ALWAYS_NEED: os.R_OK, VmoOp.DONT_NEED: os.R_OK}
"""Rights on the VMO, where it is not WRITE. Zircon: zx_vmo_op_range, which for the last two needs no right on a handle.

But who has a handle was given it, while a file can be found by anybody: he must not keep its pages from being evicted.
"""


_TAKING = {VmoOp.COMMIT, VmoOp.DECOMMIT, VmoOp.ZERO}
"""What changes content or copies it: what was stored through mappings must be there. The others bring pages in."""


class VmoCommands:
    """The commands that any user of a VMO may give."""

    def __init__(self, engine: Engine, names: Names, cache: PageCache, stores: MappedStores) -> None:
        self._engine = engine
        self._names = names
        self._cache = cache
        self._stores = stores
        self.methods: dict[type[Command], Method] = {
            VmoCreate: self._vmo_create,
            VmoCreateChild: self._vmo_create_child,
            VmoOpRange: self._vmo_op_range,
            VmoSetStreamSize: self._vmo_set_stream_size,
            VmoPin: self._vmo_pin,
        }

    async def _vmo_create(self, command: VmoCreate, handle: CommandHandle) -> str:
        parent, name = await self._names.new_name(handle, command.aux, "aux")
        if command.size > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {command.size} is above the largest VMO, {MAX_VMO_BYTES}")
        account = handle.limits.account(handle.identity.uid)
        aux = AuxVmo(self._engine.system, command.size, command.kind, resizable=command.resizable, account=account)
        file = AuxFile(0o644 & ~handle.identity.umask, handle.identity.uid, handle.identity.gid, aux)
        self._names.add(parent, name, file, command.aux)
        return OK

    async def _vmo_create_child(self, command: VmoCreateChild, handle: CommandHandle) -> str:
        kind = command.kind
        # Who writes into a slice or a reference writes into its parent; and an aux that has a child cannot be supplied
        # from, so whoever stages pages in it must not depend on those who may read it.
        writes_parent = kind in {ChildKind.SLICE, ChildKind.REFERENCE} and not command.no_write
        needs_write = writes_parent or command.parent.startswith("aux/")
        source = await self._names.file(handle, command.parent, os.R_OK | (os.W_OK if needs_write else 0))
        if writes_parent and vmo_of(source).no_write:
            raise AccessDeniedError(f"{quote(command.parent)} was made with no_write")
        is_aux = isinstance(source, AuxFile)
        directory, name = await self._names.new_name(handle, command.child, "aux" if is_aux else "vmo")
        await self._stores.bring_in(vmo_of(source), _shown(kind, command))
        child = create_child(
            vmo_of(source),
            kind,
            command.offset,
            command.size,
            no_write=command.no_write,
            resizable=command.resizable,
            account=handle.limits.account(handle.identity.uid),
        )
        # As cp does: what is private stays so. Its maker has it.
        permissions = (source.mode & 0o666 & ~handle.identity.umask) | 0o600
        permissions &= 0o444 if command.no_write else 0o666
        uid, gid = handle.identity.uid, handle.identity.gid
        file: AuxFile | VmoFile
        if isinstance(child, AuxVmo | AuxView):
            file = AuxFile(permissions, uid, gid, child)
        else:
            assert isinstance(source, VmoFile)
            file = VmoFile(permissions, uid, gid, child, reading=source.reading)
        self._names.add(directory, name, file, command.child)
        return OK

    async def _vmo_op_range(self, command: VmoOpRange, handle: CommandHandle) -> str | Waiting:
        file = await self._names.file(handle, command.vmo, _RIGHTS.get(command.op, os.W_OK))
        if command.op in _TAKING:
            await self._stores.bring_in(vmo_of(file), PageRange.of_bytes(command.offset, command.length))
        if command.op in {VmoOp.ZERO, VmoOp.DECOMMIT}:
            self._drop_privileges(handle, file)
        return await self._start(handle, operations.op_range(command.op, vmo_of(file), command.offset, command.length))

    def _drop_privileges(self, handle: CommandHandle, file: VmoFile | AuxFile) -> None:
        """Clear set-user-ID as a write does."""
        drop_privileges(file, lambda: handle.identity.keeps_set_id, self._cache.mode_changed, own=True)

    async def _vmo_set_stream_size(self, command: VmoSetStreamSize, handle: CommandHandle) -> str | Waiting:
        file = await self._names.file(handle, command.vmo, os.W_OK)
        if isinstance(file, AuxFile):
            raise NotSupportedError("an aux has no stream size: its size is exact")
        vmo = file.vmo
        await self._stores.bring_in(vmo, PageRange(min(command.size, vmo.stream_size) // PAGE_SIZE, vmo.size_pages))
        self._drop_privileges(handle, file)
        return await self._start(
            handle, vmo.set_stream_size(command.size), lambda _result: self._cache.size_changed(vmo)
        )

    async def _vmo_pin(self, command: VmoPin, handle: CommandHandle) -> str | Waiting:
        file = await self._names.file(handle, command.vmo, os.R_OK | os.W_OK)

        def keep(pin: Pin) -> None:
            if handle.released:
                pin.unpin()
            else:
                handle.on_release.append(pin.unpin)

        handle.hold(PIN_BYTES)
        if isinstance(file, AuxFile):
            return await self._start(handle, Access(file.aux.pin_steps(command.offset, command.length)), keep)
        return await self._start(handle, file.vmo.pin(command.offset, command.length), keep)

    async def _start(
        self,
        handle: CommandHandle,
        access: Access[T],
        then: Callable[[T], None] = lambda _result: None,
    ) -> str | Waiting:
        """Start a call on a VMO; return the result if it is finished, or what remains to be waited for."""
        limits, uid = handle.limits, handle.identity.uid

        async def wait() -> str:
            try:
                await self._engine.wait(access)
            finally:
                limits.give(Resource.REQUESTS, uid)
            then(access.result())
            return OK

        if not await self._engine.start_patiently(access):
            try:
                limits.take(Resource.REQUESTS, uid)
            except VmoError:
                access.cancel()
                raise
            return wait
        then(access.result())
        return OK


def _shown(kind: ChildKind, command: VmoCreateChild) -> PageRange:
    """Return the pages of its parent that a child shows when it is made."""
    return ALL_PAGES if kind is ChildKind.REFERENCE else PageRange.of_bytes(command.offset, command.size)

"""Carrying out the commands of ``control/``: what a user of a VMO, not its pager, does with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from vmofs.core import operations
from vmofs.core.access import Access
from vmofs.core.aux import AuxKind, AuxVmo
from vmofs.core.children import ChildKind, create_child
from vmofs.core.pins import Pin
from vmofs.status import AccessDeniedError, NotSupportedError, OutOfRangeError, VmoError
from vmofs.units import MAX_VMO_BYTES
from vmofs.wire.commands import Command, VmoCreate, VmoCreateChild, VmoOp, VmoOpRange, VmoPin, VmoSetStreamSize
from vmofs.wire.names import quote
from vmofs_mount.commands import OK, Method, vmo_of
from vmofs_mount.control import CommandHandle, Waiting
from vmofs_mount.engine import Engine
from vmofs_mount.limits import Resource
from vmofs_mount.names import Names
from vmofs_mount.nodes import AuxFile, VmoFile
from vmofs_mount.pagecache import DROP_SECONDS, PageCache

T = TypeVar("T")

PIN_BYTES = 500
"""What one takes in memory, about."""

_RIGHTS = {VmoOp.PREFETCH: os.R_OK, VmoOp.ALWAYS_NEED: os.R_OK, VmoOp.DONT_NEED: os.R_OK}
"""Rights on the VMO, where it is not WRITE. Zircon: zx_vmo_op_range, which for the last two needs no right on a handle.

But who has a handle was given it, while a file can be found by anybody: he must not keep its pages from being evicted.
"""


class VmoCommands:
    """The commands that any user of a VMO may give."""

    def __init__(self, engine: Engine, names: Names, cache: PageCache) -> None:
        self._engine = engine
        self._names = names
        self._cache = cache
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
        kind = AuxKind.PLAIN if command.kind is None else AuxKind(command.kind.value)
        account = handle.limits.account(handle.identity.uid)
        aux = AuxVmo(self._engine.system, command.size, kind, resizable=command.resizable, account=account)
        file = AuxFile(0o644 & ~handle.identity.umask, handle.identity.uid, handle.identity.gid, aux)
        self._names.add(parent, name, file, command.aux)
        return OK

    async def _vmo_create_child(self, command: VmoCreateChild, handle: CommandHandle) -> str:
        kind = ChildKind(command.kind.value)
        # Who writes into a slice or a reference writes into its parent; and an aux that has a child cannot be supplied
        # from, so whoever stages pages in it must not depend on those who may read it.
        writes_parent = kind in {ChildKind.SLICE, ChildKind.REFERENCE} and not command.no_write
        needs_write = writes_parent or command.parent.startswith("aux/")
        source = await self._names.file(handle, command.parent, os.R_OK | (os.W_OK if needs_write else 0))
        if writes_parent and getattr(vmo_of(source), "no_write", False):
            raise AccessDeniedError(f"{quote(command.parent)} was made with no_write")
        is_aux = isinstance(source, AuxFile)
        directory, name = await self._names.new_name(handle, command.child, "aux" if is_aux else "vmo")
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
        make = AuxFile if is_aux else VmoFile
        file = make(permissions, handle.identity.uid, handle.identity.gid, child)  # type: ignore[arg-type]
        child.owner = file
        self._names.add(directory, name, file, command.child)
        return OK

    async def _vmo_op_range(self, command: VmoOpRange, handle: CommandHandle) -> str | Waiting:
        file = await self._names.file(handle, command.vmo, _RIGHTS.get(command.op, os.W_OK))
        op = operations.VmoOp[command.op.name]
        if command.op is VmoOp.ZERO:
            self._drop_privileges(handle, file)
        return await self._start(handle, file, operations.op_range(op, vmo_of(file), command.offset, command.length))

    def _drop_privileges(self, handle: CommandHandle, file: VmoFile | AuxFile) -> None:
        """Clear set-user-ID as a write does: somebody else than root changes the content."""
        if handle.identity.uid != 0:
            file.drop_privileges()
            self._cache.attributes_changed(file)

    async def _vmo_set_stream_size(self, command: VmoSetStreamSize, handle: CommandHandle) -> str | Waiting:
        file = await self._names.file(handle, command.vmo, os.W_OK)
        if isinstance(file, AuxFile):
            raise NotSupportedError("an aux has no stream size: its size is exact")
        vmo = file.vmo
        self._drop_privileges(handle, file)
        return await self._start(
            handle, file, vmo.set_stream_size(command.size), lambda _result: self._cache.size_changed(vmo)
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
            steps = file.aux.pin_steps(command.offset, command.length)
            return await self._start(handle, file, Access(steps), keep)
        return await self._start(handle, file, file.vmo.pin(command.offset, command.length), keep)

    async def _start(
        self,
        handle: CommandHandle,
        file: VmoFile | AuxFile,
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
            await self._cache.wait_dropped_everywhere(vmo_of(file), DROP_SECONDS)
            return OK

        if not await self._engine.start_patiently(access):
            try:
                limits.take(Resource.REQUESTS, uid)
            except VmoError:
                access.cancel()
                raise
            return wait
        then(access.result())
        await self._cache.wait_dropped_everywhere(vmo_of(file), DROP_SECONDS)  # whoever reads now sees it
        return OK

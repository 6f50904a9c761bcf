"""Open aux files: writes, sizes, and what others see of them who know the same memory by another name."""

from __future__ import annotations

import os

from vmofs.core.requests.access import Access
from vmofs.status import NoMemoryError, NoSpaceError
from vmofs.units import ALL_PAGES, PAGE_SIZE, PageRange, page_count
from vmofs_mount.cache.direct_writes import DirectWrites
from vmofs_mount.cache.mapped_stores import MappedStores
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.files.open_files import Data, ReadHandle, content_changed
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.engine import Engine
from vmofs_mount.rights.set_id import SET_ID
from vmofs_mount.tree.inodes import AuxFile
from vmofs_mount.tree.tree import Tree


class AuxFiles:
    """What the open files of all auxes share."""

    def __init__(self, engine: Engine, cache: PageCache, stores: MappedStores, tree: Tree) -> None:
        self.cache = cache
        self.tree = tree
        self.direct_writes = DirectWrites(cache)
        self._engine = engine
        self._stores = stores

    async def set_size(self, file: AuxFile, size_bytes: int, caller: Caller) -> None:
        """Cut or extend an aux, for somebody.

        Raises:
            VmoError: it has a fixed size, or there is no memory.
        """
        await self._stores.bring_in_for_size(file, size_bytes)
        access = Access(file.aux.set_size_steps(size_bytes))
        if not await self._engine.start_patiently(access):
            await self._engine.wait(access)
        access.result()
        file.note_changed(PageRange(page_count(size_bytes), ALL_PAGES.end))
        if file.aux.node.windows:
            await self.shown_elsewhere(file)
        content_changed(self.cache, file, caller, own=False)
        self.tree.modified(file)

    async def shown_elsewhere(self, file: AuxFile) -> None:
        """Let those see what has become of an aux who know it by another name."""
        with self._engine.change():  # what was written is stale for them
            self.cache.size_changed(file.aux)
        await self.cache.wait_dropped_everywhere(file.aux, DROP_SECONDS, but=file)


class AuxHandle(ReadHandle):
    """An open aux file."""

    def __init__(
        self,
        node: AuxFile,
        flags: int,
        caller: Caller,
        auxes: AuxFiles,
    ) -> None:
        super().__init__(node, flags, caller)
        self.file = node
        self._aux = node.aux
        self._auxes = auxes
        # A file opened for writing only cannot be mapped, so its data need not go through the page cache: one copy
        # and one GETXATTR (security.capability) less per write, and no staged page stands in memory twice.
        self.direct_io = flags & os.O_ACCMODE == os.O_WRONLY
        node.maybe_cached |= not self.direct_io
        self._may_map = flags & os.O_ACCMODE == os.O_RDWR
        self._is_direct = bool(flags & os.O_DIRECT) and not self.direct_io
        node.mapper_count += self._may_map

    async def read(self, offset: int, size: int) -> Data:
        """Read; holes are zeros."""
        return self._aux.read_nowait(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        """Write, growing the file. Without memory it is a full filesystem: programs know what to do about that.

        Raises:
            NoSpaceError: there is no memory, or its owner may have no more.
        """
        written = await self.write_back(offset, data)
        if self._is_direct:
            await self._auxes.direct_writes.written(self.file, PageRange.of_bytes(offset, written))
        return written

    async def write_back(self, offset: int, data: bytes) -> int:
        """Write what was stored through a mapping."""
        try:
            written = self._aux.write_nowait(offset, data)
        except NoMemoryError as error:
            raise NoSpaceError(str(error)) from error
        if self.file.mode & SET_ID or self._aux.node.windows:
            content_changed(self._auxes.cache, self.file, self.caller, own=self.direct_io)
        self._auxes.tree.modified(self.node)
        if self.file.lost is not None:
            self.file.note_changed(PageRange(page_count(offset), (offset + written) // PAGE_SIZE))
        if self._aux.node.windows:
            await self._auxes.shown_elsewhere(self.file)
        return written

    def release(self) -> None:
        """Count the file as open no longer."""
        self.file.mapper_count -= self._may_map

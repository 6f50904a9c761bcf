"""Open files: what ``open`` returned, until ``release``."""

from __future__ import annotations

import errno
import os
import select
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vmofs.status import NoMemoryError
from vmofs.units import PAGE_SIZE, PageRange, page_count
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.slices import Slices
from vmofs_mount.rights.set_id import SET_ID
from vmofs_mount.tree.inodes import AuxFile, Node, TextFile
from vmofs_mount.tree.limits import Limits, Resource

if TYPE_CHECKING:
    from vmofs_mount.tree.tree import Tree

Data = bytes | bytearray | memoryview
"""What a read returns: it is copied before anything else runs."""


class Handle(ABC):
    """One open file. ``node`` is what was opened, ``flags`` and ``caller`` are those of the open.

    ``direct_io``: the kernel keeps no pages and believes no size, every read and write comes here.
    ``nonseekable``: a stream.
    """

    direct_io: bool = False
    nonseekable: ClassVar[bool] = False
    BYTES: ClassVar[int] = 500
    """What one takes in memory, about."""

    def __init__(self, node: Node, flags: int, caller: Caller) -> None:
        self.node = node
        self.flags = flags
        self.caller = caller

    @abstractmethod
    async def read(self, offset: int, size: int) -> Data:
        """Return the bytes ``[offset, offset+size)``, fewer only at the end."""

    @abstractmethod
    async def write(self, offset: int, data: bytes) -> int:
        """Write the bytes and return how many were taken."""

    async def fsync(self) -> None:  # noqa: B027 - what is in memory only is as safe as it gets, as on a tmpfs
        """Wait until what was written is safe."""

    def poll(self, notify: Callable[[], None] | None) -> int:
        """Return which of POLLIN and POLLOUT hold; ``notify`` is to be called once when that changes."""
        del notify
        return select.POLLIN | select.POLLOUT

    def release(self) -> None:  # noqa: B027 - most have nothing to do
        """The last descriptor was closed."""


_SHORT_TEXT_BYTES = 4096
"""A text up to here is not counted."""

Opener = Callable[[Any, int, Caller], Handle]
"""Opens a node: the node, the open flags, who opens. Raises OSError or VmoError to refuse."""


class AuxHandle(Handle):
    """An open aux file."""

    def __init__(
        self,
        node: AuxFile,
        flags: int,
        caller: Caller,
        tree: Tree,
        written_directly: Callable[[AuxHandle, AuxFile, PageRange], Awaitable[None]],
        content_changed: Callable[[AuxFile, Caller, bool], None],
        shown_elsewhere: Callable[[AuxFile], Awaitable[None]],
    ) -> None:
        super().__init__(node, flags, caller)
        self.file = node
        self._aux = node.aux
        self._tree = tree
        # A file opened for writing only cannot be mapped, so its data need not go through the page cache: one copy
        # and one GETXATTR (security.capability) less per write, and no staged page stands in memory twice.
        self.direct_io = flags & os.O_ACCMODE == os.O_WRONLY
        node.maybe_cached |= not self.direct_io
        self._may_map = flags & os.O_ACCMODE == os.O_RDWR
        self._is_direct = bool(flags & os.O_DIRECT) and not self.direct_io
        self.is_mapped = False
        self._written_directly = written_directly
        self._content_changed = content_changed
        self._shown_elsewhere = shown_elsewhere
        node.mapper_count += self._may_map

    async def read(self, offset: int, size: int) -> Data:
        """Read; holes are zeros."""
        return self._aux.read_nowait(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        """Write, growing the file."""
        written = self._aux.write_nowait(offset, data)
        if self.file.mode & SET_ID or self._aux.node.windows:
            self._content_changed(self.file, self.caller, self.direct_io)
        self._tree.modified(self.node)
        if self.file.lost is not None:
            self.file.note_changed(PageRange(page_count(offset), (offset + written) // PAGE_SIZE))
        if self._aux.node.windows:
            await self._shown_elsewhere(self.file)
        if self._is_direct:
            await self._written_directly(self, self.file, PageRange.of_bytes(offset, written))
        return written

    def release(self) -> None:
        """Count the file as open no longer."""
        self.file.mapper_count -= self._may_map


class TextHandle(Handle):
    """An open text file: the text is made at the first read and at each read from the beginning."""

    def __init__(self, node: TextFile, flags: int, caller: Caller, limits: Limits, slices: Slices) -> None:
        super().__init__(node, flags, caller)
        self._slices = slices
        self._file = node
        self._limits = limits
        self._text: bytes | None = None
        self._counted = 0
        self.direct_io = not node.constant

    async def read(self, offset: int, size: int) -> Data:
        """Return a part of the text."""
        if offset == 0 or self._text is None:
            self._text = await self._make()
        return self._text[offset : offset + size]

    async def _make(self) -> bytes:
        pieces = []
        work = self._slices.begin(self.caller.uid)
        for piece in self._file.pieces(self.caller.uid):
            pieces.append(piece)
            if work.is_over:
                await work.rest()
        text = "".join(pieces).encode()
        self._count(len(text))
        return text

    def _count(self, size: int) -> None:
        """Count a text that is kept until the file is closed, if it is long."""
        counted = size if size > _SHORT_TEXT_BYTES else 0
        self._limits.take(Resource.QUEUE_BYTES, self.caller.uid, counted)
        self._limits.give(Resource.QUEUE_BYTES, self.caller.uid, self._counted)
        self._counted = counted

    def release(self) -> None:
        """Let go of the text."""
        self._limits.give(Resource.QUEUE_BYTES, self.caller.uid, self._counted)

    async def write(self, offset: int, data: bytes) -> int:
        """Hand the text of one write on, wherever it is written to."""
        del offset
        if self._file.accept is None:
            raise OSError(errno.EPERM, f"{self._file.path} takes no text")
        self._file.accept(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class HandlesStatistics:
    """Numbers of files."""

    open_files: int
    opened: int


class Handles:
    """All open files, by number; a number is never used twice.

    Directories need none: the kernel keeps the inode of an open directory.
    """

    def __init__(self, tree: Tree, openers: Mapping[type[Node], Opener], limits: Limits) -> None:
        self._tree = tree
        self._limits = limits
        self._openers = openers
        self._handles: dict[int, Handle] = {}
        self._opened = 0

    def open(self, node: Node, flags: int, caller: Caller) -> int:
        """Open a node and return the number of the open file.

        Raises:
            OSError: what the opener of this kind of node raises; EPERM, there is none; ESTALE.
            VmoError: what the opener raises; NO_MEMORY, whoever opens it has too much.
        """
        opener = self._openers.get(type(node))
        if opener is None:
            raise OSError(errno.EPERM, f"{node.path} cannot be opened")
        self._tree.open(node)
        try:
            handle = opener(node, flags, caller)
        except BaseException:
            self._tree.close(node)
            raise
        try:
            self._limits.take(Resource.QUEUE_BYTES, caller.uid, handle.BYTES)
        except NoMemoryError:
            handle.release()
            self._tree.close(node)
            raise
        self._opened += 1
        self._handles[self._opened] = handle
        return self._opened

    def get(self, number: int) -> Handle:
        """Return an open file.

        Raises:
            OSError: EBADF.
        """
        try:
            return self._handles[number]
        except KeyError:
            raise OSError(errno.EBADF, f"no open file {number}") from None

    def close(self, number: int) -> None:
        """Close an open file; its node may be released by that.

        Raises:
            OSError: EBADF.
        """
        handle = self.get(number)
        del self._handles[number]
        try:
            handle.release()
        finally:
            self._limits.give(Resource.QUEUE_BYTES, handle.caller.uid, handle.BYTES)
            self._tree.close(handle.node)

    def nodes(self) -> set[Node]:
        """Return the nodes that are open."""
        return {handle.node for handle in self._handles.values()}

    def of_node(self, node: Node) -> list[Handle]:
        """Return the open files of a node."""
        return [handle for handle in self._handles.values() if handle.node is node]

    def statistics(self) -> HandlesStatistics:
        """Return the present counts."""
        return HandlesStatistics(open_files=len(self._handles), opened=self._opened)

    def check(self) -> None:
        """Assert that the nodes count the same open files."""
        counts = Counter(handle.node for handle in self._handles.values())
        for node, count in counts.items():
            assert node.open_count == count
        assert self._tree.statistics().open_files == len(self._handles)

"""Open files: what ``open`` returned, until ``release``."""

from __future__ import annotations

import errno
import select
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vmofs.status import NoMemoryError
from vmofs_mount.cache.attributes import CachedFile
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.slices import Slices
from vmofs_mount.rights.identity import Identity
from vmofs_mount.rights.set_id import drop_privileges
from vmofs_mount.tree.inodes import Node
from vmofs_mount.tree.limits import Limits, Resource
from vmofs_mount.tree.text_file import ConstantText, TextFile
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
    async def write(self, offset: int, data: bytes) -> int:
        """Write the bytes and return how many were taken."""

    async def write_back(self, offset: int, data: bytes) -> int:
        """Write what was stored through a mapping, and return how many bytes were taken."""
        return await self.write(offset, data)

    async def fsync(self) -> None:  # noqa: B027 - what is in memory only is as safe as it gets, as on a tmpfs
        """Wait until what was written is safe."""

    def poll(self, notify: Callable[[], None] | None) -> int:
        """Return which of POLLIN and POLLOUT hold; ``notify`` is to be called once when that changes."""
        del notify
        return select.POLLIN | select.POLLOUT

    def release(self) -> None:  # noqa: B027 - most have nothing to do
        """The last descriptor was closed."""


class ReadHandle(Handle):
    """One whose READs are answered by a coroutine, as all but those of VMOs (``vmo_reads``) are."""

    @abstractmethod
    async def read(self, offset: int, size: int) -> Data:
        """Return the bytes ``[offset, offset+size)``, fewer only at the end."""


def content_changed(cache: PageCache, file: CachedFile, caller: Caller, *, own: bool) -> None:
    """Take set-user-ID from files whose content somebody has changed; from ``file`` the kernel does, if not ``own``."""

    def keeps() -> bool:
        return Identity.of_process(caller.uid, caller.gid, caller.pid).keeps_set_id

    drop_privileges(file, keeps, cache.mode_changed, own=own)


_SHORT_TEXT_BYTES = 4096
"""A text up to here is not counted."""

Opener = Callable[[Node, int, Caller], Handle]
"""Opens a node: the node, the open flags, who opens. Raises OSError or VmoError to refuse."""


class TextHandle(ReadHandle):
    """An open text file: the text is made at the first read and at each read from the beginning."""

    def __init__(self, node: TextFile, flags: int, caller: Caller, limits: Limits, slices: Slices) -> None:
        super().__init__(node, flags, caller)
        self._slices = slices
        self._file = node
        self._limits = limits
        self._text: bytes | None = None
        self._counted = 0
        self.direct_io = not isinstance(node, ConstantText)

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

    def __init__(self, tree: Tree, opener: Opener) -> None:
        self._tree = tree
        self._limits = tree.limits
        self._opener = opener
        self._handles: dict[int, Handle] = {}
        self._opened = 0

    def open(self, node: Node, flags: int, caller: Caller) -> int:
        """Open a node and return the number of the open file.

        Raises:
            OSError: what the opener raises; ESTALE.
            VmoError: what the opener raises; NO_MEMORY, whoever opens it has too much.
        """
        self._tree.open(node)
        try:
            handle = self._opener(node, flags, caller)
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

    def statistics(self) -> HandlesStatistics:
        """Return the present counts."""
        return HandlesStatistics(open_files=len(self._handles), opened=self._opened)

    def check(self) -> None:
        """Assert that the nodes count the same open files."""
        counts = Counter(handle.node for handle in self._handles.values())
        for node, count in counts.items():
            assert node.open_count == count
        assert self._tree.statistics().open_files == len(self._handles)

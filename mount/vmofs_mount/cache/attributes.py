"""The attributes of data files as the kernel believes them, and how it is made to ask for them anew.

A message about attributes waits for nothing but an unmount that waits for others; so it is given by a thread.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from vmofs.core.vmos.children import Vmo
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.tree.inodes import AuxFile, VmoFile

CachedFile = VmoFile | AuxFile

_THREADS = 8

_SOON_SECONDS = 0.1
"""How long a changed ``st_blocks`` may stay unseen by fstat. A stat by name always sees it."""


class Attributes:
    """Has the kernel forget attributes. Tasks run in ``spawn``'s nursery."""

    def __init__(self, kernel: Kernel, spawn: Callable[..., None]) -> None:
        self._kernel = kernel
        self._spawn = spawn
        self._threads = trio.CapacityLimiter(_THREADS)
        self.telling: dict[CachedFile, trio.Event] = {}
        """The files whose attributes the kernel is being told to ask for anew; set when that is done."""
        self._to_tell: set[CachedFile] = set()  # those of them for which no thread has begun
        self._changed: dict[CachedFile, None] = {}

    def changed(self, file: CachedFile) -> None:
        """Let the kernel know soon that attributes changed."""
        if not self._changed:
            self._spawn(self._announce)
        self._changed[file] = None

    async def _announce(self) -> None:
        await trio.sleep(_SOON_SECONDS)
        changed, self._changed = self._changed, {}
        inos = [file.ino for file in changed if file.lookup_count]

        def announce() -> None:
            for ino in inos:
                self._kernel.drop_attributes(ino)

        await trio.to_thread.run_sync(announce, limiter=self._threads, abandon_on_cancel=True)

    def size_changed(self, vmo: Vmo, but: CachedFile | None = None) -> None:
        """Have the kernel ask for the size anew, in all files that show this VMO except ``but``. Returns at once."""
        for shown in vmo.node.viewers:
            file = getattr(shown, "owner", None)
            if isinstance(file, CachedFile) and file is not but:
                self.tell(file)

    def tell(self, file: CachedFile) -> None:
        """Have the kernel ask for the attributes anew. Returns at once; ``wait_told`` waits for it."""
        if not file.lookup_count:
            return
        if file not in self.telling:
            self.telling[file] = trio.Event()
            self._spawn(self._tell_kernel, file)
        self._to_tell.add(file)

    async def _tell_kernel(self, file: CachedFile) -> None:
        def tell() -> None:
            self._to_tell.discard(file)  # what changes from now on has to be told again
            self._kernel.drop_attributes(file.ino)

        try:
            while file in self._to_tell:
                await trio.to_thread.run_sync(tell, limiter=self._threads, abandon_on_cancel=True)
        finally:
            self._to_tell.discard(file)
            self.telling.pop(file).set()

    async def wait_told(self, file: CachedFile, seconds: float) -> None:
        """Wait until the kernel knows that the attributes of a file have changed, at most ``seconds``."""
        if file in self.telling:
            with trio.move_on_after(seconds):
                await self.telling[file].wait()

    def check(self) -> None:
        """Assert that what waits for a thread is being told."""
        assert self._to_tell <= self.telling.keys()

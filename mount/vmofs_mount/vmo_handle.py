"""Open VMO files: reads that may wait for a pager, and writes."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterable

from vmofs.core.content import Bytes
from vmofs.status import OutOfRangeError, VmoError
from vmofs.units import PageRange
from vmofs_mount.caller import Caller
from vmofs_mount.engine import Engine
from vmofs_mount.failures import Failures, count_retries
from vmofs_mount.handles import Handle
from vmofs_mount.nodes import VmoFile
from vmofs_mount.pagecache import PageCache


class OpenVmos:
    """What the open files of all VMOs share: the numbers of those that are open, and the recent failures, by VMO."""

    def __init__(
        self,
        engine: Engine,
        cache: PageCache,
        spawn: Callable[..., None],
        device_minor: int,
        modified: Callable[[VmoFile], None],
    ) -> None:
        self.engine = engine
        self.cache = cache
        self._spawn = spawn
        self._device_minor = device_minor
        self.modified = modified
        self._numbers = itertools.count(1)
        self._open: dict[VmoFile, dict[int, None]] = {}
        self._failures: dict[VmoFile, Failures] = {}

    def add(self, file: VmoFile) -> int:
        """Count an open file and return its number."""
        number = next(self._numbers)
        self._open.setdefault(file, {})[number] = None
        return number

    def remove(self, file: VmoFile, number: int) -> None:
        """Count it no longer."""
        numbers = self._open[file]
        del numbers[number]
        if not numbers:
            del self._open[file]
            self._failures.pop(file, None)

    async def failed(self, handle: VmoHandle, file: VmoFile, pages: PageRange, error: VmoError, *, stale: bool) -> None:
        """Remember a failed read for the kernel's retries; ``stale``: its page was in the page cache, failed before."""
        retries = await count_retries(handle.caller, handle.flags, file.ino, self._device_minor, pages)
        others = self._open.get(file, {})
        failures = self._failures.get(file)
        if failures is None:
            failures = self._failures[file] = Failures(lambda pages: self.cache.drop_failed(file, pages))
        retries = max(0, retries - stale)
        self._spawn(failures.expire, failures.remember(handle.number, retries, others, pages, error))

    async def is_stale(self, file: VmoFile, pages: PageRange) -> bool:
        """Return whether a READ that just came is for a page that failed before and is still in the page cache."""
        failures = self._failures.get(file)
        return failures is not None and await failures.is_stale(pages)

    def recall(self, file: VmoFile, number: int, pages: PageRange) -> VmoError | None:
        """Return the error of the read that this one is a retry of, if it is one."""
        failures = self._failures.get(file)
        return None if failures is None else failures.recall(number, pages)

    def supplied(self, file: VmoFile, filled: Iterable[PageRange]) -> None:
        """Forget failures of pages that are there now."""
        failures = self._failures.get(file)
        if failures is not None:
            for pages in filled:
                failures.forget(pages)

    def check(self) -> None:
        """Assert that failures are remembered of open files only."""
        assert self._failures.keys() <= self._open.keys()
        assert all(self._open.values())


class VmoHandle(Handle):
    """An open VMO file."""

    def __init__(self, file: VmoFile, flags: int, caller: Caller, opened: OpenVmos) -> None:
        super().__init__(file, flags, caller)
        self._file = file
        self._opened = opened
        self.number = opened.add(file)

    async def read(self, offset: int, size: int) -> Bytes:
        """Read up to the end of the content; ask the pager for what is absent, and wait."""
        vmo = self._file.vmo
        length = min(size, vmo.stream_size - offset)
        if length <= 0:
            return b""
        data: Bytes | None = vmo.read_nowait(offset, length)
        return data if data is not None else await self._wait(offset, length)

    async def _wait(self, offset: int, length: int) -> Bytes:
        file, opened = self._file, self._opened
        pages = PageRange.of_bytes(offset, length)
        error = opened.recall(file, self.number, pages)
        if error is not None:
            raise error
        number = opened.cache.begin_read(file, pages)
        stale = False
        try:
            stale = await opened.is_stale(file, pages)
            data: bytes = await opened.engine.run(file.vmo.read(offset, length))
        except OutOfRangeError:
            return b""  # cut off while we waited
        except VmoError as failure:
            await opened.failed(self, file, file.vmo.absent(pages), failure, stale=stale)
            raise
        finally:
            opened.cache.end_read(file, number)
        return data

    async def write(self, offset: int, data: bytes) -> int:
        """Write; absent pages are read from the pager first. Growing a VMO that cannot grow is ENOSPC."""
        room = await self._make_room(offset, len(data))
        if self.caller.uid != 0:  # as CAP_FSETID
            self._file.drop_privileges()
        written: int = await self._opened.engine.run(self._file.vmo.write(offset, data[:room]))
        self._opened.modified(self._file)
        return written

    async def _make_room(self, offset: int, length: int) -> int:
        """Grow the content to hold ``length`` bytes at ``offset``; return how many of them there is room for."""
        vmo, run = self._file.vmo, self._opened.engine.run
        end = offset + length
        if end <= vmo.stream_size:
            return length
        if vmo.options.resizable:
            await run(vmo.set_size(end))
        elif vmo.options.unbounded:
            await run(vmo.set_stream_size(end))
        elif offset >= vmo.stream_size:
            raise OSError(errno.ENOSPC, f"{self._file.path} ends at {vmo.stream_size} and cannot grow")
        return min(length, max(0, int(vmo.stream_size) - offset))

    async def fsync(self) -> None:
        """Wait until the pager has written back what is dirty now, if the VMO was made so."""
        await self._opened.engine.run(self._file.vmo.sync())

    def release(self) -> None:
        """Count the file as open no longer."""
        self._opened.remove(self._file, self.number)

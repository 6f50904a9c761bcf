"""A cache on disk under a pager: what was read once is not read again, in this process, another one, or a later one.

For each object and version there are two sparse files. One has the bytes, at their own offsets. The other one, the map,
has the XXH3 of each page that is there, 8 bytes at 8 times the page's number, and 0 for a page that is not. A page is
written before its digest, and compared with it whenever it is read. So whatever a kill, a crash, a full disk or a bad
one leaves behind is found, and read anew from the source.

Several processes may use one cache at the same time: what they write for a version are the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xxhash import xxh3_64_intdigest

from vmofs.client import Data, Object, Pager
from vmofs.units import PAGE_SIZE

_log = logging.getLogger(__name__)

_DIGEST = 8
_LOOK_AFTER_BYTES = 32 << 20
"""After so many bytes written it is looked how full the cache is: each look is a stat of each of its files."""

_TOUCH_SECONDS = 60.0
_PAUSE_AFTER_ERROR = 30.0


class _Files:
    """The two files of one object and version, open."""

    def __init__(self, stem: Path, description: Mapping[str, object]) -> None:
        self.stem = stem
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.data = os.open(stem.with_suffix(".data"), flags, 0o600)
        try:
            self.map = os.open(stem.with_suffix(".map"), flags, 0o600)
        except OSError:
            self.map = os.dup(self.data)  # for the end; it is not used
            raise
        stem.with_suffix(".json").write_text(json.dumps(description))
        self._touched = 0.0

    def __del__(self) -> None:
        """Close them when the last read of them has ended: a number that is closed before may be another file's."""
        os.close(self.data)
        os.close(self.map)

    @property
    def is_removed(self) -> bool:
        """Whether somebody has made room by them."""
        return not (os.fstat(self.data).st_nlink and os.fstat(self.map).st_nlink)

    def touch(self) -> None:
        """Note that they are used: those that were not for the longest time go first."""
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            os.utime(self.map)

    def read(self, offset: int, length: int) -> list[memoryview | None]:
        """Return for each page of a range its bytes, or None if they are not there or not what they were."""
        count = -(-length // PAGE_SIZE)
        digests = os.pread(self.map, count * _DIGEST, offset // PAGE_SIZE * _DIGEST).ljust(count * _DIGEST, b"\0")
        pages: list[memoryview | None] = [None] * count
        if not any(digests):
            return pages
        data = memoryview(os.pread(self.data, length, offset))
        for index, (digest,) in enumerate(struct.iter_unpack("<Q", digests)):
            page = data[index * PAGE_SIZE : min((index + 1) * PAGE_SIZE, length)]
            if digest and xxh3_64_intdigest(page) == digest:
                pages[index] = page
        return pages

    def write(self, offset: int, data: memoryview) -> None:
        """Write whole pages, and then their digests."""
        _write_all(self.data, data, offset)
        digests = [xxh3_64_intdigest(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]
        _write_all(self.map, memoryview(struct.pack(f"<{len(digests)}Q", *digests)), offset // PAGE_SIZE * _DIGEST)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


class DiskCache(Pager):
    """A pager that reads another one through a cache.

    Objects without a version are not kept: nothing would tell that they have changed.

    Args:
        pager: Who reads; its ``read`` must be no coroutine function.
        directory: Where the cache is, for one user. It is made.
        most_bytes: How large it may become. Beyond it the object that was not used for the longest time goes, as a
            whole; the one that is being read goes only if it is alone too large.
    """

    def __init__(self, pager: Pager, directory: Path, most_bytes: int) -> None:
        self._pager, self._directory, self._most_bytes = pager, directory, most_bytes
        self.cluster, self.ahead, self.threads, self.deadline = (
            pager.cluster,
            pager.ahead,
            pager.threads,
            pager.deadline,
        )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._open: dict[Object, _Files] = {}
        self._written = _LOOK_AFTER_BYTES  # the first write looks
        self._quiet_until = 0.0
        self.hits = self.misses = 0

    def objects(self) -> Iterable[Object]:
        """Return what the pager has."""
        return self._pager.objects()

    def close(self, obj: Object) -> None:
        """Close the files of an object; what is in them stays."""
        with self._lock:
            self._open.pop(obj, None)
        self._pager.close(obj)

    def hint(self, obj: Object) -> Iterable[tuple[int, int]]:
        """Return what the pager does."""
        return self._pager.hint(obj)

    def read(self, obj: Object, offset: int, length: int) -> Data:
        """Return a range, of which the pager is asked for what is not in the cache."""
        pages = self._cached(obj, offset, length)
        self.hits += sum(page is not None for page in pages)
        runs = list(_missing(pages, offset, length))
        self.misses += sum(-(-count // PAGE_SIZE) for _, count in runs)
        if runs == [(offset, length)]:
            data = self._fetch(obj, offset, length)
            self._keep(obj, offset, data)
            return data
        result = bytearray(length)
        for index, page in enumerate(pages):
            if page is not None:
                result[index * PAGE_SIZE : index * PAGE_SIZE + len(page)] = page
        for start, count in runs:
            data = self._fetch(obj, start, count)
            result[start - offset : start - offset + count] = data
            self._keep(obj, start, data)
        return result

    def _fetch(self, obj: Object, offset: int, length: int) -> memoryview:
        data = self._pager.read(obj, offset, length)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError("a pager under a cache must not read by coroutines")
        if len(data) != length:
            raise ValueError(f"the pager gave {len(data)} bytes for {offset}+{length}")
        return memoryview(data)

    def _cached(self, obj: Object, offset: int, length: int) -> Sequence[memoryview | None]:
        if offset % PAGE_SIZE:
            raise ValueError(f"offset {offset} is no multiple of {PAGE_SIZE}")
        with contextlib.suppress(OSError):
            files = self._files(obj)
            if files is not None:
                files.touch()
                return files.read(offset, length)
        return [None] * -(-length // PAGE_SIZE)

    def _keep(self, obj: Object, offset: int, data: memoryview) -> None:
        """Write what was read. That it cannot be kept is no failure: it was read."""
        if len(data) % PAGE_SIZE and offset + len(data) != obj.size:
            data = data[: len(data) // PAGE_SIZE * PAGE_SIZE]
        if time.monotonic() < self._quiet_until:
            return
        try:
            files = self._files(obj)
            if files is None:
                return
            self._make_room(files, len(data))
            files.write(offset, data)
        except OSError as error:
            _log.warning("nothing is kept in %s for %g s: %s", self._directory, _PAUSE_AFTER_ERROR, error)
            self._quiet_until = time.monotonic() + _PAUSE_AFTER_ERROR

    def _files(self, obj: Object) -> _Files | None:
        if obj.version is None:
            return None
        with self._lock:
            files = self._open.get(obj)
            if files is None:
                description = {"source": obj.source, "version": obj.version, "size": obj.size, "name": obj.name}
                # One object has one place in the cache, whatever its file is called.
                key = json.dumps([obj.source or obj.name, obj.version, obj.size])
                stem = self._directory / hashlib.sha256(key.encode()).hexdigest()[:40]
                files = self._open[obj] = _Files(stem, description)
            return files

    def _make_room(self, files: _Files, wanted: int) -> None:
        """Now and then look how large the cache is, and remove what was not used for the longest time."""
        with self._lock:
            self._written += wanted
            if self._written < _LOOK_AFTER_BYTES:
                return
            self._written = 0
            is_removed = files.is_removed
            if is_removed:  # another process, or we for another object
                self._open = {obj: each for obj, each in self._open.items() if each is not files}
        if not is_removed:
            self._evict(files.stem)

    def _evict(self, current: Path) -> None:
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = sorted((path.stat().st_mtime_ns, path.with_suffix("")) for path in self._directory.glob("*.map"))
            # The one that is read now comes last.
            stems = [stem for _, stem in found if stem != current] + [stem for _, stem in found if stem == current]
            sizes = {stem: _occupied(stem) for stem in stems}
            total = sum(sizes.values())
            for stem in stems:
                if total <= self._most_bytes:
                    return
                for suffix in (".map", ".data", ".json"):
                    stem.with_suffix(suffix).unlink(missing_ok=True)
                total -= sizes[stem]


def _occupied(stem: Path) -> int:
    total = 0
    for suffix in (".map", ".data"):
        with contextlib.suppress(OSError):
            total += stem.with_suffix(suffix).stat().st_blocks * 512
    return total


def _missing(pages: Sequence[memoryview | None], offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges (offset, length) of pages that are not there, neighbours as one."""
    start = None
    for index, page in enumerate([*pages, memoryview(b"")]):
        at = min(offset + index * PAGE_SIZE, offset + length)
        if page is None and start is None:
            start = at
        elif page is not None and start is not None:
            yield start, at - start
            start = None

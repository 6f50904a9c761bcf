"""Gzip, and deflated members of zip archives, read in ranges with an index of places to begin at, by rapidgzip.

Making the index reads the whole stream once. It is kept on disk, under the version of the file, so that this happens
once for each version. It takes about 1 % of the size.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import rapidgzip

from vmofs.client import Unavailable
from vmofs.pagers.source import KeptPieces, RangeFile, Refusal, Source, patiently, short

_PIECE = 1 << 20


class DeflateStream(Source):
    """What a gzip file, or a raw deflate stream, decompresses to.

    Args:
        compressed: Its bytes.
        name: What it is called.
        indexes: The directory in which indexes are kept.
        size: What it must decompress to, if that is known: of a zip member it is, of a gzip file it is not.

    Raises:
        Refusal: It is damaged, or ends too early.
    """

    def __init__(self, compressed: Source, name: str, indexes: Path, size: int | None = None) -> None:
        self._compressed, self.name = compressed, name
        self.version, self.url = compressed.version, f"{compressed.url}#{name}"
        self._lock = threading.Lock()
        self._file = RangeFile(compressed)
        self._reader = rapidgzip.RapidgzipFile(self._buffered(), parallelization=1)
        key = hashlib.sha256(json.dumps([self.url, self.version, compressed.size]).encode()).hexdigest()[:32]
        # A file without a version may have changed: its index is not believed.
        self._index = indexes / f"{key}.gzindex" if compressed.version else None
        try:
            self.size = self._load() or self._make(size)
        except (OSError, ValueError, RuntimeError) as error:
            self._file.check()
            raise Refusal(f"{name} cannot be decompressed: {short(error)}") from error
        if size is not None and self.size != size:
            raise Refusal(f"{name} decompresses to {self.size} bytes, not {size}")

    def _buffered(self) -> io.BufferedReader:
        # A file of its own each time: a reader that goes closes the one below it, whenever that is.
        self._file = RangeFile(self._compressed)
        return io.BufferedReader(self._file, 128 << 10)

    def _load(self) -> int | None:
        """Return the size that stands with the index, or None if there is no index that can be used."""
        if self._index is None:
            return None
        try:
            size = int(self._index.with_suffix(".size").read_text())
            self._reader.import_index(str(self._index))
        except (OSError, ValueError, RuntimeError):
            self._reader = rapidgzip.RapidgzipFile(self._buffered(), parallelization=1)
            return None
        return size

    def _make(self, expected: int | None) -> int:
        """Read everything, make the index and return the size."""
        size = 0
        while piece := self._reader.read(_PIECE):  # reading, unlike seeking, compares the checksum
            size += len(piece)
        self._file.check()
        if expected is None:
            self._check_end(size)
        if self._index is not None:
            with contextlib.suppress(OSError):  # a full disk: it is made again next time
                self._keep(self._index, size)
        return size

    def _check_end(self, size: int) -> None:
        """Refuse a gzip file that ends too early: rapidgzip takes what is there for all.

        A file of one member ends with its size. If another number stands there, it has several members, as what bgzip
        writes, or it was cut off. Then zlib, which sees the difference, reads it all once more.
        """
        source = self._compressed
        trailer = bytes(patiently(lambda: source.read(source.size - 4, 4), 10)) if source.size >= 18 else b""
        if trailer and int.from_bytes(trailer, "little") == size % (1 << 32):
            return
        total = sum(_inflate(source))
        if total != size:
            raise Refusal(f"{self.name} decompresses to {size} bytes by one reading and {total} by another")

    def _keep(self, index: Path, size: int) -> None:
        index.parent.mkdir(parents=True, exist_ok=True)
        new = index.with_name(f"{index.name}.{os.getpid()}.new")
        try:
            self._reader.export_index(str(new))
            index.with_suffix(".size").write_text(str(size))
            new.rename(index)
        finally:
            new.unlink(missing_ok=True)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes, decompressed from the place in the index before them."""
        with self._lock:
            try:
                self._reader.seek(offset)
                data: bytes = self._reader.read(length)
                while len(data) < length and (more := self._reader.read(length - len(data))):
                    data += more
            except (OSError, ValueError, RuntimeError) as error:
                self._file.check()
                raise Unavailable(f"{self.name}: {short(error)}") from error
        self._file.check()
        if len(data) != length:
            raise Unavailable(f"{self.name} gave {len(data)} of {length} bytes")
        return data

    def close(self) -> None:
        """Close what it stands on."""
        self._reader.close()
        self._compressed.close()


def _inflate(source: Source) -> Iterator[int]:
    """Yield the sizes of pieces of what a gzip file of any number of members decompresses to."""
    stream, at = zlib.decompressobj(wbits=31), 0
    while at < source.size:
        start, length = at, min(_PIECE, source.size - at)
        data = bytes(patiently(lambda start=start, length=length: source.read(start, length), 10))  # type: ignore[misc]
        at += length
        while data:
            yield len(stream.decompress(data))
            data = stream.unused_data
            if stream.eof:
                data = data.lstrip(b"\0")  # padding between members, as of tapes
                stream = zlib.decompressobj(wbits=31) if data or at < source.size else stream
    if not stream.eof:
        raise Refusal(f"{source.name} ends in the middle of its last member")


class WholeMember(Source):
    """A deflated member of an archive that is small enough to be decompressed as a whole, when it is read.

    Args:
        compressed: Its bytes.
        described: Its name, size and checksum, as the archive says them.
        kept: What was decompressed of members of this archive lately.
    """

    def __init__(self, compressed: Source, described: tuple[str, int, int], kept: KeptPieces) -> None:
        self._compressed, self._kept = compressed, kept
        self.name, self.size, self._checksum = described
        self.version, self.url = compressed.version, f"{compressed.url}#{self.name}"
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Return a range of what was decompressed, and whose checksum was right."""
        with self._lock:
            data = self._kept.get(self.name)
            if data is None:
                data = self._decompress()
                self._kept.put(self.name, data)
        return data[offset : offset + length]

    def _decompress(self) -> bytes:
        packed = bytes(self._compressed.read(0, self._compressed.size))
        try:
            data = zlib.decompressobj(wbits=-15).decompress(packed, self.size + 1)
        except zlib.error as error:
            raise Unavailable(f"{self.name}: {error}") from error
        if len(data) != self.size or zlib.crc32(data) != self._checksum:
            raise Unavailable(f"{self.name} decompresses to {len(data)} bytes that are not what the archive says")
        return data

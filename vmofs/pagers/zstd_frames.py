"""Seekable zstd, read in ranges: a file of many frames, with a table of their sizes at its end.

A range is decompressed from the frames that it lies in, and these are the only bytes that are read. The format is
Facebook's "seekable format" (contrib/seekable_format), as pyzstd and t2sz write it. What ``zstd`` writes is one frame,
in which there is no way to begin in the middle.
"""

from __future__ import annotations

import bisect
import struct
from itertools import accumulate

import xxhash
from backports import zstd

from vmofs.client import Unavailable
from vmofs.pagers.source import KeptPieces, Refusal, Source, patiently

_FOOTER = struct.Struct("<IBI")
_MAGIC = 0x8F92EAB1
_SKIPPABLE_MAGIC = 0x184D2A5E
_CHECKSUM_FLAG, _RESERVED_BITS = 0x80, 0x7C
_MOST_FRAME = 64 << 20
_KEPT_BYTES = 32 << 20
"""Of decompressed frames: a reader of small pieces comes back to the frame that it has just read."""


class ZstdFrames(Source):
    """What a file in seekable zstd decompresses to.

    Raises:
        Refusal: It has no table of frames, or one that cannot be right.
    """

    def __init__(self, compressed: Source) -> None:
        self._compressed = compressed
        self.name = compressed.name.removesuffix(".zst").removesuffix(".zstd")
        self.version, self.url = compressed.version, f"{compressed.url}#zst"
        compressed_sizes, sizes, self._checksums = self._read_table()
        self._starts = [0, *accumulate(compressed_sizes)]
        self._offsets = [0, *accumulate(sizes)]
        self.size = self._offsets[-1]
        self._kept = KeptPieces(_KEPT_BYTES)
        if max(sizes, default=0) > _MOST_FRAME:
            raise Refusal(f"{compressed.name} has a frame of {max(sizes)} bytes; write smaller ones, with t2sz -s 4M")

    def _read_table(self) -> tuple[list[int], list[int], list[int]]:
        source, end = self._compressed, self._compressed.size
        refusal = Refusal(
            f"{source.name} has no table of frames, so that nothing in it can be read without all before it; "
            "t2sz and pyzstd's SeekableZstdFile write one, zstd does not"
        )
        if end < _FOOTER.size:
            raise refusal
        tail = bytes(patiently(lambda: source.read(end - _FOOTER.size, _FOOTER.size), 10))
        count, flags, magic = _FOOTER.unpack(tail)
        if magic != _MAGIC or flags & _RESERVED_BITS:
            raise refusal
        entry = struct.Struct("<III" if flags & _CHECKSUM_FLAG else "<II")
        length = 8 + count * entry.size + _FOOTER.size
        if length > end:
            raise Refusal(f"the table of {source.name} names {count} frames, which do not fit into {end} bytes")
        table = bytes(patiently(lambda: source.read(end - length, length - _FOOTER.size), 10))
        if struct.unpack_from("<II", table) != (_SKIPPABLE_MAGIC, length - 8):
            raise Refusal(f"the table of {source.name} does not begin where it says")
        entries = list(entry.iter_unpack(table[8:]))
        compressed_sizes, sizes = [entry[0] for entry in entries], [entry[1] for entry in entries]
        if sum(compressed_sizes) != end - length:
            raise Refusal(f"the frames of {source.name} are said to end at {sum(compressed_sizes)}, not {end - length}")
        return compressed_sizes, sizes, [entry[2] for entry in entries if len(entry) > 2]

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of the frames that the range lies in."""
        parts, end = [], offset + length
        index = bisect.bisect_right(self._offsets, offset) - 1
        while offset < end:
            start, stop = self._offsets[index], self._offsets[index + 1]
            parts.append(self._frame(index)[offset - start : min(end, stop) - start])
            offset, index = min(end, stop), index + 1
        return b"".join(parts)

    def _frame(self, index: int) -> bytes:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        start, stop = self._starts[index], self._starts[index + 1]
        expected = self._offsets[index + 1] - self._offsets[index]
        packed = self._compressed.read(start, stop - start)
        try:
            data = zstd.ZstdDecompressor().decompress(packed, expected + 1)
        except zstd.ZstdError as error:
            raise Unavailable(f"frame {index} of {self._compressed.name}: {error}") from error
        if len(data) != expected:
            raise Unavailable(f"frame {index} of {self._compressed.name} is {len(data)} bytes, not {expected}")
        if self._checksums and xxhash.xxh64_intdigest(data) & 0xFFFFFFFF != self._checksums[index]:
            raise Unavailable(f"frame {index} of {self._compressed.name} is not what its checksum says")
        self._kept.put(index, data)
        return data

    def close(self) -> None:
        """Close what it stands on."""
        self._compressed.close()

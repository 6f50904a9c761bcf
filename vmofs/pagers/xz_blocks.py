"""Xz of several blocks, read in ranges by python-xz: a range is decompressed from the blocks that it lies in."""

from __future__ import annotations

import io
import lzma
import threading
from itertools import pairwise

import xz

from vmofs.client import Unavailable
from vmofs.pagers.source import BUFFER_BYTES, RangeFile, Refusal, Source, short

_MOST_OF_ONE_BLOCK = 16 << 20
"""Of a larger block everything before a range would be decompressed each time: 7 s for 100 MiB."""


class XzBlocks(Source):
    """What an xz file decompresses to.

    Raises:
        Refusal: It is one large block, or no xz.
    """

    def __init__(self, compressed: Source) -> None:
        self._compressed = compressed
        self.name = compressed.name.removesuffix(".xz")
        self.version, self.url = compressed.version, f"{compressed.url}#xz"
        self._lock = threading.Lock()
        self._file = RangeFile(compressed)
        try:
            self._reader: xz.XZFile | None = self._open()
            self.size = self._reader.seek(0, io.SEEK_END)
        except (xz.XZError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
            self._file.check()
            raise Refusal(f"{compressed.name} is no xz file that can be read: {short(error)}") from error
        boundaries = [*self._reader.block_boundaries, self.size]
        largest = max((end - start for start, end in pairwise(boundaries)), default=0)
        if largest > _MOST_OF_ONE_BLOCK:
            raise Refusal(
                f"{compressed.name} has a block of {largest} bytes, of which all before a range would have to be "
                "decompressed; xz --block-size=4MiB writes smaller ones"
            )

    def _open(self) -> xz.XZFile:
        # A file of its own each time: a reader that goes closes the one below it, whenever that is.
        self._file = RangeFile(self._compressed)
        return xz.XZFile(io.BufferedReader(self._file, BUFFER_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of the blocks that the range lies in."""
        with self._lock:
            try:
                if self._reader is None:
                    self._reader = self._open()
                self._reader.seek(offset)
                data = self._reader.read(length)
            except (xz.XZError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
                self._reader = None  # after an error in the middle of a block it would go on from there
                self._file.check()
                raise Unavailable(f"{self.name}: {short(error)}") from error
        if len(data) != length:
            raise Unavailable(f"{self.name} gave {len(data)} of {length} bytes")
        return data

    def close(self) -> None:
        """Close what it stands on."""
        self._compressed.close()

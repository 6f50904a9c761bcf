"""A file whose content says where it belongs: for tests of what reads, and for measuring it without a source."""

from __future__ import annotations

from vmofs.pagers.source import Source
from vmofs.testing import pattern


class PatternFile(Source):
    """Word ``i`` of 64 bits, little-endian, is ``key + i``."""

    def __init__(self, size: int, key: int = 0, name: str = "pattern") -> None:
        self.name, self.size, self._key = name, size, key
        self.version = f"{key:#x}"
        self.url = f"pattern:{size}"

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes."""
        return pattern.make(self._key, offset, length)

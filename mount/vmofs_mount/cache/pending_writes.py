"""The WRITEs that are under way, and what of their pages was read meanwhile.

The kernel puts what is written into its page cache and then sends the WRITE. While that waits, for a pager's consent
for instance, pages that are written as a whole, or that the cache had, are not locked: they may be dropped, and a READ
may bring back what the VMO still has, the old content. Nothing replaces it when the WRITE is answered, so it must be
dropped by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmofs.units import PageRange

if TYPE_CHECKING:
    from vmofs_mount.tree.inodes import VmoFile


@dataclass(eq=False, slots=True)
class PendingWrite:
    """One WRITE; ``read`` is what of its pages may be in the page cache with the old content."""

    file: VmoFile
    pages: PageRange
    read: list[PageRange] = field(default_factory=list)


class PendingWrites:
    """The WRITEs of all files. There are few at a time: of each file one, but for those of mappings."""

    def __init__(self) -> None:
        self._by_file: dict[VmoFile, list[PendingWrite]] = {}

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._by_file)

    def begin(self, file: VmoFile, pages: PageRange) -> PendingWrite:
        """Note that a WRITE has come."""
        write = PendingWrite(file, pages)
        self._by_file.setdefault(file, []).append(write)
        return write

    def end(self, write: PendingWrite) -> None:
        """Note that it is carried out, or failed."""
        writes = self._by_file[write.file]
        writes.remove(write)
        if not writes:
            del self._by_file[write.file]

    def has(self, file: VmoFile, pages: PageRange) -> bool:
        """Return whether a WRITE of some of these pages is under way."""
        return bool(self.over(file, pages))

    def count(self, file: VmoFile) -> int:
        """Return how many WRITEs of a file are under way."""
        return len(self._by_file.get(file, ()))

    def over(self, file: VmoFile, pages: PageRange) -> list[PageRange]:
        """Return the ranges of the WRITEs under way that have a page in common with ``pages``."""
        return [write.pages for write in self._by_file.get(file, ()) if write.pages & pages]

    def common_pages(self, file: VmoFile, pages: PageRange) -> int:
        """Return how many of these pages WRITEs have that are under way."""
        return min(pages.pages, sum((write.pages & pages).pages for write in self._by_file.get(file, ())))

    def note_read(self, file: VmoFile, pages: PageRange) -> None:
        """Note that a READ is about to be answered."""
        for write in self._by_file.get(file, ()):
            if common := write.pages & pages:
                write.read.append(common)

    def check(self) -> None:
        """Assert that only files with a WRITE are remembered."""
        assert all(self._by_file.values())

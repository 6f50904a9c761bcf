"""WRITEs that are under way, and what of their pages is read meanwhile."""

from __future__ import annotations

from vmofs.units import PageRange
from vmofs_mount.cache.pending_writes import PendingWrites
from vmofs_mount.tree.inodes import VmoFile


def file() -> VmoFile:
    return VmoFile(0o644, 0, 0)


def test_what_is_read_of_the_pages_of_a_write_is_remembered_until_it_ends() -> None:
    writes, written, other = PendingWrites(), file(), file()
    first, second = writes.begin(written, PageRange(2, 6)), writes.begin(written, PageRange(8, 9))
    writes.note_read(written, PageRange(0, 3))
    writes.note_read(written, PageRange(6, 8))
    writes.note_read(written, PageRange(5, 20))
    writes.note_read(other, PageRange(0, 100))
    assert first.read == [PageRange(2, 3), PageRange(5, 6)]
    assert second.read == [PageRange(8, 9)]
    assert writes.has(written, PageRange(0, 3))
    assert not writes.has(written, PageRange(6, 8))
    assert not writes.has(other, PageRange(0, 100))
    writes.end(first)
    writes.check()
    writes.note_read(written, PageRange(2, 3))
    assert first.read == [PageRange(2, 3), PageRange(5, 6)]
    assert writes
    writes.end(second)
    assert not writes

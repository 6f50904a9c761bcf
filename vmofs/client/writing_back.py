"""Brings what was written to files back to their pager: when somebody calls fsync, once a second, and at the end.

BEGIN comes before the data is read: a page that is written meanwhile is dirty again, and END leaves it so. The size is
looked at after the last BEGIN, since what it was until then counts as written back at END. The data is read through a
view of its own, past the page cache: pages of the VMO's own file may be locked by a reader, and the file by a writer,
who wait for this pager.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from vmofs.client.fifo_inlet import vmo_of
from vmofs.client.mount import PagerVmo, Vmo
from vmofs.client.pager import Data, Object
from vmofs.client.service import Entry
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import ChildKind, DirtyRange

FLUSH_SECONDS = 1.0
_PIECE = 1 << 20


class WriteBack:
    """Writes back the objects of one pager.

    Args:
        store: Stores a piece of an object.
        set_size: Learns the size of an object.
    """

    def __init__(self, store: Callable[[Object, int, Data], None], set_size: Callable[[Object, int], None]) -> None:
        self._store, self._set_size = store, set_size
        self._lock = threading.Lock()

    def flush(self, entry: Entry) -> None:
        """Write an object back if it is behind.

        Whoever forgot that the VMO was modified may have ended before it was written back; it is dirty still.

        Raises:
            OSError, VmoError: It could not be, and is dirty still.
        """
        vmo = vmo_of(entry)
        if vmo.is_modified(reset=True) or vmo.size != entry.obj.size or vmo.query_dirty_ranges():
            self(entry)

    def __call__(self, entry: Entry) -> None:
        """Bring an object to what its VMO is now: its dirty ranges, and its size.

        Raises:
            OSError, VmoError: It could not be, and is dirty still. So is what the pager raises.
        """
        vmo = vmo_of(entry)
        with self._lock:
            vmo.writeback_begin(0, 0)
            ranges = vmo.query_dirty_ranges()
            with _view(vmo) as source:
                for each in ranges:
                    vmo.writeback_begin(each.offset, each.length, is_zero=each.is_zero)
                size = os.fstat(source).st_size
                if size != entry.obj.size:
                    self._set_size(entry.obj, size)
                    entry.obj = replace(entry.obj, size=size)
                for each in ranges:
                    self._bring(entry.obj, source, each)
            vmo.writeback_end(0, 0)
            for each in ranges:  # with the last of them fsync returns
                vmo.writeback_end(each.offset, each.length)

    def _bring(self, obj: Object, source: int, dirty: DirtyRange) -> None:
        """Give the pager a range, as far as the object goes."""
        at, end = dirty.offset, min(dirty.offset + dirty.length, obj.size)
        while at < end:
            length = min(end - at, _PIECE)
            # Zeros are not read: what is cut off and zero again before END is clean then.
            data = (
                bytes(length) if dirty.is_zero else os.pread(source, -(-length // PAGE_SIZE) * PAGE_SIZE, at)[:length]
            )
            if not data:
                return  # it was cut off: the size is behind, and comes with the next
            self._store(obj, at, data)
            at += len(data)


def view_of(vmo: PagerVmo, key: int) -> Vmo:
    """Return the name of the view by which a VMO is read."""
    return vmo.mount.vmo(f".view-{vmo.pager.name}-{key}")


def open_view(vmo: PagerVmo, key: int) -> int:
    """Open the view of a VMO that was just made, past the page cache; its name goes.

    Raises:
        OSError: It cannot be opened; ESTALE, the name that it was made by was another VMO's.
    """
    view = view_of(vmo, key)
    fd = os.open(view.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        is_it = int(os.getxattr(fd, "user.vmofs.key")) == key
        view.unlink()
    except BaseException:
        os.close(fd)
        raise
    if not is_it:
        os.close(fd)
        raise OSError(errno.ESTALE, f"{vmo.field} is not VMO {key} any more")
    return fd


@contextmanager
def _view(vmo: PagerVmo) -> Iterator[int]:
    """Open the memory of a VMO as another file, past the page cache."""
    key = vmo.key
    view = view_of(vmo, key)
    with suppress(FileNotFoundError):
        view.unlink()  # of a pager that was killed
    vmo.create_child(ChildKind.REFERENCE, view.name, no_write=True)
    fd = open_view(vmo, key)
    try:
        yield fd
    finally:
        os.close(fd)

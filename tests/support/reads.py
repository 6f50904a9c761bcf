"""READs that wait, without a kernel that has sent them."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace
from typing import cast

from tests.oracle.world import World
from vmofs.units import PageRange
from vmofs_mount.cache.waiting_reads import OpenFile, WaitingRead
from vmofs_mount.linux.caller import Caller
from vmofs_mount.tree.inodes import VmoFile

_NUMBERS = itertools.count(1)


class _Nowhere:
    """A file of no mount."""

    ino = 1
    open_count = 1
    vmo = World().vmo()


def waiting_read(
    pages: PageRange, file: VmoFile | None = None, process: int = 7, *, has_page_cache: bool = True
) -> WaitingRead:
    """Return a READ of pages of a file, or of one that nobody looks at, which belongs to no mount."""
    of = _Nowhere() if file is None else file
    handle = SimpleNamespace(
        file=of, process=process, caller=Caller(0, 0, process, 0), has_page_cache=has_page_cache, flags=os.O_RDONLY
    )
    read = WaitingRead(cast(OpenFile, handle), next(_NUMBERS), 0, pages.offset, pages.length, lambda _read: None)
    read.pages, read.suspects = pages, []
    return read

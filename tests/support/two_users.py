"""Two users of one mount: one who means harm, or makes as much as he may, and one who must not feel it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.identity import Actor, Who
from tests.support.mounted import Mounted, wait_for

HOSTILE = Who("hostile", 65534, 65534)
OTHER = Who("other", 2001, 2001)

_COUNTED = ("memory_bytes", "ranges", "nodes", "vmos", "aux_files", "xattr_bytes", "queue_bytes", "descriptors")


@contextmanager
def acting(who: Who) -> Iterator[Actor]:
    """Have somebody who does things in the mount, in a process of his own."""
    actor = Actor(who)
    try:
        yield actor
    finally:
        actor.close()


@contextmanager
def owner_of_pager(mounted: Mounted, who: Who, pager: str) -> Iterator[Actor]:
    """Have a user with a pager and an empty mount, of whom nothing is left afterwards."""
    with acting(who) as actor:
        actor(os.mkdir, mounted.path / "control" / pager)
        yield actor
    with suppress(FileNotFoundError):
        (mounted.path / "control" / pager).rmdir()
    for file in [*(mounted.path / "vmo").iterdir(), *(mounted.path / "aux").iterdir()]:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    wait_for(lambda: all_of(mounted, who) == 0, "nothing is counted any more")


def all_of(mounted: Mounted, who: Who) -> int:
    """Return what a user holds, all kinds of it added."""
    return sum(mounted.user_counter(name, who.uid) for name in _COUNTED)

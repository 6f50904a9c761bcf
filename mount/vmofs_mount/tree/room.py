"""How much room there is, for ``statfs``: for pages, and for files. Who asks is told what that user may have."""

from __future__ import annotations

import time
from typing import NamedTuple

from vmofs.core.requests.system import System
from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.memory import available_memory_bytes, machine_memory_bytes
from vmofs_mount.tree.limits import Limits, Resource
from vmofs_mount.tree.tree import Tree

_NODE_BYTES = 2048
"""What a file costs beyond its pages, at most; see tools/BENCH.md."""

_REST_PER_LOOK = 10
"""So many times the CPU time that it took to count what may be evicted that number is given again."""


class Space(NamedTuple):
    """Of pages and of files: how many there may be, and how many more."""

    pages: int
    free_pages: int
    files: int
    free_files: int


class Room:
    """What there is, as the least of what bounds it: the machine, the mount's limits, those of the user."""

    def __init__(self, system: System, limits: Limits, tree: Tree) -> None:
        self._system = system
        self._limits = limits
        self._tree = tree
        self._idle_pages = 0
        self._counted_until = 0.0

    def of(self, uid: int) -> Space:
        """Return what a user may have. Clean pages that may be evicted are free."""
        frames = self._system.frames.statistics()
        available = available_memory_bytes()
        pages, free_pages = machine_memory_bytes() // PAGE_SIZE, available // PAGE_SIZE
        if frames.limit is not None:
            pages, free_pages = min(pages, frames.limit), min(free_pages, frames.limit - frames.used + self._idle())
        account = self._limits.account(uid)
        if account.limit_pages:
            pages = min(pages, account.limit_pages)
            free_pages = min(free_pages, account.limit_pages - account.pages)
        used, free_files = self._tree.node_count, available // _NODE_BYTES
        left = self._limits.left(Resource.NODES, uid)
        if left is not None:
            used, free_files = self._limits.held(Resource.NODES, uid), min(free_files, left)
        free_pages, free_files = max(0, free_pages), max(0, free_files)
        return Space(pages, min(pages, free_pages), used + free_files, free_files)

    def _idle(self) -> int:
        """Return how many pages may be evicted. To count them costs a look at each VMO."""
        eviction = self._system.eviction
        if eviction is not None and time.monotonic() >= self._counted_until:
            began = time.thread_time()  # not by the clock: that the machine is busy makes no count dear
            self._idle_pages = eviction.idle_pages()
            self._counted_until = time.monotonic() + _REST_PER_LOOK * (time.thread_time() - began)
        return self._idle_pages

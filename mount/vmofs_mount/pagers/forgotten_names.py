"""Names that went with their directory, or with what they stood for: the kernel is told of them.

It does not know that names went with their directory. Those that are open now it would keep when they are closed, and
what they refer to with them, until it is short of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.pagers.known_pagers import KnownPagers
from vmofs_mount.tree.directory_rules import FileRealm
from vmofs_mount.tree.inodes import Directory, Node
from vmofs_mount.tree.tree import Tree

_FORGETTERS = 8  # threads for each user, and one for each pager: the directories may be locked


class ForgottenNames:
    """Lets the kernel forget names in the directories of pagers. Tasks run in ``spawn``'s nursery."""

    def __init__(self, known: KnownPagers, kernel: Kernel, spawn: Callable[..., None]) -> None:
        self._known = known
        self._kernel = kernel
        self._spawn = spawn
        self._waiting: dict[Directory, list[tuple[int, bytes]]] = {}  # of pagers on whose names a task works
        self._threads = Lanes(_FORGETTERS)

    def forget_soon(self, pager: Directory, names: Iterable[tuple[int, bytes]]) -> None:
        """Let the kernel forget names of a pager's, each in the directory of a number."""
        is_running = pager in self._waiting
        waiting = self._waiting.get(pager, [])
        waiting += names
        if waiting and not is_running:
            self._waiting[pager] = waiting
            self._spawn(self._forget_names, pager, waiting)

    async def _forget_names(self, pager: Directory, waiting: list[tuple[int, bytes]]) -> None:
        def forget_all() -> None:
            for directory_ino, name in names:
                self._kernel.forget_name(directory_ino, name)

        try:
            while names := list(waiting):
                await self._threads.run(pager.uid, forget_all)
                del waiting[: len(names)]
        finally:
            del self._waiting[pager]

    def directory_removed(self, directory: Directory) -> None:
        """Let the kernel forget what stood for a directory in ``supply/``."""
        for pager in self._known:
            self.forget_soon(pager.directory, pager.supply.names(directory))


class VmoRealm(FileRealm):
    """``vmo/``, whose directories pagers see in ``supply/`` too."""

    def __init__(self, tree: Tree, forgotten: ForgottenNames) -> None:
        super().__init__(tree)
        self._forgotten = forgotten

    def released(self, node: Node) -> None:
        """Let ``supply/`` show a directory no more."""
        if isinstance(node, Directory):
            self._forgotten.directory_removed(node)

"""What may be made, renamed and removed where: the root, ``vmo/``, ``aux/``, ``control/`` and a pager's directory.

A directory carries its realm, and subdirectories inherit it. Who may do what is checked by the kernel before
(``default_permissions``). What a realm refuses is refused to root too: EPERM.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, NoReturn

from vmofs.status import VmoError
from vmofs_mount.tree import acl
from vmofs_mount.tree.inodes import AuxFile, Directory, Fifo, Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmofs.core.vmos.aux import AuxVmo
    from vmofs_mount.linux.caller import Caller
    from vmofs_mount.tree.tree import Tree


class Realm:
    """A part of the tree with rules of its own. This one allows nothing."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def lookup(self, parent: Directory, name: bytes) -> Node | None:
        """Return the child of that name."""
        return parent.children.get(name)

    def create(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a regular file, for ``open(O_CREAT)`` and ``mknod(S_IFREG)``."""
        del mode, caller
        _refuse("files are not made here", parent, name)

    def mkdir(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a directory."""
        del mode, caller
        _refuse("directories are not made here", parent, name)

    def mkfifo(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a FIFO."""
        del mode, caller
        _refuse("FIFOs are not made here", parent, name)

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove what is no directory."""
        _refuse("nothing is removed here", parent, name)

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove a directory."""
        _refuse("directories are not removed here", parent, name)

    def rename(self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int) -> None:
        """Rename; ``source`` belongs to this realm, ``target`` perhaps to another."""
        del target, new, flags
        _refuse("nothing is renamed here", source, old)


class FileRealm(Realm):
    """``vmo/``: directories, renames and removals as in any filesystem.

    VMOs are made by ``create_vmo``. Below a directory that a pager serves (``serve_directory``) files are made too:
    ``make_file(parent, mode, caller)`` returns the file of a new, empty VMO.
    """

    def __init__(self, tree: Tree, make_file: Callable[[Directory, int, Caller], Node] | None = None) -> None:
        super().__init__(tree)
        self._make_file = make_file

    def create(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty VMO of the pager that serves the directory."""
        if parent.default_pager is None:
            _refuse("VMOs are made by create_vmo", parent, name)
        return self._add_new(parent, name, mode, caller)

    def _add_new(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        assert self._make_file is not None
        file = self._make_file(parent, mode, caller)
        adopt(parent, file)
        try:
            self.tree.add(parent, name, file)
        except (OSError, VmoError):
            self.tree.on_last_reference(file)
            raise
        return file

    def mkdir(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a directory of the same realm."""
        directory = Directory(mode, caller.uid, caller.gid, self)
        directory.default_pager = parent.default_pager
        adopt(parent, directory)
        self.tree.add(parent, name, directory)
        return directory

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Close the handle that the name is."""
        self.tree.unlink(parent, name)

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove an empty directory."""
        self.tree.rmdir(parent, name)

    def rename(self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int) -> None:
        """Rename within the realm; EXDEV to another one."""
        if target.realm is not self:
            raise OSError(errno.EXDEV, f"{target.path} is of another kind than {source.path}")
        self.tree.rename(source, old, target, new, flags)


class AuxRealm(FileRealm):
    """``aux/``: files are made too."""

    def __init__(self, tree: Tree, make_aux: Callable[[Caller], AuxVmo]) -> None:
        super().__init__(tree, lambda _parent, mode, caller: AuxFile(mode, caller.uid, caller.gid, make_aux(caller)))

    def create(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty aux VMO."""
        return self._add_new(parent, name, mode, caller)


class PagerRealm(Realm):
    """A pager's directory: FIFOs may be added (``add_fifo`` is told), and removed; all else belongs to the pager."""

    def __init__(self, tree: Tree, add_fifo: Callable[[Directory, Fifo], None]) -> None:
        super().__init__(tree)
        self._add_fifo = add_fifo

    def mkfifo(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make another port."""
        fifo = Fifo(mode, caller.uid, caller.gid)
        adopt(parent, fifo)
        self.tree.add(parent, name, fifo)
        self._add_fifo(parent, fifo)
        return fifo

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove a FIFO that ``mkfifo`` made."""
        node = self.tree.lookup(parent, name)
        if not isinstance(node, Fifo) or node.builtin:
            _refuse("it belongs to the pager", parent, name)
        self.tree.unlink(parent, name)


class ControlRealm(Realm):
    """``control/``: a directory is a pager.

    ``open_pager(directory, caller)`` fills the directory of a new pager, ``close_pager(directory)`` is told before it
    and its files go.
    """

    def __init__(
        self,
        tree: Tree,
        open_pager: Callable[[Directory, Caller], None],
        close_pager: Callable[[Directory], None],
        add_fifo: Callable[[Directory, Fifo], None],
    ) -> None:
        super().__init__(tree)
        self._open_pager = open_pager
        self._close_pager = close_pager
        self._pager_realm = PagerRealm(tree, add_fifo)

    def mkdir(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a pager. Zircon: zx_pager_create."""
        directory = Directory(mode, caller.uid, caller.gid, self._pager_realm)
        adopt(parent, directory)
        self.tree.add(parent, name, directory)
        try:
            self._open_pager(directory, caller)
        except BaseException:
            self.tree.discard(directory)
            raise
        return directory

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Close a pager, its files are no obstacle."""
        node = self.tree.lookup(parent, name)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, f"{node.path} is no pager")
        self._close_pager(node)
        self.tree.discard(node)


def adopt(parent: Directory, node: Node) -> None:
    """Give a new node what it inherits: the group of a set-group-ID directory, and default ACL entries."""
    if parent.mode & stat.S_ISGID:
        node.gid = parent.gid
        if isinstance(node, Directory):
            node.mode |= stat.S_ISGID
    acl.inherit(parent, node)


def _refuse(why: str, parent: Directory, name: bytes) -> NoReturn:
    raise OSError(errno.EPERM, f"{why}: {name!r} in {parent.path!r}")

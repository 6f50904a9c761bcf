"""What may be made, renamed and removed where: the root, ``vmo/``, ``aux/``, ``control/`` and a pager's directory.

A directory carries its realm, and subdirectories inherit it. Who may do what is checked by the kernel before
(``default_permissions``). What a realm refuses is refused to root too: EPERM.
"""

from __future__ import annotations

import errno
import stat
from typing import Protocol

from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.status import VmoError
from vmofs_mount.linux.caller import Caller
from vmofs_mount.tree import acl
from vmofs_mount.tree.inodes import AuxFile, Directory, Fifo, Node, Realm, refuse
from vmofs_mount.tree.special_files import PlainFifo, Socket, Symlink
from vmofs_mount.tree.tree import Tree


class FileRealm(Realm):
    """``vmo/``: directories, renames and removals as in any filesystem.

    VMOs are made by ``create_vmo``. Below a directory that a pager serves (``serve_directory``) files are made too.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def create(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty VMO of the pager that serves the directory."""
        if parent.maker is None:
            refuse("VMOs are made by create_vmo", parent, name)
        return self._add_new(parent, name, parent.maker.make_file(mode, caller))

    def _add_new(self, parent: Directory, name: bytes, file: Node) -> Node:
        adopt(parent, file)
        try:
            self.tree.add(parent, name, file)
        except (OSError, VmoError):
            self.tree.release(file)
            raise
        return file

    def mkdir(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a directory of the same realm."""
        directory = Directory(mode, caller.uid, caller.gid, self)
        directory.maker = parent.maker
        adopt(parent, directory)
        self.tree.add(parent, name, directory)
        return directory

    def symlink(self, parent: Directory, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link. It needs no pager."""
        return self._add_new(parent, name, Symlink(caller.uid, caller.gid, target))

    def link(self, node: Node, parent: Directory, name: bytes, caller: Caller) -> None:
        """Give a file of this realm another name; EXDEV for one of another."""
        if node.parent is None or node.parent.realm is not self:
            raise OSError(errno.EXDEV, f"{node.path} is of another kind than what is in {parent.path}")
        self.tree.link(node, parent, name, caller.uid)

    def mkfifo(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a named pipe, which is no port, where files are made."""
        self._check_makes_files(parent, name)
        return self._add_new(parent, name, PlainFifo(mode, caller.uid, caller.gid))

    def mksocket(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make what a socket is bound to, where files are made."""
        self._check_makes_files(parent, name)
        return self._add_new(parent, name, Socket(mode, caller.uid, caller.gid))

    def _check_makes_files(self, parent: Directory, name: bytes) -> None:
        if parent.maker is None:
            refuse("FIFOs and sockets are made where a pager serves the directory", parent, name)

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Close the handle that the name is, if it is the last name."""
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

    def __init__(self, tree: Tree, system: System) -> None:
        super().__init__(tree)
        self._system = system

    def create(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty aux VMO."""
        aux = AuxVmo(self._system, account=self.tree.limits.account(caller.uid))
        return self._add_new(parent, name, AuxFile(mode, caller.uid, caller.gid, aux))

    def _check_makes_files(self, parent: Directory, name: bytes) -> None:
        """Let them be made everywhere."""


class PagerKeeper(Protocol):
    """Who makes pagers out of directories, and ports out of FIFOs."""

    def open(self, directory: Directory, caller: Caller) -> None:
        """Make a pager out of a new directory, and fill it."""

    def remove(self, directory: Directory) -> None:
        """Close a pager whose directory, with all that is in it, is about to go."""

    def add_fifo(self, directory: Directory, fifo: Fifo) -> None:
        """Make a port out of a FIFO that was made in a pager's directory."""

    def remove_fifo(self, fifo: Fifo) -> None:
        """End a FIFO that has lost its name."""


class PagerRealm(Realm):
    """A pager's directory: FIFOs may be added and removed; all else belongs to the pager."""

    OF_PAGERS = True

    def __init__(self, tree: Tree, pagers: PagerKeeper) -> None:
        self._tree = tree
        self._pagers = pagers

    def mkfifo(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make another port."""
        fifo = Fifo(mode, caller.uid, caller.gid)
        adopt(parent, fifo)
        self._tree.add(parent, name, fifo)
        self._pagers.add_fifo(parent, fifo)
        return fifo

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove a FIFO that ``mkfifo`` made."""
        node = self._tree.lookup(parent, name)
        if not isinstance(node, Fifo) or node.builtin:
            refuse("it belongs to the pager", parent, name)
        self._tree.unlink(parent, name)

    def released(self, node: Node) -> None:
        """End a FIFO that has lost its name."""
        if isinstance(node, Fifo):
            self._pagers.remove_fifo(node)


class ControlRealm(Realm):
    """``control/``: a directory is a pager."""

    def __init__(self, tree: Tree, pagers: PagerKeeper) -> None:
        self._tree = tree
        self._pagers = pagers
        self._pager_realm = PagerRealm(tree, pagers)

    def mkdir(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a pager. Zircon: zx_pager_create."""
        directory = Directory(mode, caller.uid, caller.gid, self._pager_realm)
        adopt(parent, directory)
        self._tree.add(parent, name, directory)
        try:
            self._pagers.open(directory, caller)
        except BaseException:
            self._tree.discard(directory)
            raise
        return directory

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Close a pager, its files are no obstacle."""
        node = self._tree.lookup(parent, name)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, f"{node.path} is no pager")
        self._pagers.remove(node)
        self._tree.discard(node)


def adopt(parent: Directory, node: Node) -> None:
    """Give a new node what it inherits: the group of a set-group-ID directory, and default ACL entries."""
    if parent.mode & stat.S_ISGID:
        node.gid = parent.gid
        if isinstance(node, Directory):
            node.mode |= stat.S_ISGID
    acl.inherit(parent, node)

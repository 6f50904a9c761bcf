"""The tree of names: POSIX semantics of adding, removing and renaming, and how long a node lives.

What may be made where is the business of ``directory_rules``, who may do it that of the kernel
(``default_permissions``). Errors are ``OSError`` with the errno that POSIX gives; nothing has changed then.

A node lives while it has a name, the kernel knows its number, it is open, or others need it (``keep``). What it holds
in the core is released earlier: as soon as it has neither a name nor an open file (``release``).
"""

from __future__ import annotations

import errno
import itertools
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vmofs.wire.names import MAX_PATH_BYTES, NAME_MAX, escape
from vmofs_mount.tree.inodes import Directory, Link, Node
from vmofs_mount.tree.limits import Limits, Resource
from vmofs_mount.tree.orphans import Orphans

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
LINK_MAX = 1024
"""Names that one file may have: they are gone through one by one."""

ROOT_INO = 1


@dataclass(frozen=True, slots=True)
class TreeStatistics:
    """Counts over all nodes that live."""

    nodes: int
    nodes_by_kind: Mapping[str, int]
    unlinked: int
    open_files: int
    known_to_kernel: int

    @staticmethod
    def of(nodes: Collection[Node]) -> TreeStatistics:
        """Count nodes."""
        return TreeStatistics(
            nodes=len(nodes),
            nodes_by_kind=Counter(type(node).__name__ for node in nodes),
            unlinked=sum(node.nlink == 0 for node in nodes),
            open_files=sum(node.open_count for node in nodes),
            known_to_kernel=sum(node.lookup_count > 0 for node in nodes),
        )


class Tree:
    """All nodes of a mount, by inode number and by name. Inode numbers are never used twice.

    ``limits`` counts them for who made them. ``change`` is the context in which calls of the model may wake somebody.
    """

    def __init__(
        self,
        root: Directory,
        limits: Limits,
        change: Callable[[], AbstractContextManager[object]],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = root
        self.limits = limits
        self._change = change
        self.now_ns = now_ns
        self._numbers = itertools.count(ROOT_INO)
        self._nodes: dict[int, Node] = {}
        self.orphans = Orphans()
        self._register(root)
        root.nlink = 2

    def nodes(self) -> Iterable[Node]:
        """Return all that live."""
        return self._nodes.values()

    @property
    def node_count(self) -> int:
        """Number of nodes that live."""
        return len(self._nodes)

    def get(self, ino: int) -> Node:
        """Return the node with this number.

        Raises:
            OSError: ESTALE, there is none (any more).
        """
        try:
            return self._nodes[ino]
        except KeyError:
            raise OSError(errno.ESTALE, f"no inode {ino}") from None

    def directory(self, ino: int) -> Directory:
        """Return the directory with this number.

        Raises:
            OSError: ESTALE, or ENOTDIR for another kind of node.
        """
        node = self.get(ino)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, f"{node.path} is no directory")
        return node

    def lookup(self, parent: Directory, name: bytes) -> Node:
        """Return the node of a name; ``.`` and ``..`` work.

        Raises:
            OSError: ENOENT, or ENAMETOOLONG for a name of more than 255 bytes.
        """
        if name in {b".", b".."}:
            return (name == b".." and parent.parent) or parent
        node = parent.realm.lookup(parent, name)
        if node is None:
            code = errno.ENAMETOOLONG if len(name) > NAME_MAX else errno.ENOENT
            raise OSError(code, f"no {name!r} in {parent.path!r}")
        return node

    def resolve(self, path: str) -> Node:
        """Return the node at a path relative to the mount point; for the mount's own use, checks no permission.

        What has no name of its own, as what stands in ``supply/``, is not found: it would have to be made.

        Raises:
            OSError: ENOENT, ENOTDIR.
        """
        node: Node = self.root
        for name in path.split("/"):
            child = self.directory(node.ino).children.get(name.encode())
            if child is None:
                raise OSError(errno.ENOENT, f"no {path!r}")
            node = child
        return node

    def add(self, parent: Directory, name: bytes, node: Node) -> None:
        """Give a new node its number, its times and its name.

        Raises:
            OSError: EEXIST; ENOENT, the parent was removed; EILSEQ, not UTF-8; ENAMETOOLONG, more than 255 bytes, or
                a path that would not fit a request line.
            NoSpaceError: its owner has too many.
        """
        _check_free_name(parent, name)
        self.limits.add(node)
        self._register(node)
        node.nlink = 2 if isinstance(node, Directory) else 1
        parent.attach(name, node)
        self._touch(parent)

    def link(self, node: Node, parent: Directory, name: bytes, uid: int) -> None:
        """Give a file another name; ``uid`` pays. Raises as ``add``, and ENOENT, it has none any more; EMLINK."""
        _check_free_name(parent, name)
        _check_link(node)
        self.limits.take(Resource.NODES, uid)
        parent.link(name, Link(node, uid))
        node.nlink += 1
        self._touch(parent)
        self.changed(node)

    def add_nameless(self, node: Node) -> None:
        """Give a new node its number and times but no name: it lives while the kernel knows it.

        Raises:
            NoSpaceError: its owner has too many.
        """
        self.limits.add(node)
        self._register(node)

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove the name of a node that is no directory.

        Raises:
            OSError: ENOENT; EISDIR.
        """
        node = self.lookup(parent, name)
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, f"{node.path} is a directory")
        self._detach(parent, name)

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove an empty directory.

        Raises:
            OSError: ENOENT; ENOTDIR; ENOTEMPTY.
        """
        node = self.lookup(parent, name)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, f"{node.path} is no directory")
        if node.children:
            raise OSError(errno.ENOTEMPTY, f"{node.path} is not empty")
        self._detach(parent, name)

    def discard(self, node: Node) -> None:
        """Remove a node, by its first name, and everything below it, whatever it is."""
        if isinstance(node, Directory):
            for name, child in list(node.children.items()):
                if isinstance(child, Directory):
                    self.discard(child)
                else:
                    self._detach(node, name)
        if node.nlink and node.parent is not None:
            self._detach(node.parent, node.name)

    def rename(self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int = 0) -> None:
        """Rename as renameat2(2) does, with RENAME_NOREPLACE or RENAME_EXCHANGE.

        Raises:
            OSError: EINVAL, unknown flags or a directory into itself; ENOENT; EEXIST under NOREPLACE; EISDIR, ENOTDIR,
                ENOTEMPTY as rename(2) says; and what ``add`` says of names.
        """
        node, replaced = self.lookup(source, old), target.children.get(new)
        _check_rename(node, source, target, replaced, flags)
        _check_new_name(target, new)
        if replaced is node:  # two names of one file, or one name: nothing is done, as rename(2) says
            return
        _check_path(target, new, node, old, source)
        if flags == RENAME_EXCHANGE:
            _check_path(source, old, replaced, new, target)
        self._move(source, old, target, new, exchange=flags == RENAME_EXCHANGE)
        self._touch(source)
        self._touch(target)

    def remember(self, node: Node) -> None:
        """Count that the kernel was told of the node once more."""
        node.lookup_count += 1

    def forget(self, ino: int, count: int) -> None:
        """Count down what the kernel forgets; a node that nothing refers to any more is gone. Never raises."""
        node = self._nodes.get(ino)
        if node is not None:
            node.lookup_count = max(0, node.lookup_count - count)
            self._drop_if_unreferenced(node)

    def open(self, node: Node) -> None:
        """Count an open file of the node.

        Raises:
            OSError: ESTALE, the last reference is gone (a descriptor of an unlinked file from ``O_PATH`` comes here).
        """
        if not node.NAMELESS and node.nlink == node.open_count == 0:
            raise OSError(errno.ESTALE, f"{node.path} was released")
        node.open_count += 1

    def close(self, node: Node) -> None:
        """Count down an open file; the last one of an unlinked node releases what it holds."""
        node.open_count -= 1
        self._released(node)

    def release(self, node: Node) -> None:
        """Let go of what a node holds in the core. If others need that, the node is kept for them until ``let_go``.

        Called for every node that loses its name and its last open file, and to be called for one that got no name.
        """
        with self._change():
            self.limits.remove(node)
            if node.release():
                self.orphans.add(node)
            if node.parent is not None:
                node.parent.realm.released(node)

    def let_go(self, node: Node) -> None:
        """Note that nobody needs a node any more that was kept."""
        self.orphans.discard(node)
        self._drop_if_unreferenced(node)

    def changed(self, node: Node) -> None:
        """Set the time of the last change of attributes to now."""
        node.ctime_ns = self.now_ns()

    def modified(self, node: Node) -> None:
        """Set the times of the last change of content and attributes to now."""
        node.mtime_ns = node.ctime_ns = self.now_ns()

    def statistics(self) -> TreeStatistics:
        """Return the present counts."""
        return TreeStatistics.of(self._nodes.values())

    def check(self) -> None:
        """Assert that names, numbers and counts agree."""
        for ino, node in self._nodes.items():
            assert node.ino == ino
            is_needed = node.nlink or node.lookup_count or node.open_count or node in self.orphans
            assert is_needed, f"{node.path} should be gone"
            if node is not self.root:
                _check_node(node)
        self.orphans.check()
        for node in self.root.descendants():
            assert self._nodes[node.ino] is node
            assert node.nlink

    def _register(self, node: Node) -> None:
        node.ino = next(self._numbers)
        node.atime_ns = node.mtime_ns = node.ctime_ns = self.now_ns()
        self._nodes[node.ino] = node

    def _touch(self, directory: Directory) -> None:
        directory.mtime_ns = directory.ctime_ns = self.now_ns()

    def _detach(self, parent: Directory, name: bytes) -> None:
        node = parent.children[name]
        entry, _ = parent.detach(name)
        self._touch(parent)
        self._unlinked(node, entry)

    def _move(self, source: Directory, old: bytes, target: Directory, new: bytes, *, exchange: bool) -> None:
        entry, cookie = source.detach(old)
        replaced = target.children.get(new)
        other, other_cookie = target.detach(new) if replaced is not None else (None, None)
        self.changed(target.put(new, entry, other_cookie))
        if exchange and other is not None:
            self.changed(source.put(old, other, cookie))
        elif replaced is not None and other is not None:
            self._unlinked(replaced, other)

    def _unlinked(self, node: Node, entry: Node | Link) -> None:
        """Note that a node has a name less: what stood for it is ``entry``."""
        if isinstance(entry, Link):
            self.limits.give(Resource.NODES, entry.payer)
            node.nlink -= 1
            self.changed(node)
            return
        node.last_path = node.path
        node.nlink = 0
        if node.open_count:
            self.orphans.add(node)
        self.changed(node)
        self._released(node)

    def _released(self, node: Node) -> None:
        if node.nlink == 0 and node.open_count == 0:
            self.orphans.discard(node)
            self.release(node)
            self._drop_if_unreferenced(node)

    def _drop_if_unreferenced(self, node: Node) -> None:
        is_needed = node.nlink or node.lookup_count or node.open_count or node in self.orphans
        if not is_needed and self._nodes.pop(node.ino, None) is not None:
            self.limits.forget(node)
            node.forgotten()


def _check_node(node: Node) -> None:
    assert node.lookup_count >= 0
    assert node.open_count >= 0
    if isinstance(node, Directory):
        node.check()
    if node.nlink:
        for entry in node.names:
            assert entry.parent is not None
            assert entry.parent.children[entry.name] is node
        assert isinstance(node, Directory) or node.nlink == len(node.names)


def _check_new_name(parent: Directory, name: bytes) -> None:
    if not parent.nlink:
        raise OSError(errno.ENOENT, f"{parent.path} was removed")
    if name in {b"", b".", b".."}:
        raise OSError(errno.EINVAL, f"{name!r} is no name")
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, f"the name has {len(name)} bytes, at most {NAME_MAX} are possible")
    try:
        name.decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, f"{name!r} is not UTF-8") from None


def _check_free_name(parent: Directory, name: bytes) -> None:
    _check_new_name(parent, name)
    if name in parent.children:
        raise OSError(errno.EEXIST, f"{name!r} exists in {parent.path!r}")
    _check_path(parent, name)


def _check_link(node: Node) -> None:
    if not node.nlink:
        raise OSError(errno.ENOENT, f"{node.path} was removed")
    if node.nlink >= LINK_MAX:
        raise OSError(errno.EMLINK, f"{node.path} has {node.nlink} names")


def _check_rename(node: Node, source: Directory, target: Directory, replaced: Node | None, flags: int) -> None:
    if flags not in {0, RENAME_NOREPLACE, RENAME_EXCHANGE}:
        raise OSError(errno.EINVAL, f"rename flags {flags:#x}")
    if flags == RENAME_EXCHANGE and replaced is None:
        raise OSError(errno.ENOENT, "nothing to exchange with")
    if flags == RENAME_NOREPLACE and replaced is not None:
        raise OSError(errno.EEXIST, f"{replaced.path} exists")
    if target.is_inside(node):
        raise OSError(errno.EINVAL, f"{node.path} would lie in itself")
    if replaced is None or replaced is node:
        return
    if source.is_inside(replaced):
        code = errno.EINVAL if flags == RENAME_EXCHANGE else errno.ENOTEMPTY
        raise OSError(code, f"{replaced.path} holds {node.path}")
    if flags != RENAME_EXCHANGE:
        _check_replace(node, replaced)


def _check_replace(node: Node, replaced: Node) -> None:
    if isinstance(replaced, Directory):
        if not isinstance(node, Directory):
            raise OSError(errno.EISDIR, f"{replaced.path} is a directory")
        if replaced.children:
            raise OSError(errno.ENOTEMPTY, f"{replaced.path} is not empty")
    elif stat.S_ISDIR(node.mode):
        raise OSError(errno.ENOTDIR, f"{replaced.path} is no directory")


def _check_path(
    parent: Directory, name: bytes, node: Node | None = None, old: bytes = b"", source: Directory | None = None
) -> None:
    """Refuse a name with which a request line for it, or for something below it, would not fit PIPE_BUF.

    ``node`` has the name ``old`` in ``source`` until then.
    """
    longest = _escaped_bytes(name) + _depth_bytes(parent)
    if isinstance(node, Directory) and longest > _escaped_bytes(old) + _depth_bytes(source):
        longest += node.longest
    if longest > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"the path has {longest} bytes, at most {MAX_PATH_BYTES} are possible")


def _depth_bytes(directory: Directory | None) -> int:
    """Return the length of what stands before a name in this directory, as it is written in a request line."""
    length = 0
    while directory is not None and directory.parent is not None:
        length += _escaped_bytes(directory.name) + 1
        directory = directory.parent
    return length


def _escaped_bytes(name: bytes) -> int:
    return len(escape(name.decode()).encode())

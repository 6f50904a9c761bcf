"""The inodes: what a name in the mount stands for, and what ``stat`` says about it.

A node has one name, by which requests call it, and others only if it was linked (``Link``). ``path`` still says what it
was called after it was unlinked, wherever its directory is by then. Nothing here knows FUSE, waiting, or who may do
what.
"""

from __future__ import annotations

import errno
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import ClassVar, NoReturn, Protocol

from sortedcontainers import SortedKeyList

from vmofs.core.pager import Pager
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import Vmo
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.wire.names import escape, printable
from vmofs_mount.linux.caller import Caller
from vmofs_mount.tree.reading import Reading

VIRTUAL_PREFIX = b"user.vmofs."
SOURCE, VERSION = VIRTUAL_PREFIX + b"source", VIRTUAL_PREFIX + b"version"
"""From where the content of a VMO comes, and which version of it that is."""

PagedVmo = PagerVmo | CloneVmo | PagerView
"""What a file in ``vmo/`` shows: the VMO of a pager, or a child of one."""

BLOCKS_PER_PAGE = PAGE_SIZE // 512

FIRST_COOKIE = 3
"""Directory positions 1 and 2 are those of ``.`` and ``..``."""


class Node:
    """What all inodes have. ``mode`` holds the type and the permission bits, as ``st_mode`` does.

    Slots, because a mount may have 100,000 of them.
    """

    __slots__ = (
        "__weakref__",
        "atime_ns",
        "cookie",
        "ctime_ns",
        "gid",
        "ino",
        "last_path",
        "links",
        "lookup_count",
        "mode",
        "mtime_ns",
        "name",
        "nlink",
        "open_count",
        "parent",
        "payer",
        "uid",
        "xattrs",
    )

    TYPE: ClassVar[int] = stat.S_IFREG
    NAMELESS: ClassVar[bool] = False
    """Whether it lives without a name: it is made when it is looked up, and gone when the kernel forgets it."""

    def __init__(self, permissions: int, uid: int, gid: int) -> None:
        self.ino = 0  # given by the tree
        self.mode = self.TYPE | stat.S_IMODE(permissions)
        self.uid = uid
        self.gid = gid
        self.atime_ns = self.mtime_ns = self.ctime_ns = 0
        self.nlink = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.parent: Directory | None = None
        self.name = b""
        self.links: list[Link] | None = None  # its other names
        self.last_path: str | None = None  # once it is unlinked
        self.cookie = 0  # the position in the listing of the parent
        self.lookup_count = 0  # how often the kernel was told of this inode, less what it forgot
        self.open_count = 0
        self.payer: int | None = None  # for whom it is counted, see ``limits``

    @property
    def path(self) -> str:
        """The path relative to the mount point, ``vmo/disk.img``; the last one it had when it is unlinked."""
        return self.last_path if self.last_path is not None else _path(self.parent, self.name)

    @property
    def names(self) -> list[Node | Link]:
        """The names that it has: itself for the first one."""
        return [self, *(self.links or ())]

    def _entry(self, parent: Directory, name: bytes) -> Node | Link:
        """Return what stands for one of its names."""
        return next(entry for entry in self.names if entry.parent is parent and entry.name == name)

    @property
    def size_bytes(self) -> int:
        """``st_size``."""
        return 0

    @property
    def blocks(self) -> int:
        """``st_blocks``: the memory behind the file."""
        return 0

    @property
    def block_bytes(self) -> int:
        """``st_blksize``."""
        return PAGE_SIZE

    SAID: ClassVar[frozenset[bytes]] = frozenset()
    """Which ``user.vmofs.*`` attributes, with that prefix, are not computed, but said by whoever made the file."""

    def computed_xattrs(self) -> Mapping[bytes, bytes]:
        """Return the ``user.vmofs.*`` attributes, without that prefix."""
        return {}

    def release(self) -> bool:
        """Let go of what it stands for in the core: neither a name nor an open file is left.

        Returns:
            Whether others still need that, and know it by this node.
        """
        return False

    def forgotten(self) -> None:
        """Learn that neither the kernel nor anybody else refers to it."""

    def drop_privileges(self) -> None:
        """Clear set-user-ID, and set-group-ID where it is not mere locking: the file was changed by another."""
        self.mode &= ~stat.S_ISUID
        if self.mode & stat.S_IXGRP:
            self.mode &= ~stat.S_ISGID


class Link:
    """Another name of a node. ``payer``: for whom it is counted."""

    __slots__ = ("cookie", "name", "node", "parent", "payer")

    def __init__(self, node: Node, payer: int) -> None:
        self.node = node
        self.payer = payer
        self.parent: Directory | None = None
        self.name = b""
        self.cookie = 0

    @property
    def path(self) -> str:
        """The path relative to the mount point."""
        return _path(self.parent, self.name)


def _path(parent: Directory | None, name: bytes) -> str:
    names: list[bytes] = []
    while parent is not None:
        names.append(name)
        name, parent = parent.name, parent.parent
    return b"/".join(reversed(names)).decode()


class Directory(Node):
    """Names in the order in which they were made, each with a position that lasts as long as the name does.

    A name that is replaced by rename keeps its position, so that a listing under way neither skips nor repeats it.
    """

    __slots__ = ("_by_cookie", "_lengths", "_next_cookie", "children", "longest", "maker", "realm")

    TYPE = stat.S_IFDIR

    def __init__(self, permissions: int, uid: int, gid: int, realm: Realm) -> None:
        super().__init__(permissions, uid, gid)
        self.realm = realm
        self.maker: FileMaker | None = None  # of the files that are made here; inherited by subdirectories
        self.children: dict[bytes, Node] = {}
        self._lengths: dict[int, int] = {}  # of the longest path by way of each child -> how many children
        self.longest = 0
        """The length of the longest path below, as it is written in a request line, with the slash before it."""
        self._by_cookie = SortedKeyList(key=attrgetter("cookie"))
        self._next_cookie = FIRST_COOKIE

    def attach(self, name: bytes, node: Node, cookie: int | None = None) -> Node | None:
        """Give the name to a node that has none; return the node that had it before, if any, and has it no longer.

        ``cookie``: the position, if it is that of another name.
        """
        return self._attach(name, node, node, cookie)

    def link(self, name: bytes, link: Link, cookie: int | None = None) -> Node | None:
        """Do as ``attach`` does, for another name of a node that has one."""
        node = link.node
        node.links = [*(node.links or ()), link]
        return self._attach(name, node, link, cookie)

    def _attach(self, name: bytes, node: Node, entry: Node | Link, cookie: int | None) -> Node | None:
        replaced = self.children.get(name)
        if replaced is not None:
            cookie = self.detach(name)[1]
        if cookie is None:
            cookie = self._next_cookie
            self._next_cookie += 1
        entry.parent, entry.name, entry.cookie = self, name, cookie
        self.children[name] = node
        self._by_cookie.add(entry)
        self._count_subdirectory(node, 1)
        self._count_length(_length_by(name, node), 1)
        return replaced

    def detach(self, name: bytes) -> tuple[Node | Link, int]:
        """Take a name away, and return what stood for it, and its position.

        The node remembers its last name. If it has others, one of these becomes its first, and the ``Link`` that was
        that one is what is returned.
        """
        node = self.children.pop(name)
        entry = node._entry(self, name)  # noqa: SLF001 - of this module
        cookie = entry.cookie
        self._by_cookie.remove(entry)
        self._count_subdirectory(node, -1)
        self._count_length(_length_by(name, node), -1)
        if node.links is None:
            return node, cookie
        gone = node.links.pop() if isinstance(entry, Node) else entry
        if isinstance(entry, Node):
            assert gone.parent is not None
            positions = gone.parent._by_cookie  # noqa: SLF001 - of this class
            positions.remove(gone)
            node.parent, node.name, node.cookie = gone.parent, gone.name, gone.cookie
            positions.add(node)
        else:
            node.links.remove(entry)
        node.links = node.links or None
        return gone, cookie

    def put(self, name: bytes, entry: Node | Link, cookie: int | None) -> Node:
        """Give a free name to what ``detach`` has returned; return the node."""
        if isinstance(entry, Link):
            self.link(name, entry, cookie)
            return entry.node
        self.attach(name, entry, cookie)
        return entry

    def _count_length(self, length: int, step: int) -> None:
        """Count a child more or less whose longest path has this length, here and in the directories above."""
        directory: Directory | None = self
        changes = [(length, step)]
        while directory is not None and changes:
            before = directory.longest + _written_bytes(directory.name)
            directory._change_lengths(changes)  # noqa: SLF001 - of this class
            after = directory.longest + _written_bytes(directory.name)
            above = directory.parent
            is_there = above is not None and above.children.get(directory.name) is directory
            changes = [(after + 1, 1), (before + 1, -1)] if before != after and is_there else []
            directory = above

    def _change_lengths(self, changes: list[tuple[int, int]]) -> None:
        for length, step in changes:
            count = self._lengths.get(length, 0) + step
            if count:
                self._lengths[length] = count
                self.longest = max(self.longest, length)
            else:
                del self._lengths[length]
        if self.longest not in self._lengths:
            self.longest = max(self._lengths, default=0)

    def after(self, cookie: int) -> Iterator[Node | Link]:
        """Return the names behind a position, in order; the directory may change before the next call."""
        iterator: Iterator[Node | Link] = self._by_cookie.irange_key(min_key=cookie, inclusive=(False, True))
        return iterator

    def is_inside(self, ancestor: Node) -> bool:
        """Return whether this directory is ``ancestor`` or lies below it."""
        node: Node | None = self
        while node is not None and node is not ancestor:
            node = node.parent
        return node is not None

    def descendants(self) -> Iterator[Node]:
        """Yield everything below, parents first, for each name. Not recursive: a path may have 2,000 components."""
        directories = [self]
        while directories:
            for child in directories.pop().children.values():
                yield child
                if isinstance(child, Directory):
                    directories.append(child)

    def check(self) -> None:
        """Assert that both orders hold the same children and that ``nlink`` counts the subdirectories."""
        entries = [child._entry(self, name) for name, child in self.children.items()]  # noqa: SLF001 - of this module
        assert sorted(entries, key=attrgetter("cookie")) == list(self._by_cookie)
        assert all(FIRST_COOKIE <= entry.cookie < self._next_cookie for entry in entries)
        subdirectories = sum(isinstance(child, Directory) for child in self.children.values())
        assert self.nlink in {0, subdirectories + 2}
        assert Counter(_length_by(name, child) for name, child in self.children.items()) == self._lengths
        assert self.longest == max(self._lengths, default=0)

    def _count_subdirectory(self, node: Node, step: int) -> None:
        if isinstance(node, Directory) and self.nlink:
            self.nlink += step


class Realm:
    """A part of the tree with rules of its own. This one allows nothing; others are in ``directory_rules``."""

    OF_PAGERS: ClassVar[bool] = False
    """Whether the directories in it are pagers."""

    def lookup(self, parent: Directory, name: bytes) -> Node | None:
        """Return the child of that name."""
        return parent.children.get(name)

    def create(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a regular file, for ``open(O_CREAT)`` and ``mknod(S_IFREG)``."""
        del mode, caller
        refuse("files are not made here", parent, name)

    def mkdir(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a directory."""
        del mode, caller
        refuse("directories are not made here", parent, name)

    def mkfifo(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a FIFO."""
        del mode, caller
        refuse("FIFOs are not made here", parent, name)

    def mksocket(self, parent: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        """Make what a socket is bound to."""
        del mode, caller
        refuse("sockets are not bound here", parent, name)

    def symlink(self, parent: Directory, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link."""
        del target, caller
        refuse("symbolic links are not made here", parent, name)

    def link(self, node: Node, parent: Directory, name: bytes, caller: Caller) -> None:
        """Give a file another name."""
        del node, caller
        refuse("hard links are not made here", parent, name)

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove what is no directory."""
        refuse("nothing is removed here", parent, name)

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove a directory."""
        refuse("directories are not removed here", parent, name)

    def rename(self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int) -> None:
        """Rename; ``source`` belongs to this realm, ``target`` perhaps to another."""
        del target, new, flags
        refuse("nothing is renamed here", source, old)

    def released(self, node: Node) -> None:
        """Learn that a node is left with neither name nor open file; it had its last name in this realm."""


def refuse(why: str, parent: Directory, name: bytes) -> NoReturn:
    """Refuse to root too what is against the rules of a realm.

    Raises:
        OSError: EPERM.
    """
    raise OSError(errno.EPERM, f"{why}: {name!r} in {parent.path!r}")


class FileMaker(Protocol):
    """Makes the files of programs that create some in a directory of ``vmo/``."""

    def make_file(self, mode: int, caller: Caller) -> Node:
        """Make a file that has no name yet.

        Raises:
            VmoError: it cannot be made.
        """


def _written_bytes(name: bytes) -> int:
    """Return the length of a name in a request line: see ``vmofs.wire.names.escape``."""
    return len(name) + 3 * (name.count(b" ") + name.count(b"\t") + name.count(b"\n") + name.count(b"\\"))


def _length_by(name: bytes, node: Node) -> int:
    """Return the length of the longest path by way of a child, with the slash before it."""
    return 1 + _written_bytes(name) + (node.longest if isinstance(node, Directory) else 0)


class VmoFile(Node):
    """A pager VMO, or a child of one. ``pager`` made it, or none did, as for children."""

    __slots__ = ("mapper_count", "maybe_cached", "pager", "reading", "vmo", "writer_count", "writers_total")

    SAID = frozenset({SOURCE, VERSION})

    vmo: PagedVmo
    """What the file shows. Unset only while a name is claimed for a VMO that is about to be made."""

    def __init__(
        self,
        permissions: int,
        uid: int,
        gid: int,
        vmo: PagedVmo | None = None,
        pager: Pager | None = None,
        reading: Reading = Reading(),  # noqa: B008
    ) -> None:
        super().__init__(permissions, uid, gid)
        self.pager = pager
        self.reading = reading
        self.maybe_cached = False  # whether the kernel may have pages of it
        self.mapper_count = 0  # open files that may store through a shared mapping: those for reading and writing
        self.writer_count = 0  # open files that may write
        self.writers_total = 0  # how many there ever were
        if vmo is not None:
            self.show(vmo)

    def show(self, vmo: PagedVmo) -> None:
        """Be the file of a VMO; request lines then name it by this file's path, if it is a pager's."""
        self.vmo = vmo
        vmo.owner = self
        if isinstance(vmo, PagerVmo):
            vmo.source.owner = self

    def say(self, name: bytes, value: str | None) -> None:
        """Keep an attribute that whoever makes the file says of it, if he does."""
        if value is not None:
            self.xattrs = {**(self.xattrs or {}), name: value.encode()}

    @property
    def size_bytes(self) -> int:
        """The stream size."""
        return self.vmo.stream_size

    @property
    def blocks(self) -> int:
        """The pages that were supplied or written, and 1 if there are none but some are absent.

        Programs that ask for holes take a file of 0 blocks for one big hole, and store zeros without reading it.
        """
        vmo = self.vmo
        return vmo.committed_pages * BLOCKS_PER_PAGE or int(vmo.may_lack_pages)

    @property
    def block_bytes(self) -> int:
        """By which many programs choose the size of their reads."""
        return self.reading.block_bytes

    def release(self) -> bool:
        """Give up the handle; a VMO that has children goes on asking for pages, by this name."""
        if not hasattr(self, "vmo"):
            return False  # it could not be made
        self.vmo.close()
        return self.pager is not None and self.vmo in self.pager.vmos

    def computed_xattrs(self) -> Mapping[bytes, bytes]:
        """Return what is computed of the file, how the last request failed, and what was said of the file."""
        vmo = self.vmo
        counts = {f"{name}_pages": value for name, value in asdict(vmo.statistics()).items() if isinstance(value, int)}
        counts["size_pages"] = counts.pop("size_pages_pages", vmo.size_pages)
        counts["runs"] = counts.pop("runs_pages", 0)
        options = asdict(vmo.node.options) if isinstance(vmo, PagerVmo) else {"resizable": vmo.resizable}
        values = {
            "pager": _pager_name(vmo.source.owner),
            "key": vmo.source.key,
            "kind": _kind_of(vmo),
            "state": vmo.source.state.value,
            "options": ",".join(name for name, is_set in options.items() if is_set),
            "children": vmo.lineage.num_children,
            **counts,
        }
        failed = vmo.source.failed
        if failed is not None:
            where = f"{failed.range.offset} {failed.range.length}"
            last = f"{failed.times} {failed.status.zx_name} {where} {printable(failed.reason)}"
            values["last_error"] = last.rstrip()
        said = {name: value for name, value in (self.xattrs or {}).items() if name in self.SAID}
        return {
            **{name.encode(): str(value).encode() for name, value in values.items()},
            **{name.removeprefix(VIRTUAL_PREFIX): value for name, value in said.items()},
        }


def _kind_of(vmo: PagedVmo) -> str:
    match vmo:
        case PagerView():
            return "slice" if vmo.is_slice else "reference"
        case CloneVmo():
            return "clone"
    return "root"


def _pager_name(file: object) -> str:
    """Return what the pager is called that made the VMO of a file, as commands write it; empty if it has no name."""
    directory = file.pager.owner if isinstance(file, VmoFile) and file.pager is not None else None
    return escape(directory.name.decode()) if isinstance(directory, Directory) else ""


class AuxFile(Node):
    """An aux VMO: an ordinary file."""

    __slots__ = ("attributes_told", "aux", "is_source", "lost", "mapper_count", "maybe_cached")

    def __init__(self, permissions: int, uid: int, gid: int, aux: AuxVmo | AuxView) -> None:
        super().__init__(permissions, uid, gid)
        self.aux = aux
        aux.owner = self
        self.maybe_cached = False  # whether the kernel may have pages of it
        self.mapper_count = 0  # open files that may store through a shared mapping: those for reading and writing
        self.lost: RangeSet | None = None  # what was stored to them through mappings found no memory
        self.attributes_told = False  # whether it may have attributes that it was not told to forget
        self.is_source = False  # whether a command has taken something from it, or changed it, and so will again

    @property
    def size_bytes(self) -> int:
        """The exact size."""
        return self.aux.size_bytes

    @property
    def blocks(self) -> int:
        """The pages that hold data; holes, and pages that were supplied from here, hold none."""
        return self.aux.committed_pages * BLOCKS_PER_PAGE

    def release(self) -> bool:
        """Give up the handle."""
        self.aux.close()
        return False

    def note_refused(self, pages: PageRange) -> None:
        """Note that a WRITE failed. If it was what was stored through a mapping, nobody was told, and it is gone."""
        if self.mapper_count:
            if self.lost is None:
                self.lost = RangeSet()
            self.lost.add(pages)

    def note_changed(self, pages: PageRange) -> None:
        """Note that pages were written to, or cut off: it does not matter any more what they had."""
        if self.lost is not None:
            self.lost.discard(pages)
            self.lost = self.lost or None


def vmo_of(file: VmoFile | AuxFile) -> Vmo:
    """Return what a file is in the core."""
    return file.aux if isinstance(file, AuxFile) else file.vmo


class Fifo(Node):
    """A named pipe. The kernel carries it; opens and data never come here. Built-in ones cannot be unlinked."""

    __slots__ = ("builtin",)

    TYPE = stat.S_IFIFO

    def __init__(self, permissions: int, uid: int, gid: int, *, builtin: bool = False) -> None:
        super().__init__(permissions, uid, gid)
        self.builtin = builtin


class CommandFile(Node):
    """A command file of the mount, or of one pager (``pager``): each line written to it is a call."""

    __slots__ = ("kind", "pager")

    def __init__(self, permissions: int, uid: int, gid: int, kind: str, pager: Pager | None = None) -> None:
        super().__init__(permissions, uid, gid)
        self.kind = kind
        self.pager = pager

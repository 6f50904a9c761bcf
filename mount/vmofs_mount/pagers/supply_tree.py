"""``control/PAGER/supply/``: files to write pages into, straight, without an aux. One for each VMO of the pager.

``supply/vmo/disk.img`` (what a request line names), and for short ``supply/disk.img``, stand for ``vmo/disk.img``. The
names are made when they are looked up and gone when the kernel forgets them, so they cost nothing, and a VMO that is
renamed or made is there at once.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from vmofs.core.pager import Pager
from vmofs.status import InvalidArgsError
from vmofs.units import PAGE_SIZE, is_page_aligned
from vmofs_mount.files.open_files import Data, ReadHandle
from vmofs_mount.linux.caller import Caller
from vmofs_mount.pagers.answers import Answers
from vmofs_mount.rights.identity import Identity
from vmofs_mount.rights.resolver import Names
from vmofs_mount.tree.inodes import Directory, Node, Realm, VmoFile
from vmofs_mount.tree.tree import Tree

_CUT_BYTES = 2**19
"""From here on a write that ends within a page may be the beginning of a longer one: the kernel cuts what is gathered
from many pieces of memory, two to a page, where they are 256."""

_VMO = b"vmo"


class SupplyFile(Node):
    """Where pages of one VMO are written to."""

    __slots__ = ("file", "pager", "realm")

    NAMELESS = True

    def __init__(self, permissions: int, uid: int, gid: int, file: VmoFile, pager: Pager, realm: SupplyRealm) -> None:
        super().__init__(permissions, uid, gid)
        self.file = file
        self.pager = pager
        self.realm = realm

    def forgotten(self) -> None:
        """Learn that neither the kernel nor anybody else refers to it."""
        self.realm.forgotten(self, self.file)

    @property
    def size_bytes(self) -> int:
        """The size of the VMO, for programs that look where its end is."""
        return self.file.size_bytes


class SupplyDirectory(Directory):
    """``supply/`` itself, or what stands in it for a directory below ``vmo/``: ``mirrored``."""

    __slots__ = ("mirrored",)

    NAMELESS = True

    def __init__(self, permissions: int, uid: int, gid: int, realm: Realm, mirrored: Directory) -> None:
        super().__init__(permissions, uid, gid, realm)
        self.mirrored = mirrored


class _Mirrored:
    """An attribute of the directory that is mirrored, so that the kernel lets the same people through."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, node: MirrorDirectory, owner: type) -> object:
        return getattr(node.mirrored, self._name)

    def __set__(self, node: MirrorDirectory, value: object) -> None:
        """Change nothing: it is changed below ``vmo/``."""


class MirrorDirectory(SupplyDirectory):
    """What stands in ``supply/`` for a directory below ``vmo/``: nobody learns more of it here than there."""

    __slots__ = ()

    mode = _Mirrored("mode")  # type: ignore[assignment] # a slot of every other node
    uid = _Mirrored("uid")  # type: ignore[assignment]
    gid = _Mirrored("gid")  # type: ignore[assignment]
    xattrs = _Mirrored("xattrs")  # type: ignore[assignment]

    realm: SupplyRealm

    def __init__(self, realm: SupplyRealm, mirrored: Directory) -> None:
        self.mirrored = mirrored
        super().__init__(mirrored.mode, mirrored.uid, mirrored.gid, realm, mirrored)

    def forgotten(self) -> None:
        """Learn that neither the kernel nor anybody else refers to it."""
        self.realm.forgotten(self, self.mirrored)


class SupplyRealm(Realm):
    """Looks up in ``vmo/`` what is looked up here; nothing can be made or removed.

    The owner and the group of ``supply/`` itself, as far as its mode gives them write permission, may write.
    """

    def __init__(self, tree: Tree, vmo: Directory, pager: Pager) -> None:
        self._tree = tree
        self._vmo = vmo
        self._pager = pager
        self._made: dict[int, dict[tuple[int, bytes], Node]] = {}  # target -> directory and name -> what stands for it
        self._closed = False

    def close(self) -> None:
        """Show nothing more: the pager is gone."""
        self._closed = True

    def names(self, target: Node | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield what the kernel knows as a name of ``target``, or of anything: directory and name.

        It does not know that the names go with what they stand for, and keeps those that were open then until it is
        short of memory, and so all that the nodes refer to.
        """
        made = self._made.values() if target is None else [self._made.get(target.ino, {})]
        for names in made:
            yield from names

    def lookup(self, parent: Directory, name: bytes) -> Node | None:
        """Return the node that stands for a VMO of this pager, or for a directory.

        Raises:
            OSError: ESTALE, the pager is closed, or what ``parent`` stands for was removed. Not ENOENT, which the
                kernel would remember, and ``parent`` with it, until it is short of memory.
        """
        assert isinstance(parent, SupplyDirectory)
        if self._closed or not parent.mirrored.nlink:
            raise OSError(errno.ESTALE, f"{parent.path} is gone")
        is_top = parent.nlink > 0  # the others have no name of their own
        target: Node | None = self._vmo if is_top and name == _VMO else parent.mirrored.children.get(name)
        if not isinstance(target, Directory) and getattr(target, "pager", None) is not self._pager:
            target = self._tree.orphans.find(self._pager, f"{parent.mirrored.path}/{name.decode(errors='replace')}")
        if not isinstance(target, VmoFile | Directory):
            return None
        if is_top and target is not self._vmo and isinstance(target, Directory) and not self._vmo.mode & stat.S_IXOTH:
            return None  # on the way by ``supply/vmo`` the kernel checks who may search ``vmo/``
        return self._made.get(target.ino, {}).get((parent.ino, name)) or self._make(parent, name, target)

    def forgotten(self, node: Node, target: Node) -> None:
        """Learn that nothing refers any more to the node that stood for a target."""
        assert node.parent is not None
        names = self._made[target.ino]
        del names[node.parent.ino, node.name]
        if not names:
            del self._made[target.ino]

    def _make(self, parent: SupplyDirectory, name: bytes, target: VmoFile | Directory) -> Node:
        node: Node
        if isinstance(target, VmoFile):
            top = parent
            while isinstance(top.parent, SupplyDirectory):
                top = top.parent
            node = SupplyFile(top.mode & 0o222, top.uid, top.gid, target, self._pager, self)
        else:
            node = MirrorDirectory(self, target)
        node.parent, node.name = parent, name
        self._tree.add_nameless(node)
        self._made.setdefault(target.ino, {})[parent.ino, name] = node
        return node


class SupplyHandle(ReadHandle):
    """An open supply file: each write is a supply_pages of the written bytes."""

    def __init__(
        self,
        node: SupplyFile,
        flags: int,
        caller: Caller,
        names: Names,
        answers: Answers,
    ) -> None:
        if flags & os.O_ACCMODE == os.O_RDONLY:  # dd opens for both if it can, and would have to open twice
            raise OSError(errno.EACCES, f"{node.path} can only be written")
        super().__init__(node, flags, caller)
        self.direct_io = True
        self.identity = Identity.of_process(caller.uid, caller.gid, caller.pid)
        self._supply = node
        self._names = names
        self._answers = answers
        self._checked = False

    async def read(self, offset: int, size: int) -> Data:
        """Refuse: nothing can be read here."""
        raise OSError(errno.EACCES, f"{self._supply.path} can only be written, not read at {offset}+{size}")

    async def write(self, offset: int, data: bytes) -> int:
        """Supply whole pages; the last page of the VMO may be short. Anything else is INVALID_ARGS."""
        if not self._checked:
            await self._names.check_node(self.identity, self._supply.file, os.W_OK)
            self._checked = True
        return self._write(offset, data)

    def write_at_once(self, offset: int, data: bytes | memoryview) -> int | None:
        """Do as ``write`` does, if the rights have been checked; else return None.

        Raises:
            VmoError: nothing was supplied.
        """
        return self._write(offset, data) if self._checked else None

    def _write(self, offset: int, data: bytes | memoryview) -> int:
        end = offset + len(data)
        if not is_page_aligned(end) and end != self._supply.file.size_bytes:
            if len(data) < _CUT_BYTES:
                raise InvalidArgsError(f"the write {offset}+{len(data)} does not end with a page, or with the VMO")
            data = data[: len(data) - end % PAGE_SIZE]  # the rest comes again
        self._answers.supply_bytes(self._supply.pager, self._supply.file, offset, data)
        return len(data)

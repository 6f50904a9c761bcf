"""From the names in a command to the objects that they stand for, by the rights of whoever opened the command file."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Protocol

import trio

from vmofs.core.pager import Pager
from vmofs.status import (
    AccessDeniedError,
    AlreadyExistsError,
    BadHandleError,
    InvalidArgsError,
    IoError,
    TimedOutError,
    VmoError,
    WrongTypeError,
)
from vmofs.wire.names import quote
from vmofs_mount.linux.place import Place
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.rights.identity import Examined, Identity, can_examine, can_open_inodes, examine, examine_path
from vmofs_mount.tree.directory_rules import adopt
from vmofs_mount.tree.inodes import AuxFile, Directory, Node, VmoFile
from vmofs_mount.tree.tree import Tree

_RIGHTS = {
    os.F_OK: "find",
    os.R_OK: "read",
    os.W_OK: "write",
    os.R_OK | os.W_OK: "read and write",
    os.W_OK | os.X_OK: "make files in",
}

_THREADS = 16
"""For the names of each user's files: of a file whose size has changed the kernel may wait for a page that a READ has
locked, and that is for its owner to end."""

_ASK_SECONDS = 5.0
"""A write to a command file must not wait for the kernel for ever: the kernel has the file locked."""

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.EINVAL}


class NameUser(Protocol):
    """An open command file, as much of it as names need: whose it is, and what it keeps.

    ``named``: the files that the command names which is being carried out.
    """

    identity: Identity
    named: list[VmoFile | AuxFile]

    @property
    def pager(self) -> Pager | None:
        """The pager whose command file it is, if it is one's."""

    def kept_name(self, path: str, mode: int) -> Node | None:
        """Return the file that a name was turned into, with that right, if it still lives."""

    def keep_name(self, path: str, mode: int, node: Node) -> None:
        """Keep the file that a name was turned into."""

    def forget_name(self, path: str, mode: int) -> None:
        """Keep it no longer."""


class Names:
    """Turns names into nodes. A node that a name was once turned into is kept with the open command file."""

    def __init__(self, tree: Tree, place: Place) -> None:
        self._tree = tree
        self._place = place
        self._opens_inodes = can_open_inodes()
        self._threads = Lanes(_THREADS)

    async def file(self, handle: NameUser, path: str, mode: int) -> VmoFile | AuxFile:
        """Return the VMO or aux file of that name, which the caller may use as ``mode`` (os.R_OK | os.W_OK) says.

        Raises:
            BadHandleError: the name does not exist.
            WrongTypeError: it is no VMO.
            AccessDeniedError: the caller lacks a permission.
        """
        node = await self._node(handle, path, mode)
        assert isinstance(node, VmoFile | AuxFile)
        handle.named.append(node)
        return node

    async def _node(self, handle: NameUser, path: str, mode: int) -> Node:
        kept = handle.kept_name(path, mode)
        if kept is not None:
            named = self._find(path)
            lives_nameless = not kept.nlink and (kept.open_count or kept in self._tree.orphans)
            if kept is named or (lives_nameless and named is None):
                return kept  # a handle holds whatever becomes of the mode; and of the name, while the file lives
            handle.forget_name(path, mode)
        node: Node | None = self._orphan(handle, path)
        if node is None:
            node = await self._examine(handle, path, mode)
        else:
            await self._check_orphan(handle.identity, node, mode)
        if not isinstance(node, VmoFile | AuxFile):
            raise WrongTypeError(f"{quote(path)} is no VMO")
        handle.keep_name(path, mode, node)
        return node

    def _orphan(self, handle: NameUser, path: str) -> VmoFile | None:
        """Return the VMO that was unlinked under this name and is still read, if the command file is its pager's.

        Its readers wait, and its pager must go on, also if the name is another pager's by now.
        """
        pager = handle.pager
        if pager is None:
            return None
        named = self._find(path)
        is_ours = isinstance(named, VmoFile) and named.pager is pager
        return None if is_ours else self._tree.orphans.find(pager, path)

    async def _examine(self, handle: NameUser, path: str, mode: int) -> Node:
        if handle.identity.overrides:  # the kernel grants root everything, but not what is not there
            return self._resolve(path)
        walked = self._walk(path)
        node = walked[-1] if len(walked) == path.count("/") + 2 else None
        asked = node if isinstance(node, VmoFile | AuxFile | Directory) else None  # others are of the wrong type anyway
        found = await self._ask_kernel(handle.identity, path, walked if node is None else walked[:-1], asked, mode)
        if not found.found:
            if found.errno == errno.EACCES:
                raise AccessDeniedError(f"no permission to search a directory of {quote(path)}")
            if found.errno not in _NOT_THERE:
                raise IoError(f"{quote(path)} cannot be looked at: {os.strerror(found.errno)}")
            node = None
        if node is None:
            raise _missing(path)
        if found.errno:
            raise AccessDeniedError(f"no permission to {_RIGHTS[mode]} {quote(path)}")
        return node

    def _walk(self, path: str) -> list[Node]:
        """Return the nodes on the way to a path, from the root on, as far as they are there."""
        walked: list[Node] = [self._tree.root]
        for name in path.split("/"):
            directory = walked[-1]
            child = directory.children.get(name.encode()) if isinstance(directory, Directory) else None
            if child is None:
                break
            walked.append(child)
        return walked

    async def _ask_kernel(
        self, identity: Identity, path: str, way: list[Node], node: Node | None, mode: int
    ) -> Examined:
        """Ask whether somebody may search the directories of ``way``, and use ``node``, if there is one."""
        if not can_examine(identity):
            raise AccessDeniedError("the mount is not served by root and cannot learn what others may do")
        directories = [place.ino for place in way if isinstance(place, Directory)]
        if self._opens_inodes:
            ask = partial(examine, self._place, directories, 0 if node is None else node.ino, mode, identity)
        else:
            ask = partial(examine_path, self._place, path, mode, identity)
        try:
            with trio.fail_after(_ASK_SECONDS):
                return await self._threads.run(identity.uid if node is None else node.uid, ask)
        except trio.TooSlowError:
            raise TimedOutError(f"{quote(path)} cannot be looked at: somebody has a directory locked") from None
        except OSError as error:
            if error.errno == errno.ESTALE:  # it has just gone
                raise _missing(path) from None
            raise IoError(f"the rights of uid {identity.uid} cannot be looked at: {error}") from error

    async def _check_orphan(self, identity: Identity, node: Node, mode: int) -> None:
        """Check that somebody may use a file that has no name. No directory is on the way to it any more."""
        if identity.overrides or (not self._opens_inodes and identity.uid == node.uid):
            return  # who serves the mount himself has only files of his own
        if not self._opens_inodes or (await self._ask_kernel(identity, node.path, [], node, mode)).errno:
            raise AccessDeniedError(f"no permission to {_RIGHTS[mode]} {quote(node.path)}")

    async def check_node(self, identity: Identity, node: Node, mode: int) -> None:
        """Check that somebody may use a file, wherever it is, in the way ``mode`` says.

        Raises:
            AccessDeniedError: he may not.
        """
        if identity.overrides:
            return
        if not node.nlink:
            await self._check_orphan(identity, node, mode)
            return
        for path in [entry.path for entry in node.names]:
            if not (await self._ask_kernel(identity, path, self._walk(path)[:-1], node, mode)).errno:
                return
        raise AccessDeniedError(f"no permission to {_RIGHTS[mode]} {quote(node.path)}")

    def _resolve(self, path: str) -> Node:
        node = self._find(path)
        if node is None:
            raise _missing(path)
        return node

    def _find(self, path: str) -> Node | None:
        try:
            return self._tree.resolve(path)
        except OSError:
            return None

    async def new_name(self, handle: NameUser, path: str, top: str) -> tuple[Directory, bytes]:
        """Return the directory and the name for a file to be made at ``path``, which must lie below ``top``.

        Raises:
            InvalidArgsError: it lies elsewhere.
            BadHandleError: the directory does not exist.
            WrongTypeError: it is no directory.
            AccessDeniedError: the caller may not make files there.
        """
        parent_path, _, name = path.rpartition("/")
        if not parent_path:
            raise InvalidArgsError(f"{quote(path)} does not lie below {top}/")
        return await self.directory(handle, parent_path, top), name.encode()

    async def directory(self, handle: NameUser, path: str, top: str) -> Directory:
        """Return a directory, ``top`` or below it, in which the caller may make files.

        Raises:
            InvalidArgsError: it lies elsewhere.
            BadHandleError: it does not exist.
            WrongTypeError: it is no directory.
            AccessDeniedError: the caller may not make files there.
        """
        if path.split("/", maxsplit=1)[0] != top:
            raise InvalidArgsError(f"{quote(path)} does not lie below {top}/")
        node = await self._examine(handle, path, os.W_OK | os.X_OK)
        if not isinstance(node, Directory):
            raise WrongTypeError(f"{quote(path)} is no directory")
        return node

    def add(self, parent: Directory, name: bytes, file: VmoFile | AuxFile, path: str) -> None:
        """Give a new file its name; it inherits what the directory hands on. A file that is refused is released.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgsError: the name is not possible.
        """
        adopt(parent, file)
        try:
            self._tree.add(parent, name, file)
        except VmoError:
            self._tree.release(file)
            raise
        except OSError as error:
            self._tree.release(file)
            if error.errno == errno.EEXIST:
                raise AlreadyExistsError(f"{quote(path)} exists") from None
            raise InvalidArgsError(f"{quote(path)} cannot be made: {error.strerror}") from None

    def discard(self, file: VmoFile | AuxFile) -> None:
        """Take a file back that was just added."""
        self._tree.discard(file)


def _missing(path: str) -> BadHandleError:
    return BadHandleError(f"{quote(path)} does not exist")

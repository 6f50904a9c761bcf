"""The handlers that libfuse calls: each converts its arguments, calls the model, and converts the result.

OPEN, READ, WRITE, RELEASE and FORGET are served without it, in ``requests``.

pyfuse3 ends its loop, and with it the mount, when a handler raises anything but ``FUSEError``; so every handler is
wrapped. Handlers that do not await run whole: under trio nothing else runs meanwhile.

``flush`` and ``fsyncdir`` are not here: nothing is buffered, and the kernel stops asking when it hears
ENOSYS once. ``access`` is not asked under ``default_permissions``.
"""

# ruff: noqa: ARG002 - the signatures are pyfuse3's

from __future__ import annotations

import errno
import functools
import stat
from collections.abc import Callable, Coroutine
from typing import ParamSpec, TypeVar

import pyfuse3

from vmofs.status import VmoError
from vmofs_mount.front.attributes import to_attributes, to_caller, to_listed_attributes, to_statvfs
from vmofs_mount.front.errno_map import errno_of_exception
from vmofs_mount.front.parts import Parts
from vmofs_mount.linux.caller import Caller
from vmofs_mount.pagers.registry import Pagers
from vmofs_mount.pagers.supply_tree import MirrorDirectory, SupplyFile
from vmofs_mount.rights.identity import Identity
from vmofs_mount.tree import acl
from vmofs_mount.tree.inodes import AuxFile, Directory, Fifo, Link, Node, VmoFile
from vmofs_mount.tree.limits import Limits
from vmofs_mount.tree.special_files import Symlink
from vmofs_mount.tree.xattrs import get_xattr, list_xattrs, remove_xattr, set_xattr

P = ParamSpec("P")
R = TypeVar("R")


Handler = Callable[P, Coroutine[object, object, R]]


def guarded(function: Handler[P, R]) -> Handler[P, R]:
    """Let nothing but ``FUSEError`` out of a handler; cancellation passes."""

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            raise pyfuse3.FUSEError(errno_of_exception(error)) from error

    return wrapper


def handler(function: Handler[P, R]) -> Handler[P, R]:
    """Do as ``guarded`` does, and let the answer go straight to the kernel."""
    call = guarded(function)

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        operations = args[0]
        assert isinstance(operations, Operations)
        operations.answer_directly()
        return await call(*args, **kwargs)

    return wrapper


class Operations(pyfuse3.Operations):
    """The handlers of one mount."""

    supports_dot_lookup = True
    enable_acl = True

    def attach(self, parts: Parts, answer_directly: Callable[[], None]) -> None:
        """Serve a mount: libfuse has to know the handlers before there is any. Before the first request is read.

        ``answer_directly`` is called before a handler answers.
        """
        self._tree = parts.tree
        self._room = parts.room
        self._handles = parts.handles
        self._auxes = parts.auxes
        self._vmos = parts.vmos
        self._pagers = parts.pagers
        self.answer_directly = answer_directly

    # Names

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Look a name up."""
        if name == b".":  # for open_by_handle_at: the inode itself, of any kind
            return self._told(self._tree.get(parent_inode))
        parent = self._tree.directory(parent_inode)
        node = self._tree.lookup(parent, name)
        if isinstance(node, Fifo):
            await self._pagers.fifos.looked_up(node, ctx.pid)
            node = self._tree.lookup(parent, name)
        return self._told(node)

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a directory; below ``control/`` that is a pager."""
        parent = self._tree.directory(parent_inode)
        return self._told(parent.realm.mkdir(parent, name, mode, to_caller(ctx)))

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a FIFO, a socket or a file; devices are refused."""
        parent = self._tree.directory(parent_inode)
        if stat.S_ISFIFO(mode):
            return self._told(parent.realm.mkfifo(parent, name, mode, to_caller(ctx)))
        if stat.S_ISREG(mode):
            return self._told(parent.realm.create(parent, name, mode, to_caller(ctx)))
        if stat.S_ISSOCK(mode):
            return self._told(parent.realm.mksocket(parent, name, mode, to_caller(ctx)))
        raise OSError(errno.EPERM, "devices cannot be made")

    @guarded  # its answer is changed on its way (``answers_of_libfuse``), so it must not wait for anything
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Make an aux file and open it."""
        parent = self._tree.directory(parent_inode)
        node = parent.realm.create(parent, name, mode, to_caller(ctx))
        try:
            info = self._open(node, flags, ctx)
        except Exception:
            self._tree.discard(node)
            raise
        return info, self._told(node)

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove a name."""
        parent = self._tree.directory(parent_inode)
        await self._pagers.prepare_removal(self._tree.lookup(parent, name))
        parent.realm.unlink(parent, name)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove a directory, or close a pager."""
        parent = self._tree.directory(parent_inode)
        await self._pagers.prepare_removal(self._tree.lookup(parent, name))
        parent.realm.rmdir(parent, name)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Rename within ``vmo/`` or within ``aux/``."""
        source = self._tree.directory(parent_inode_old)
        target = self._tree.directory(parent_inode_new)
        source.realm.rename(source, name_old, target, name_new, flags)

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a symbolic link."""
        parent = self._tree.directory(parent_inode)
        return self._told(parent.realm.symlink(parent, name, target, to_caller(ctx)))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Give a file another name."""
        parent, node = self._tree.directory(new_parent_inode), self._tree.get(inode)
        parent.realm.link(node, parent, new_name, to_caller(ctx))
        return self._told(node)

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Return what a symbolic link says."""
        node = self._tree.get(inode)
        if not isinstance(node, Symlink):
            raise OSError(errno.EINVAL, f"{node.path} is no symbolic link")
        return node.target

    # Attributes

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Return the attributes of a node."""
        return to_attributes(self._tree.get(inode))

    @handler
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Change attributes; the size first, since only that can fail."""
        node = self._tree.get(inode)
        if isinstance(node, MirrorDirectory):
            raise OSError(errno.EPERM, f"{node.path} is changed where it is, below vmo/")
        if fields.update_size:
            await self._set_size(node, attr.st_size, to_caller(ctx))
        _set_owner(node, attr, fields, self._tree.limits)
        if fields.update_mode:
            acl.chmod(node, attr.st_mode)
        node.atime_ns = attr.st_atime_ns if fields.update_atime else node.atime_ns
        node.mtime_ns = attr.st_mtime_ns if fields.update_mtime else node.mtime_ns
        self._tree.changed(node)
        return to_attributes(node)

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Return an extended attribute."""
        return get_xattr(self._tree.get(inode), name)

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        """Return the names of the extended attributes that are stored; see ``xattrs``."""
        return list_xattrs(self._tree.get(inode), ctx.uid)

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Set an extended attribute; pyfuse3 has looked at XATTR_CREATE and XATTR_REPLACE."""
        node = _keeper_of_attributes(self._tree.get(inode))
        _check_may_say(node, name, ctx.uid, self._pagers)
        mode, xattrs = node.mode, dict(node.xattrs or {})
        set_xattr(node, name, value)
        try:
            self._tree.limits.xattrs_change(node, ctx.uid)
        except VmoError:
            node.mode, node.xattrs = mode, xattrs or None
            raise
        if name == acl.ACCESS and ctx.uid and not _is_member(ctx, node.gid):
            node.mode &= ~stat.S_ISGID  # as chmod does; only pyfuse3 is not told of it (FUSE_SETXATTR_ACL_KILL_SGID)
        self._tree.changed(node)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove an extended attribute."""
        node = _keeper_of_attributes(self._tree.get(inode))
        _check_may_say(node, name, ctx.uid, self._pagers)
        remove_xattr(node, name)
        self._tree.limits.xattrs_change(node, ctx.uid)
        self._tree.changed(node)

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Return how much room there is for pages and for files of the user who asks."""
        return to_statvfs(self._room.of(ctx.uid))

    # Open files

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make written data safe; may wait for a pager."""
        del datasync
        await self._handles.get(fh).fsync()

    @handler
    async def poll(
        self, inode: int, fh: int, poll_handle: pyfuse3.PollHandle | None, ctx: pyfuse3.RequestContext
    ) -> int:
        """Return what can be done without waiting."""
        del inode, ctx
        return self._handles.get(fh).poll(None if poll_handle is None else poll_handle.notify)

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory; its inode number is the handle, since the kernel keeps the inode while it is open."""
        return self._tree.directory(inode).ino

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List names behind a position. ``.`` and ``..`` are not counted as known to the kernel."""
        directory = self._tree.directory(fh)
        dots = ((1, b".", directory), (2, b"..", directory.parent or directory))
        for cookie, name, node in dots[start_id:]:
            if not pyfuse3.readdir_reply(token, name, to_attributes(node), cookie):
                return
        for entry in directory.after(start_id):
            child = entry.node if isinstance(entry, Link) else entry
            if not pyfuse3.readdir_reply(token, entry.name, to_listed_attributes(child), entry.cookie):
                return
            self._tree.remember(child)

    @handler
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""

    # What several handlers do

    def _told(self, node: Node) -> pyfuse3.EntryAttributes:
        self._tree.remember(node)
        return to_attributes(node)

    def _open(self, node: Node, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        number = self._handles.open(node, flags, to_caller(ctx))
        handle = self._handles.get(number)
        return pyfuse3.FileInfo(fh=number, direct_io=handle.direct_io, keep_cache=True, nonseekable=handle.nonseekable)

    async def _set_size(self, node: Node, size: int, caller: Caller) -> None:
        match node:
            case AuxFile():
                await self._auxes.set_size(node, size, caller)
            case VmoFile():
                await self._vmos.set_size(node, size, caller)
            case Directory():
                raise OSError(errno.EISDIR, f"{node.path} is a directory")
            case SupplyFile():
                return  # ``dd seek=`` cuts its output first; nothing can be cut here
            case _ if size or isinstance(node, Fifo):
                raise OSError(errno.EINVAL, f"{node.path} has no size")
            case _:
                return  # the shell's ``>`` on a control file


def _keeper_of_attributes(node: Node) -> Node:
    """Return a node that keeps extended attributes: it has a name, or is a file that had one and is open.

    What it takes is counted for its owner until then.
    """
    if node.NAMELESS or not (node.nlink or node.open_count):
        raise OSError(errno.EPERM, f"{node.path} keeps no attributes")
    return node


def _check_may_say(node: Node, name: bytes, uid: int, pagers: Pagers) -> None:
    """Check that a user may say where the content of a VMO comes from: who owns it or its pager may, and root."""
    if isinstance(node, VmoFile) and name in node.SAID and uid not in {0, node.uid, pagers.controller_of(node)}:
        raise OSError(errno.EPERM, f"{name!r} is said by the owner of {node.path} or of its pager")


def _is_member(ctx: pyfuse3.RequestContext, gid: int) -> bool:
    return Identity.of_process(ctx.uid, ctx.gid, ctx.pid).is_member(gid)


def _set_owner(node: Node, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, limits: Limits) -> None:
    if not (fields.update_uid or fields.update_gid):
        return
    node.uid = attr.st_uid if fields.update_uid else node.uid
    limits.chown(node, node.uid)
    node.gid = attr.st_gid if fields.update_gid else node.gid
    if not isinstance(node, Directory):
        node.drop_privileges()  # root's chown too, as Linux does

"""What ``stat`` shows of a node, and how long the kernel may believe it."""

from __future__ import annotations

import pyfuse3

from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.caller import Caller
from vmofs_mount.pagers.answers_file import AnswersFile
from vmofs_mount.pagers.supply_tree import MirrorDirectory, SupplyFile
from vmofs_mount.tree.inodes import AuxFile, CommandFile, Directory, Fifo, Node, VmoFile
from vmofs_mount.tree.room import Space
from vmofs_mount.tree.text_file import ConstantText, TextFile

LONG_SECONDS = 3600.0
"""For what changes only through the kernel. A timeout of attributes of data files costs a GETATTR per cached read
when it is 0 (61 µs instead of 1.4 µs), so changes made by commands are announced with ``invalidate_inode(ino,
attr_only=True)``."""

DIRECTORY_SECONDS = 1.0
"""Commands make names behind the kernel's back; it must not show an old ``st_mtime`` for long. A GETATTR per
directory and second is nothing; 0 would be one per component of every path, since the kernel checks permissions by
these attributes."""

LISTED_VMO_SECONDS = 1.0
"""So that ``ls -l`` and ``du`` do not look up each file again after the listing brought its attributes."""


def to_attributes(node: Node) -> pyfuse3.EntryAttributes:
    """Return the attributes of a node for a reply to the kernel, with timeouts as for a lookup."""
    seconds = _attr_seconds(node)
    if isinstance(node, AuxFile) and seconds:
        node.attributes_told = True
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node.ino
    entry.st_mode = node.mode
    entry.st_nlink = node.nlink
    entry.st_uid = node.uid
    entry.st_gid = node.gid
    entry.st_size = node.size_bytes
    entry.st_blocks = node.blocks
    entry.st_blksize = node.block_bytes
    entry.st_atime_ns = node.atime_ns
    entry.st_mtime_ns = node.mtime_ns
    entry.st_ctime_ns = node.ctime_ns
    entry.attr_timeout = seconds
    entry.entry_timeout = _entry_seconds(node)
    return entry


def to_listed_attributes(node: Node) -> pyfuse3.EntryAttributes:
    """Return the attributes of a node for a directory listing."""
    entry = to_attributes(node)
    if isinstance(node, VmoFile):
        entry.entry_timeout = LISTED_VMO_SECONDS
    return entry


def _attr_seconds(node: Node) -> float:
    if isinstance(node, MirrorDirectory):
        return 0.0  # its rights are those of another directory
    if isinstance(node, Directory):
        return DIRECTORY_SECONDS
    if isinstance(node, AuxFile) and node.is_source:
        return 0.0  # to ask for them costs less than to have them forgotten, by a thread, at each command
    # The times and sizes of control files are nobody's business but ours: always asked for.
    if isinstance(node, CommandFile | AnswersFile) or (
        isinstance(node, TextFile) and not isinstance(node, ConstantText)
    ):
        return 0.0
    return LONG_SECONDS


def _entry_seconds(node: Node) -> float:
    """Return how long a name may be taken for this node without asking.

    A FIFO's lookup tells that somebody is about to open it (fuse-facts 19); that of a VMO brings what commands
    changed, its committed pages and its size, with every open and every ``stat``. What ``supply/`` shows may be
    renamed or removed in ``vmo/`` at any time.
    """
    return 0.0 if isinstance(node, (Fifo, VmoFile, SupplyFile, MirrorDirectory)) else LONG_SECONDS


def to_statvfs(space: Space) -> pyfuse3.StatvfsData:
    """Return what ``statvfs`` says of the room that there is."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = PAGE_SIZE
    data.f_blocks, data.f_files = space.pages, space.files
    data.f_bfree = data.f_bavail = space.free_pages
    data.f_ffree = data.f_favail = space.free_files
    data.f_namemax = 255  # as the tree has it
    return data


def to_caller(ctx: pyfuse3.RequestContext) -> Caller:
    """Return who is behind a request."""
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)

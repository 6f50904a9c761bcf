"""POSIX access control lists, as far as they are the filesystem's job: to store, to inherit, to agree with the mode.

The kernel checks access by them; it reads them from the extended attributes ``system.posix_acl_access`` and
``system.posix_acl_default`` (``linux/posix_acl_xattr.h``: a little-endian u32 version 2, then entries of u16 tag, u16
permissions, u32 id). acl(5) has the rules.

One rule cannot be kept: the kernel has applied the umask to the mode of a new file before we see it, also where a
default ACL should replace the umask (FUSE_DONT_MASK is out of reach through pyfuse3). So a default ACL grants no
more than the umask allows.
"""

from __future__ import annotations

import errno
import stat
import struct
from functools import lru_cache
from typing import NamedTuple

from vmofs_mount.tree.inodes import Directory, Node

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")

_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_MINIMAL = {_USER_OBJ, _GROUP_OBJ, _OTHER}


class Entry(NamedTuple):
    """One entry: whom it is about, and rwx bits."""

    tag: int
    permissions: int
    qualifier: int


def parse(value: bytes) -> list[Entry]:
    """Return the entries of an attribute value.

    Raises:
        OSError: EINVAL, malformed, or an obligatory entry is missing or there twice.
    """
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise OSError(errno.EINVAL, f"an ACL of {len(value)} bytes")
    if _HEADER.unpack_from(value) != (_VERSION,):
        raise OSError(errno.EINVAL, "an ACL of another version than 2")
    entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]
    tags = sorted(entry.tag for entry in entries if entry.tag not in {_USER, _GROUP})
    has_named = len(tags) != len(entries)
    if tags != sorted(_MINIMAL | {_MASK}) and (has_named or tags != sorted(_MINIMAL)):
        raise OSError(
            errno.EINVAL, "an ACL needs one entry each for owner, group, others, and a mask with named entries"
        )
    return entries


def serialize(entries: list[Entry]) -> bytes:
    """Return the attribute value."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def store(node: Node, name: bytes, value: bytes) -> None:
    """Set an ACL; that for access sets the permission bits too, and is not kept when they say it all.

    Raises:
        OSError: EINVAL as of ``parse``; EACCES, a default ACL on something else than a directory.
    """
    entries = parse(value)
    if name == DEFAULT:
        if not isinstance(node, Directory):
            raise OSError(errno.EACCES, f"{node.path} is no directory and has no default ACL")
        _keep(node, DEFAULT, entries)
    else:
        node.mode = (node.mode & ~0o777) | _mode_bits(entries)
        _keep(node, ACCESS, entries if _is_extended(entries) else [])


def chmod(node: Node, permissions: int) -> None:
    """Set the permission bits, and the entries of the access ACL that they stand for."""
    node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(permissions)
    value = (node.xattrs or {}).get(ACCESS)
    if value is not None:
        _keep(node, ACCESS, _with_mode(parse(value), permissions, narrow=False))


def inherit(parent: Directory, node: Node) -> None:
    """Give a new node the default ACL of its directory, within the permissions that it is made with."""
    value = (parent.xattrs or {}).get(DEFAULT)
    if value is None:
        return
    if isinstance(node, Directory):
        node.xattrs = {**(node.xattrs or {}), DEFAULT: value}
    bits, inherited = _narrowed(value, node.mode & 0o777)
    node.mode = (node.mode & ~0o777) | bits
    if inherited:
        node.xattrs = {**(node.xattrs or {}), ACCESS: inherited}


@lru_cache(maxsize=64)
def _narrowed(value: bytes, permissions: int) -> tuple[int, bytes]:
    """Return the mode and the access ACL (empty if the mode says it all) of what inherits a default ACL.

    Kept, since a list may have 400 entries, and a million files may inherit it.
    """
    entries = _with_mode(parse(value), permissions, narrow=True)
    return _mode_bits(entries), serialize(entries) if _is_extended(entries) else b""


def _keep(node: Node, name: bytes, entries: list[Entry]) -> None:
    xattrs = node.xattrs if node.xattrs is not None else {}
    if entries:
        xattrs[name] = serialize(entries)
    else:
        xattrs.pop(name, None)
    node.xattrs = xattrs or None


def _is_extended(entries: list[Entry]) -> bool:
    return any(entry.tag not in _MINIMAL for entry in entries)


def _group_class(entries: list[Entry]) -> int:
    """Return the tag of the entry that the group bits of the mode show: the mask, where there is one."""
    return _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ


def _shifts(entries: list[Entry]) -> dict[int, int]:
    return {_USER_OBJ: 6, _group_class(entries): 3, _OTHER: 0}


def _mode_bits(entries: list[Entry]) -> int:
    shifts = _shifts(entries)
    return sum((entry.permissions & 7) << shifts[entry.tag] for entry in entries if entry.tag in shifts)


def _with_mode(entries: list[Entry], mode: int, *, narrow: bool) -> list[Entry]:
    """Return the entries with those of the three classes replaced by the mode's bits, or narrowed to them."""
    shifts = _shifts(entries)
    result = []
    for entry in entries:
        permissions = entry.permissions
        if entry.tag in shifts:
            bits = mode >> shifts[entry.tag] & 7
            permissions = permissions & bits if narrow else bits
        result.append(entry._replace(permissions=permissions))
    return result

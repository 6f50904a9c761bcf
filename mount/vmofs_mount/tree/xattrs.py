"""Extended attributes: ``user.*`` is stored, ``user.vmofs.*`` is computed and read-only, ACLs go to ``acl``.

``trusted.*`` and ``security.*`` are stored too, and only root may set them, as on a tmpfs; not
``security.capability``, which would have to go with each change of the file, also with those that come late, or by
another name of the memory.

What is computed is answered by name and not listed. Programs that copy files copy what is listed, with ``cp -a`` and
``rsync -X`` among them: they would put a key and page counts on a file that has neither, and fail where they cannot be
set. Some of ``user.vmofs.*`` are said by whoever makes a file (``Node.SAID``). These are stored, and not listed either:
a copy is no longer what came from there, and only a VMO takes them.

Namespace rules of xattr(7) (``user.*`` only on files and directories, permissions) are enforced by the kernel. It does
not hide names of ``trusted.*`` from users, as it does on a tmpfs.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from vmofs.wire.names import printable
from vmofs_mount.tree import acl
from vmofs_mount.tree.inodes import VIRTUAL_PREFIX, Node

ALL = b"all"
"""The computed attribute that gives all others, one ``name=value`` in each line: no list tells which there are."""

_TRUSTED = b"trusted."

MAX_TOTAL_BYTES = 128 * 1024
"""Names and values of one node; the kernel itself bounds one value to 64 KiB and the list of names too."""

VALUE_MAX = 64 * 1024

SAID_MAX = 4000
"""As in ``create_vmo``. What is said has to fit into the attribute ``ALL`` with the rest, also if each byte is shown as
four.
"""


def bytes_of(xattrs: Mapping[bytes, bytes] | None) -> int:
    """Return what stored attributes take."""
    return sum(len(name) + len(value) for name, value in (xattrs or {}).items())


def get_xattr(node: Node, name: bytes) -> bytes:
    """Return a value.

    Raises:
        OSError: ENODATA; EOPNOTSUPP for another namespace.
    """
    if name.startswith(VIRTUAL_PREFIX):
        value = _computed(node, name.removeprefix(VIRTUAL_PREFIX))
    else:
        _check_namespace(name)
        value = (node.xattrs or {}).get(name)
    if value is None:
        raise OSError(errno.ENODATA, f"{node.path} has no attribute {name!r}")
    return value


def list_xattrs(node: Node, uid: int) -> list[bytes]:
    """Return the names of those that are stored, without what is said of a VMO, or is for root alone."""
    hidden = (VIRTUAL_PREFIX, _TRUSTED) if uid else (VIRTUAL_PREFIX,)
    return [name for name in node.xattrs or {} if not name.startswith(hidden)]


def set_xattr(node: Node, name: bytes, value: bytes) -> None:
    """Set a value. Who may say what is said of a file is judged elsewhere.

    Raises:
        OSError: EPERM for what is computed of ``user.vmofs.*``; EOPNOTSUPP for another namespace; E2BIG; ENOSPC; see
            ``acl.store``.
    """
    _check_writable(node, name)
    if name in {acl.ACCESS, acl.DEFAULT}:
        acl.store(node, name, value)
        return
    most = SAID_MAX if name in node.SAID else VALUE_MAX
    if len(value) > most:
        raise OSError(errno.E2BIG, f"{len(value)} bytes, at most {most} are possible")
    kept = {other: data for other, data in (node.xattrs or {}).items() if other != name}
    if bytes_of(kept) + len(name) + len(value) > MAX_TOTAL_BYTES:
        raise OSError(errno.ENOSPC, f"the attributes of {node.path} would exceed {MAX_TOTAL_BYTES} bytes")
    node.xattrs = {**(node.xattrs or {}), name: value}


def remove_xattr(node: Node, name: bytes) -> None:
    """Remove an attribute.

    Raises:
        OSError: ENODATA; and as ``set_xattr``.
    """
    _check_writable(node, name)
    if node.xattrs is None or name not in node.xattrs:
        raise OSError(errno.ENODATA, f"{node.path} has no attribute {name!r}")
    del node.xattrs[name]


def _computed(node: Node, name: bytes) -> bytes | None:
    values = node.computed_xattrs()
    if name == ALL and values:
        return b"".join(b"%s=%s\n" % (other, _on_one_line(value)) for other, value in values.items())
    return values.get(name)


def _on_one_line(value: bytes) -> bytes:
    """Return a value without what would look like another line: what is said of a file may be any bytes."""
    return printable(value.decode(errors="backslashreplace")).encode()


def _check_namespace(name: bytes) -> None:
    is_kept = name.startswith((b"user.", _TRUSTED, b"security.")) and name != b"security.capability"
    if not is_kept and name not in {acl.ACCESS, acl.DEFAULT}:
        raise OSError(errno.EOPNOTSUPP, f"attributes like {name!r} are not kept")


def _check_writable(node: Node, name: bytes) -> None:
    _check_namespace(name)
    if name.startswith(VIRTUAL_PREFIX) and name not in node.SAID:
        raise OSError(errno.EPERM, f"{name!r} is computed")

"""How a status of the model becomes an errno: one total, one-to-one table (INTERFACE.md section 2)."""

from __future__ import annotations

import errno
from types import MappingProxyType

from vmofs.status import Status

ERRNO_OF_STATUS = MappingProxyType(
    {
        Status.OK: 0,
        Status.NOT_SUPPORTED: errno.EOPNOTSUPP,
        Status.NO_MEMORY: errno.ENOMEM,
        Status.INVALID_ARGS: errno.EINVAL,
        Status.BAD_HANDLE: errno.ENOENT,
        Status.WRONG_TYPE: errno.EMEDIUMTYPE,
        Status.OUT_OF_RANGE: errno.ERANGE,
        Status.BUFFER_TOO_SMALL: errno.EOVERFLOW,
        Status.BAD_STATE: errno.EBADFD,
        Status.TIMED_OUT: errno.ETIMEDOUT,
        Status.NOT_FOUND: errno.ENODATA,
        Status.ALREADY_EXISTS: errno.EEXIST,
        Status.UNAVAILABLE: errno.EPERM,
        Status.ACCESS_DENIED: errno.EACCES,
        Status.IO: errno.EIO,
        Status.IO_DATA_INTEGRITY: errno.EBADMSG,
        Status.NO_SPACE: errno.ENOSPC,
    }
)


def errno_of(status: Status) -> int:
    """Return the errno that a caller of the filesystem sees for a status; 0 for OK."""
    return ERRNO_OF_STATUS[status]

"""How a status of the model becomes an errno: one total, one-to-one table (INTERFACE.md section 2)."""

from __future__ import annotations

import errno
import logging
from types import MappingProxyType

import pyfuse3

from vmofs.status import Status, VmoError
from vmofs_mount.waits.read_watch import LetGoError
from vmofs_mount.waits.self_deadlock import SelfDeadlockError

_log = logging.getLogger(__name__)

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


_BESIDE_STATUS: dict[type[VmoError], int] = {SelfDeadlockError: errno.EDEADLK, LetGoError: errno.EINTR}
"""What no status of Zircon's stands for."""


def errno_of_exception(error: Exception) -> int:
    """Return the errno for what a handler raised; what nobody foresaw is logged and is EIO."""
    match error:
        case pyfuse3.FUSEError():
            return error.errno
        case OSError(errno=int(code)):
            return code
        case VmoError():
            return _BESIDE_STATUS.get(type(error)) or errno_of(error.status)
        case MemoryError():
            return errno.ENOMEM
    _log.error("a handler failed", exc_info=error)
    return errno.EIO

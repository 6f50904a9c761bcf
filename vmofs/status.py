"""The status codes of the Zircon calls that vmofs carries, and the errors that carry them.

The numbers are Zircon's (``zircon/errors.h``). How a status becomes an errno stands in one table of the mount
(``vmofs_mount.errno_map``); nothing here knows errno.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Status(IntEnum):
    """A Zircon status that a call of vmofs can end with. The value is Zircon's own number."""

    OK = 0
    NOT_SUPPORTED = -2
    NO_MEMORY = -4
    INVALID_ARGS = -10
    BAD_HANDLE = -11
    WRONG_TYPE = -12
    OUT_OF_RANGE = -14
    BUFFER_TOO_SMALL = -15
    BAD_STATE = -20
    TIMED_OUT = -21
    NOT_FOUND = -25
    ALREADY_EXISTS = -26
    UNAVAILABLE = -28
    ACCESS_DENIED = -30
    IO = -40
    IO_DATA_INTEGRITY = -42
    NO_SPACE = -54

    @property
    def zx_name(self) -> str:
        """Return the name as Zircon writes it: ``ZX_OK``, ``ZX_ERR_IO``."""
        return "ZX_OK" if self is Status.OK else f"ZX_ERR_{self.name}"


class VmoError(Exception):
    """A call failed: ``status`` says how, the message is one sentence with the numbers.

    ``VmoError.of(status, message)`` makes the subclass that belongs to a status.
    """

    status: ClassVar[Status]
    _by_status: ClassVar[dict[Status, type[VmoError]]] = {}

    def __init_subclass__(cls) -> None:
        """Register the subclass under its status; more special ones of the same status are for who makes them."""
        VmoError._by_status.setdefault(cls.status, cls)

    @staticmethod
    def of(status: Status, message: str) -> VmoError:
        """Return an error with this status.

        Raises:
            KeyError: ``status`` is OK, which is no error.
        """
        return VmoError._by_status[status](message)


class NotSupportedError(VmoError):
    """The object or the operation is of a kind that the call does not take."""

    status = Status.NOT_SUPPORTED


class NoMemoryError(VmoError):
    """The daemon's memory limit is reached and nothing can be evicted; nothing present was lost."""

    status = Status.NO_MEMORY


class InvalidArgsError(VmoError):
    """An argument is malformed: alignment, unknown option or code, a VMO of another pager."""

    status = Status.INVALID_ARGS


class BadHandleError(VmoError):
    """A name in a command does not exist."""

    status = Status.BAD_HANDLE


class WrongTypeError(VmoError):
    """A name in a command is of another kind than the call takes."""

    status = Status.WRONG_TYPE


class OutOfRangeError(VmoError):
    """A range overflows or does not lie inside the object."""

    status = Status.OUT_OF_RANGE


class BufferTooSmallError(VmoError):
    """A pager failed the range with this code."""

    status = Status.BUFFER_TOO_SMALL


class BadStateError(VmoError):
    """The VMO is detached or its pager closed, or the aux cannot give up its pages."""

    status = Status.BAD_STATE


class TimedOutError(VmoError):
    """No pager answered within the deadline."""

    status = Status.TIMED_OUT


class NotFoundError(VmoError):
    """OP_DIRTY met an absent page."""

    status = Status.NOT_FOUND


class AlreadyExistsError(VmoError):
    """The name is taken."""

    status = Status.ALREADY_EXISTS


class UnavailableError(VmoError):
    """The VMO cannot be resized."""

    status = Status.UNAVAILABLE


class AccessDeniedError(VmoError):
    """The caller lacks a permission on a file that it named."""

    status = Status.ACCESS_DENIED


class IoError(VmoError):
    """A pager failed the range with this code."""

    status = Status.IO


class IoDataIntegrityError(VmoError):
    """Data did not match its checksum, or a pager failed the range with this code."""

    status = Status.IO_DATA_INTEGRITY


class NoSpaceError(VmoError):
    """A pager failed the range with this code."""

    status = Status.NO_SPACE

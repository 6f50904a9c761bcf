"""Every status has an errno of its own."""

from __future__ import annotations

import errno

import pytest

from vmofs.status import Status
from vmofs_mount.front.errno_map import ERRNO_OF_STATUS, errno_of

INTERFACE = """
INVALID_ARGS EINVAL  BAD_STATE EBADFD  BAD_HANDLE ENOENT  NOT_SUPPORTED EOPNOTSUPP  WRONG_TYPE EMEDIUMTYPE
OUT_OF_RANGE ERANGE  ACCESS_DENIED EACCES  NO_MEMORY ENOMEM  NOT_FOUND ENODATA  IO EIO  ALREADY_EXISTS EEXIST
IO_DATA_INTEGRITY EBADMSG  UNAVAILABLE EPERM  NO_SPACE ENOSPC  BUFFER_TOO_SMALL EOVERFLOW  TIMED_OUT ETIMEDOUT
"""


def test_the_table_covers_every_status() -> None:
    assert set(ERRNO_OF_STATUS) == set(Status)


def test_no_errno_stands_for_two_statuses() -> None:
    assert len(set(ERRNO_OF_STATUS.values())) == len(ERRNO_OF_STATUS)


@pytest.mark.parametrize(("status", "name"), list(zip(*[iter(INTERFACE.split())] * 2, strict=True)))
def test_the_table_is_that_of_the_interface(status: str, name: str) -> None:
    assert errno_of(Status[status]) == getattr(errno, name)


def test_ok_is_no_error() -> None:
    assert errno_of(Status.OK) == 0

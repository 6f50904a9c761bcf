"""nbdkit's python plugin: one object mapped from ``data=FILE``. nbdkit gives the names of the functions."""

import mmap
import os

API_VERSION = 2
data = memoryview(b"")


def config(key: str, value: str) -> None:
    """Map the file."""
    global data  # noqa: PLW0603 - nbdkit's interface has no object that configuration could go to
    assert key == "data"
    fd = os.open(value, os.O_RDONLY)
    data = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))


def open(readonly: bool) -> int:  # noqa: A001, ARG001
    """Return a handle."""
    return 1


def get_size(handle: int) -> int:  # noqa: ARG001
    """Return the size in bytes."""
    return len(data)


def can_multi_conn(handle: int) -> bool:  # noqa: ARG001
    """Allow several connections."""
    return True


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:  # noqa: ARG001
    """Fill the buffer."""
    buffer[:] = data[offset : offset + len(buffer)]

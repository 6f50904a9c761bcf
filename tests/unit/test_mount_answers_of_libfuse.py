"""What libfuse's answers to the kernel are changed to."""

from __future__ import annotations

import errno
import struct

import pytest

from vmofs_mount.front.answers_of_libfuse import (
    _ATOMIC_O_TRUNC,
    _AUTO_INVAL_DATA,
    _EXPLICIT_INVAL_DATA,
    CREATE,
    DIRECT_IO,
    INIT,
    MAX_WRITE,
    NOFLUSH,
    PARALLEL_DIRECT_WRITES,
    changed,
)

OTHER_FLAG = 1 << 20


def answer(flags: int, max_write: int = 4096) -> bytes:
    """Return fuse_out_header and fuse_init_out as <linux/fuse.h> has them."""
    return struct.pack("=IiQ4I2HI", 80, 0, 2, 7, 40, 131072, flags, 12, 9, max_write) + bytes(range(40))


def test_the_kernel_drops_no_pages_by_itself_and_truncates_by_setattr() -> None:
    wanted = answer(_EXPLICIT_INVAL_DATA | OTHER_FLAG)
    assert changed(INIT, answer(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA | OTHER_FLAG)) == wanted
    assert changed(INIT, wanted) == wanted


def test_a_write_has_fewer_pages_than_a_request_may_have() -> None:
    """So that it fits wherever in the writer's memory it begins."""
    assert MAX_WRITE == 240 * 4096
    assert changed(INIT, answer(_EXPLICIT_INVAL_DATA, 2**20)) == answer(_EXPLICIT_INVAL_DATA, MAX_WRITE)
    assert changed(INIT, answer(_EXPLICIT_INVAL_DATA, 2**16)) == answer(_EXPLICIT_INVAL_DATA, 2**16)


def test_a_refusal_is_handed_on() -> None:
    refusal = struct.pack("=IiQ", 16, -errno.EPROTO, 2)
    assert changed(INIT, refusal) == refusal


@pytest.mark.parametrize("made", [0, DIRECT_IO])
def test_a_file_that_is_made_without_a_page_cache_takes_parallel_writes_and_needs_no_flush(made: int) -> None:
    def created(flags: int) -> bytes:
        return struct.pack("=IiQ", 160, 0, 4) + bytes(range(128)) + struct.pack("=QIi", 9, flags, 0)

    wanted = made | NOFLUSH | PARALLEL_DIRECT_WRITES if made else 0
    assert changed(CREATE, created(made)) == created(wanted)
    assert changed(3, created(made)) == created(made)

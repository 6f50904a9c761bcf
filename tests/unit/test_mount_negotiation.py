"""What libfuse's first answer to the kernel is changed to."""

from __future__ import annotations

import errno
import struct

from vmofs_mount.front.init_flags import (
    _ATOMIC_O_TRUNC,
    _AUTO_INVAL_DATA,
    _EXPLICIT_INVAL_DATA,
    MAX_WRITE,
    changed,
)

OTHER_FLAG = 1 << 20


def answer(flags: int, max_write: int = 4096) -> bytes:
    """Return fuse_out_header and fuse_init_out as <linux/fuse.h> has them."""
    return struct.pack("=IiQ4I2HI", 80, 0, 2, 7, 40, 131072, flags, 12, 9, max_write) + bytes(range(40))


def test_the_kernel_drops_no_pages_by_itself_and_truncates_by_setattr() -> None:
    wanted = answer(_EXPLICIT_INVAL_DATA | OTHER_FLAG)
    assert changed(answer(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA | OTHER_FLAG)) == wanted
    assert changed(wanted) == wanted


def test_a_write_has_one_page_less_than_a_request_may_have() -> None:
    """So that it fits wherever in the writer's memory it begins."""
    assert MAX_WRITE == 255 * 4096
    assert changed(answer(_EXPLICIT_INVAL_DATA, 2**20)) == answer(_EXPLICIT_INVAL_DATA, MAX_WRITE)
    assert changed(answer(_EXPLICIT_INVAL_DATA, 2**16)) == answer(_EXPLICIT_INVAL_DATA, 2**16)


def test_a_refusal_is_handed_on() -> None:
    refusal = struct.pack("=IiQ", 16, -errno.EPROTO, 2)
    assert changed(refusal) == refusal

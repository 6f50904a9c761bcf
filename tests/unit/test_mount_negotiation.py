"""What libfuse's first answer to the kernel is changed to."""

from __future__ import annotations

import errno
import struct

from vmofs_mount.front.init_flags import _ATOMIC_O_TRUNC, _AUTO_INVAL_DATA, _EXPLICIT_INVAL_DATA, _changed

OTHER_FLAG = 1 << 20


def answer(flags: int, error: int = 0) -> bytes:
    """Return fuse_out_header and fuse_init_out as <linux/fuse.h> has them."""
    return struct.pack("=IiQ4I", 80, error, 2, 7, 40, 131072, flags) + bytes(range(48))


def test_the_kernel_drops_no_pages_by_itself_and_truncates_by_setattr() -> None:
    wanted = answer(_EXPLICIT_INVAL_DATA | OTHER_FLAG)
    assert _changed(answer(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA | OTHER_FLAG)) == wanted
    assert _changed(wanted) == wanted


def test_a_refusal_is_handed_on() -> None:
    refusal = struct.pack("=IiQ", 16, -errno.EPROTO, 2)
    assert _changed(refusal) == refusal

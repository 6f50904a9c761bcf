"""The checksum that a supply may give: XXH3-64 of the bytes to be moved."""

from __future__ import annotations

import xxhash

from vmofs.core.vmos.cow_pages import CowPages
from vmofs.status import IoDataIntegrityError
from vmofs.units import PAGE_SIZE

_STEP_BYTES = 256 * PAGE_SIZE


def check_sum(node: CowPages, offset: int, length: int, xxh3: int) -> None:
    """Check the sum of a range of bytes of an aux, none of which is absent.

    Raises:
        IoDataIntegrityError: the bytes do not have the XXH3-64 sum ``xxh3``.
    """
    digest = xxhash.xxh3_64()
    for start in range(offset, offset + length, _STEP_BYTES):
        data = node.read_present(start, min(start + _STEP_BYTES, offset + length))
        assert data is not None
        digest.update(data)
    if digest.intdigest() != xxh3:
        raise IoDataIntegrityError(
            f"xxh3 of aux range {offset}+{length} is {digest.hexdigest()}, not {xxh3:016x}; nothing was moved"
        )

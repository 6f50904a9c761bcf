"""How programs are to read a file: in which pieces they ask, and how far ahead of them the kernel does."""

from __future__ import annotations

from typing import NamedTuple

from vmofs.status import InvalidArgsError
from vmofs.units import PAGE_SIZE, is_page_aligned

MOST_READAHEAD_BYTES = 2**26
MOST_BLOCK_BYTES = 2**26


class Reading(NamedTuple):
    """What was said of a file when it was made.

    Attributes:
        readahead_bytes: what the kernel asks for in one piece, for a program that reads in sequence or in a page fault;
            None is as the mount was told, or more where nothing can be asked for.
        block_bytes: ``st_blksize``, by which many programs choose the size of their reads.
    """

    readahead_bytes: int | None = None
    block_bytes: int = PAGE_SIZE


def check_readahead(size: int) -> int:
    """Return the size if the kernel can read ahead so far. Not 0: who waits in a page fault could not be killed.

    Raises:
        InvalidArgsError: it cannot.
    """
    if not PAGE_SIZE <= size <= MOST_READAHEAD_BYTES or not is_page_aligned(size):
        raise InvalidArgsError(
            f"readahead {size} is not a number of whole pages from {PAGE_SIZE} to {MOST_READAHEAD_BYTES} bytes"
        )
    return size


def check_block(size: int) -> int:
    """Return the size if it can be an ``st_blksize``: the kernel keeps its logarithm.

    Raises:
        InvalidArgsError: it cannot.
    """
    if not PAGE_SIZE <= size <= MOST_BLOCK_BYTES or size.bit_count() != 1:
        raise InvalidArgsError(f"blksize {size} is not a power of two from {PAGE_SIZE} to {MOST_BLOCK_BYTES}")
    return size

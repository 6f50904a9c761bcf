"""Page contents that say where they belong: the 64-bit word ``i`` of an object with key ``k`` holds ``k + i``.

A page that ends up in the wrong place, in the wrong VMO or torn in the middle cannot pass ``check``. Use keys that are
multiples of ``KEY_STEP``; then the error also names the VMO that a foreign page came from.
"""

from __future__ import annotations

from struct import pack, unpack

from vmofs.units import PAGE_SIZE, PageRange

WORD_SIZE = 8
WORDS_PER_PAGE = PAGE_SIZE // WORD_SIZE
KEY_STEP = 1 << 40
"""Keys this far apart share no word (up to 8 TiB), so that a word tells its key."""


class PatternError(AssertionError):
    """Bytes are not what belongs there; the message says which page is wrong, and where it came from."""


def make(key: int, offset: int, length: int) -> bytes:
    """Return the bytes ``[offset, offset+length)`` of the object with this key; words are little-endian."""
    first = offset // WORD_SIZE
    end = -(-(offset + length) // WORD_SIZE)
    words = pack(f"<{end - first}Q", *range(key + first, key + end))
    skipped = offset - first * WORD_SIZE
    return words[skipped : skipped + length]


def make_pages(key: int, pages: PageRange) -> bytes:
    """Return the pages ``pages`` of the object with this key."""
    return make(key, pages.offset, pages.length)


def check(data: bytes | memoryview, key: int, offset: int = 0) -> None:
    """Check that ``data`` is what ``make`` gives for this key and byte offset.

    Raises:
        PatternError: it is not; the sentence names the first wrong page and what stands there instead.
    """
    if data == make(key, offset, len(data)):
        return
    for page in range(offset // PAGE_SIZE, -(-(offset + len(data)) // PAGE_SIZE)):
        start, end = max(offset, page * PAGE_SIZE), min(offset + len(data), (page + 1) * PAGE_SIZE)
        found = bytes(data[start - offset : end - offset])
        if found != make(key, start, end - start):
            raise PatternError(f"page {page} of key {key:#x} holds {describe(found, start % PAGE_SIZE)}")


def check_pages(data: bytes | memoryview, key: int, pages: PageRange) -> None:
    """Check that ``data`` is exactly the pages ``pages`` of the object with this key.

    Raises:
        PatternError: the length or a page is wrong.
    """
    if len(data) != pages.length:
        raise PatternError(f"{len(data)} bytes instead of {pages.length}, the pages {pages} of key {key:#x}")
    check(data, key, pages.offset)


def describe(data: bytes, start: int = 0) -> str:
    """Say what stands in (a part of) one page, whose first byte lies ``start`` bytes behind the start of its page."""
    if not any(data):
        return "zeros"
    skipped = -start % WORD_SIZE
    if len(data) < skipped + WORD_SIZE:
        return f"the bytes {data[:WORD_SIZE].hex()}"
    word: int = unpack("<Q", data[skipped : skipped + WORD_SIZE])[0]
    origin, index = word - word % KEY_STEP, word % KEY_STEP
    in_place = index % WORDS_PER_PAGE == -(-start // WORD_SIZE)
    if in_place and data == make(origin, index * WORD_SIZE - skipped, len(data)):
        return f"page {index // WORDS_PER_PAGE} of key {origin:#x}"
    return f"no page of any key: its first words are {data[skipped : skipped + 3 * WORD_SIZE].hex(' ', WORD_SIZE)}"

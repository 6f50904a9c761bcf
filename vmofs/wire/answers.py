"""Many supplies in one write: what a pager writes to ``control/PAGER/answers``.

All numbers are 64 bits, unsigned, little-endian::

    COUNT                          of the records, 1 to 4096
    OFFSET LENGTH KEY              of each record, in bytes; the key is that of the request lines
    the bytes of the first record, those of the second, and so on

A write that is cut, by the kernel or by the one who writes, ends somewhere in the bytes. The records that are whole are
carried out.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmofs.status import InvalidArgsError
from vmofs.units import Key

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_RECORDS = 4096
"""Of one write."""

_COUNT = struct.Struct("<Q")
_RECORD = struct.Struct("<QQQ")


class Answer(NamedTuple):
    """The bytes for a range of one VMO."""

    offset: int
    key: Key
    data: bytes | memoryview


def size_of(answers: Sequence[Answer]) -> int:
    """Return the length of a write that holds just these."""
    return _COUNT.size + len(answers) * _RECORD.size + sum(len(answer.data) for answer in answers)


def format_answers(answers: Sequence[Answer]) -> list[bytes | memoryview]:
    """Return the pieces of a write, for ``os.writev``: first count and records, then the bytes of each."""
    records = [_RECORD.pack(answer.offset, len(answer.data), answer.key) for answer in answers]
    return [b"".join([_COUNT.pack(len(answers)), *records]), *(answer.data for answer in answers)]


def count_answered(answers: Sequence[Answer], written: int) -> int:
    """Return how many of the answers in a write were carried out, of which ``written`` bytes were taken."""
    size, done = _COUNT.size, 0
    for answer in answers:
        size += _RECORD.size + len(answer.data)
        done += size <= written
    return done


def parse_answers(data: bytes | memoryview) -> tuple[list[Answer], int]:
    """Return the answers that are whole, and how many were announced.

    Raises:
        InvalidArgsError: it is no such write, or not even the first answer is whole.
    """
    if len(data) < _COUNT.size:
        raise InvalidArgsError(f"a write of {len(data)} bytes has no count, which takes {_COUNT.size}")
    (count,) = _COUNT.unpack_from(data)
    if not 0 < count <= MOST_RECORDS:
        raise InvalidArgsError(f"{count} records; a write has 1 to {MOST_RECORDS}")
    position = _COUNT.size + count * _RECORD.size
    if len(data) < position:
        raise InvalidArgsError(f"{count} records take {position} bytes with their count, the write has {len(data)}")
    answers: list[Answer] = []
    for offset, length, key in _RECORD.iter_unpack(memoryview(data)[_COUNT.size : position]):
        if not length:
            raise InvalidArgsError(f"record {len(answers)} is for no bytes, at offset {offset} of key {key}")
        if position + length > len(data):
            break
        answers.append(Answer(offset, Key(key), data[position : position + length]))
        position += length
    else:
        if position < len(data):
            raise InvalidArgsError(f"the records end after {position} bytes, the write has {len(data)}")
    if not answers:
        raise InvalidArgsError(f"the write has {len(data)} bytes, the first record needs {position + length}")
    return answers, count

"""Many supplies in one write: the layout, writes that are cut, and those that are none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.units import UINT64_MAX, Key
from vmofs.wire.answers import MOST_RECORDS, Answer, count_answered, format_answers, parse_answers, size_of

NUMBERS = st.integers(0, UINT64_MAX)
ANSWERS = st.lists(st.builds(Answer, NUMBERS, NUMBERS.map(Key), st.binary(min_size=1, max_size=20)), min_size=1)


def test_the_layout_is_a_count_then_records_then_the_bytes() -> None:
    answers = [Answer(4096, Key(7), b"abc"), Answer(0, Key(2**64 - 1), b"de")]
    write = b"".join(format_answers(answers))
    assert write == struct.pack("<7Q", 2, 4096, 3, 7, 0, 2, 2**64 - 1) + b"abcde"
    assert len(write) == size_of(answers)


@given(ANSWERS)
def test_what_is_written_is_read(answers: list[Answer]) -> None:
    assert parse_answers(b"".join(format_answers(answers))) == (answers, len(answers))


@given(ANSWERS, st.data())
def test_of_a_write_that_is_cut_the_whole_records_are_read(answers: list[Answer], data: st.DataObject) -> None:
    write = b"".join(format_answers(answers))
    first = size_of(answers) - sum(len(answer.data) for answer in answers[1:])
    cut = data.draw(st.integers(first, len(write)))
    whole, announced = parse_answers(memoryview(write)[:cut])
    assert announced == len(answers)
    assert whole == answers[: len(whole)] != []
    rest = len(write) - sum(len(answer.data) for answer in answers[len(whole) + 1 :])
    assert len(whole) == len(answers) or cut < rest


@given(ANSWERS, st.data())
def test_the_length_that_was_taken_says_how_many_were_answered(answers: list[Answer], data: st.DataObject) -> None:
    done = data.draw(st.integers(0, len(answers)))
    assert count_answered(answers, size_of(answers[:done]) if done else 0) == done


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (b"", "a write of 0 bytes has no count, which takes 8"),
        (bytes(7), "a write of 7 bytes has no count, which takes 8"),
        (struct.pack("<Q", 0), "0 records; a write has 1 to 4096"),
        (struct.pack("<Q", MOST_RECORDS + 1), "4097 records; a write has 1 to 4096"),
        (struct.pack("<3Q", 1, 0, 4096), "1 records take 32 bytes with their count, the write has 24"),
        (struct.pack("<4Q", 1, 8192, 0, 5), "record 0 is for no bytes, at offset 8192 of key 5"),
        (struct.pack("<4Q", 1, 0, 4096, 5) + bytes(4095), "the write has 4127 bytes, the first record needs 4128"),
        (struct.pack("<4Q", 1, 0, 2**64 - 1, 5), "the write has 32 bytes, the first record needs 18446744073709551647"),
        (struct.pack("<4Q", 1, 0, 1, 5) + b"ab", "the records end after 33 bytes, the write has 34"),
    ],
)
def test_what_is_no_such_write_is_refused_with_the_numbers(write: bytes, sentence: str) -> None:
    with pytest.raises(InvalidArgsError) as refused:
        parse_answers(write)
    assert str(refused.value) == sentence

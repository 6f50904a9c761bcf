"""The lines of a write, and how much of it is done after each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.wire.lines import MAX_LINE_BYTES, Line, split_fields, split_lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", []),
        (b"\n# nothing\n  \t\n", []),
        (b"a", [Line("a", 1)]),
        (b"a\n", [Line("a", 2)]),
        (b"a b\nc\n", [Line("a b", 4), Line("c", 6)]),
        (b"a\nc", [Line("a", 2), Line("c", 3)]),
        (b"a\n\n# x\nc\n", [Line("a", 7), Line("c", 9)]),
        (b"# x\na\n", [Line("a", 6)]),
        (b"a\n\n\n", [Line("a", 4)]),
        (b"a\n# x", [Line("a", 5)]),
        (b"  # indented\n", []),
        (b"a #b\n", [Line("a #b", 5)]),
        (b" a\t\n", [Line(" a\t", 4)]),
        ("ä\nb\n".encode(), [Line("ä", 3), Line("b", 5)]),
        (b"a\r\nb\x0b\x0c\n", [Line("a\r", 3), Line("b\x0b\x0c", 7)]),
        ("a\u2028\u0085b\n".encode(), [Line("a\u2028\u0085b", 8)]),
    ],
)
def test_commands_are_the_lines_that_are_neither_empty_nor_comments(data: bytes, lines: list[Line]) -> None:
    assert split_lines(data) == lines


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"a\n" + b"x" * (MAX_LINE_BYTES + 1), "line 2 is 65537 bytes long, more than 65536"),
        (b"#" * (MAX_LINE_BYTES + 1) + b"\na\n", "line 1 is 65537 bytes long, more than 65536"),
        (b"a\nb\nab\0c\n", "line 3 has a NUL at byte 2"),
        (b"a\n# \0\n", "line 2 has a NUL at byte 2"),
        (b"a\nab\xff\n", "line 2 is not UTF-8 at byte 2"),
        (b"a\n\xed\xb2\x80\n", "line 2 is not UTF-8 at byte 0"),
        (b"\xc3\n\xa4", "line 1 is not UTF-8 at byte 0"),
    ],
)
def test_one_bad_line_refuses_the_whole_write(data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidArgsError) as caught:
        split_lines(data)
    assert str(caught.value) == sentence


def test_a_line_of_64_kib_is_accepted() -> None:
    data = b"x" * MAX_LINE_BYTES + b"\n"
    assert split_lines(data * 2) == [Line("x" * MAX_LINE_BYTES, len(data)), Line("x" * MAX_LINE_BYTES, 2 * len(data))]


@given(st.lists(st.sampled_from(["", " ", "#", "# x", "a", "b c", " ä"])), st.booleans())
def test_resuming_a_short_write_carries_out_the_remaining_lines(texts: list[str], newline: bool) -> None:
    data = "\n".join(texts).encode() + (b"\n" if newline else b"")
    lines = split_lines(data)
    for done, line in enumerate(lines, start=1):
        assert [rest.text for rest in split_lines(data[line.end :])] == [rest.text for rest in lines[done:]]
    assert not lines or lines[-1].end == len(data)


def test_only_blanks_and_tabs_separate_fields() -> None:
    assert split_fields("  a \t b\xa0c\r\x0b \u2003d\t") == ["a", "b\xa0c\r\x0b", "\u2003d"]
    assert split_fields(" \t") == []

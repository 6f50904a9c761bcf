"""Numbers in text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.units import UINT64_MAX
from vmofs.wire.numbers import parse_number, parse_signed_number

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = [
    ("0", 0),
    ("4096", 4096),
    ("010", 10),
    ("0" * 5000 + "7", 7),
    ("0x" + "0" * 5000 + "F", 15),
    ("0x1000", 4096),
    ("0XfF", 255),
    ("1K", 2**10),
    ("1k", 2**10),
    ("3M", 3 * 2**20),
    ("1g", 2**30),
    ("1T", 2**40),
    ("1P", 2**50),
    ("15E", 15 * 2**60),
    ("1e", 2**60),
    ("0x1E", 30),
    ("0x1e", 30),
    ("0x10K", 16 * 2**10),
    ("0x1eM", 30 * 2**20),
    ("0K", 0),
    ("18446744073709551615", UINT64_MAX),
    ("0xffffffffffffffff", UINT64_MAX),
]

NO_NUMBERS = [
    *("", " ", "x", "0x", "0xG", "K", "1KB", "1KK", "1Z", "4,096", "4_096", "1.5K", "1e3x", "+1", " 1", "1 ", "1\n"),
    *("--1", "- 1", "-", "-x", "0x-1", "1-", "0b1", "0o7", "\u0661", "\uff11", "1\u212a", "\u00b2", "4096\r"),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_is_decimal_or_hexadecimal_with_a_suffix(text: str, value: int) -> None:
    assert parse_number(text, "SIZE") == value


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("parse", [parse_number, parse_signed_number])
def test_anything_else_is_refused_with_its_text(text: str, parse: Callable[[str, str], int]) -> None:
    with pytest.raises(InvalidArgsError, match=r"^SIZE '.*' is not a number$"):
        parse(text, "SIZE")


@pytest.mark.parametrize("text", ["-1", "-0", "-0x10", "-4K", "-99999999999999999999999"])
def test_a_negative_number_is_called_negative(text: str) -> None:
    with pytest.raises(InvalidArgsError, match=f"^OFFSET '{text}' is negative$"):
        parse_number(text, "OFFSET")


@pytest.mark.parametrize("text", ["18446744073709551616", "16E", "0x10000000000000000", "16777216T", "9" * 21])
def test_a_number_of_more_than_64_bits_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgsError, match=rf"^LENGTH '{text}' is above 2\^64-1$"):
        parse_number(text, "LENGTH")


def test_thousands_of_digits_are_refused_with_a_short_sentence() -> None:
    with pytest.raises(InvalidArgsError, match=rf"^SIZE '{'9' * 40}\.\.\.' is above 2\^64-1$"):
        parse_number("9" * 60_000, "SIZE")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-40", -40),
        ("-0", 0),
        ("-0x28", -40),
        ("-9223372036854775808", -(2**63)),
        ("-8E", -(2**63)),
        ("0x11ffffffff", 0x11FFFFFFFF),
    ],
)
def test_a_signed_number_may_be_negative(text: str, value: int) -> None:
    assert parse_signed_number(text, "DATA") == value


@pytest.mark.parametrize("text", ["-9223372036854775809", "-9E", "-" + "9" * 30])
def test_a_signed_number_below_64_bits_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgsError, match=rf"^DATA '{text}' is below -2\^63$"):
        parse_signed_number(text, "DATA")


@given(st.integers(0, UINT64_MAX))
def test_every_64_bit_number_is_read_as_it_is_written(value: int) -> None:
    assert parse_number(str(value), "SIZE") == value
    assert parse_number(hex(value), "SIZE") == value
    assert parse_signed_number(str(value), "DATA") == value


@given(st.integers(-(2**63), -1))
def test_every_negative_64_bit_number_is_read_as_it_is_written(value: int) -> None:
    assert parse_signed_number(str(value), "DATA") == value


@given(st.text(max_size=12) | st.text("0123456789xXabcdefKMGTPE-+_ ", max_size=24))
def test_any_text_is_a_64_bit_number_or_refused(text: str) -> None:
    try:
        assert 0 <= parse_number(text, "SIZE") <= UINT64_MAX
    except InvalidArgsError as error:
        assert str(error).startswith("SIZE '")  # noqa: PT017 - either outcome is right

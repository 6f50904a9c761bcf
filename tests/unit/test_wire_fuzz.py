"""Whatever is written to a command file: a command, or a documented error. ``tools/fuzz`` tries a million of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support import wire_fuzz
from vmofs.wire.commands import CommandKind


@given(wire_fuzz.KINDS, wire_fuzz.LINES)
def test_a_line_is_a_command_or_invalid(kind: CommandKind, line: str) -> None:
    wire_fuzz.check_command(kind, line)


@given(wire_fuzz.NUMBER_TEXTS)
def test_a_number_fits_or_is_invalid(text: str) -> None:
    wire_fuzz.check_number(text)


@given(wire_fuzz.NAMES)
def test_a_name_is_good_or_invalid(name: str) -> None:
    wire_fuzz.check_name(name)


@given(wire_fuzz.DATA)
def test_a_write_is_lines_or_invalid(data: bytes) -> None:
    wire_fuzz.check_data(data)


@given(wire_fuzz.DATA, st.integers(0, 5000))
def test_a_write_may_be_split_at_any_line(data: bytes, cut: int) -> None:
    wire_fuzz.check_split(data, cut)

"""Request lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.units import UINT64_MAX, Key
from vmofs.vocabulary import PacketCommand
from vmofs.wire.packets import RequestLine, format_packet, parse_packet

UINT64 = st.integers(0, UINT64_MAX)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."}
)


def test_a_request_line_is_five_decimal_fields() -> None:
    assert format_packet(PacketCommand.READ, 7, 4096, 8192, "vmo/disk.img") == b"READ 7 4096 8192 vmo/disk.img\n"
    assert format_packet(PacketCommand.COMPLETE, 7, 0, 0, "vmo/a b") == b"COMPLETE 7 0 0 vmo/a\\040b\n"


@given(st.sampled_from(PacketCommand), UINT64, UINT64, UINT64, NAMES)
def test_a_pager_reads_what_was_written(command: PacketCommand, key: int, offset: int, length: int, name: str) -> None:
    line = format_packet(command, key, offset, length, f"vmo/{name}")
    request = RequestLine(command, Key(key), offset, length, f"vmo/{name}")
    assert line.count(b"\n") == 1
    assert parse_packet(line) == request
    assert parse_packet(line.decode()) == request
    assert parse_packet(line.removesuffix(b"\n")) == request


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "request line has 0 fields instead of 5"),
        (b"READ 1 0 4096\n", "request line has 4 fields instead of 5"),
        (b"READ 1 0 4096 vmo/a b\n", "request line has 6 fields instead of 5"),
        (b"WRITE 1 0 4096 vmo/a\n", "request 'WRITE' is none of READ, DIRTY, COMPLETE"),
        (b"read 1 0 4096 vmo/a\n", "request 'read' is none of READ, DIRTY, COMPLETE"),
        (b"READ x 0 4096 vmo/a\n", "KEY 'x' is not a number"),
        (b"READ 1 -1 4096 vmo/a\n", "OFFSET '-1' is negative"),
        (b"READ 1 0 4096! vmo/a\n", "LENGTH '4096!' is not a number"),
        (b"READ 1 0 4096 /vmo/a\n", "path '/vmo/a' begins with '/'"),
        (b"READ 1 0 4096 vmo/\xff\n", "request line is not UTF-8 at byte 18"),
    ],
)
def test_a_line_that_is_no_request_is_refused(line: bytes, sentence: str) -> None:
    with pytest.raises(InvalidArgsError) as caught:
        parse_packet(line)
    assert str(caught.value).startswith(sentence)

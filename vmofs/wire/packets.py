r"""Request lines: the packets of a port as text, ``READ KEY OFFSET LENGTH vmo/NAME\n``.

Numbers are decimal, offset and length are bytes and page aligned; COMPLETE has 0 for both. The name is escaped, so a
line always has five fields. Zircon: ``zx_packet_page_request_t``.
"""

from __future__ import annotations

from typing import NamedTuple

from vmofs.status import InvalidArgsError
from vmofs.units import Key
from vmofs.vocabulary import PacketCommand
from vmofs.wire.lines import split_fields
from vmofs.wire.names import escape, parse_path, quote
from vmofs.wire.numbers import parse_number


class RequestLine(NamedTuple):
    """One packet as a pager reads it from its FIFO."""

    command: PacketCommand
    key: Key
    offset: int
    length: int
    path: str
    """The VMO relative to the mount point, not escaped."""


def format_packet(command: PacketCommand, key: int, offset: int, length: int, path: str) -> bytes:
    """Return the request line, newline included.

    It is shorter than ``PIPE_BUF`` when ``names.fits_request_line(path)``, which whoever names a VMO has checked.
    """
    return f"{command} {key} {offset} {length} {escape(path)}\n".encode()


def parse_packet(line: bytes | str) -> RequestLine:
    """Return the packet of a request line, with or without its newline.

    Raises:
        InvalidArgsError: The line is no request line, for instance because it was cut.
    """
    fields = split_fields(_text(line).removesuffix("\n"))
    if len(fields) != 5:
        raise InvalidArgsError(f"request line has {len(fields)} fields instead of 5")
    word, key, offset, length, path = fields
    if word not in PacketCommand.__members__:
        raise InvalidArgsError(f"request {quote(word)} is none of {', '.join(PacketCommand)}")
    return RequestLine(
        PacketCommand(word),
        Key(parse_number(key, "KEY")),
        parse_number(offset, "OFFSET"),
        parse_number(length, "LENGTH"),
        "/".join(parse_path(path)),
    )


def _text(line: bytes | str) -> str:
    if isinstance(line, str):
        return line
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgsError(f"request line is not UTF-8 at byte {error.start}") from None

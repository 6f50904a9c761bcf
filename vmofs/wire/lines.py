"""The lines of one write to a command file, and how many bytes of it each line stands for."""

from __future__ import annotations

from typing import NamedTuple

from vmofs.status import InvalidArgsError

MAX_LINE_BYTES = 64 * 1024
"""The longest line, without its newline."""

BLANKS = " \t"
"""What separates fields. No other white space does: it may stand in a name."""


class Line(NamedTuple):
    """A line that holds a command."""

    text: str
    """The line without its newline."""

    end: int
    """Bytes of the write that are done with once this line is carried out.

    Ignored lines are done with together with the command before them, those at the very start with the first
    command. So a write that fails at the first command has done 0 bytes, and the last ``end`` is the whole write.
    """


def split_lines(data: bytes) -> list[Line]:
    """Return the commands of a write: its lines less the empty ones and those that begin with ``#``.

    Blanks before the ``#`` do not matter. The caller of a write that fails at line ``i`` returns
    ``lines[i - 1].end``, or the error when ``i`` is 0; a write without any command is done as a whole.

    Raises:
        InvalidArgsError: A line is longer than 64 KiB, is not UTF-8, or holds a NUL. No line is returned then,
            so nothing is carried out.
    """
    lines: list[Line] = []
    end = 0
    for number, raw in enumerate(data.split(b"\n"), start=1):
        text = _decode(raw, number)
        end = min(end + len(raw) + 1, len(data))
        stripped = text.lstrip(BLANKS)
        if stripped and not stripped.startswith("#"):
            lines.append(Line(text, end))
        elif lines and lines[-1].end < end:  # behind the last newline there is nothing
            lines[-1] = lines[-1]._replace(end=end)
    return lines


def split_fields(line: str) -> list[str]:
    """Return the fields of a line, which blanks and tabs separate."""
    fields = line.replace("\t", " ").split(" ")
    return [field for field in fields if field] if "" in fields else fields


def _decode(raw: bytes, number: int) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise InvalidArgsError(f"line {number} is {len(raw)} bytes long, more than {MAX_LINE_BYTES}")
    if (at := raw.find(0)) >= 0:
        raise InvalidArgsError(f"line {number} has a NUL at byte {at}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgsError(f"line {number} is not UTF-8 at byte {error.start}") from None

"""Results: what reading a command file gives after a command was written to it.

The first line is ``ZX_OK``, ``ZX_OK`` and a detail, or ``ZX_ERR_NAME: sentence``. The answer of
``query_dirty_ranges`` is ``ZX_OK N`` and N lines ``OFFSET LENGTH dirty`` or ``OFFSET LENGTH zero``; that of
``query_vmo_stats`` is ``ZX_OK modified=0`` or ``ZX_OK modified=1``. ``held=N`` at the end of a line, where pages were
to be dropped from the kernel's page cache, says that N of them may still be read there as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmofs.status import InvalidArgsError, Status, VmoError
from vmofs.units import PAGE_SIZE, PageRange, is_page_aligned
from vmofs.vocabulary import DirtyRange
from vmofs.wire.lines import split_fields
from vmofs.wire.names import printable, quote
from vmofs.wire.numbers import parse_number

if TYPE_CHECKING:
    from collections.abc import Iterable

_STATUSES = {status.zx_name: status for status in Status}
_MAY_BE_HELD = (f"{Status.OK.zx_name}\n", f"{Status.OK.zx_name} pages=")
_IS_ZERO = {"dirty": False, "zero": True}
_MODIFIED = {"modified=0": False, "modified=1": True}


class Result(NamedTuple):
    """A result as it was read."""

    status: Status
    sentence: str
    """What was wrong, or the detail of ``ZX_OK``; may be empty."""

    lines: tuple[str, ...] = ()
    """The lines after the first, without their newlines."""

    def raise_for_status(self) -> None:
        """Return if the command was carried out.

        Raises:
            VmoError: The subclass of the status, with the sentence.
        """
        if self.status is not Status.OK:
            raise VmoError.of(self.status, self.sentence)


def format_result(status: Status, sentence: str = "") -> str:
    """Return the first line of a result, newline included; the sentence is made printable, so it stays one line."""
    if not sentence:
        return f"{status.zx_name}\n"
    separator = " " if status is Status.OK else ": "
    return f"{status.zx_name}{separator}{printable(sentence)}\n"


def add_held(text: str, pages: int) -> str:
    """Return a result to which is added how many pages the kernel may still show as they were, if there are any.

    Not to the answer of a query, whose detail is an answer by itself.
    """
    if not pages or not text.startswith(_MAY_BE_HELD):
        return text
    return f"{text[:-1]} held={pages}\n"


def format_error(error: VmoError) -> str:
    """Return the result of a command that failed with ``error``."""
    return format_result(error.status, str(error))


def format_dirty_ranges(ranges: Iterable[DirtyRange]) -> str:
    """Return the answer of ``query_dirty_ranges``."""
    ranges = list(ranges)
    return format_result(Status.OK, str(len(ranges))) + format_dirty_range_lines(ranges)


def format_dirty_range_lines(ranges: Iterable[DirtyRange]) -> str:
    """Return the lines of that answer that are about some of the ranges."""
    return "".join(f"{pages.offset} {pages.length} {'zero' if is_zero else 'dirty'}\n" for pages, is_zero in ranges)


def format_vmo_stats(*, modified: bool) -> str:
    """Return the answer of ``query_vmo_stats``."""
    return format_result(Status.OK, f"modified={modified:d}")


def parse_result(text: str) -> Result:
    """Return the result that a command file gave.

    Raises:
        InvalidArgsError: The text does not begin with a status.
    """
    first, *lines = text.removesuffix("\n").split("\n")
    word, _, sentence = first.partition(" ")
    name = word.removesuffix(":")
    if name not in _STATUSES:
        raise InvalidArgsError(f"result {quote(first)} does not begin with a status")
    return Result(_STATUSES[name], sentence, tuple(lines))


def parse_dirty_ranges(result: Result) -> list[DirtyRange]:
    """Return the ranges in an answer of ``query_dirty_ranges``.

    Raises:
        VmoError: The query failed; the error has its status.
        InvalidArgsError: The answer is malformed or was cut.
    """
    result.raise_for_status()
    count = parse_number(result.sentence, "number of ranges")
    if count != len(result.lines):
        raise InvalidArgsError(f"answer announces {count} ranges and has {len(result.lines)}")
    return [_parse_dirty_range(line) for line in result.lines]


def parse_vmo_stats(result: Result) -> bool:
    """Return whether the VMO was modified, from an answer of ``query_vmo_stats``.

    Raises:
        VmoError: The query failed; the error has its status.
        InvalidArgsError: The answer is malformed.
    """
    result.raise_for_status()
    if result.sentence not in _MODIFIED:
        raise InvalidArgsError(f"answer {quote(result.sentence)} is neither modified=0 nor modified=1")
    return _MODIFIED[result.sentence]


def _parse_dirty_range(line: str) -> DirtyRange:
    fields = split_fields(line)
    if len(fields) != 3 or fields[2] not in _IS_ZERO:
        raise InvalidArgsError(f"range {quote(line)} is not OFFSET LENGTH dirty or OFFSET LENGTH zero")
    offset, length, kind = fields
    start, size = parse_number(offset, "OFFSET"), parse_number(length, "LENGTH")
    if not (is_page_aligned(start) and is_page_aligned(size)):
        raise InvalidArgsError(f"range {quote(line)} does not consist of pages of {PAGE_SIZE} bytes")
    return DirtyRange(PageRange.of_bytes(start, size), _IS_ZERO[kind])

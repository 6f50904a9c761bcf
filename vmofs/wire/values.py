"""Values: how one word of a command is read and written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from vmofs.status import InvalidArgsError, Status
from vmofs.wire.names import PLAIN_PATH, escape, parse_path, quote, unescape
from vmofs.wire.numbers import parse_number, parse_signed_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import StrEnum

_DATA_NAMES = {1: "is_zero"} | {int(status): status.zx_name for status in Status}
_DATA_WORDS = {name.lower(): value for value, name in _DATA_NAMES.items()} | {
    status.name.lower(): int(status) for status in Status
}


class Codec(NamedTuple):
    """How a value is read and written."""

    parse: Callable[[str, str], Any]
    """Takes the word and what it is called in an error sentence; raises InvalidArgsError."""

    format: Callable[[Any], str] = str


def fold(word: str) -> str:
    """Return the word in lower case if it is ASCII; no other letter is equal to one of ours."""
    return word.lower() if word.isascii() else word


def one_of(words: Iterable[StrEnum]) -> Codec:
    """Return the codec of one of these words, in either case."""
    known = {word.value: word for word in words}

    def parse(text: str, what: str) -> StrEnum:
        try:
            return known[fold(text)]
        except KeyError:
            raise InvalidArgsError(f"{what} {quote(text)} is none of {', '.join(known)}") from None

    return Codec(parse)


def _parse_path(text: str, what: str) -> str:
    del what  # the sentence quotes the path, which says more
    return text if PLAIN_PATH.fullmatch(text) else "/".join(parse_path(text))


def _parse_name(text: str, what: str) -> str:
    components = parse_path(text)
    if len(components) > 1:
        raise InvalidArgsError(f"{what} {quote(text)} is a path of {len(components)} components, not a name")
    return components[0]


def _parse_mode(text: str, what: str) -> int:
    if not re.fullmatch("0*[0-7]{1,3}", text):
        raise InvalidArgsError(f"{what} {quote(text)} is not octal permission bits, 0 to 777")
    return int(text, 8)


def _parse_checksum(text: str, what: str) -> int:
    if not re.fullmatch("[0-9a-fA-F]{16}", text):
        raise InvalidArgsError(f"{what} {quote(text)} is not 16 hexadecimal digits")
    return int(text, 16)


def _parse_data(text: str, what: str) -> int:
    value = _DATA_WORDS.get(fold(text))
    return parse_signed_number(text, what) if value is None else value


def _format_data(value: int) -> str:
    return _DATA_NAMES.get(value, str(value))


def _text_of_at_most(most: int) -> Codec:
    """Return the codec of a text that is written as names are."""

    def parse(text: str, what: str) -> str:
        value = unescape(text)
        size = len(value.encode())
        if not 0 < size <= most:
            raise InvalidArgsError(f"{what} is {size} bytes long, not 1 to {most}: {quote(text)}")
        return value

    return Codec(parse, escape)


WORD = Codec(lambda text, _what: text)
"""Any word, as it is."""

PATH = Codec(_parse_path, escape)
"""A path relative to the mount point, with its components joined by ``/``."""

NAME = Codec(_parse_name, escape)
"""A path of one component."""

REASON = _text_of_at_most(500)
"""A sentence. It is kept until the next one comes, at nobody's expense, so it is short."""

TEXT = _text_of_at_most(4000)
"""Any text but an empty one."""

NUMBER = Codec(parse_number)
"""An unsigned 64-bit number."""

MODE = Codec(_parse_mode, "{:04o}".format)
"""Permission bits, octal."""

CHECKSUM = Codec(_parse_checksum, "{:016x}".format)
"""64 bits as 16 hexadecimal digits."""

DATA = Codec(_parse_data, _format_data)
"""A status by its name, with or without ``ZX_ERR_``, ``is_zero``, or a 64-bit number, signed or not."""

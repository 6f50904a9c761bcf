r"""Names in text: how a path stands in a command, in a request line and in an error sentence.

A name may hold any character but ``/`` and NUL. In text a blank, tab, newline and backslash are written
``\040 \011 \012 \134``, as in ``/proc/mounts``, so that a name is always one field of one line.
"""

from __future__ import annotations

import re
from functools import lru_cache

from vmofs.status import InvalidArgsError

NAME_MAX = 255
"""Bytes of one component of a path, as in Linux."""

PIPE_BUF = 4096
"""A write shorter than this reaches a FIFO whole (pipe(7))."""

_LONGEST_REQUEST_PREFIX = "DIRTY " + 3 * f"{2**64 - 1} "

MAX_PATH_BYTES = PIPE_BUF - 1 - len(_LONGEST_REQUEST_PREFIX) - len("\n")
"""The longest escaped path, in bytes, with which every request line is shorter than ``PIPE_BUF``."""

PLAIN_PATH = re.compile(r"(?!\.)[!-.0-\[\]-~]{1,255}(?:/(?!\.)[!-.0-\[\]-~]{1,255})*")
"""Escaped paths that are good as they are: printable ASCII, nothing escaped, no component that begins with a dot."""

_QUOTED_CHARACTERS = 40
_SHOWN_CHARACTERS = 4 * _QUOTED_CHARACTERS

_ESCAPES = {" ": r"\040", "\t": r"\011", "\n": r"\012", "\\": r"\134"}
_UNESCAPES = {text: character for character, text in _ESCAPES.items()}
_ESCAPE_TABLE = str.maketrans(_ESCAPES)
_ESCAPE_SEQUENCE = re.compile(r"\\[0-7]{0,3}")


@lru_cache(maxsize=256)  # a request line is made for each miss, for the same files again and again
def escape(name: str) -> str:
    """Return the name as it is written in text."""
    return name.translate(_ESCAPE_TABLE)


def unescape(text: str) -> str:
    r"""Return the name that ``escape`` wrote as ``text``.

    Raises:
        InvalidArgsError: A backslash begins something other than ``\040``, ``\011``, ``\012`` or ``\134``.
    """

    def character(match: re.Match[str]) -> str:
        try:
            return _UNESCAPES[match[0]]
        except KeyError:
            known = " ".join(_UNESCAPES)
            raise InvalidArgsError(
                f"name {quote(text)} has a backslash that begins none of {known}, at character {match.start()}"
            ) from None

    return _ESCAPE_SEQUENCE.sub(character, text)


def parse_path(field: str) -> tuple[str, ...]:
    """Return the components of an escaped path relative to the mount point.

    Raises:
        InvalidArgsError: The path is absolute; a component is empty, ``.`` or ``..``, has a NUL, is longer
            than 255 bytes or cannot be written as UTF-8; or an escape is malformed.
    """
    components = tuple(unescape(field).split("/"))
    if field.startswith("/"):
        raise InvalidArgsError(f"path {quote(field)} begins with '/'; paths are relative to the mount point")
    for component in components:
        fault = _fault(component)
        if fault:
            raise InvalidArgsError(f"path {quote(field)} has a component that {fault}")
    return components


def fits_request_line(path: str) -> bool:
    """Return whether every request line for this (unescaped) path is shorter than ``PIPE_BUF``.

    A path that is not UTF-8 (lone surrogates) has no request line and does not fit.
    """
    try:
        return len(escape(path).encode()) <= MAX_PATH_BYTES
    except UnicodeEncodeError:
        return False


def printable(text: str) -> str:
    r"""Return the text on one line: what is not printable becomes octal escapes of its UTF-8 bytes.

    A backslash stays as it is, so a name that is escaped already is not escaped twice.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _octal(c) for c in text)


def quote(text: str) -> str:
    """Return the text for an error sentence: in quotes, printable, and shortened when long."""
    part = text[:_QUOTED_CHARACTERS]
    while len(shown := printable(part)) > _SHOWN_CHARACTERS:
        part = part[:-1]
    return f"'{shown}'" if part == text else f"'{shown}...'"


def _fault(component: str) -> str | None:
    if component in {"", ".", ".."}:
        return f"is '{component}'" if component else "is empty"
    if "\0" in component:
        return "has a NUL character"
    try:
        size_bytes = len(component.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"is {size_bytes} bytes long, more than {NAME_MAX}" if size_bytes > NAME_MAX else None


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode(errors="surrogatepass"))

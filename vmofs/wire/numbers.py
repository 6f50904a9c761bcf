"""Numbers in text: unsigned 64-bit, decimal or hexadecimal, with a suffix for powers of 1024.

``4096``, ``4K``, ``0x1000`` and ``0x4K`` are one number. The suffixes are ``K M G T P E`` in either case. ``E`` is no
suffix of a hexadecimal number, where it is a digit: ``0x1E`` is 30. A leading zero means nothing: ``010`` is ten.
"""

from __future__ import annotations

import re

from vmofs.status import InvalidArgsError
from vmofs.units import UINT64_MAX
from vmofs.wire.names import quote

INT64_MIN = -(2**63)

_SUFFIXES = "KMGTPE"
_SHORT_DIGITS = len(str(UINT64_MAX))
"""A decimal number with fewer digits fits in 64 bits."""

_NUMBER = re.compile(
    r"0x(?P<hex>[0-9a-f]+)(?P<hex_suffix>[kmgtp]?)|(?P<decimal>[0-9]+)(?P<suffix>[kmgtpe]?)",
    # Without ASCII, IGNORECASE would take U+212A (the Kelvin sign) for a K.
    re.ASCII | re.IGNORECASE,
)


def parse_number(text: str, what: str) -> int:
    """Return the number, 0 to 2^64-1.

    Args:
        text: The field; only ASCII digits, no sign, no blank, no underscore.
        what: The field's name in the error sentence, as ``OFFSET``.

    Raises:
        InvalidArgsError: ``text`` is negative, is no number, or is above 2^64-1.
    """
    if len(text) < _SHORT_DIGITS and text.isdecimal() and text.isascii():  # mostly
        return int(text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        if text.startswith("-") and _NUMBER.fullmatch(text, 1):
            raise InvalidArgsError(f"{what} {quote(text)} is negative")
        raise InvalidArgsError(f"{what} {quote(text)} is not a number")
    value = _value(match)
    if value is None or value > UINT64_MAX:
        raise InvalidArgsError(f"{what} {quote(text)} is above 2^64-1")
    return value


def parse_signed_number(text: str, what: str) -> int:
    """Return the number, -2^63 to 2^64-1: whatever fits in 64 bits, signed or unsigned.

    Raises:
        InvalidArgsError: ``text`` is no number or does not fit.
    """
    if not text.startswith("-"):
        return parse_number(text, what)
    match = _NUMBER.fullmatch(text, 1)
    if match is None:
        raise InvalidArgsError(f"{what} {quote(text)} is not a number")
    value = _value(match)
    if value is None or -value < INT64_MIN:
        raise InvalidArgsError(f"{what} {quote(text)} is below -2^63")
    return -value


def _value(match: re.Match[str]) -> int | None:
    """Return the magnitude that was matched, None when it is far too large."""
    digits = (match["hex"] or match["decimal"]).lstrip("0") or "0"
    # int() raises ValueError for thousands of decimal digits; 2^64-1 has twenty.
    if len(digits) > len(str(UINT64_MAX)):
        return None
    suffix = match["hex_suffix"] or match["suffix"] or ""
    power = _SUFFIXES.index(suffix.upper()) + 1 if suffix else 0
    return int(digits, 16 if match["hex"] else 10) << (10 * power)

"""The form of a command: one line that is its usage, and from which it is parsed and formatted.

A form looks as a manual page would show it, ``VMO SIZE [key=N] [resizable] [contiguous | physical] [DATA]``:

* ``VMO``: a field that must be there, in this place.
* ``[resizable]``: a flag; True when given.
* ``[key=N]``: an option with a value; None when not given.
* ``[contiguous | physical]``: at most one of these words; None when not given.
* ``[DATA]``: a field that may be left out; None then.

Options follow the fields in any order; their names are accepted in either case. Each piece has one value, stored
under its name in lower case; that of the alternatives, of which a form has one set at most, under ``kind``. How a
value is read and written is given by a ``Codec``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from vmofs.status import InvalidArgsError
from vmofs.wire.lines import split_fields
from vmofs.wire.names import quote
from vmofs.wire.values import fold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmofs.wire.values import Codec

_PIECE = re.compile(r"\[([^]]+)\]|(\S+)")


class _Option(NamedTuple):
    """What stands between brackets."""

    name: str
    words: tuple[str, ...]
    """The words that it takes; for an option with a value, the one before the ``=``; none: any word."""

    codec: Codec | None
    """None: a flag."""

    has_value: bool

    def takes(self, word: str) -> bool:
        """Return whether this word is this option."""
        name, equals, _ = word.partition("=")
        return not self.words or (fold(name) in self.words and bool(equals) == self.has_value)

    def parse(self, word: str) -> Any:  # noqa: ANN401 - the codec knows
        """Return the value that the word gives."""
        if self.codec is None:
            return True
        return self.codec.parse(word.partition("=")[2] if self.has_value else word, self.name)

    def format(self, value: Any) -> list[str]:  # noqa: ANN401 - the codec knows
        """Return the words, one or none, that give this value."""
        if self.codec is None:
            return [self.name] if value else []
        if value is None:
            return []
        text = self.codec.format(value)
        return [f"{self.name}={text}" if self.has_value else text]


class Form:
    """The form of one command.

    Args:
        usage: The form.
        codecs: By field name, by the word after ``=``, and by the text of alternatives.
    """

    def __init__(self, usage: str, codecs: Mapping[str, Codec]) -> None:
        self.usage = usage
        pieces = [match.groups() for match in _PIECE.finditer(usage)]
        self._fields = [(word, codecs[word]) for _, word in pieces if word]
        self._readers = [(word.lower(), word, codec.parse) for word, codec in self._fields]
        self._options = [_option(text, codecs) for text, _ in pieces if text]
        self._by_word = sorted(self._options, key=lambda option: not option.words)  # what takes any word comes last
        self._defaults = {option.name.lower(): False if option.codec is None else None for option in self._options}

    def parse(self, line: str) -> dict[str, Any]:
        """Return the values of a line by name; every name of the form is there.

        Raises:
            InvalidArgsError: A field is missing or malformed, or a word is no option, or an option is given twice.
        """
        words = split_fields(line)
        count = len(self._fields)
        if len(words) < count:
            raise self.error(f"{' '.join(name for name, _ in self._fields[len(words) :])} missing")
        values = self._defaults | {
            key: parse(word, name) for (key, name, parse), word in zip(self._readers, words, strict=False)
        }
        if len(words) > count:
            self._parse_options(words[count:], values)
        return values

    def _parse_options(self, words: list[str], values: dict[str, Any]) -> None:
        given = set()
        for word in words:
            option = self._find(word)
            if option.name in given:
                raise self.error(f"{quote(word)} repeats or contradicts an option before it")
            given.add(option.name)
            values[option.name.lower()] = option.parse(word)

    def format(self, values: Mapping[str, Any]) -> str:
        """Return the line, without newline, from which ``parse`` makes these values."""
        words = [codec.format(values[name.lower()]) for name, codec in self._fields]
        for option in self._options:
            words += option.format(values[option.name.lower()])
        return " ".join(words)

    def error(self, fault: str) -> InvalidArgsError:
        """Return the error for a line that is not of this form."""
        return InvalidArgsError(f"{fault}; usage: {self.usage}")

    def _find(self, word: str) -> _Option:
        for option in self._by_word:
            if option.takes(word):
                return option
        raise self.error(f"{quote(word)} is not expected here")


def _option(text: str, codecs: Mapping[str, Codec]) -> _Option:
    name, equals, value = text.partition("=")
    if equals:
        return _Option(name, (name,), codecs[value], has_value=True)
    if text.isupper():
        return _Option(text, (), codecs[text], has_value=False)
    if "|" in text:
        return _Option("kind", tuple(text.split(" | ")), codecs[text], has_value=False)
    return _Option(text, (text,), None, has_value=False)

"""What is going on, on one line of a terminal; nothing where stderr is no terminal."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Self

_CLEAR_LINE = "\r\x1b[K"


class Progress:
    """A line that changes. It is cleared in the end, so that what is said then begins a line."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown = ""

    def tell(self, sentence: str) -> None:
        """Show a sentence in place of the one before, cut off at the end of the line."""
        shown = sentence[: shutil.get_terminal_size().columns - 1]
        if self._is_terminal and shown != self._shown:
            self._shown = shown
            sys.stderr.write(_CLEAR_LINE + shown)
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()

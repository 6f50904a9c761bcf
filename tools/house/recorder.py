"""Records the walk of a page miss through the functions of the project, by ``sys.setprofile`` in the daemon's thread.

The points of a walk are recognised, so that no module needs to be named. This depends on:

* the handlers: functions whose qualified names are ``Requests.read`` and ``Requests._write``;
* the request: bytes that begin with ``READ `` and end with a newline, given to a function of the project, which
  writes them or hands them to the thread that does; or at hand where ``os.write`` is called;
* the answer: bytes with `` aux/`` in them, given to the write handler;
* the waking: a function of the project that is named ``wake``, with or without ``_`` before it.

A call of a coroutine that goes on after it has waited counts as a call: it is entered again, and so is its file. The
return that ends a walk is no change of file.
"""

from __future__ import annotations

import dis
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

READ_HANDLER, WRITE_HANDLER = "Requests.read", "Requests._write"
REQUEST, ANSWER = b"READ ", b" aux/"
WAKING = "wake"


@dataclass
class Walk:
    """Calls in their order, each with its depth below the first, and how often the file changed."""

    calls: list[tuple[int, str, str]] = field(default_factory=list)
    """Depth, file, qualified name."""
    changes: int = 0

    def files(self) -> set[str]:
        """Return the files that were entered."""
        return {file for _, file, _ in self.calls}

    def copy(self) -> Walk:
        """Return the walk as it is now."""
        return Walk(list(self.calls), self.changes)


@dataclass(frozen=True)
class Miss:
    """The walks of one page miss: until the request is written, until readers are woken, until the writer returns."""

    request: Walk
    woken: Walk | None
    """None: no waking was recognised."""
    answered: Walk


class Recorder:
    """Counts calls and changes of file while a walk is under way.

    ``folders`` hold the code of the project; files are named as they are below ``root``. ``note`` is what
    ``sys.setprofile`` is given.
    """

    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self.misses: list[Miss] = []
        self._root = f"{root}{os.sep}"
        self._folders = tuple(f"{folder}{os.sep}" for folder in folders)
        self._names: dict[str, str | None] = {}
        self._walk: Walk | None = None
        self._step: Callable[[FrameType, str, Any], None] = self._look_for_read
        self._ends_with: FrameType | None = None
        self._file = ""
        self._handler: FrameType | None = None
        self._request: Walk | None = None
        self._woken: Walk | None = None

    def note(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ANN401 - as sys.setprofile has it
        """Take an event."""
        self._step(frame, event, argument)

    # What is waited for, one after the other

    def _look_for_read(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ANN401
        del argument
        if self._begins(frame, event, READ_HANDLER):
            self._begin(frame, self._look_for_request)

    def _look_for_request(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ANN401
        handed = event == "return" and frame is self._ends_with
        if handed or (event == "c_return" and argument is os.write and any(map(_is_request, frame.f_locals.values()))):
            self._request, self._walk = self._walk, None
            self._step = self._look_for_write
            return
        self._count(frame, event)
        if event == "return" and frame is self._handler and not _waits(frame):
            self._step = self._look_for_read  # nothing was missing
        elif event == "call" and self._ends_with is None and self._is_handed(frame):
            self._ends_with = frame

    def _look_for_write(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ANN401
        del argument
        if self._begins(frame, event, WRITE_HANDLER) and any(map(_is_answer, arguments(frame))):
            self._woken = None
            self._begin(frame, self._look_for_waking)

    def _look_for_waking(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ANN401
        del argument
        walk = self._walk
        assert walk is not None
        ends = event == "return" and frame is self._ends_with
        if ends and self._woken is None:
            self._woken = walk.copy()
        self._count(frame, event)
        if event == "call" and self._ends_with is None and self._is_waking(frame.f_code):
            self._ends_with = frame
        if event == "return" and frame is self._handler and not _waits(frame):
            assert self._request is not None
            self.misses.append(Miss(self._request, self._woken, walk))
            self._walk, self._ends_with = None, None
            self._step = self._look_for_read

    def _is_handed(self, frame: FrameType) -> bool:
        return self._name(frame.f_code) is not None and any(map(_is_request, arguments(frame)))

    def _is_waking(self, code: CodeType) -> bool:
        return code.co_name.lstrip("_") == WAKING and self._name(code) is not None

    # Counting

    def _begins(self, frame: FrameType, event: str, handler: str) -> bool:
        return event == "call" and frame.f_code.co_qualname == handler and self._name(frame.f_code) is not None

    def _begin(self, frame: FrameType, step: Callable[[FrameType, str, Any], None]) -> None:
        self._walk, self._handler, self._ends_with = Walk(), frame, None
        self._file = self._name(frame.f_code) or ""
        self._step = step
        self._count(frame, "call")

    def _count(self, frame: FrameType, event: str) -> None:
        if self._walk is None or event not in {"call", "return"}:
            return
        name = self._name(frame.f_code)
        if name is None:
            return
        if event == "call":
            self._walk.calls.append((self._depth(frame), name, frame.f_code.co_qualname))
            self._enter(name)
        elif (caller := self._caller(frame)) is not None:
            self._enter(caller)

    def _enter(self, file: str) -> None:
        if file != self._file and self._walk is not None:
            self._file = file
            self._walk.changes += 1

    def _caller(self, frame: FrameType) -> str | None:
        """Return the file of the nearest caller that is of the project."""
        above = frame.f_back
        while above is not None and self._name(above.f_code) is None:
            above = above.f_back
        return None if above is None else self._name(above.f_code)

    def _depth(self, frame: FrameType) -> int:
        """Return how many callers of the project there are up to the handler, or all if it is not among them."""
        depth, above = 0, frame.f_back
        while above is not None and frame is not self._handler:
            depth += self._name(above.f_code) is not None
            if above is self._handler:
                break
            above = above.f_back
        return depth

    def _name(self, code: CodeType) -> str | None:
        """Return the file's name within the project, None if it is not of the project."""
        file = code.co_filename  # code objects of two files may be equal
        if file not in self._names:
            self._names[file] = file.removeprefix(self._root) if file.startswith(self._folders) else None
        return self._names[file]

    def save(self, path: Path) -> None:
        """Write the misses as JSON."""
        walks = [(miss.request, miss.woken, miss.answered) for miss in self.misses]
        data = [[walk and [walk.calls, walk.changes] for walk in three] for three in walks]
        path.write_text(json.dumps(data))


def load(path: Path) -> list[Miss]:
    """Return the misses that ``save`` has written."""

    def walk(data: Any) -> Walk:  # noqa: ANN401 - from JSON
        return Walk([(depth, file, name) for depth, file, name in data[0]], data[1])

    return [Miss(walk(a), None if b is None else walk(b), walk(c)) for a, b, c in json.loads(path.read_text())]


def arguments(frame: FrameType) -> list[Any]:
    """Return the arguments of a function that has just been called."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [frame.f_locals[name] for name in names if name in frame.f_locals]


def _is_request(value: object) -> bool:
    return isinstance(value, bytes) and value.startswith(REQUEST) and value.endswith(b"\n")


def _is_answer(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview)) and ANSWER in bytes(value)


def _waits(frame: FrameType) -> bool:
    """Return whether a coroutine that has just left its frame is to go on later."""
    # Python 3.13 is at the RESUME behind it already.
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in {"YIELD_VALUE", "RESUME"}

"""What ``tools/walks`` counts."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tools.house.recorder import Miss, Recorder, Walk, load
from tools.house.walks import agree, sequence, table

FRONT = """
import types
@types.coroutine
def stop():
    yield
class Requests:
    def read(self, fh):
        present(fh)
    async def _write(self, fh, buf):
        supply(fh, buf)
        await stop()
        return len(buf)
"""
BACK = """
def present(fh):
    if fh:
        hand(line())
def line():
    return b"READ 1 0 4096 vmo/a\\n"
def hand(data):
    forget()
def forget():
    pass
def supply(fh, data):
    if fh:
        _wake()
    forget()
def _wake():
    forget()
"""


def sample() -> dict[str, Any]:
    """Return the names of a project of two files."""
    names: dict[str, Any] = {}
    for file, source in (("front.py", FRONT), ("back.py", BACK)):
        exec(compile(source, f"/sample/{file}", "exec"), names)  # noqa: S102 - the samples above
    return names


def finish(call: Coroutine[Any, Any, object]) -> None:
    """Run a handler that waits once."""
    call.send(None)
    with pytest.raises(StopIteration):
        call.send(None)


def recorded(fh: int, answer: bytes = b"vmo/a 0 4096 aux/s 0\n") -> Recorder:
    """Return what is recorded of a read that misses a page, if ``fh`` is not 0, and of a write."""
    recorder, requests = Recorder(Path("/sample"), [Path("/sample")]), sample()["Requests"]()
    sys.setprofile(recorder.note)
    try:
        requests.read(fh)
        finish(requests._write(fh, answer))
    finally:
        sys.setprofile(None)
    return recorder


def names(walk: Walk | None) -> list[str]:
    """Return what was called."""
    assert walk is not None
    return [name for _, _, name in walk.calls]


def test_the_first_walk_ends_when_the_function_that_was_given_the_request_returns() -> None:
    (miss,) = recorded(1).misses
    assert names(miss.request) == ["Requests.read", "present", "line", "hand", "forget"]
    assert miss.request.files() == {"front.py", "back.py"}
    assert miss.request.changes == 1


def test_the_second_walk_ends_with_the_waking_and_the_third_with_the_return_of_its_writer() -> None:
    (miss,) = recorded(1).misses
    assert names(miss.woken) == ["Requests._write", "supply", "_wake", "forget"]
    assert names(miss.answered) == [*names(miss.woken), "forget", "stop", "Requests._write", "stop"]
    assert miss.answered.changes == 2  # to the back, and back to the front


@pytest.mark.parametrize(("fh", "answer"), [(0, b"vmo/a 0 4096 aux/s 0\n"), (1, b"vmo/b 4096\n")])
def test_a_read_that_misses_nothing_and_a_write_that_answers_nothing_are_no_walks(fh: int, answer: bytes) -> None:
    assert recorded(fh, answer).misses == []


def test_the_misses_are_the_same_after_they_were_saved(tmp_path: Path) -> None:
    recorder = recorded(1)
    recorder.save(tmp_path / "misses")
    assert load(tmp_path / "misses") == recorder.misses


def test_the_table_has_one_row_for_misses_that_agree_and_says_when_they_do_not() -> None:
    same, other = Walk([(0, "a.py", "f")], 0), Walk([(0, "a.py", "g"), (1, "b.py", "h")], 1)
    agreeing, differing = [Miss(same, same, same)] * 3, [Miss(same, None, same), *[Miss(same, None, other)] * 2]
    assert (agree(agreeing), agree(agreeing[:2]), agree(differing)) == (True, False, False)
    assert len(table(agreeing).splitlines()) == 4
    assert "do NOT agree" in table(differing)
    assert "not recognised" in table(differing)
    assert sequence(other) == "g  a.py\n  h  b.py"

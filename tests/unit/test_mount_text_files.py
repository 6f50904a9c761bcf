"""Texts of control files: made when they are read, but not again and again if that takes long."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from vmofs_mount.tree.text_file import TextFile


@pytest.mark.parametrize(
    ("computing", "preempted", "made"), [(0.01, 0.0, [0, 1, 2]), (0.1, 0.0, [0, 0, 0]), (0.01, 0.1, [0, 1, 2])]
)
def test_a_text_that_takes_long_to_compute_is_given_again(
    monkeypatch: pytest.MonkeyPatch, computing: float, preempted: float, made: list[int]
) -> None:
    now = used = 0.0
    numbers = itertools.count()

    def produce() -> Iterator[str]:
        nonlocal now, used
        now += computing + preempted
        used += computing
        yield str(next(numbers))

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "thread_time", lambda: used)
    file = TextFile(0o444, 0, 0, produce)
    assert [int(file.text()) for _ in range(3)] == made
    now += 10 * computing
    assert int(file.text()) == made[-1] + 1

"""When the guardian takes the main thread of a daemon to hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmofs_mount.daemon.watchdog import Standstill

FUSE = "fuse_dev_do_write"


class Thread:
    """A thread as /proc shows it, and a clock; it is looked at each second."""

    def __init__(self, directory: Path, place: str = FUSE, state: str = "D (disk sleep)") -> None:
        self.directory = directory
        self.now = 0.0
        self.standstill = Standstill(directory, lambda: self.now)
        self.is_at(place, state)

    def is_at(self, place: str, state: str = "D (disk sleep)", switches: int = 7) -> None:
        (self.directory / "wchan").write_text(place)
        text = f"Name:\tx\nState:\t{state}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t1\n"
        (self.directory / "status").write_text(text)

    def looks(self, count: int) -> list[str]:
        """Look so many times; return what was said."""
        said = []
        for _ in range(count):
            said.append(self.standstill.look())
            self.now += 1
        return [place for place in said if place]


def test_who_stands_still_in_fuse_hangs_after_some_seconds_and_it_is_said_once(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    assert thread.looks(4) == []
    assert thread.looks(100) == [FUSE]
    thread.is_at(FUSE, switches=8)
    assert thread.looks(5) == [FUSE]


def test_elsewhere_it_takes_longer(tmp_path: Path) -> None:
    thread = Thread(tmp_path, "rpc_wait_bit_killable")
    assert thread.looks(20) == []
    assert thread.looks(1) == ["rpc_wait_bit_killable"]


@pytest.mark.parametrize(
    ("place", "state"), [("do_signal_stop", "T (stopped)"), ("__refrigerator", "D (disk sleep)"), ("0", "R (running)")]
)
def test_who_is_stopped_frozen_or_busy_does_not_hang(tmp_path: Path, place: str, state: str) -> None:
    assert Thread(tmp_path, place, state).looks(100) == []


def test_who_has_run_in_between_does_not_hang(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    for switches in range(50):
        thread.is_at(FUSE, switches=switches)
        assert thread.looks(2) == []


def test_who_has_ended_does_not_hang(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    (tmp_path / "status").unlink()
    assert thread.looks(100) == []

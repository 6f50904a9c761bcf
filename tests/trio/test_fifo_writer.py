"""The thread that writes request lines into a FIFO: what fits, what is refused, what counts as read, how it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.mounted import wait_for
from vmofs_mount.pagers.fifo_threads import Writer

LINE = b"READ 1 0 4096 vmo/disk.img\n"
LONG_SECONDS = 10.0


class Pipe:
    """A pipe, its writer, and the thread of that."""

    def __init__(self) -> None:
        self.reader, fd = os.pipe()
        os.set_blocking(fd, False)
        os.set_blocking(self.reader, False)
        self.writer = Writer(fd)
        self.room = threading.Event()
        self.writer.has_room = self.room.set
        self.thread = threading.Thread(target=self.writer.run, daemon=True)
        self.thread.start()

    def read(self, size: int = 2**16) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self.reader, size)
        return b""

    def fill(self) -> int:
        """Hand over lines until no more are taken, though the thread has had time; return how many were."""
        count, refused_at = 0, 0.0
        while not refused_at or time.monotonic() < refused_at + 0.1:
            if self.writer.hand(LINE):
                count, refused_at = count + 1, 0.0
            else:
                refused_at = refused_at or time.monotonic()
        return count

    def end(self) -> None:
        self.writer.close()
        self.thread.join(LONG_SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    if pipe.thread.is_alive():
        pipe.end()
    with suppress(OSError):
        os.close(pipe.reader)


def test_lines_come_in_order_and_whole(pipe: Pipe) -> None:
    lines = [b"line %d\n" % number for number in range(1000)]
    got = b""
    for line in lines:
        while not pipe.writer.hand(line):
            got += pipe.read()
    wait_for(lambda: pipe.writer.lines_total == len(lines), "all are written")
    while piece := pipe.read():
        got += piece
    assert got == b"".join(lines)


def test_a_full_pipe_refuses_lines_and_says_when_there_is_room_again(pipe: Pipe) -> None:
    handed = pipe.fill()
    assert 2**15 < handed * len(LINE) < 2**17  # a pipe holds less if its pages are not full
    pipe.room.clear()
    assert not pipe.writer.hand(LINE)
    got = pipe.read()
    assert len(got) % len(LINE) == 0  # no line is cut where the pipe was full
    assert pipe.room.wait(LONG_SECONDS)
    pieces = [got]

    def all_came() -> bool:
        pieces.append(pipe.read())
        return b"".join(pieces) == LINE * handed

    wait_for(all_came, "the rest comes")


def test_what_was_read_is_counted_on_request_and_at_the_end(pipe: Pipe) -> None:
    pipe.writer.count_read()
    pipe.writer.hand(LINE)
    wait_for(lambda: pipe.read() == LINE, "the line is there")
    pipe.writer.hand(LINE)
    wait_for(lambda: pipe.writer.read_bytes == len(LINE), "the first is counted, the second not yet")
    pipe.end()
    assert pipe.writer.read_bytes == len(LINE)


def test_what_was_not_written_because_the_pipe_was_full_was_not_read(pipe: Pipe) -> None:
    pipe.fill()
    assert len(pipe.read(len(LINE))) == len(LINE)
    pipe.end()
    assert pipe.writer.read_bytes == len(LINE)


def test_it_ends_when_asked_to_while_it_sleeps_waits_for_room_or_has_no_reader() -> None:
    def without_reader(pipe: Pipe) -> None:
        os.close(pipe.reader)
        pipe.writer.hand(LINE)

    for prepare in (lambda _pipe: None, Pipe.fill, without_reader):
        pipe = Pipe()
        prepare(pipe)
        pipe.end()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pipe.writer.fd)


def test_without_a_reader_nothing_counts_as_read(pipe: Pipe) -> None:
    os.close(pipe.reader)
    for _ in range(3):
        pipe.writer.hand(LINE)
    pipe.end()
    assert pipe.writer.read_bytes == 0

"""A pager as a process of its own, which can be killed and stopped: it supplies what is asked for, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.mounted import wait_for
from vmofs_mount.linux.procfs import process_state

_PAGER = r"""
import os, struct, sys
control, fifo, key, by_answers = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "answers"
answers = os.open(f"{control}/answers", os.O_WRONLY)
def words(start, size):
    return struct.pack(f"<{size // 8}Q", *range(key + start // 8, key + (start + size) // 8))
def answer(reads):
    while reads:
        records = [struct.pack("<3Q", offset, length, vmo) for vmo, offset, length in reads]
        pieces = [words(offset, length) for _, offset, length in reads]
        written = os.write(answers, b"".join([struct.pack("<Q", len(reads)), *records, *pieces]))
        size, done = 8, 0
        while done < len(reads) and size + 24 + len(pieces[done]) <= written:
            size, done = size + 24 + len(pieces[done]), done + 1
        assert size == written > 8, (size, written)
        reads = reads[done:]
requests = os.open(f"{control}/{fifo}", os.O_RDONLY)
files, rest = {}, b""
print("open", flush=True)
while True:
    data = os.read(requests, 65536)
    if not data:
        requests = os.open(f"{control}/{fifo}", os.O_RDONLY)
        rest = b""
        continue
    *lines, rest = (rest + data).split(b"\n")
    reads = [line.decode().split(" ")[1:] for line in lines if line.startswith(b"READ ")]
    if by_answers:
        answer([(int(vmo), int(offset), int(length)) for vmo, offset, length, _ in reads])
        continue
    for _, offset, length, name in reads:
        offset, length = int(offset), int(length)
        if name not in files:
            files[name] = os.open(f"{control}/supply/{name}", os.O_WRONLY)
        for start in range(offset, offset + length, 1 << 19):
            size = min(1 << 19, offset + length - start)
            os.pwrite(files[name], words(start, size), start)
"""


class PagerProcess:
    """A process that reads a FIFO of a pager and supplies the pattern of ``key`` in whatever VMO it is asked for.

    ``way``: by ``supply`` files one by one, or all that were read at once by ``answers``.
    """

    def __init__(self, control: Path, key: int, fifo: str = "requests", way: str = "supply") -> None:
        command = [sys.executable, "-I", "-S", "-c", _PAGER, str(control), fifo, str(key), way]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    def wait_open(self) -> PagerProcess:
        """Wait until it has the FIFO open."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"open\n"
        return self

    def kill(self) -> None:
        """Kill it with SIGKILL, whatever it is doing, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        """Stop it with SIGSTOP and wait until it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: process_state(self.pid) == "T", "the pager stands still")

    def go_on(self) -> None:
        """Let it go on with SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


class PagerProcesses:
    """Starts pagers, and kills those that are left."""

    def __init__(self) -> None:
        self._started: list[PagerProcess] = []

    def __call__(self, control: Path, key: int, fifo: str = "requests") -> PagerProcess:
        """Start a pager; see ``PagerProcess``."""
        self._started.append(PagerProcess(control, key, fifo))
        return self._started[-1]

    def close(self) -> None:
        """Kill all."""
        for process in self._started:
            process.kill()


def seconds_of(look: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.monotonic()
    look()
    return time.monotonic() - began

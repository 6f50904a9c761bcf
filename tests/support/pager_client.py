"""A pager for tests, as any program is one: it uses nothing but the files of the mount. And those who read from it."""

from __future__ import annotations

import itertools
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, TypeVar

import pytest

from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand
from vmofs.wire.names import escape
from vmofs.wire.packets import RequestLine, parse_packet
from vmofs_mount.linux.procfs import process_state

T = TypeVar("T")

SECONDS = 10.0
"""How long anything may take before a test fails."""


class Vmo(NamedTuple):
    """A VMO or aux file: its path, and its name as commands want it."""

    path: Path
    name: str

    def xattr(self, name: str) -> str:
        """Return a ``user.vmofs`` attribute."""
        return os.getxattr(self.path, f"user.vmofs.{name}").decode()


class Refused(NamedTuple):
    """How a command failed."""

    errno: int
    result: str


class Requests:
    """One reader of a FIFO. Opens without blocking, so that a FIFO that nobody writes to cannot hang a test."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._buffer = b""
        self._open = True

    def fill(self, seconds: float) -> bool:
        """Wait for bytes; return False when there are none."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            poll.poll(max(0, deadline - time.monotonic()) * 1000)
            with suppress(BlockingIOError):
                data = os.read(self.fd, 2**16)
                self._buffer += data
                if data:
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)  # no writer yet, or no more: poll does not wait then

    def next_line(self, seconds: float = SECONDS) -> bytes:
        """Return the next line with its newline."""
        while b"\n" not in self._buffer:
            if not self.fill(seconds):
                pytest.fail(f"no request within {seconds} s; {self._buffer!r} was read")
        line, newline, self._buffer = self._buffer.partition(b"\n")
        return line + newline

    def next(self, seconds: float = SECONDS) -> RequestLine:
        """Return the next request."""
        return parse_packet(self.next_line(seconds))

    def take(self, count: int) -> list[RequestLine]:
        """Return the next requests."""
        return [self.next() for _ in range(count)]

    def is_quiet(self) -> bool:
        """Return whether nothing was sent that was not taken."""
        return not self.fill(0) and not self._buffer

    def is_at_end(self) -> bool:
        """Return whether nobody writes any more."""
        try:
            return os.read(self.fd, 1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close the FIFO."""
        if self._open:
            self._open = False
            os.close(self.fd)


class PagerClient:
    """A pager with a directory of its own for VMOs and another for aux files."""

    _numbers = itertools.count()

    fifo_mode: ClassVar[int] = 0o600

    def __init__(self, mount: Path, name: str = "") -> None:
        self.mount = mount
        self.name = name or f"p{next(self._numbers)}"
        self.control = mount / "control" / self.name
        self.control.mkdir()
        if self.fifo_mode != 0o600:
            (self.control / "requests").chmod(self.fifo_mode)
        for top in ("vmo", "aux"):
            (mount / top / self.name).mkdir()
        self._commands: dict[str, int] = {}
        self._requests: Requests | None = None
        self._stages = itertools.count()

    @property
    def requests(self) -> Requests:
        """The reader of the default port; opened when it is first asked for."""
        if self._requests is None:
            self._requests = Requests(self.control / "requests")
        return self._requests

    def stop_reading(self) -> None:
        """Close the default port, as a pager that ends does."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    # Commands

    def command(self, file: str, line: str) -> str:
        """Carry out a command and return its result. Raises OSError if it fails."""
        if file not in self._commands:
            self._commands[file] = os.open(self.control / file, os.O_RDWR)
        data = f"{line}\n".encode()
        assert os.write(self._commands[file], data) == len(data)
        return self.result(file)

    def result(self, file: str) -> str:
        """Return the result of the last command."""
        return os.read(self._commands[file], 2**16).decode()

    def refused(self, file: str, line: str) -> Refused:
        """Carry out a command that must fail."""
        try:
            result = self.command(file, line)
        except OSError as error:
            return Refused(error.errno or 0, self.result(file).removesuffix("\n"))
        pytest.fail(f"{file} took {line!r}: {result!r}")

    # Files

    def vmo(self, name: str) -> Vmo:
        """Return the VMO of that name in the pager's own directory."""
        return Vmo(self.mount / "vmo" / self.name / name, escape(f"vmo/{self.name}/{name}"))

    def aux(self, name: str) -> Vmo:
        """Return the aux file of that name in the pager's own directory."""
        return Vmo(self.mount / "aux" / self.name / name, escape(f"aux/{self.name}/{name}"))

    def create(self, name: str = "v", size: int = PAGE_SIZE, options: str = "") -> Vmo:
        """Make a VMO."""
        vmo = self.vmo(name)
        self.command("create_vmo", f"{vmo.name} {size} {options}")
        return vmo

    def stage(self, data: bytes, name: str = "") -> Vmo:
        """Make an aux file of whole pages."""
        aux = self.aux(name or f"stage{next(self._stages)}")
        aux.path.write_bytes(data)
        os.truncate(aux.path, -(-len(data) // PAGE_SIZE) * PAGE_SIZE)
        return aux

    # Answers

    def supply(self, vmo: Vmo, offset: int = 0, length: int = PAGE_SIZE, key: int = 0) -> None:
        """Supply what belongs there: the pattern of the key."""
        self.supply_bytes(vmo, pattern.make(key, offset, length), offset)

    def supply_bytes(self, vmo: Vmo, data: bytes, offset: int = 0) -> None:
        """Supply these bytes."""
        aux = self.stage(data)
        length = aux.path.stat().st_size
        assert self.command("supply_pages", f"{vmo.name} {offset} {length} {aux.name} 0") == "ZX_OK\n"
        aux.path.unlink()

    def fail(self, vmo: Vmo, offset: int, length: int, code: str = "ZX_ERR_IO") -> None:
        """Fail a range."""
        assert self.command("op_range", f"FAIL {vmo.name} {offset} {length} {code}") == "ZX_OK\n"

    def take_read(self, vmo: Vmo, offset: int, length: int = PAGE_SIZE) -> None:
        """Check that the next request is this one."""
        request = self.requests.next()
        assert (request.command, request.offset, request.length) == (PacketCommand.READ, offset, length)
        assert escape(request.path) == vmo.name

    def stat(self, name: str) -> int:
        """Return a counter of the pager."""
        return metric((self.control / "stats").read_text(), f"vmofs_pager_{name}")

    @property
    def read_requests(self) -> int:
        """How many page requests there ever were."""
        return self.stat("read_requests_total")

    def pending(self) -> list[str]:
        """Return the lines of ``pending``."""
        return (self.control / "pending").read_text().splitlines()

    def close_commands(self) -> None:
        """Close the command files."""
        for fd in self._commands.values():
            os.close(fd)
        self._commands.clear()

    def close(self) -> None:
        """Close the pager, so that everybody who waits gets an error, and remove all files."""
        self.stop_reading()
        self.close_commands()
        if self.control.exists():
            self.control.rmdir()
        for top in ("vmo", "aux"):
            shutil.rmtree(self.mount / top / self.name)


def metric(text: str, name: str) -> int:
    """Return a value of a text in Prometheus format."""
    found = re.search(rf"^{name}(?:\{{.*\}})? (\d+)$", text, re.MULTILINE)
    assert found, f"{name} is not in {text}"
    return int(found[1])


class Background(Generic[T]):
    """A call that may block for ever, in a thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._values: list[T] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._values.append(self._function())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._errors.append(error)

    @property
    def done(self) -> bool:
        """Whether it has returned."""
        return not self._thread.is_alive()

    def result(self, seconds: float = SECONDS) -> T:
        """Wait for it, and return what it returned or raise what it raised."""
        self._thread.join(seconds)
        if self._errors:
            raise self._errors[0]
        if not self._values:
            pytest.fail(f"not finished within {seconds} s")
        return self._values[0]

    def errno(self, seconds: float = SECONDS) -> int:
        """Return the errno that it failed with."""
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller looks at the errno
            self.result(seconds)
        return caught.value.errno or 0


def threads_asleep_in(fd: int) -> int:
    """Return how many threads of this process sleep in a system call on ``fd``, for a page or for its answer."""
    count = 0
    for path in Path("/proc/self/task").glob("*/syscall"):
        with suppress(OSError):  # a thread that has just ended
            count += path.read_text().split()[1:2] == [f"{fd:#x}"]
    return count


# What a reader process runs. Standing alone: it is started as a script.

_READER = r"""
import ctypes, mmap, os, sys
kind, path, offset, length, times = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if kind == "direct" else 0))
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if kind == "mmap" else None
def read():
    if kind == "pread":
        return os.pread(fd, length, offset)
    if kind == "direct":
        buffer = mmap.mmap(-1, length)
        return buffer[: os.preadv(fd, [buffer], offset)]
    if kind == "mmap":
        return mapping[offset : offset + length]
    out, into = os.pipe()
    try:
        if kind == "sendfile":
            sent = os.sendfile(into, fd, offset, length)
        else:
            sent = os.splice(fd, into, length, offset_src=offset)
        return os.read(out, sent) if sent else b""
    finally:
        os.close(out), os.close(into)
for _ in range(times):
    try:
        data = read()
    except OSError as error:
        print("errno", error.errno, flush=True)
    else:
        print("data", data.hex(), flush=True)
"""


class ReaderProcess:
    """A process that runs a script which prints how its reads end."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, "-I", "-S", "-c", script, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    @classmethod
    def reading(cls, kind: str, path: Path, offset: int, length: int = PAGE_SIZE, times: int = 1) -> ReaderProcess:
        """Read ``times`` times in one way: pread, mmap, sendfile, splice, or direct (O_DIRECT)."""
        return cls(_READER, kind, path, offset, length, times)

    def next(self, seconds: float = SECONDS) -> bytes | int | None:
        """Return what the next read gave: bytes, an errno, or None if the process ended."""
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        if not poll.poll(seconds * 1000):
            pytest.fail(f"the reader did not finish within {seconds} s")
        word, _, value = self.process.stdout.readline().decode().strip().partition(" ")
        if not word:
            return None
        return int(value) if word == "errno" else bytes.fromhex(value)

    def failure(self, seconds: float = SECONDS) -> int:
        """Return how the next read failed: the errno, or minus the signal that killed the process."""
        outcome = self.next(seconds)
        if outcome is None:
            return self.process.wait(seconds)
        assert isinstance(outcome, int), outcome
        return outcome

    def is_waiting(self) -> bool:
        """Return whether it waits for a page; it can be killed then. What cannot be killed is in state S first."""
        return process_state(self.process.pid) == "D"

    def is_blocked(self) -> bool:
        """Return whether it waits for a page, in whatever way, or has ended."""
        return process_state(self.process.pid) != "R"

    def kill(self, seconds: float = SECONDS) -> float:
        """Kill it with SIGKILL and return the seconds that it took to die."""
        began = time.monotonic()
        self.process.kill()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the reader did not die within {seconds} s")
        return time.monotonic() - began

    def close(self) -> None:
        """End the process if it still runs, and let go of its pipe."""
        self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS)


class Readers:
    """Starts reader processes, and ends them."""

    def __init__(self) -> None:
        self._started: list[ReaderProcess] = []

    def __call__(self, kind: str, path: Path, offset: int, length: int = PAGE_SIZE, times: int = 1) -> ReaderProcess:
        """Start a process that reads; see ``ReaderProcess.reading``."""
        return self._keep(ReaderProcess.reading(kind, path, offset, length, times))

    def run(self, script: str, *arguments: object) -> ReaderProcess:
        """Start a process that runs a script."""
        return self._keep(ReaderProcess(script, *arguments))

    def _keep(self, process: ReaderProcess) -> ReaderProcess:
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill those that still run."""
        for process in self._started:
            process.close()

"""Mounts for tests: the program as a user runs it, taken down whatever happens. Fixtures: ``fuse/conftest.py``."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vmofs_mount.linux.holders import holders
from vmofs_mount.linux.knobs import open_abort
from vmofs_mount.linux.mountinfo import mount_at
from vmofs_mount.linux.procfs import state_of

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = f"{ROOT}{os.pathsep}{ROOT / 'mount'}"
READY_SECONDS = 20.0
END_SECONDS = 10.0


@dataclass
class Mounted:
    """A vmofs that is mounted: where, by which process, what that process has logged, and the connection's number.

    ``expected_log`` holds patterns of warnings that the test provokes.
    """

    path: Path
    process: subprocess.Popen[bytes]
    log_path: Path
    number: int = 0
    expected_log: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        return self.process.pid

    def log(self) -> str:
        """Return what it has logged."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def counter(self, name: str) -> int:
        """Return a number of ``control/stats``."""
        stats = (self.path / "control" / "stats").read_text()
        found = re.search(rf"^vmofs_{name} (\d+)$", stats, re.MULTILINE)
        assert found, name
        return int(found[1])

    def user_counter(self, name: str, uid: int) -> int:
        """Return a number of ``control/stats`` for one user, 0 if it has none."""
        stats = (self.path / "control" / "stats").read_text()
        found = re.search(rf'^vmofs_user_{name}{{uid="{uid}"}} (\d+)$', stats, re.MULTILINE)
        return int(found[1]) if found else 0

    def is_mounted(self) -> bool:
        """Return whether the kernel has the mount."""
        return any(line.split(" ")[1] == str(self.path) for line in Path("/proc/mounts").read_text().splitlines())

    def umount(self) -> None:
        """Unmount as any user would; programs that just saw the end of a FIFO may need a moment to end."""
        deadline = time.monotonic() + END_SECONDS
        command = ["fusermount3", "-u", str(self.path)]
        while subprocess.run(command, check=False, capture_output=True).returncode and time.monotonic() < deadline:
            time.sleep(0.05)
            if not self.is_mounted():
                return
        assert not self.is_mounted(), f"it is still busy: {self.held_by()}"

    def held_by(self) -> str:
        """Return who holds the mount, mounted or not, and what its daemon's threads wait for."""
        threads = [
            f"{state_of(thread)} in {(thread / 'wchan').read_text()}"
            for thread in Path(f"/proc/{self.pid}/task").iterdir()
        ]
        found: list[str] = []
        looking = threading.Thread(target=lambda: found.extend(holders(self.number)), daemon=True)
        looking.start()
        looking.join(END_SECONDS)  # the memory map of a process may be locked
        held = "; ".join(found) or "nobody"
        return f"held by {held}; threads of the daemon: {threads}; log: {self.log()}"

    def unexpected_log(self) -> list[str]:
        """Return what was logged that is neither information nor expected."""
        bad = [line for line in self.log().splitlines() if line and not line.startswith(("INFO ", "DEBUG "))]
        return [line for line in bad if not any(re.search(pattern, line) for pattern in self.expected_log)]


def vmofs_command(*arguments: str | Path) -> list[str]:
    """Return the command line of the program under test, with this interpreter and this source tree."""
    return [sys.executable, "-m", "vmofs_mount.cli", *map(str, arguments)]


def _command_after(code: str, *arguments: str | Path) -> list[str]:
    if not code:
        return vmofs_command(*arguments)
    program = f"{code}\nimport sys\nfrom vmofs_mount.cli.main import main\nsys.exit(main())"
    return [sys.executable, "-c", program, *map(str, arguments)]


def vmofs_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCE_ROOTS}


class Commands:
    """Starts commands that may hang, and ends them."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        process = subprocess.Popen(command, env=vmofs_environment(), stderr=subprocess.PIPE)
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill those that still run."""
        for process in self._started:
            process.kill()
            process.communicate(timeout=END_SECONDS)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Poll until a condition holds; fail the test after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def _is_ready(news: socket.socket) -> bool:
    """Return whether a mount has said that it is ready: it may answer before the kernel's settings are changed."""
    try:
        return b"READY=1" in news.recv(4096)
    except BlockingIOError:
        return False


def _ended(mounted: Mounted) -> int:
    """Return the exit code of a daemon that is about to end."""
    try:
        return mounted.process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the daemon of {mounted.path} did not end within {END_SECONDS} s: {mounted.held_by()}")


class Mounter:
    """Mounts; remembers what it mounted so that all of it can be taken down."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mounted: list[Mounted] = []

    def __call__(self, *options: str, code: str = "") -> Mounted:
        """Mount with these ``-o`` options and wait until it answers. ``code`` runs first, in the daemon's process."""
        number = len(self._mounted)
        path = self._directory / f"mnt{number}"
        path.mkdir()
        log_path = self._directory / f"log{number}"
        arguments = [part for option in options for part in ("-o", option)]
        with log_path.open("wb") as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
            news.bind("")  # an abstract name, which the kernel chooses
            news.setblocking(False)
            process = subprocess.Popen(
                _command_after(code, "mount", "-f", *arguments, path),
                stderr=log,
                env=vmofs_environment() | {"NOTIFY_SOCKET": news.getsockname().replace(b"\0", b"@", 1).decode()},
                start_new_session=True,
            )
            mounted = Mounted(path, process, log_path)
            self._mounted.append(mounted)
            wait_for(lambda: process.poll() is not None or _is_ready(news), "the mount answers")
        assert process.poll() is None, mounted.log()
        mount = mount_at(str(path))
        assert mount is not None, mounted.log()
        mounted.number = mount.minor
        return mounted

    def finish(self) -> None:
        """Unmount everything; the daemons must end well, and have nothing to complain about."""
        for mounted in self._mounted:
            if mounted.is_mounted():
                mounted.umount()
            assert _ended(mounted) == 0, mounted.log()
            assert not mounted.is_mounted()
            assert not mounted.unexpected_log(), mounted.log()

    def clean_up(self) -> None:
        """Leave nothing behind, however broken it is."""
        for mounted in self._mounted:
            if mounted.process.poll() is None:
                # A killed daemon stays for as long as a thread of it waits for a page that only it could bring.
                with suppress(OSError):
                    abort = open_abort(mounted.number)
                    os.write(abort, b"1")
                    os.close(abort)
                mounted.process.send_signal(signal.SIGKILL)  # breaks the connection: who waits for it gets an error
            if mounted.is_mounted():
                subprocess.run(["fusermount3", "-u", "-z", str(mounted.path)], check=False)
            with suppress(subprocess.TimeoutExpired):
                mounted.process.wait(END_SECONDS)

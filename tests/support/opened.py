"""The commands for files of URLs as a user runs them, with a runtime directory and a mount of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.mounted import vmofs_command, vmofs_environment
from vmofs_mount.linux.procfs import has_ended

END_SECONDS = 60.0


class User:
    """Somebody who opens URLs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime, self.cache = folder / "runtime", folder / "cache-home"
        self.runtime.mkdir(mode=0o700)
        self.mount = self.runtime / "vmofs"
        self.environment = vmofs_environment() | {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CACHE_HOME": str(self.cache),
            "no_proxy": "*",
        }

    def run(self, *arguments: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``vmofs`` with arguments and check its exit code."""
        result = subprocess.run(
            vmofs_command(*arguments),
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=END_SECONDS,
            cwd=self.folder,
            check=False,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def open(self, *arguments: str | Path) -> Path:
        """Open one file and return its path."""
        (line,) = self.run("open", *arguments).stdout.splitlines()
        return Path(line)

    def listed(self) -> list[dict[str, object]]:
        """Return what ``vmofs ls --json`` says."""
        found: list[dict[str, object]] = json.loads(self.run("ls", "--json").stdout)
        return found

    def openers(self) -> list[int]:
        """Return the processes that serve."""
        return sorted({int(str(file["pid"])) for file in self.listed()})

    def log(self) -> str:
        """Return what the openers have logged."""
        return "".join(path.read_text() for path in (self.runtime / "vmofs-openers").glob("*.log"))

    def is_mounted(self) -> bool:
        """Return whether the own mount is there."""
        return f" {self.mount} " in Path("/proc/mounts").read_text()

    def finish(self) -> None:
        """Close everything, and check that nothing is left."""
        numbers = [json.loads(path.read_text())["number"] for path in self._records()]
        self.run("close", "--all")
        assert self._records() == []
        assert not self.is_mounted(), subprocess.run(["ls", "-R", self.mount], capture_output=True, check=False).stdout
        for number in numbers:
            assert has_ended(number)

    def _records(self) -> list[Path]:
        return sorted((self.runtime / "vmofs-openers").glob("*.json"))

    def clean_up(self) -> None:
        """Take away what a failed test has left."""
        for path in self._records():
            with suppress(OSError, ValueError):
                os.kill(json.loads(path.read_text())["number"], signal.SIGKILL)
        if self.is_mounted():
            subprocess.run(["fusermount3", "-u", "-z", self.mount], check=False, capture_output=True)


@contextmanager
def user_in(folder: Path) -> Iterator[User]:
    """Be a user for the length of a block."""
    user = User(folder)
    try:
        yield user
        user.finish()
    finally:
        user.clean_up()


def wait_until(what: str, seconds: float = 20.0) -> Iterator[float]:
    """Yield until the caller is content; it fails by itself after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield end - time.monotonic()
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")

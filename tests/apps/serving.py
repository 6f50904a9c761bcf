"""Files that the example pagers of ``tools/examples`` serve, started as a user would; fixtures: ``conftest.py``."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounted import END_SECONDS, ROOT, Mounted, wait_for
from tests.support.pager_client import metric

PAGE = 4096
EXAMPLES = ROOT / "tools" / "examples"
SHELL_PAGER = EXAMPLES / "pager.sh"
PYTHON_PAGER = EXAMPLES / "pager.py"
STEP_SECONDS = 120  # for any one program: a reader that waits for ever must not hold up the suite


def run(
    *command: str | Path, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with a deadline and return what it wrote; if it fails the test shows what it complained of."""
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=STEP_SECONDS, env=env)
    assert not (check and done.returncode), done
    return done


def bash(script: str, *arguments: str | Path) -> bytes:
    """Run a line of bash, ``$1`` and so on being the arguments, and return what it wrote to stdout."""
    return run("bash", "-euo", "pipefail", "-c", script, "bash", *arguments).stdout


def python(code: str, *arguments: str | Path) -> bytes:
    """Run Python code in a process of its own and return what it wrote to stdout."""
    return run(sys.executable, "-c", code, *arguments).stdout


def pages_of(offset: int, length: int) -> set[int]:
    """Return the numbers of the pages that these bytes lie in."""
    return set(range(offset // PAGE, (offset + length - 1) // PAGE + 1))


@dataclass
class Served:
    """One file of a mount and the process that serves it. The pager has one VMO."""

    mount: Mounted
    pager: str
    name: str
    source: Path
    program: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        """The file in the mount."""
        return self.mount.path / "vmo" / self.name

    @property
    def control(self) -> Path:
        """The directory of the pager."""
        return self.mount.path / "control" / self.pager

    def start(self) -> None:
        """Start the pager's program, and wait until there is the file, and requests are read."""
        interpreter = [sys.executable] if self.program.suffix == ".py" else []
        self.process = process = subprocess.Popen(
            [*interpreter, self.program, self.mount.path, self.pager, self.source, self.name],
            stderr=subprocess.PIPE,
        )
        wait_for(lambda: process.poll() is not None or self.path.exists(), "the pager makes its VMO")
        wait_for(lambda: process.poll() is not None or self._is_read(), "the pager reads its requests")
        assert process.poll() is None, process.stderr and process.stderr.read()

    def _is_read(self) -> bool:
        return metric((self.control / "stats").read_text(), "vmofs_pager_fifos_attached") > 0

    def kill(self) -> None:
        """Kill the pager's program, so that it can do nothing about it."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        self.process = None

    def stop(self) -> None:
        """Close the pager: its program ends by itself, without complaint."""
        if not self.control.exists():
            return
        if self.process is not None:  # the kernel may have asked ahead, which nobody waits for
            wait_for(lambda: not (self.control / "pending").read_text(), "the pager answers everything")
        self.path.unlink()
        self.control.rmdir()
        self.wait_ended()

    def wait_ended(self) -> None:
        """Wait until the pager's program has ended by itself, without complaint."""
        if self.process is not None:
            _, complaints = self.process.communicate(timeout=END_SECONDS)
            assert (self.process.returncode, complaints) == (0, b"")
            self.process = None

    def pages_requested(self) -> list[int]:
        """Return the pages that the pager was asked for, in order; it answers each request with one supply.

        Taken from ``control/log``, which keeps the last 1000 lines: for tests that touch few pages.
        """
        # Readers are answered first, then the command is logged.
        wait_for(lambda: len(self._supplies()) >= self.counter("read_requests_total"), "all answers are logged")
        supplies = self._supplies()
        assert len(supplies) == self.counter("read_requests_total")
        return [page for offset, length in supplies for page in sorted(pages_of(int(offset), int(length)))]

    def _supplies(self) -> list[tuple[str, str]]:
        """Return offset and length of each supply that was logged."""
        log = (self.mount.path / "control" / "log").read_text()
        return re.findall(rf" control/{self.pager}/supply_pages \S+ (\d+) (\d+) \S+ 0 -> ZX_OK$", log, re.MULTILINE)

    def counter(self, name: str) -> int:
        """Return a number of the pager's statistics."""
        text = (self.control / "stats").read_text()
        found = re.search(rf"^vmofs_pager_{name}\{{.*\}} (\d+)$", text, re.MULTILINE)
        assert found, text
        return int(found[1])

"""What vmofs is compared with: each serves the object, a file whose every page reads as ``programs/object.h`` says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from tools.benchmarks.machine import PROGRAMS, MissingError, compiled, fetched_example, needed
from tools.benchmarks.targets import Bench, Target, children, end, wait_until


class Tmpfs:
    """The source itself: the limit for what is in the page cache."""

    name = "tmpfs"

    def start(self, bench: Bench) -> None:
        """Remember where it is."""
        self._path = bench.source

    def pids(self) -> list[int]:
        """Return none."""
        return []

    def object(self) -> AbstractContextManager[Path]:
        """Return the source."""
        return nullcontext(self._path)

    def stop(self) -> None:
        """Do nothing."""


class FuseServer:
    """A program that serves one file at a mount of its own."""

    name = ""
    file_name = "object"

    def command(self, bench: Bench, mount: Path) -> list[str]:
        """Return the command line. Raises MissingError."""
        raise NotImplementedError

    def start(self, bench: Bench) -> None:
        """Start it and wait for the file."""
        self.mount = bench.new_directory()
        environment = {**os.environ, "BENCH_DATA": str(bench.source)}
        self._process = bench.start(self.command(bench, self.mount), env=environment)
        wait_until((self.mount / self.file_name).exists, self._process)

    def object(self) -> AbstractContextManager[Path]:
        """Return the one file."""
        return nullcontext(self.mount / self.file_name)

    def pids(self) -> list[int]:
        """Return the server and its children."""
        return [self._process.pid, *children(self._process.pid)]

    def stop(self) -> None:
        """Unmount and end it."""
        subprocess.run(["fusermount3", "-u", "-z", self.mount], check=False, capture_output=True)
        end(self._process)


class Null(FuseServer):
    """pyfuse3 with its default loop, answering at once from memory."""

    name = "null"

    def command(self, bench: Bench, mount: Path) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(PROGRAMS / "null_pyfuse3.py"), str(mount), str(bench.source)]


class CNull(FuseServer):
    """The same in C on libfuse's low-level API."""

    name = "C null"

    def command(self, bench: Bench, mount: Path) -> list[str]:
        """Return the command line."""
        return [compiled("null_fuse"), str(mount), str(bench.source)]


class NbdPython(FuseServer):
    """nbdfuse, and nbdkit with a Python plugin."""

    name = "nbdkit python"
    file_name = "nbd"
    _plugin = ("python", "nbd_plugin.py")

    def command(self, bench: Bench, mount: Path) -> list[str]:
        """Return the command line, with the largest number of connections that the peer takes."""
        language, script = self._plugin
        nbdkit = needed("nbdkit", "nbdkit")
        dumped = subprocess.run([nbdkit, "--dump-plugin", language], check=False, capture_output=True)
        if dumped.returncode:
            raise MissingError(f"nbdkit's {language} plugin is not installed (Debian: nbdkit-plugin-python)")
        arguments = [f"data={bench.source}"] if language == "python" else []
        return [
            *(needed("nbdfuse", "libnbd-bin"), str(mount), "--command"),
            *(nbdkit, "-s", "--exit-with-parent", language, str(PROGRAMS / script), *arguments),
        ]


class NbdShell(NbdPython):
    """nbdfuse, and nbdkit with a shell script."""

    name = "nbdkit sh"
    _plugin = ("sh", "nbd_plugin.sh")


class TmpfsExample:
    """pyfuse3's own example of a filesystem in memory, fetched with its source. Mounted anew for each measurement."""

    name = "tmpfs.py"

    def start(self, bench: Bench) -> None:  # noqa: ARG002 - as every target
        """Fetch it."""
        self._script = fetched_example("tmpfs.py")

    def pids(self) -> list[int]:
        """Return none."""
        return []

    @contextmanager
    def mounted(self, bench: Bench) -> Iterator[Path]:
        """Mount, and unmount in the end."""
        path = bench.new_directory()
        process = bench.start([sys.executable, str(self._script), str(path)])
        try:
            wait_until(lambda: os.path.ismount(path), process)
            yield path
        finally:
            subprocess.run(["fusermount3", "-u", "-z", path], check=False, capture_output=True)
            end(process)

    def stop(self) -> None:
        """Do nothing."""


def peers() -> list[Target]:
    """Return everything that is not vmofs. Nothing is started yet."""
    return [Tmpfs(), Null(), CNull(), NbdPython(), NbdShell(), TmpfsExample()]

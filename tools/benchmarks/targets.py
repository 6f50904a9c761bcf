"""What is measured: each target gives an object, a file whose every page reads as ``programs/object.h`` says."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from tools.benchmarks.machine import PROGRAMS, MissingError, Placement, compiled, needed

_START_SECONDS = 30.0
_PIECE = 2**20


@dataclass
class Bench:
    """One run: its temporary directory, the object's source in memory, and how large things are.

    ``misses`` is for a client with one or more readers, ``slow_misses`` for peers that start a process for each.
    """

    directory: Path
    memory: Path
    size_bytes: int
    misses: int
    slow_misses: int
    files: int
    memory_pages: int
    placement: Placement = Placement.FREE
    vmofs: str = ""
    _names: Iterator[int] = field(default_factory=count)

    @property
    def source(self) -> Path:
        """The object's bytes in a tmpfs."""
        return self.memory / "object"

    def new_directory(self) -> Path:
        """Make a directory for a mount."""
        path = self.directory / f"mount{next(self._names)}"
        path.mkdir()
        return path

    def client(self, *arguments: object) -> dict[str, Any]:
        """Run the client and return what it measured.

        Raises:
            RuntimeError: it failed, or read something wrong.
        """
        command = [*self.placement.prefix(client=True), compiled("client"), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if result.returncode:
            raise RuntimeError(f"client {' '.join(map(str, arguments))}: {(result.stdout + result.stderr)[-300:]}")
        measured: dict[str, Any] = json.loads(result.stdout)
        return measured

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - Popen's own
        """Start a server."""
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*self.placement.prefix(client=False), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,
            )


class Target(Protocol):
    """A way of serving the object."""

    name: str

    def start(self, bench: Bench) -> None:
        """Make it ready. Raises MissingError if this machine lacks something."""

    def object(self) -> AbstractContextManager[Path]:
        """Return a file in the state that is to be measured."""

    def stop(self) -> None:
        """Leave nothing behind."""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_for_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a mount shows a file.

    Raises:
        RuntimeError: its process ended, or it took too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            path.stat()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"{path} did not appear; {process.args!r} ended with {process.poll()}")


class Tmpfs:
    """The source itself: the limit for what is in the page cache."""

    name = "tmpfs"

    def start(self, bench: Bench) -> None:
        """Remember where it is."""
        self._path = bench.source

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
        wait_for_file(self.mount / self.file_name, self._process)

    def object(self) -> AbstractContextManager[Path]:
        """Return the one file."""
        return nullcontext(self.mount / self.file_name)

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

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


class VmofsMount:
    """A vmofs of this checkout, in a process of its own."""

    def __init__(self, bench: Bench, *options: str) -> None:
        self.bench = bench
        self.path = bench.new_directory()
        arguments = [part for option in options for part in ("-o", option)]
        self._process = bench.start([bench.vmofs, "mount", "-f", *arguments, str(self.path)])
        self._names = count()
        wait_for_file(self.path / "control" / "version", self._process)

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    def make_pager(self) -> Path:
        """Make a pager and return its directory."""
        path = self.path / "control" / f"p{next(self._names)}"
        path.mkdir()
        return path

    def create(self, pager: Path, size_bytes: int) -> Path:
        """Make a VMO and return its path."""
        name = f"v{next(self._names)}"
        (pager / "create_vmo").write_text(f"vmo/{name} {size_bytes}\n")
        return self.path / "vmo" / name

    def supply_all(self, pager: Path, vmo: Path) -> None:
        """Supply the whole VMO from the source."""
        out = os.open(pager / "supply" / "vmo" / vmo.name, os.O_WRONLY)
        # Mapped, because the kernel cuts a write of 1 MiB that does not begin with a page of memory.
        with self.bench.source.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as source:
            data = memoryview(source)
            for offset in range(0, len(data), _PIECE):
                piece = data[offset : offset + _PIECE]
                assert os.pwrite(out, piece, offset) == len(piece)
                piece.release()
            data.release()
        os.close(out)

    def stop(self) -> None:
        """Unmount, and wait for the process."""
        subprocess.run(["fusermount3", "-u", "-z", self.path], check=False, capture_output=True)
        end(self._process)


class SharedMount:
    """The one mount that all targets of vmofs use, made when the first needs it."""

    def __init__(self) -> None:
        self._mount: VmofsMount | None = None

    def of(self, bench: Bench) -> VmofsMount:
        """Return it."""
        if self._mount is None:
            self._mount = VmofsMount(bench)
        return self._mount

    def stop(self) -> None:
        """Unmount it."""
        if self._mount is not None:
            self._mount.stop()


class Present:
    """A VMO of vmofs all of whose pages were supplied while nobody had it open."""

    name = "vmofs present"

    def __init__(self, shared: SharedMount) -> None:
        self._shared = shared

    def start(self, bench: Bench) -> None:
        """Supply it."""
        mount = self._shared.of(bench)
        pager = mount.make_pager()
        self._path = mount.create(pager, bench.size_bytes)
        mount.supply_all(pager, self._path)

    def object(self) -> AbstractContextManager[Path]:
        """Return it; the client drops what the kernel has of it."""
        return nullcontext(self._path)

    def stop(self) -> None:
        """Do nothing: the mount goes."""


class Cached:
    """A VMO of vmofs all of whose pages were supplied while it was open."""

    name = "vmofs cached"

    def __init__(self, shared: SharedMount) -> None:
        self._shared = shared

    def start(self, bench: Bench) -> None:
        """Make a pager."""
        self._mount = self._shared.of(bench)
        self._pager = self._mount.make_pager()

    @contextmanager
    def object(self) -> Iterator[Path]:
        """Return a VMO of which the kernel's cache has all, by supplying and nothing else."""
        bench = self._mount.bench
        path = self._mount.create(self._pager, bench.size_bytes)
        with path.open("rb"):
            self._mount.supply_all(self._pager, path)
            bench.client("resident", path, bench.size_bytes // 4096)
            yield path
        path.unlink()

    def stop(self) -> None:
        """Do nothing: the mount goes."""


class Served:
    """VMOs of vmofs of which nothing is there, and a pager process. ``how``: see ``programs/pager.py``; or ``bash``."""

    def __init__(self, shared: SharedMount, how: str) -> None:
        self.name = f"vmofs {how}"
        self._shared = shared
        self._how = how

    def start(self, bench: Bench) -> None:
        """Start the pager process."""
        self._mount = self._shared.of(bench)
        self._pager = self._mount.make_pager()
        program = ["bash", str(PROGRAMS / "pager.sh")]
        if self._how != "bash":
            program = [sys.executable, "-I", "-S", str(PROGRAMS / "pager.py")]
        arguments = [str(self._mount.path), self._pager.name, str(bench.source)]
        self._process = bench.start([*program, *arguments, *([] if self._how == "bash" else [self._how])])
        with self.object() as path:
            path.open("rb").read(1)  # it has started, and its FIFO is attached, when it has answered once

    @contextmanager
    def object(self) -> Iterator[Path]:
        """Return a VMO of which nothing is there."""
        path = self._mount.create(self._pager, self._mount.bench.size_bytes)
        yield path
        path.unlink()

    def stop(self) -> None:
        """Close the pager; then its program ends."""
        self._pager.rmdir()
        end(self._process)

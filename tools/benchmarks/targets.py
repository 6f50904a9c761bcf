"""What is measured: each target gives an object, a file whose every page reads as ``programs/object.h`` says."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from tools.benchmarks.machine import PROGRAMS, MissingError, Placement, compiled, fetched_example, needed
from vmofs.units import PAGE_SIZE

_START_SECONDS = 30.0
_PIECE = 2**20


@dataclass(frozen=True)
class Sizes:
    """How large things are. ``slow_misses`` is for who starts a process for each, ``peer_files`` for slow peers."""

    object_bytes: int
    supply_bytes: int
    misses: int
    slow_misses: int
    files: int
    peer_files: int
    pages_in_random_order: int
    growth_limit: int


FULL = Sizes(2**30, 2**28, 2000, 100, 100_000, 2000, 2**16, 10**6)
QUICK = Sizes(2**24, 2**23, 200, 5, 200, 50, 512, 10**3)


@dataclass
class Bench:
    """One run: its temporary directories, the second of them in memory, and how large things are."""

    directory: Path
    memory: Path
    sizes: Sizes
    placement: Placement
    _names: Iterator[int] = field(default_factory=count)

    @property
    def source(self) -> Path:
        """The object's bytes in a tmpfs."""
        return self.memory / "object"

    @contextmanager
    def mapped_source(self) -> Iterator[memoryview]:
        """Map the source: the kernel cuts a write of 1 MiB in two that does not begin with a page of memory."""
        with (
            self.source.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view

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

    def pids(self) -> list[int]:
        """Return the processes whose CPU time is the price."""

    def stop(self) -> None:
        """Leave nothing behind."""


class ObjectTarget(Target, Protocol):
    """A way of serving the object."""

    def object(self) -> AbstractContextManager[Path]:
        """Return a file in the state that is to be measured."""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has done something.

    Raises:
        RuntimeError: the process ended, or it took too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not get ready, and ended with {process.poll()}")
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that live."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


@dataclass(frozen=True)
class Vmofs:
    """A vmofs that is measured: the program, its mount options, and a word before the names of its targets."""

    program: str
    options: tuple[str, ...] = ()
    prefix: str = ""

    def mount_command(self, path: Path, *flags: str) -> list[str]:
        """Return the command that mounts it."""
        options = [part for option in self.options for part in ("-o", option)]
        return [self.program, "mount", *flags, *options, str(path)]


class VmofsMount:
    """A mount of vmofs, in a process of its own."""

    def __init__(self, bench: Bench, vmofs: Vmofs) -> None:
        self.bench = bench
        self.path = bench.new_directory()
        self._process = bench.start(vmofs.mount_command(self.path, "-f"))
        self._names = count()
        wait_until((self.path / "control" / "version").exists, self._process)

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
        with self.bench.mapped_source() as data:
            for offset in range(0, len(data), _PIECE):
                os.pwrite(out, data[offset : offset + _PIECE], offset)
        os.close(out)

    def stop(self) -> None:
        """Unmount, and wait for the process."""
        subprocess.run(["fusermount3", "-u", "-z", self.path], check=False, capture_output=True)
        end(self._process)


class SharedMount:
    """The one mount that most targets of a vmofs use, made when the first needs it."""

    def __init__(self, vmofs: Vmofs) -> None:
        self.vmofs = vmofs
        self._mount: VmofsMount | None = None

    def of(self, bench: Bench) -> VmofsMount:
        """Return it."""
        if self._mount is None:
            self._mount = VmofsMount(bench, self.vmofs)
        return self._mount

    def stop(self) -> None:
        """Unmount it."""
        if self._mount is not None:
            self._mount.stop()


class VmofsTarget:
    """Something about vmofs. Its mount has a pager of its own."""

    kind = ""

    def __init__(self, shared: SharedMount) -> None:
        self.name = f"{shared.vmofs.prefix}vmofs {self.kind}"
        self._shared = shared

    def start(self, bench: Bench) -> None:
        """Make the pager."""
        self.mount = self._shared.of(bench)
        self.pager = self.mount.make_pager()

    def pids(self) -> list[int]:
        """Return the process behind the mount."""
        return [self.mount.pid]

    def stop(self) -> None:
        """Close the pager."""
        self.pager.rmdir()


class Present(VmofsTarget):
    """A VMO all of whose pages were supplied while nobody had it open."""

    kind = "present"

    def start(self, bench: Bench) -> None:
        """Supply it."""
        super().start(bench)
        self._path = self.mount.create(self.pager, bench.sizes.object_bytes)
        self.mount.supply_all(self.pager, self._path)

    def object(self) -> AbstractContextManager[Path]:
        """Return it; the client drops what the kernel has of it."""
        return nullcontext(self._path)


class Cached(VmofsTarget):
    """VMOs all of whose pages were supplied while they were open."""

    kind = "cached"

    @contextmanager
    def object(self) -> Iterator[Path]:
        """Return a VMO of which the kernel's cache has all, by supplying and nothing else."""
        bench = self.mount.bench
        path = self.mount.create(self.pager, bench.sizes.object_bytes)
        with path.open("rb"):
            self.mount.supply_all(self.pager, path)
            bench.client("resident", path, bench.sizes.object_bytes // PAGE_SIZE)
            yield path
        path.unlink()


class Empty(VmofsTarget):
    """VMOs of which nothing is there, to be supplied by the bench itself."""

    kind = "supplying"


class Served(VmofsTarget):
    """VMOs of which nothing is there, and a pager process."""

    def __init__(self, shared: SharedMount, kind: str, program: list[str], *arguments: str) -> None:
        self.kind = kind
        super().__init__(shared)
        self._program = program
        self._arguments = arguments

    def start(self, bench: Bench) -> None:
        """Start the pager process."""
        super().start(bench)
        ours = [str(self.mount.path), self.pager.name, str(bench.source)]
        self._process = bench.start([*self._program, *ours, *self._arguments])
        with self.object() as path:
            path.open("rb").read(1)  # it has started, and its FIFO is attached, when it has answered once

    @contextmanager
    def object(self) -> Iterator[Path]:
        """Return a VMO of which nothing is there."""
        path = self.mount.create(self.pager, self.mount.bench.sizes.object_bytes)
        yield path
        path.unlink()

    def pids(self) -> list[int]:
        """Return the process behind the mount, and the pager's."""
        return [self.mount.pid, self._process.pid]

    def stop(self) -> None:
        """Close the pager; then its program ends."""
        super().stop()
        end(self._process)


class Fresh:
    """A vmofs that is mounted anew for each measurement."""

    def __init__(self, vmofs: Vmofs) -> None:
        self.name = f"{vmofs.prefix}vmofs fresh"
        self.vmofs = vmofs

    def start(self, bench: Bench) -> None:
        """Do nothing."""

    def pids(self) -> list[int]:
        """Return none."""
        return []

    @contextmanager
    def mounted(self, bench: Bench) -> Iterator[VmofsMount]:
        """Mount, and unmount in the end."""
        mount = VmofsMount(bench, self.vmofs)
        try:
            yield mount
        finally:
            mount.stop()

    def stop(self) -> None:
        """Do nothing."""


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


PYTHON_PAGER = [sys.executable, "-I", "-S", str(PROGRAMS / "pager.py")]
BASH_PAGER = ["bash", str(PROGRAMS / "pager.sh")]


def peers() -> list[Target]:
    """Return everything that is not vmofs. Nothing is started yet."""
    return [Tmpfs(), Null(), CNull(), NbdPython(), NbdShell(), TmpfsExample()]


def targets_of(shared: SharedMount) -> list[Target]:
    """Return everything that is measured of a vmofs. Nothing is started yet."""
    return [
        *(Present(shared), Cached(shared), Empty(shared), Fresh(shared.vmofs)),
        *(Served(shared, kind, PYTHON_PAGER, kind) for kind in ("supply", "aux", "ahead")),
        Served(shared, "bash", BASH_PAGER),
    ]

"""What is measured of vmofs: mounts, VMOs in several states, and VMOs that a pager process serves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tools.benchmarks.machine import PROGRAMS
from tools.benchmarks.targets import ALMOST_ALL, Bench, Target, end, wait_until
from vmofs.units import PAGE_SIZE

_PIECE = 2**20
_DISTANCE = 64 * PAGE_SIZE
_DEADLINE = "deadline=60"  # so that a pager that died ends a run, and does not hold it up


@dataclass(frozen=True)
class Vmofs:
    """A vmofs that is measured: the program, its mount options, and a word before the names of its targets."""

    program: str
    options: tuple[str, ...] = ()
    prefix: str = ""

    def mount_command(self, path: Path, *flags: str) -> list[str]:
        """Return the command that mounts it."""
        options = [part for option in (_DEADLINE, *self.options) for part in ("-o", option)]
        return [self.program, "mount", *flags, *options, str(path)]


class VmofsMount:
    """A mount of vmofs, in a process of its own."""

    def __init__(self, bench: Bench, vmofs: Vmofs) -> None:
        self.bench = bench
        self.path = bench.new_directory()
        self._process = bench.start(vmofs.mount_command(self.path, "-f"))
        self._names = count()
        try:
            wait_until((self.path / "control" / "version").exists, self._process)
        except BaseException:  # ended by a signal, too
            self.stop()
            raise

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
            pages = bench.sizes.object_bytes // PAGE_SIZE
            seen = bench.client("resident", path, pages)
            assert seen["resident"] >= ALMOST_ALL * pages, f"{seen['resident']} of {pages} pages were stored"
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


class Sparse(Served):
    """VMOs of which every 64th page is absent, and a pager process that supplies these when they are asked for."""

    @contextmanager
    def object(self) -> Iterator[Path]:
        """Return such a VMO, of which the kernel's cache has nothing."""
        with super().object() as path:
            bench = self.mount.bench
            out = os.open(self.pager / "supply" / "vmo" / path.name, os.O_WRONLY)
            with bench.mapped_source() as data:
                for offset in range(PAGE_SIZE, len(data), _DISTANCE):
                    os.pwrite(out, data[offset : offset + _DISTANCE - PAGE_SIZE], offset)
            os.close(out)
            yield path


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


PYTHON_PAGER = [sys.executable, "-I", "-S", str(PROGRAMS / "pager.py")]
BASH_PAGER = ["bash", str(PROGRAMS / "pager.sh")]


def targets_of(shared: SharedMount) -> list[Target]:
    """Return everything that is measured of a vmofs. Nothing is started yet."""
    return [
        *(Present(shared), Cached(shared), Empty(shared), Fresh(shared.vmofs)),
        *(Served(shared, kind, PYTHON_PAGER, kind) for kind in ("supply", "aux", "ahead", "answers")),
        Served(shared, "bash", BASH_PAGER),
        Sparse(shared, "sparse", PYTHON_PAGER, "supply"),
    ]

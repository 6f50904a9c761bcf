"""A real directory, a directory of a mount that shows it, and ``vmofs serve`` between them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounted import END_SECONDS, Mounted, Mounter, vmofs_command, vmofs_environment, wait_for

SERVING = "is served as"
ENDING = "writing back what is dirty"


class Backed:
    """A directory of a mount, the real one behind it, and the server between them."""

    def __init__(self, mount: Mounted, directory: Path, *arguments: str) -> None:
        self.mount = mount
        self.directory = directory
        self.path = mount.path / "vmo" / "wb"
        self._arguments = arguments
        self._log_path = directory.parent / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server."""
        command = vmofs_command("serve", *self._arguments, str(self.directory), str(self.path))
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, env=vmofs_environment())

    def wait_ready(self) -> None:
        """Wait until it serves."""
        process = self._process
        assert process is not None
        wait_for(lambda: SERVING in self.log() or process.poll() is not None, "it serves")
        assert process.poll() is None, self.log()

    @property
    def pid(self) -> int:
        """The server."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return what it has said."""
        return self._log_path.read_text()

    def complaints(self) -> list[str]:
        """Return what it has said of what went wrong."""
        return [line for line in self.log().splitlines() if SERVING not in line and ENDING not in line]

    def stop(self) -> None:
        """Let the server stand still until it goes on or is ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def end(self, sent: signal.Signals, code: int = 0) -> None:
        """End the server by a signal."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sent)
        process.send_signal(signal.SIGCONT)
        try:
            assert process.wait(END_SECONDS) == (code if sent is signal.SIGTERM else -sent), self.log()
        finally:
            process.kill()

    def finish(self) -> None:
        """End the server properly, then the mount. It had nothing to complain about."""
        self.end(signal.SIGTERM)
        command = vmofs_command("umount", str(self.mount.path))
        done = subprocess.run(command, env=vmofs_environment(), capture_output=True, check=False, timeout=END_SECONDS)
        assert not done.returncode, done
        self.mount.process.wait(END_SECONDS)
        assert not self.complaints(), self.complaints()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)


class Backing:
    """Has directories served, each in a mount of its own."""

    def __init__(self, mounter: Mounter, directory: Path) -> None:
        self._mounter, self._directory = mounter, directory
        self.made: list[Backed] = []

    def __call__(self, *arguments: str, options: tuple[str, ...] = ()) -> Backed:
        """Serve what is in the real directory by now, in a new mount; return when it is shown."""
        self.made.append(Backed(self._mounter(*options), self._directory, *arguments))
        self.made[-1].start()
        self.made[-1].wait_ready()
        return self.made[-1]


@contextmanager
def backing_in(folder: Path) -> Iterator[Backing]:
    """Have what is in ``real`` served; take down everything at the end."""
    mounter = Mounter(folder)
    (folder / "real").mkdir()
    backing = Backing(mounter, folder / "real")
    try:
        yield backing
        mounter.finish()
    finally:
        for one in backing.made:
            one.close()
        mounter.clean_up()

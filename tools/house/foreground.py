"""A daemon of this checkout in the foreground, and its mount, for as long as one looks at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = [str(ROOT), str(ROOT / "mount")]
_SECONDS = 20.0


def entry_point() -> str:
    """Return what ``vmofs`` starts, as pyproject.toml says it: ``MODULE:FUNCTION``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["scripts"]["vmofs"])


def vmofs_command(before: str = "") -> list[str]:
    """Return how ``vmofs`` of this checkout is started; the code in ``before`` runs first, in the same process."""
    module, function = entry_point().split(":")
    program = f"import sys\nsys.argv[0] = 'vmofs'\n{before}\nfrom {module} import {function}\nsys.exit({function}())"
    return [sys.executable, "-c", program]


def environment() -> dict[str, str]:
    """Return an environment in which this checkout is imported, and texts look the same everywhere."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCE_ROOTS), "LC_ALL": "C", "TZ": "UTC", "COLUMNS": "100"}


@contextmanager
def mounted(before: str = "") -> Iterator[Path]:
    """Mount, and unmount in the end; the mount's path has the name ``mnt``.

    Raises:
        RuntimeError: there is no mount; the message is what the daemon has said.
    """
    with tempfile.TemporaryDirectory(prefix="vmofs-house-") as directory:
        path, log_path = Path(directory, "mnt"), Path(directory, "log")
        path.mkdir()
        with log_path.open("wb") as log:
            command = [*vmofs_command(before), "mount", "-f", str(path)]
            process = subprocess.Popen(command, env=environment(), stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + _SECONDS
            while not (path / "control" / "version").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"there is no mount: {log_path.read_text()}")
                time.sleep(0.01)
            yield path
        finally:
            _end(process, path)


def _end(process: subprocess.Popen[bytes], path: Path) -> None:
    """End a daemon, and leave no mount, whatever has happened."""
    process.send_signal(signal.SIGTERM)  # it unmounts
    try:
        process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if path.is_mount():
        subprocess.run(["fusermount3", "-u", "-z", path], check=False)

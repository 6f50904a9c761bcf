"""Shells for tests: what a user would type."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_COMMAND = r"""
exec 3<>"$1" || exit 9
echo "$2" >&3
code=$?
read -r result <&3
echo "$result"
exit $code
"""


class Answer(NamedTuple):
    """How a command in a shell ended: the result line, and what the shell said about the errno, empty if nothing."""

    result: str
    error: str

    @classmethod
    def refused(cls, errno: int, result: str) -> Answer:
        """Return the answer of a command that fails with this errno."""
        return cls(result, os.strerror(errno))


OK = Answer("ZX_OK", "")


def bash(
    script: str, *arguments: str | Path, cwd: Path, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script; ``prefix`` is a command that runs it, such as setpriv."""
    command = [*prefix, "bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=30, check=False)


def shell_command(mount: Path, file: str, line: str, prefix: Sequence[str] = ()) -> Answer:
    """Write a command into a file of the mount and read its result, as a shell script does both."""
    done = bash(_COMMAND, file, line, cwd=mount, prefix=prefix)
    message = done.stderr.strip()
    assert (done.returncode == 0) == (not message), done
    return Answer(done.stdout.removesuffix("\n"), message.rpartition(": ")[2])

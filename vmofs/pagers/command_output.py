"""A file that a command makes, range by range."""

from __future__ import annotations

import os
import signal
import subprocess

from vmofs.client import Retry, Unavailable
from vmofs.pagers.source import Source, short

EX_TEMPFAIL = 75
"""The exit code, of sysexits.h, by which a command says that it is worth trying again."""


class CommandOutput(Source):
    """A file of which a shell command gives a range for each request.

    The command finds OFFSET, LENGTH and NAME in its environment and writes exactly LENGTH bytes to its standard output.
    Exit code 75 is "try again"; any other but 0 fails the request, and the last line of its standard error says why.
    Nothing shows that its output has changed.

    Args:
        command: For ``/bin/sh -c``.
        size: Of the file.
        name: Of the file.
        seconds: A command that has not ended after so long is killed, with all that it has started.
    """

    def __init__(self, command: str, size: int, name: str, seconds: float = 10.0) -> None:
        self._command, self._seconds = command, seconds
        self.name, self.size = name, size
        self.url = f"exec:{command}"

    def read(self, offset: int, length: int) -> bytes:
        """Run the command and return its output."""
        variables = {"OFFSET": str(offset), "LENGTH": str(length), "NAME": self.name}
        with subprocess.Popen(  # noqa: S603 - it is the user's own command
            ["/bin/sh", "-c", self._command],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what it starts can be killed with it
        ) as process:
            try:
                output, errors = process.communicate(timeout=self._seconds)
            except subprocess.TimeoutExpired as error:
                raise Unavailable(f"the command did not end within {self._seconds:g} s") from error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            last = short((errors.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1])
            kind = Retry if process.returncode == EX_TEMPFAIL else Unavailable
            raise kind(f"the command ended with {process.returncode}: {last}")
        if len(output) != length:
            raise Unavailable(f"the command gave {len(output)} bytes for {offset}+{length}")
        return output

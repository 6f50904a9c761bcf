"""The program ``vmofs``: which of the two groups of commands is meant, so that only one of them is imported.

``open`` and its kin are often run, and short; what ``mount`` needs takes longer to import than they take.
"""

from __future__ import annotations

import signal
import sys

from vmofs_mount.cli.open_main import OPENING, open_main


def main() -> int:
    """Carry out the command of the command line, and return the exit code."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in OPENING:
        try:
            return open_main(arguments)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    from vmofs_mount.cli.main import main as main_of_mounts  # noqa: PLC0415 - see above

    return main_of_mounts(arguments)

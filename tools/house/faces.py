"""The command ``tools/faces``: the texts that a user sees of a fresh mount with the default options.

What differs between two mounts is masked: dates, process numbers, keys, and numbers in texts that count something.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.house.foreground import environment, mounted, vmofs_command

_COMMAND = re.compile(r"^    (\w+) ", re.MULTILINE)
"""A subcommand, where ``vmofs --help`` lists them."""

_KEPT = {"README", "version"}
"""Texts whose numbers are the same in each mount."""


def masked_attributes(text: str) -> str:
    """Return what getfattr prints, without the values that differ between two mounts."""
    return re.sub(r"^(pid|key)=.*", r"\1=MASKED", text, flags=re.MULTILINE)


def masked_numbers(text: str) -> str:
    """Return a text that counts something without its numbers."""
    return re.sub(r"(?<![\w.])-?\d+(\.\d+)?\b", "N", text)


def _help() -> Iterator[tuple[str, str]]:
    words: list[list[str]] = [[]]
    for arguments in words:
        text = _output([*vmofs_command(), *arguments, "--help"], Path("/"))
        yield " ".join(["vmofs", *arguments, "--help"]), text
        if not arguments:
            words += [[command] for command in _COMMAND.findall(text)]


def _files(directory: Path, mount: Path) -> Iterator[tuple[str, str]]:
    """Return the text of each file of a directory. A command file gives its usage, and it can be written."""
    for path in sorted(directory.iterdir()):
        if not path.is_file():
            continue
        text = path.read_text()
        writable = path.stat().st_mode & 0o222
        yield f"cat {path.relative_to(mount)}", text if writable or path.name in _KEPT else masked_numbers(text)


def _mount_faces(mount: Path) -> Iterator[tuple[str, str]]:
    yield "ls -lR (fresh)", _output(["ls", "-lR", "--time-style=+DATE"], mount)
    (mount / "control" / "pager").mkdir()
    (mount / "control" / "pager" / "create_vmo").write_text("vmo/file 8192 resizable trap_dirty\n")
    (mount / "aux" / "stage").write_bytes(bytes(4096))
    yield "ls -lR (a pager, a VMO, an aux file)", _output(["ls", "-lR", "--time-style=+DATE"], mount)
    yield from _files(mount, mount)
    yield from _files(mount / "control", mount)
    yield from _files(mount / "control" / "pager", mount)
    for name in (".", "vmo/file"):
        command = ["getfattr", "--only-values", "-n", "user.vmofs.all", name]
        yield " ".join(command), masked_attributes(_output(command, mount))


def _output(command: list[str], directory: Path) -> str:
    return subprocess.run(command, cwd=directory, env=environment(), check=True, capture_output=True, text=True).stdout


def faces() -> str:
    """Return all texts, each below a line that says how a user gets it."""
    with mounted() as mount:
        found = [*_help(), *_mount_faces(mount)]
    return "\n".join(f"=== {title}\n{text}" for title, text in found)


def main() -> int:
    """Print, and return the exit code."""
    argparse.ArgumentParser(prog="tools/faces", description="Print what a user sees of a fresh mount.").parse_args()
    print(faces(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""tools/manuals: what ``mount/manuals`` has, made of the parsers of the program.

The manual page is by argparse-manpage, the completions are by shtab. They are part of the wheel, which puts them where
man(1) and the shells look.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import shtab
from argparse_manpage.manpage import Manpage

from vmofs import __version__
from vmofs_mount.cli.main import command_parser
from vmofs_mount.cli.open_main import OPENING
from vmofs_mount.cli.open_main import command_parser as opening_parser

FOLDER = Path(__file__).parents[2] / "mount/manuals"


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser of the program with those of all its commands in it."""
    parser = command_parser()
    for name in OPENING:
        whole, _ = opening_parser(name)
        whole.prog = f"{parser.prog} {name}"
        _commands(parser)[name] = whole
    return parser


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    return cast("dict[str, argparse.ArgumentParser]", commands.choices)


def _epilogs(parser: argparse.ArgumentParser) -> str:
    """Return what stands below the help of commands, which argparse-manpage leaves out, each text once."""
    names: dict[str, list[str]] = {}
    for name, command in _commands(parser).items():
        if command.epilog:
            names.setdefault(command.epilog, []).append(name)
    return "".join(
        f".SH NOTES ON {', '.join(commands).upper()}\n.nf\n{text.replace('-', chr(92) + '-')}\n.fi\n"
        for text, commands in names.items()
    )


def texts() -> dict[str, str]:
    """Return the files by their names."""
    parser = whole_parser()
    data = {
        "project_name": "vmofs",
        "version": __version__,
        "manual_title": "vmofs",
        "date": __version__,
        "description": "let any program supply a file's pages on demand",
        "long_description": "Each command has --help. In a mount, README says how to use it from a shell.",
    }
    return {
        "vmofs.1": str(Manpage(parser, data)) + "\n" + _epilogs(parser),
        "vmofs.bash": shtab.complete(parser, "bash"),
        "_vmofs": shtab.complete(parser, "zsh"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or return 1 if one is not as it would be written."""
    parser = argparse.ArgumentParser(prog="tools/manuals", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something would change")
    parsed = parser.parse_args(arguments)
    stale = [name for name, text in texts().items() if _content(name) != text]
    if not parsed.check:
        FOLDER.mkdir(exist_ok=True)
        for name in stale:
            (FOLDER / name).write_text(texts()[name])
    for name in stale:
        print(f"{name}: {'is out of date, tools/manuals writes it' if parsed.check else 'written'}")
    return int(parsed.check and bool(stale))


def _content(name: str) -> str | None:
    path = FOLDER / name
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())

"""The commands for files of URLs: their parsers. What they do is imported when it is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

OPENING = {
    "open": "make files of URLs",
    "run": "run a command with files of URLs",
    "close": "end what open began",
    "ls": "say what is open",
    "serve": "run a pager of your own, or serve a directory",
    "prefetch": "have a file read before somebody waits for it",
    "check": "compare what is there with the source",
    "digests": "print a list of digests of a file, for open --verify",
}
"""The commands, and what each does."""

EXIT_CODES = """\
exit codes: 0 done, 1 other, 2 usage, 3 no mount, 4 no such object, 5 temporary (server down, deadline), 6 not allowed,
7 the source cannot do it (no ranges, no size), 8 the source has changed, 9 run: a read failed while CMD ran.
Each flag can be given as VMOFS_FLAG in the environment, or as a line FLAG = VALUE in a file of --config."""


def open_main(arguments: list[str]) -> int:
    """Carry out one of the commands and return the exit code."""
    from vmofs.pagers.source import Refusal  # noqa: PLC0415 - mount, umount and doctor need nothing of all this
    from vmofs_mount.cli import open_flags  # noqa: PLC0415

    name, rest = arguments[0], arguments[1:]
    parser, function = command_parser(name)
    try:
        rest = open_flags.with_defaults(parser, rest)
        command: list[str] = []
        if name == "run" and "--" in rest:
            rest, command = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
        parsed = parser.parse_args(rest)
        parsed.argv = command
        return function(parsed)
    except Refusal as error:
        sys.stderr.write(f"vmofs: {error}\n")
        return error.code


def command_parser(name: str) -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], int]]:
    """Return the parser of one of the commands, and what carries it out."""
    from vmofs_mount.cli import open_commands, open_files, open_flags  # noqa: PLC0415 - as above

    usage = {
        "open": "%(prog)s [FLAG...] URL... [PATH]",
        "run": "%(prog)s [FLAG...] URL... -- CMD [{} | {1} {2}...]",
    }
    parser = argparse.ArgumentParser(
        prog=f"vmofs {name}",
        usage=usage.get(name),
        description=OPENING[name][0].upper() + OPENING[name][1:] + ".",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    open_flags.add_common_flags(parser)
    if name in {"open", "run"}:
        parser.add_argument("urls", nargs="*", metavar="URL")
        open_flags.add_source_flags(parser)
        open_flags.add_policy_flags(parser)
    elif name == "serve":
        parser.add_argument("pager", metavar="module:Class | DIRECTORY")
        parser.add_argument("mount", metavar="MOUNT | MOUNT/vmo/NAME", help="where; a directory becomes vmo/NAME")
        parser.add_argument("--read-only", action="store_true", help="of a directory: nothing in it is changed")
        parser.add_argument("--name", dest="pager_name", metavar="NAME", help="of the directory in control/")
        open_flags.add_policy_flags(parser)
    elif name == "digests":
        parser.add_argument("file", metavar="FILE")
        parser.add_argument("--chunk", type=open_flags.cluster, metavar="SIZE", help="default 128K")
    elif name != "ls":
        parser.add_argument("paths", nargs="*" if name == "close" else "+", metavar="PATH")
    if name == "close":
        parser.add_argument("--all", action="store_true", help="all that is open")
    elif name == "prefetch":
        parser.add_argument("--range", metavar="A-B", help="a range of bytes, as 0-64M; default: all")
    elif name == "check":
        parser.add_argument("--all", action="store_true", help="also what is not there yet")
    module = open_commands if name in {"open", "run", "serve"} else open_files
    function: Callable[[argparse.Namespace], int] = getattr(module, f"run_{name}")
    return parser, function

"""The flags of ``open``, ``run`` and ``serve``: on the command line, in the environment, in a file.

``--cluster 128K`` is ``VMOFS_CLUSTER=128K`` in the environment and ``cluster = 128K`` in a file given by ``--config``.
The command line comes first, then the file, then the environment.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from vmofs.pagers.opening import Request, parse_size
from vmofs.pagers.source import ExitCode, Refusal
from vmofs_mount.openers.job import Policy

PREFIX = "VMOFS_"
SOFT_DEADLINE, HARD_DEADLINE = 10.0, 300.0
_PAGE = 4096
_REQUEST_SECONDS = 10.0
_NEVER_BY_DEFAULT = {"help", "all", "range"}
_TRUE, _FALSE = {"1", "yes", "true", "on"}, {"0", "no", "false", "off", ""}


def size(text: str) -> int:
    """Return a number of bytes; for argparse.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 4096, 128K, 1.5G") from None


def cluster(text: str) -> int | None:
    """Return a size of clusters, None for ``auto``; for argparse.

    Raises:
        ArgumentTypeError: It is none.
    """
    if text == "auto":
        return None
    number = size(text)
    if number < _PAGE or number % _PAGE:
        raise argparse.ArgumentTypeError(f"{text!r} is no multiple of {_PAGE} bytes")
    return number


def count(text: str) -> int:
    """Return a number of at least 1; for argparse.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """Return seconds above 0; for argparse.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} are no seconds above 0")
    return number


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how sources are read."""
    group = parser.add_argument_group("reading")
    group.add_argument("--cluster", type=cluster, metavar="SIZE", help="bytes read for a missing page; default: auto")
    group.add_argument("--ahead", type=size, metavar="SIZE", help="bytes read ahead at most; 0: none; default 32M")
    group.add_argument("--connections", type=count, default=16, metavar="N", help="ranges read at once (default 16)")
    group.add_argument(
        "--deadline",
        type=seconds,
        metavar="S",
        help=f"a read fails after so many seconds; default {SOFT_DEADLINE:g}, {HARD_DEADLINE:g} with --hard",
    )
    waiting = group.add_mutually_exclusive_group()
    waiting.add_argument("--hard", action="store_true", help="wait while the source is away (default)")
    waiting.add_argument("--soft", action="store_true", help="fail when the source is away")


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is made of URLs."""
    group = parser.add_argument_group("sources")
    group.add_argument("--as", dest="as_format", choices=["gz", "zst", "xz"], help="serve what it decompresses to")
    group.add_argument("--member", metavar="NAME", help="serve one member of a zip or tar archive")
    group.add_argument("--tree", action="store_true", help="serve all members of a zip or tar archive")
    group.add_argument("--whole", action="store_true", help="fetch it once, of a web server that cannot do ranges")
    group.add_argument("--exec", dest="command", metavar="CMD", help="a shell command gives each range: it finds "
                       "OFFSET, LENGTH, NAME in its environment; exit code 75 means try again")  # fmt: skip
    group.add_argument("--size", type=size, metavar="SIZE", help="of the file of --exec")
    group.add_argument("--name", metavar="NAME", help="of the file of --exec")
    group.add_argument("--verify", type=Path, metavar="LIST", help="compare all that is read with a list of digests, "
                       "as vmofs digests prints it")  # fmt: skip
    group.add_argument("--header-file", type=Path, metavar="FILE", help="lines NAME: VALUE sent to web servers")
    group.add_argument("--endpoint", metavar="URL", help="another address of an object store")
    group.add_argument("--anonymous", action="store_true", help="use an object store without credentials")
    group.add_argument("--cache", type=Path, metavar="DIR", help="keep what was read on disk")
    group.add_argument("--cache-size", type=size, default=20 << 30, metavar="SIZE", help="default 20G")


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that each command of these has."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="lines FLAG = VALUE")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing but errors on stderr")
    parser.add_argument("--json", action="store_true", help="for programs")


def policy_of(parsed: argparse.Namespace) -> Policy:
    """Return how sources are read."""
    is_hard = not parsed.soft
    deadline = parsed.deadline or (HARD_DEADLINE if is_hard else SOFT_DEADLINE)
    cache = getattr(parsed, "cache", None)
    return Policy(
        parsed.cluster,
        parsed.ahead,
        parsed.connections,
        deadline,
        is_hard,
        cache.absolute() if cache else None,
        getattr(parsed, "cache_size", 0),
    )


def request_of(parsed: argparse.Namespace) -> Request:
    """Return what is made of URLs."""
    header_file = parsed.header_file.absolute() if parsed.header_file else None
    # A request that hangs must leave time for another attempt.
    longest = min(_REQUEST_SECONDS, parsed.deadline or _REQUEST_SECONDS)
    flags = ("as_format", "member", "tree", "whole", "endpoint", "anonymous")
    given = {flag: getattr(parsed, flag) for flag in flags}
    verify = parsed.verify.absolute() if parsed.verify else None
    return Request(**given, header_file=header_file, verify=verify, seconds=longest)


def with_defaults(parser: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """Return the arguments with what the environment and the file of ``--config`` add in front of them.

    Raises:
        Refusal: The file cannot be read, or has a line that is no flag.
    """
    actions = parser._actions  # noqa: SLF001 - argparse has no other way to ask
    flags = {flag[2:]: action for action in actions for flag in action.option_strings if flag[:2] == "--"}
    for name in _NEVER_BY_DEFAULT:
        flags.pop(name, None)
    found = dict(_from_environment(flags))
    before_command = arguments[: arguments.index("--")] if "--" in arguments else arguments
    path = next(_config_paths(before_command, found), None)
    found.pop("config", None)
    if path is not None:
        found |= dict(_from_file(path, flags))
    given = {argument.partition("=")[0][2:] for argument in before_command if argument.startswith("--")}
    if given & {"hard", "soft"}:
        found = {name: value for name, value in found.items() if name not in {"hard", "soft"}}
    return [text for name, value in found.items() for text in _as_arguments(name, value, flags[name])] + arguments


def _config_paths(arguments: list[str], found: dict[str, str]) -> Iterator[Path]:
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            yield Path(arguments[index + 1])
        elif argument.startswith("--config="):
            yield Path(argument.partition("=")[2])
    if "config" in found:
        yield Path(found["config"])


def _from_environment(flags: dict[str, argparse.Action]) -> Iterator[tuple[str, str]]:
    for name in flags:
        value = os.environ.get(PREFIX + name.upper().replace("-", "_"))
        if value is not None:
            yield name, value


def _from_file(path: Path, flags: dict[str, argparse.Action]) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}", ExitCode.USAGE) from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in flags:
            raise Refusal(f"{path}:{number}: {name!r} is no flag", ExitCode.USAGE)
        yield name, value


def _as_arguments(name: str, value: str, action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        if value.lower() not in _TRUE | _FALSE:
            raise Refusal(f"{name} is {value!r}, which is neither yes nor no", ExitCode.USAGE)
        return [f"--{name}"] if value.lower() in _TRUE else []
    return [f"--{name}={value}"]

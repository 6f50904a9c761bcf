"""``vmofs serve DIRECTORY MOUNT/vmo/NAME``: a directory of this machine as one of the mount."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from vmofs.pagers.directory.server import DirectoryServer
from vmofs.pagers.source import ExitCode, Refusal
from vmofs.status import VmoError
from vmofs_mount.openers.places import answers

_MOST_NAMED = 5


def serve_directory(parsed: argparse.Namespace) -> int:
    """Serve a directory in the foreground; SIGTERM and Ctrl-C end it when everything is written back."""
    directory = Path(parsed.pager).resolve()
    mount, top = _place(Path(parsed.mount).absolute(), directory.name)
    if not answers(mount):
        raise Refusal(f"no vmofs answers at {mount}; vmofs mount {mount} makes one", ExitCode.NO_MOUNT)
    if directory == mount or mount in directory.parents:
        raise Refusal(f"{directory} lies in the mount itself", ExitCode.USAGE)
    try:
        server = DirectoryServer(
            mount,
            top,
            directory,
            pager=parsed.pager_name or top.replace("/", "-"),
            read_only=parsed.read_only,
            tell=lambda sentence: _say(parsed, sentence),
        )
        server.start()

        def end(*_: object) -> None:
            _say(parsed, f"writing back what is dirty in {directory}; this ends by itself")
            server.stop()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        _say(parsed, f"{directory} is served as {mount}/vmo/{top}; Ctrl-C ends it, the files stay")
        failed = server.serve()
    except (VmoError, OSError) as error:
        raise Refusal(str(error), ExitCode.OTHER) from error
    if failed:
        named = [f"{place} ({why})" for place, why in sorted(failed.items())[:_MOST_NAMED]]
        more = f", and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
        raise Refusal(f"not written back to {directory}: {', '.join(named)}{more}", ExitCode.OTHER)
    return 0


def _place(path: Path, name: str) -> tuple[Path, str]:
    """Return the mount and the path below ``vmo/`` of MOUNT/vmo/NAME; of MOUNT alone, with this name."""
    for parent in path.parents:
        if parent.name == "vmo" and (parent.parent / "control" / "version").exists():
            return parent.parent, str(path.relative_to(parent))
    return (path.parent.parent, path.name) if path.parent.name == "vmo" else (path, name)


def _say(parsed: argparse.Namespace, sentence: str) -> None:
    if not parsed.quiet:
        sys.stderr.write(f"vmofs: {sentence}\n")
        sys.stderr.flush()

"""The command ``vmofs``: mount, unmount, doctor. What takes time to import is imported when it is needed."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vmofs import __version__
from vmofs_mount.cli.doctor import Verdict, examine_machine, examine_mount
from vmofs_mount.cli.open_main import OPENING
from vmofs_mount.cli.progress import Progress
from vmofs_mount.cli.topics import TOPICS, show
from vmofs_mount.daemon.options import OptionError, parse_options
from vmofs_mount.front.unmounting import UnmountError, remove_stale_mounts, unmount
from vmofs_mount.linux.mountinfo import FILESYSTEM_TYPE, mount_at, resolved

_OPTIONS_HELP = """\
options: allow_other, no_allow_other (others may use the mount; default: only if root mounts),
pager_group=NAME|GID (only its members, and root, may make pagers),
deadline=SECONDS, warn=SECONDS, stall=SECONDS (0 = never),
max_deadline=SECONDS (the longest that a pager may give itself; 0 = no bound, the default),
spin=MICROSECONDS (look for the next request before sleeping: faster answers for more CPU; default 0, at most 10000),
readahead=BYTES (what the kernel asks for in one piece, whole pages; default 4096: only what is touched),
blksize=BYTES (st_blksize, by which programs choose the size of their reads, a power of two; default 4096),
memory_limit=BYTES (for the pages of all; suffixes K M G; default half of the machine's memory; 0 = no limit),
requests=N (outstanding, of all users but root; default 60000),
user_memory=BYTES (per user; default half of 'memory_limit'), user_pagers=N, user_vmos=N, user_aux_files=N,
user_fifos=N, user_nodes=N, user_requests=N, user_queue_bytes=N, user_xattr_bytes=N, user_ranges=N,
user_descriptors=N (per user other than root; 0 = no limit),
fsname=NAME (what findmnt and df show as the source; default vmofs),
log=FILE (default: syslog, or stderr with -f), nodev, nosuid, noexec, dev, suid, exec, ro, noatime,
nodiratime, sync, dirsync"""


_TOPICS_HELP = "topics:\n" + "\n".join(f"  {topic:16}{about}" for topic, (_, about) in TOPICS.items())


class _CommandError(Exception):
    """The command cannot be carried out; the message is one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C)."""
    parsed = command_parser().parse_args(arguments)
    try:
        parsed.function(parsed)
    except (_CommandError, OptionError, UnmountError) as error:
        sys.stderr.write(f"vmofs: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the program; the commands of ``OPENING`` have only their names in it."""
    parser = argparse.ArgumentParser(prog="vmofs", description="Files whose pages any program supplies on demand.")
    parser.add_argument("-V", "--version", action="version", version=f"vmofs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    mount = commands.add_parser("mount", help="mount a vmofs at a directory", epilog=_OPTIONS_HELP)
    mount.formatter_class = argparse.RawDescriptionHelpFormatter
    mount.add_argument("mountpoint", metavar="MOUNTPOINT")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground, log to stderr")
    mount.add_argument("-o", dest="options", action="append", default=[], metavar="OPT[,OPT...]", help="see below")
    mount.set_defaults(function=_mount)
    umount = commands.add_parser("umount", help="unmount a vmofs and end its daemon; who waits there gets an error")
    umount.add_argument("mountpoint", metavar="MOUNTPOINT")
    umount.add_argument("--discard", action="store_true", help="drop what pagers have not written back")
    umount.set_defaults(function=_umount)
    doctor = commands.add_parser("doctor", help="say what this machine, or a mount, lacks")
    doctor.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?")
    doctor.set_defaults(function=_doctor)
    about = commands.add_parser("help", help="show a document", epilog=_TOPICS_HELP)
    about.formatter_class = argparse.RawDescriptionHelpFormatter
    about.add_argument("topic", metavar="TOPIC", choices=list(TOPICS))
    about.set_defaults(function=_help)
    for name, sentence in OPENING.items():
        commands.add_parser(name, help=sentence, add_help=False)
    return parser


def _mount(parsed: argparse.Namespace) -> None:
    options = parse_options(parsed.options)
    mountpoint = resolved(parsed.mountpoint)
    _check_mountpoint(mountpoint)
    from vmofs_mount.daemon import process  # noqa: PLC0415 - trio and pyfuse3 take 0.2 s
    from vmofs_mount.front.session import MountError  # noqa: PLC0415

    try:
        if parsed.foreground:
            process.run_in_foreground(mountpoint, options)
            return
    except MountError as error:
        raise _CommandError(str(error)) from error
    failure = process.run_detached(mountpoint, options)
    if failure:
        raise _CommandError(failure)


def _check_mountpoint(mountpoint: str) -> None:
    remove_stale_mounts(mountpoint)
    mount = mount_at(mountpoint)
    if mount is not None and mount.filesystem == FILESYSTEM_TYPE:
        raise _CommandError(f"a vmofs is mounted at {mountpoint} already")
    if not Path(mountpoint).exists():
        raise _CommandError(f"{mountpoint} does not exist")
    if not Path(mountpoint).is_dir():
        raise _CommandError(f"{mountpoint} is no directory")


def _umount(parsed: argparse.Namespace) -> None:
    from vmofs_mount.cli.write_back import write_back  # noqa: PLC0415 - only this command needs it

    path = resolved(parsed.mountpoint)
    if parsed.discard:
        dirty = unmount(path)
    else:
        with Progress() as progress:
            dirty = unmount(path, partial(write_back, tell=progress.tell))
    if dirty.sentence:
        sys.stderr.write(f"vmofs: {dirty.sentence}\n")


def _help(parsed: argparse.Namespace) -> None:
    show(parsed.topic)


def _doctor(parsed: argparse.Namespace) -> None:
    findings = list(examine_machine())
    if parsed.mountpoint is not None:
        findings += examine_mount(resolved(parsed.mountpoint))
    for finding in findings:
        sys.stdout.write(f"{finding.verdict + ':':<10}{finding.sentence}\n")
    bad = sum(finding.verdict is Verdict.BAD for finding in findings)
    if bad:
        raise _CommandError(f"{bad} of {len(findings)} checks failed")

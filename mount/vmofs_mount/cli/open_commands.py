"""``vmofs open``, ``run`` and ``serve``: files of URLs, for good, for one command, and by a pager of the user's own."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from vmofs.client import Pager, serve
from vmofs.pagers.source import ExitCode, Refusal
from vmofs.status import VmoError
from vmofs_mount.cli.open_files import unmount_if_unused
from vmofs_mount.cli.open_flags import policy_of, request_of
from vmofs_mount.cli.progress import Progress
from vmofs_mount.openers import records
from vmofs_mount.openers.job import Command, Job
from vmofs_mount.openers.places import Mounting, Target, answers, target_of
from vmofs_mount.openers.process import Opener, start_opener


def run_open(parsed: argparse.Namespace) -> int:
    """``vmofs open URL... [PATH]``: make files of URLs and print their paths."""
    urls, path = _urls_and_path(parsed)
    is_many = len(urls) > 1 or parsed.tree or any(url.endswith("/") for url in urls)
    target = target_of(path, is_directory=is_many)
    job = _job(parsed, urls, target)
    record = records.load(job.pager)
    if record is None or not record.is_alive or not answers(Path(record.mount)):
        _start_to_stay(job, target)
        record = records.load(job.pager)
        if record is None:
            raise Refusal("the opener ended at once; see its log", ExitCode.OTHER)
    paths = _linked(record, target) if target.link else [record.path(file) for file in record.files]
    if parsed.json:
        files = zip(record.files, paths, strict=True)
        _print(json.dumps([{"path": str(at), "source": each.source, "size": each.size} for each, at in files]))
    else:
        for at in paths:
            _print(str(at))
    return 0


def run_run(parsed: argparse.Namespace) -> int:
    """``vmofs run URL... -- CMD``: make files of URLs for as long as a command runs, and return its exit code."""
    if not parsed.argv:
        raise Refusal("there is no command: vmofs run URL... -- CMD {}", ExitCode.USAGE)
    target = target_of(None, is_directory=True)
    job = replace(_job(parsed, parsed.urls, target), scratch=f"run-{os.getpid()}")
    mounting = Mounting(target.mount)
    opener, names = _start(job, target, mounting, is_bound=True)
    paths = [str(target.mount / "vmo" / name) for name in names]
    watch = _Watch(opener, is_quiet=parsed.quiet)
    try:
        code = _run_command(parsed.argv, paths)
    finally:
        watch.close()
        if mounting.is_new:
            unmount_if_unused(str(target.mount))
    for name, (times, reason) in watch.failed.items():
        more = f" ({times} times)" if times > 1 else ""
        _say(f"vmofs: {Path(name).name}: a read failed at {reason}{more}; what {parsed.argv[0]} says may be wrong")
    if watch.died:
        _say("vmofs: the opener has died: reads may have failed")
    return ExitCode.READS_FAILED if watch.failed or watch.died else code


def run_serve(parsed: argparse.Namespace) -> int:
    """``vmofs serve module:Class MOUNT`` or ``DIRECTORY MOUNT/vmo/NAME``: run a pager in the foreground."""
    if Path(parsed.pager).is_dir():
        from vmofs_mount.cli.serve_directory import serve_directory  # noqa: PLC0415 - open and run do without

        return serve_directory(parsed)
    pager, name = _pager_class(parsed.pager)(), parsed.pager_name
    policy = policy_of(parsed)
    for flag in ("cluster", "ahead"):
        if getattr(policy, flag) is not None:
            setattr(pager, flag, getattr(policy, flag))
    if parsed.deadline:
        pager.deadline = policy.deadline
    if not answers(Path(parsed.mount).absolute()):
        raise Refusal(f"no vmofs answers at {parsed.mount}; vmofs mount {parsed.mount} makes one", ExitCode.NO_MOUNT)

    def ready() -> None:
        if not parsed.quiet:
            _say(f"vmofs: {type(pager).__name__} serves {parsed.mount}/vmo; Ctrl-C ends it, the files stay")

    try:
        serve(parsed.mount, pager, name=name, hard=parsed.hard, ready=ready)
    except (VmoError, OSError, ValueError) as error:
        raise Refusal(str(error), ExitCode.OTHER) from error
    return 0


def _pager_class(text: str) -> type[Pager]:
    module, _, name = text.partition(":")
    if not module or not name:
        raise Refusal(f"{text!r} is neither a directory nor module:Class", ExitCode.USAGE)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Refusal(f"{text}: {error}", ExitCode.USAGE) from error
    if not (isinstance(found, type) and issubclass(found, Pager)):
        raise Refusal(f"{text} is no subclass of vmofs.client.Pager", ExitCode.USAGE)
    return found


def _urls_and_path(parsed: argparse.Namespace) -> tuple[list[str], str | None]:
    """Return what of URL... [PATH] is what: a last argument without a scheme is the path."""
    urls = list(parsed.urls)
    has_path = len(urls) > (0 if parsed.command else 1) and not urlsplit(urls[-1]).scheme
    return (urls[:-1], urls[-1]) if has_path else (urls, None)


def _job(parsed: argparse.Namespace, urls: list[str], target: Target) -> Job:
    command = None
    if parsed.command:
        if parsed.size is None:
            raise Refusal("--exec needs --size", ExitCode.USAGE)
        linked = target.link.name if target.link and not target.link.is_dir() else None
        command = Command(parsed.command, parsed.size, parsed.name or target.name or linked or "file")
    if bool(urls) == (command is not None):
        raise Refusal("either URLs or --exec, and not both", ExitCode.USAGE)
    # The opener has another working directory.
    urls = [url if urlsplit(url).scheme else str(Path(url).absolute()) + "/" * url.endswith("/") for url in urls]
    return Job(tuple(urls), request_of(parsed), policy_of(parsed), target.directory, target.name, command)


def _start(job: Job, target: Target, mounting: Mounting | None, *, is_bound: bool) -> tuple[Opener, list[str]]:
    """Start an opener beside the mount that is being made; return when the files are there."""
    opener = start_opener(job, target, is_bound=is_bound)
    if mounting is not None:
        mounting.wait()
    opener.is_mounted()
    try:
        with Progress() as progress:
            progress.tell(f"opening {' '.join(job.urls)}")  # an index may have to be made first
            return opener, opener.wait_ready()
    except Refusal:
        if mounting is not None and mounting.is_new:
            unmount_if_unused(str(target.mount))
        raise


def _start_to_stay(job: Job, target: Target) -> None:
    """Start an opener for ``open``; again, if the mount was dying while it seemed to be there."""
    try:
        _start(job, target, Mounting(target.mount) if target.is_own else None, is_bound=False)
    except Refusal as error:
        if error.code != ExitCode.NO_MOUNT or not target.is_own:
            raise
        _start(job, target, Mounting(target.mount), is_bound=False)


def _linked(record: records.Record, target: Target) -> list[Path]:
    """Make symbolic links outside of the mount, and return them."""
    link = target.link
    assert link is not None
    tops = sorted({Path(*Path(file.name).parts[:2]) for file in record.files})
    if len(record.files) == 1 and not link.is_dir():
        places = {record.files[0].name: link}
    elif link.is_dir():
        places = {file.name: link / Path(file.name).relative_to(*Path(file.name).parts[:1]) for file in record.files}
    else:
        places = {}
    if not places:  # a tree: one link to its directory
        if len(tops) > 1:
            link.mkdir()
            return _linked(record, target)
        _make_link(link, Path(record.mount, "vmo", tops[0]))
        for file in record.files:
            file.link = str(link)
        records.save(record)
        return [link / Path(file.name).relative_to(tops[0]) for file in record.files]
    for file in record.files:
        place = places[file.name]
        place.parent.mkdir(parents=True, exist_ok=True)
        _make_link(place, record.path(file))
        file.link = str(place)
    records.save(record)
    return list(places.values())


def _make_link(place: Path, to: Path) -> None:
    if place.is_symlink() and place.readlink() == to:
        return
    try:
        place.symlink_to(to)
    except OSError as error:
        raise Refusal(f"{place}: {error.strerror}; the file is {to}", ExitCode.OTHER) from error


class _Watch:
    """Hears what the opener says while a command runs."""

    def __init__(self, opener: Opener, *, is_quiet: bool) -> None:
        self._opener, self._is_quiet = opener, is_quiet
        self.failed: dict[str, tuple[int, str]] = {}
        self.died = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(Refusal, ValueError):
            for news in self._opener.news():
                self._hear(news)
        self.died = not self._is_closing

    def _hear(self, news: dict[str, object]) -> None:
        if "failed" in news:
            name = str(news["failed"])
            times, reason = self.failed.get(name, (0, str(news["reason"])))
            self.failed[name] = (times + 1, reason)
        elif "waiting" in news and not self._is_quiet:
            _say(f"vmofs: waiting: {news['waiting']}" if news["waiting"] else "vmofs: it goes on")

    def close(self) -> None:
        """Let the opener end, and hear its last words."""
        self._is_closing = True
        self._opener.end()
        self._thread.join(10)
        with suppress(ChildProcessError):
            os.waitpid(self._opener.number, 0)


def _run_command(argv: list[str], paths: list[str]) -> int:
    command = list(_filled(argv, paths))
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        """Who ends this process means the command."""
        if not started:
            raise SystemExit(128 + number)
        started[0].send_signal(number)

    try:
        signal.signal(signal.SIGTERM, pass_on)
        with subprocess.Popen(command) as process:  # noqa: S603 - the user's command
            started.append(process)
            while True:
                try:
                    code = process.wait()
                    break
                except KeyboardInterrupt:  # the command has got it too, and decides
                    continue
    except OSError as error:
        raise Refusal(f"{argv[0]}: {error.strerror}", ExitCode.USAGE) from error
    return 128 - code if code < 0 else code


def _filled(argv: list[str], paths: list[str]) -> Iterator[str]:
    """Yield the arguments with paths for ``{}``, which alone stands for all of them, and ``{1}``, ``{2}``."""
    for argument in argv:
        if argument == "{}":
            yield from paths
            continue
        text = argument.replace("{}", paths[0])
        for number, path in enumerate(paths, 1):
            text = text.replace(f"{{{number}}}", path)
        yield text


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()

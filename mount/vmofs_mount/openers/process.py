"""The process that serves: it opens the sources, makes the files, answers for them, and keeps its record.

It is a fork of the command, which has no threads by then. Two pipes lie between them. Through ``news`` the opener says
in lines of JSON how it fares. Through ``orders`` it is told when the mount is there. For ``vmofs run`` that pipe stays
open, and its end is the end of the files, whatever has become of the command.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from vmofs.client import Server
from vmofs.client.policy.statistics import Statistics
from vmofs.pagers.source import ExitCode, Refusal, Source
from vmofs.status import VmoError
from vmofs_mount.linux.procfs import start_of
from vmofs_mount.openers import records
from vmofs_mount.openers.job import Job, apart, pager_of, sources_of
from vmofs_mount.openers.places import Target

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.3
_END_SECONDS = 10.0
_NO_MOUNT = {errno.ENOTCONN, errno.ECONNABORTED}


class Opener:
    """An opener, as the command sees it that has started it."""

    def __init__(self, number: int, orders: IO[str], news: IO[str]) -> None:
        self.number = number
        self._orders, self._news = orders, news

    def is_mounted(self) -> None:
        """Tell it that the mount is there."""
        with suppress(BrokenPipeError):  # it has said why in its news
            self._orders.write("mounted\n")
            self._orders.flush()

    def wait_ready(self) -> list[str]:
        """Wait until the files are there; return their names.

        Raises:
            Refusal: They cannot be had, and this is why.
        """
        for news in self.news():
            if "files" in news:
                return [str(name) for name in news["files"]]  # type: ignore[attr-defined]
        raise Refusal("the opener has ended without a word; see its log", ExitCode.OTHER)

    def news(self) -> Iterator[dict[str, object]]:
        """Yield what it says, until it ends.

        Raises:
            Refusal: It says that it cannot go on.
        """
        for line in self._news:
            news = json.loads(line)
            if "refusal" in news:
                raise Refusal(news["refusal"], ExitCode(news["code"]))
            yield news

    def end(self) -> None:
        """Let it remove the files and end; what it says last can still be read."""
        with suppress(BrokenPipeError):
            self._orders.close()


def start_opener(job: Job, target: Target, *, is_bound: bool) -> Opener:
    """Start an opener. ``is_bound``: its files are there for as long as this process."""
    orders_out, orders_in = os.pipe()
    news_out, news_in = os.pipe()
    log = records.records_directory() / f"{job.pager}.log"
    number = os.fork()
    if number == 0:
        code = 1
        try:
            os.close(orders_in)
            os.close(news_out)
            _leave_the_terminal(log)
            with os.fdopen(orders_out) as orders, os.fdopen(news_in, "w", buffering=1) as news:
                code = _Process(job, target, is_bound=is_bound).run(orders, news)
        finally:
            logging.shutdown()
            os._exit(code)
    os.close(orders_out)
    os.close(news_in)
    return Opener(number, os.fdopen(orders_in, "w"), os.fdopen(news_out))


def _leave_the_terminal(log: Path) -> None:
    os.setsid()
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        if log.stat().st_size > 1 << 20:
            log.unlink()
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, str(log), 0), (2, str(log), 0)):
        opened = os.open(path, flags or os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


class _Failures(logging.Handler):
    """Counts failed reads. The framework tells of them in its log, with what it is about as arguments."""

    def __init__(self, files: dict[str, records.ServedFile]) -> None:
        super().__init__(logging.WARNING)
        self._files = files
        self.latest: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Count a failure, if it is one."""
        if record.levelno != logging.WARNING or not isinstance(record.args, tuple) or len(record.args) != 5:
            return
        name, start, length, status, sentence = record.args
        file = self._files.get(str(name))
        if file is not None:
            file.failures += 1
            file.last_failure = f"{start}+{length}: {sentence or status}"
            self.latest.append({"failed": file.name, "reason": file.last_failure})


class _Waits:
    """Whether the source is waited for, and why: it is from the first attempt that failed until something comes."""

    def __init__(self) -> None:
        self.sentence = ""
        self._retries = self._supplied = 0

    def has_changed(self, now: Statistics) -> bool:
        """Look; return whether there is something new to be said."""
        before = self.sentence
        if now.retries > self._retries:
            self.sentence, self._supplied = now.last_error or "the source is away", now.bytes_supplied
        elif now.bytes_supplied > self._supplied:
            self.sentence = ""
        self._retries = now.retries
        return bool(self.sentence) != bool(before)


class _Process:
    """The opener, seen from inside."""

    def __init__(self, job: Job, target: Target, *, is_bound: bool) -> None:
        self._job, self._target, self._is_bound = job, target, is_bound
        self._is_over = threading.Event()

    def run(self, orders: IO[str], news: IO[str]) -> int:
        """Serve until the end; return the exit code."""
        try:
            sources = sources_of(self._job)
            if not orders.readline():
                return 1
            sources = self._named(sources)
            pager = pager_of(self._job, sources)
            server = Server(self._target.mount, pager, name=self._job.pager, hard=self._job.policy.hard)
            record = self._record(sources)
            failures = _Failures({file.name: file for file in record.files})
            logging.getLogger("vmofs.client").addHandler(failures)
            server.start()
            records.save(record)
        except Refusal as error:
            _tell(news, {"refusal": str(error), "code": error.code})
            return error.code
        except Exception as error:  # noqa: BLE001 - whoever waits for the files is to be told
            _log.exception("the files cannot be served")
            is_known = isinstance(error, OSError | VmoError | ValueError)
            sentence = str(error) if is_known else f"{type(error).__name__}: {error}"
            is_gone = isinstance(error, OSError) and error.errno in _NO_MOUNT
            code = ExitCode.NO_MOUNT if is_gone else ExitCode.OTHER
            _tell(news, {"refusal": sentence, "code": code})
            return code
        _tell(news, {"files": list(sources)})
        threading.Thread(target=self._keep_record, args=(record, failures, server, news), daemon=True).start()
        ending = threading.Thread(target=self._end_with_command, args=(orders, server), daemon=True)
        if self._is_bound:
            ending.start()
        server.wait()
        self._is_over.set()
        if self._is_bound:
            ending.join(_END_SECONDS)  # it is what has ended the server, and removes its files
        self._pass_on(record, failures, news)
        records.remove(record)
        return 0

    def _named(self, sources: dict[str, Source]) -> dict[str, Source]:
        """Give files that were named by their URLs other names, if those are taken."""
        if self._target.directory is not None or self._job.scratch:
            return sources
        kept = records.load(self._job.pager)  # of an opener that was killed: its files are to be gone on with
        own = {file.name for file in kept.files} if kept else set()
        others = {apart(self._job, name): source for name, source in sources.items()}
        is_taken = any((self._target.mount / "vmo" / name).exists() for name in sources.keys() - own)
        return others if is_taken or own & others.keys() else sources

    def _record(self, sources: dict[str, Source]) -> records.Record:
        number, target = os.getpid(), self._target
        flags = {key: str(value) for key, value in asdict(self._job.request).items() if value}
        return records.Record(
            self._job.pager,
            str(target.mount),
            target.is_own,
            number,
            start_of(number) or 0,
            {"urls": list(self._job.urls), **flags},
            [records.ServedFile(name, each.url or "", each.size, each.version) for name, each in sources.items()],
        )

    def _keep_record(self, record: records.Record, failures: _Failures, server: Server, news: IO[str]) -> None:
        """Keep the record true, and pass on failures and what is waited for."""
        waits = _Waits()
        while not self._is_over.wait(_LOOK_SECONDS):
            if self._pass_on(record, failures, news):
                kept = records.load(record.pager)
                if kept is not None:  # a file may have been closed meanwhile
                    names = {file.name for file in kept.files}
                    record.files = [file for file in record.files if file.name in names]
                    records.save(record)
            if self._is_bound and waits.has_changed(server.statistics):
                _tell(news, {"waiting": waits.sentence})

    def _pass_on(self, record: records.Record, failures: _Failures, news: IO[str]) -> bool:
        latest, failures.latest = failures.latest, []
        for failure in latest:
            _tell(news, failure)
            _log.info("%s of %s", failure, record.pager)
        return bool(latest)

    def _end_with_command(self, orders: IO[str], server: Server) -> None:
        while orders.readline():
            pass
        with suppress(OSError, VmoError):
            server.remove()
        self._remove_scratch()
        server.stop()

    def _remove_scratch(self) -> None:
        """Remove the directories of one command, which are empty now."""
        top = self._target.mount / "vmo" / self._job.scratch
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()


def _tell(news: IO[str], what: dict[str, object]) -> None:
    with suppress(OSError, ValueError):  # nobody listens any more
        news.write(json.dumps(what) + "\n")

"""What an opener is told to do, and how sources become files with names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vmofs.client import Pager
from vmofs.pagers.disk_cache import DiskCache
from vmofs.pagers.opening import Request, command, open_sources
from vmofs.pagers.source import ExitCode, Refusal, Source
from vmofs.pagers.sources_pager import SourcesPager


@dataclass(frozen=True)
class Policy:
    """How sources are read; what is None is the framework's choice."""

    cluster: int | None = None
    ahead: int | None = None
    connections: int = 16
    deadline: float = 10.0
    hard: bool = True
    cache: Path | None = None
    cache_size: int = 20 << 30


@dataclass(frozen=True)
class Command:
    """A file that a command makes, for ``--exec``."""

    text: str
    size: int
    name: str


@dataclass(frozen=True)
class Job:
    """URLs, how they are read, and where they appear."""

    urls: tuple[str, ...]
    request: Request
    policy: Policy
    directory: str | None
    name: str | None
    command: Command | None = None
    scratch: str = ""
    """A directory above all names, for files that are there for one command only."""

    @property
    def pager(self) -> str:
        """The name of its pager: the same for the same job, so that an opener can go on where a killed one was."""
        text = json.dumps([self.urls, self.directory, self.name, self.scratch, asdict(self.request)], default=str)
        if self.command is not None:
            text += repr(self.command)
        return f"open-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def sources(self) -> Iterator[tuple[str, Source]]:
        """Yield sources with the names of their files.

        Raises:
            Refusal: One of them cannot be opened.
        """
        if self.command is not None:
            text, size, name = self.command.text, self.command.size, self.command.name
            yield self._place("exec", name), command(text, size, name, self.policy.deadline)
        for url in self.urls:
            for source in open_sources(url, self.request):
                is_one_of_many = self.request.tree or url.endswith("/") or source.name.count("/") > 0
                inner = f"{_last(url)}/{source.name}" if is_one_of_many and self.request.member is None else source.name
                yield self._place(_host(url), inner), source

    def _place(self, host: str, name: str) -> str:
        directory = host if self.directory is None else self.directory
        return str(PurePosixPath(self.scratch, directory, self.name or name))


def sources_of(job: Job) -> dict[str, Source]:
    """Open what a job names, and return it by the names of the files.

    Raises:
        Refusal: It cannot be opened, or two of its files have one name.
    """
    sources: dict[str, Source] = {}
    for name, source in job.sources():
        if name in sources:
            raise Refusal(f"two files would be called {name!r}: open them by two commands", ExitCode.USAGE)
        sources[name] = source
    if not sources:
        raise Refusal(f"{' '.join(job.urls)} has no files", ExitCode.NOT_FOUND)
    return sources


def apart(job: Job, name: str) -> str:
    """Return a name for a file whose own is taken, by another URL of the same host: in a directory of this job."""
    host, _, rest = name.partition("/")
    return f"{host}/{job.pager.rpartition('-')[2]}/{rest}"


def pager_of(job: Job, sources: dict[str, Source]) -> Pager:
    """Return a pager that serves sources as a job wants it."""
    pager: Pager = SourcesPager(sources)
    policy = job.policy
    if policy.cache is not None:
        pager = DiskCache(pager, policy.cache, policy.cache_size)
    pager.cluster, pager.ahead = policy.cluster, policy.ahead
    pager.threads, pager.deadline = policy.connections, policy.deadline
    return pager


def _host(url: str) -> str:
    return urlsplit(url).hostname or "local"


def _last(url: str) -> str:
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "files"

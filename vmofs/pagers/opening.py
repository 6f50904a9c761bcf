"""From a URL to the sources that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vmofs.pagers.command_output import CommandOutput
from vmofs.pagers.local_files import LocalFile, files_of
from vmofs.pagers.pattern_file import PatternFile
from vmofs.pagers.source import ExitCode, Refusal, Source
from vmofs.pagers.verified import Verified

_PACKED = {
    "gz": "--as gz",
    "zst": "--as zst",
    "xz": "--as xz",
    "zip": "--member NAME or --tree",
    "tar": "--member NAME",
}
_EXTRA = "{} needs more than vmofs itself: pip install 'vmofs[{}]' ({})"


@dataclass(frozen=True)
class Request:
    """What shall be made of a URL; the fields are the flags of ``vmofs open``."""

    as_format: str | None = None
    """``gz``, ``zst`` or ``xz``: what it decompresses to, instead of its bytes."""

    member: str | None = None
    """The name of a member of the archive that it is."""

    tree: bool = False
    """All members of the archive that it is."""

    whole: bool = False
    """Fetch it once, as a whole: for web servers without ranges."""

    verify: Path | None = None
    """A list of digests, with which what is read is compared."""

    endpoint: str | None = None
    anonymous: bool = False
    header_file: Path | None = None
    seconds: float = 10.0
    """How long one request to a source may take."""

    indexes: Path = field(default_factory=lambda: cache_home() / "indexes")


def cache_home() -> Path:
    """Return the directory in which a user keeps what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmofs"


def open_sources(url: str, request: Request) -> Iterator[Source]:
    """Yield what the URL names: one source, or those of a tree, named by their paths in it.

    Raises:
        Refusal: It cannot be opened.
    """
    if request.verify is not None:
        found = list(open_sources(url, replace(request, verify=None)))
        if len(found) != 1:
            raise Refusal(f"{url} is {len(found)} files; a list of digests is of one", ExitCode.USAGE)
        yield Verified(found[0], request.verify)
        return
    for source in _raw(url, request):
        if request.as_format is not None:
            source = _decompressed(source, request)  # noqa: PLW2901 - it stands on it
        if request.member is None and not request.tree:
            yield source
            continue
        try:
            from vmofs.pagers.archive_members import members_of  # noqa: PLC0415 - only who needs it loads rapidgzip
        except ImportError as error:
            raise _missing("an archive", "open", error) from error
        members = members_of(source, request.indexes)
        if request.member is not None:
            yield members.open(request.member)
            continue
        for name in members:
            yield members.open(name)


def hint(source: Source, request: Request) -> str | None:
    """Return what the user may have meant, if the name looks packed and its bytes are served as they are."""
    flag = _PACKED.get(PurePosixPath(source.name).suffix.removeprefix("."))
    if flag is None or request.as_format or request.member or request.tree:
        return None
    return f"{source.name} is served as it is; {flag} serves what is in it"


def _raw(url: str, request: Request) -> Iterator[Source]:
    scheme = urlsplit(url).scheme
    if scheme in {"http", "https"}:
        yield _web_file(url, request)
    elif scheme in {"s3", "gs", "az"}:
        try:
            from vmofs.pagers.bucket_files import Access, bucket_files  # noqa: PLC0415
        except ImportError as error:
            raise _missing(f"{scheme}:", "open", error) from error
        yield from bucket_files(url, Access(request.endpoint, request.anonymous, request.seconds))
    elif scheme == "file":
        yield from _local(Path(unquote(urlsplit(url).path)), is_tree=url.endswith("/"))
    elif scheme == "pattern":
        yield PatternFile(_size(urlsplit(url).path))
    elif scheme and "://" in url:
        try:
            from vmofs.pagers.foreign_urls import ForeignFile  # noqa: PLC0415 - fsspec takes 0.2 s
        except ImportError as error:
            raise _missing(f"{scheme}:", "fsspec", error) from error
        yield ForeignFile(url)
    elif Path(url).exists():
        yield from _local(Path(url), is_tree=Path(url).is_dir())
    else:
        raise Refusal(f"{url!r} is no URL and no file", ExitCode.NOT_FOUND)


def _web_file(url: str, request: Request) -> Source:
    try:
        from vmofs.pagers.http_client import HttpClient  # noqa: PLC0415
        from vmofs.pagers.web_file import WebFile  # noqa: PLC0415
        from vmofs.pagers.whole_file import WholeFile  # noqa: PLC0415
    except ImportError as error:
        raise _missing("http:", "open", error) from error
    if url.endswith("/"):
        raise Refusal(f"{url}: http has no way to list a directory; s3, gs, az and file have")
    client = HttpClient(request.header_file, request.seconds)
    if request.whole:
        return WholeFile(url, client, request.indexes.parent / "whole")
    return WebFile(url, client)


def _local(path: Path, *, is_tree: bool) -> Iterator[Source]:
    if is_tree:
        if not path.is_dir():
            raise Refusal(f"{path} is no directory", ExitCode.NOT_FOUND)
        yield from files_of(path)
        return
    yield LocalFile(path)


def _decompressed(source: Source, request: Request) -> Source:
    try:
        if request.as_format == "zst":
            from vmofs.pagers.zstd_frames import ZstdFrames  # noqa: PLC0415

            return ZstdFrames(source)
        if request.as_format == "xz":
            from vmofs.pagers.xz_blocks import XzBlocks  # noqa: PLC0415

            return XzBlocks(source)
        from vmofs.pagers.deflate_stream import DeflateStream  # noqa: PLC0415
    except ImportError as error:
        raise _missing(f"--as {request.as_format}", "open", error) from error
    return DeflateStream(source, source.name.removesuffix(".gz"), request.indexes)


def command(text: str, size: int, name: str, seconds: float) -> Source:
    """Return the source of ``--exec``."""
    return CommandOutput(text, size, name, seconds)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise Refusal(f"{text!r} is no size", ExitCode.USAGE) from error


def parse_size(text: str) -> int:
    """Return the number of bytes of a text like ``4096``, ``128K``, ``1.5G``.

    Raises:
        ValueError: It is none, or negative.
    """
    shift = 10 * ("KMGTP".find(text[-1:].upper()) + 1) if text else 0
    digits = text[:-1] if shift else text
    size = int(float(digits) * (1 << shift)) if shift and "." in digits else int(digits) << shift
    if size < 0:
        raise ValueError(f"{text} is negative")
    return size


def _missing(what: str, extra: str, error: ImportError) -> Refusal:
    return Refusal(_EXTRA.format(what, extra, error), ExitCode.OTHER)

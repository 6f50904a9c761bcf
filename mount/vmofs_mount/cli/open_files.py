"""``vmofs ls``, ``close``, ``prefetch`` and ``check``: what is open, and what can be done with it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vmofs.client import Changed, Mount, Retry, Unavailable
from vmofs.pagers.opening import Request, open_sources, parse_size
from vmofs.pagers.source import ExitCode, Refusal, Source, patiently
from vmofs.pagers.verified import CHUNK, digests_of
from vmofs.status import VmoError
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import VmoOp
from vmofs_mount.cli.progress import Progress
from vmofs_mount.linux.mountinfo import mount_at
from vmofs_mount.linux.resident import resident_pages
from vmofs_mount.openers import records
from vmofs_mount.openers.places import answers, mount_above, own_mount

_END_SECONDS = 10.0
_PIECE = 8 << 20
_UNITS = "KMGTP"


def run_ls(parsed: argparse.Namespace) -> int:
    """``vmofs ls``: say what is open."""
    found = [(record, file) for record in records.records() for file in record.files]
    if parsed.json:
        rows = [
            asdict(file)
            | {"path": str(record.path(file)), "state": _state(record), "present": _present(record.path(file))}
            | {"pid": record.number, "pager": record.pager}
            for record, file in found
        ]
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    table = [("PATH", "SIZE", "PRESENT", "FAILED", "STATE", "SOURCE")]
    for record, file in found:
        present = _present(record.path(file))
        share = f"{_short(present)} {100 * present // file.size if file.size else 100}%"
        place = file.link or str(record.path(file))
        table.append((place, _short(file.size), share, str(file.failures), _state(record), file.source))
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[5]]) + "\n")
    for _, file in found:
        if file.failures:
            sys.stdout.write(f"{file.name}: the last of {file.failures} failures: {file.last_failure}\n")
    return 0


def _state(record: records.Record) -> str:
    if not answers(Path(record.mount)):
        return "no mount"
    return "ok" if record.is_alive else "dead"


def _present(path: Path) -> int:
    """Return how many bytes are there: ``st_blocks`` counts pages, and is at least 1 while one is missing."""
    with suppress(OSError):
        status = path.stat()
        return min(status.st_blocks // 8 * PAGE_SIZE, status.st_size)
    return 0


def run_close(parsed: argparse.Namespace) -> int:
    """``vmofs close PATH...``: end what ``open`` began."""
    if bool(parsed.paths) == parsed.all:
        raise Refusal("either paths or --all", ExitCode.USAGE)
    mounts = set()
    if parsed.all:
        mounts.add((str(own_mount()), True))
        for record in list(records.records()):
            mounts.add((record.mount, record.is_own_mount))
            _close(record, list(record.files))
    for path in parsed.paths:
        record, files = _find(path)
        mounts.add((record.mount, record.is_own_mount))
        _close(record, files)
    for mount, is_own in mounts:
        if is_own:
            unmount_if_unused(mount)
    return 0


def _find(path: str) -> tuple[records.Record, list[records.ServedFile]]:
    """Return whose file a path is: its path in the mount, a link to that, or a directory above several."""
    wanted, linked = str(Path(path).resolve()), str(Path(path).absolute())
    for record in records.records():
        files = [
            file
            for file in record.files
            if str(record.path(file)) == wanted
            or str(record.path(file)).startswith(wanted + "/")
            or file.link == linked
            or (file.link or "").startswith(linked + "/")
        ]
        if files:
            return record, files
    raise Refusal(f"{path} is not open; vmofs ls says what is", ExitCode.NOT_FOUND)


def _close(record: records.Record, files: list[records.ServedFile]) -> None:
    """Remove files. The last one takes the opener with it, whose end is the removal of its pager."""
    is_there = answers(Path(record.mount))
    for file in files:
        if file.link and Path(file.link).is_symlink():
            Path(file.link).unlink()
        if is_there:
            record.path(file).unlink(missing_ok=True)
            _remove_empty(record.path(file).parent, Path(record.mount, "vmo"))
    closed = {file.name for file in files}
    record.files = [file for file in record.files if file.name not in closed]
    if record.files:
        records.save(record)
        return
    if is_there:
        with suppress(FileNotFoundError):
            Path(record.mount, "control", record.pager).rmdir()
    # It would see that its pager is gone, within a second; there is nothing left for it to do.
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + _END_SECONDS
        if record.is_alive:
            os.kill(record.number, number)
        while record.is_alive and time.monotonic() < end:
            time.sleep(0.01)
    records.remove(record)


def _remove_empty(folder: Path, top: Path) -> None:
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def unmount_if_unused(mount: str) -> None:
    """Unmount the user's own mount if nothing is open there any more."""
    from vmofs_mount.front.unmounting import UnmountError, unmount  # noqa: PLC0415 - only the last close needs it

    if any(record.mount == mount for record in records.records()) or mount_at(mount) is None:
        return
    pagers = [entry for entry in Path(mount, "control").iterdir() if entry.is_dir()]
    if not pagers:
        try:
            unmount(mount)
        except UnmountError as error:  # somebody has a file open: it goes when the user says so
            sys.stderr.write(f"vmofs: {mount} stays: {error}\n")


def run_prefetch(parsed: argparse.Namespace) -> int:
    """``vmofs prefetch PATH``: have a file, or a range of it, read before somebody waits for it."""
    for path in parsed.paths:
        where = Path(path).resolve()
        mount = mount_above(where)
        if mount is None or not where.is_file():
            raise Refusal(f"{path} is no file in a vmofs", ExitCode.NOT_FOUND)
        size = where.stat().st_size
        start, end = _range(parsed.range, size)
        vmo = Mount(mount).vmo(str(where.relative_to(mount / "vmo")))
        with Progress() as progress:
            for at in range(start, end, _PIECE):
                if not parsed.quiet:
                    progress.tell(f"{path}: {_short(at - start)} of {_short(end - start)}")
                length = -(-(min(at + _PIECE, end) - at) // PAGE_SIZE) * PAGE_SIZE
                try:
                    vmo.op_range(VmoOp.PREFETCH, at, length)
                except (VmoError, OSError) as error:
                    raise Refusal(f"{path}: {at}+{length}: {error}", ExitCode.TEMPORARY) from error
    return 0


def _range(text: str | None, size: int) -> tuple[int, int]:
    if text is None:
        return 0, size
    first, _, last = text.partition("-")
    try:
        start, end = parse_size(first or "0"), min(parse_size(last), size) if last else size
    except ValueError:
        raise Refusal(f"{text!r} is no range like 0-64M", ExitCode.USAGE) from None
    if not start < end:
        raise Refusal(f"{text} is no range within {size} bytes", ExitCode.USAGE)
    return start // PAGE_SIZE * PAGE_SIZE, end


def run_check(parsed: argparse.Namespace) -> int:
    """``vmofs check PATH``: compare what is there with the source, read again."""
    for path in parsed.paths:
        record, files = _find(path)
        for file in files:
            source = _source_again(record, file)
            count = compared = 0
            with record.path(file).open("rb", buffering=0) as stream:
                for at, data in _there(stream.fileno(), file.size, everything=parsed.all):
                    compared += len(data)
                    count += _compare(source, at, data, file.name)
            note = "" if compared == file.size else f" of {file.size}; the rest is not there yet"
            sys.stdout.write(f"{file.name}: {compared} bytes{note} compared, {count} wrong\n")
            if count:
                raise Refusal(f"{file.name}: {count} bytes differ from the source", ExitCode.CHANGED)
    return 0


def _source_again(record: records.Record, file: records.ServedFile) -> Source:
    flags = record.request
    header_file, member, as_format = flags.get("header_file"), flags.get("member"), flags.get("as_format")
    request = Request(
        as_format=str(as_format) if as_format else None,
        member=str(member) if member else None,
        tree=bool(flags.get("tree")),
        whole=bool(flags.get("whole")),
        endpoint=str(flags["endpoint"]) if flags.get("endpoint") else None,
        anonymous=bool(flags.get("anonymous")),
        header_file=Path(str(header_file)) if header_file else None,
    )
    urls = flags.get("urls")
    for url in urls if isinstance(urls, list) else []:
        for source in open_sources(url, request):
            if source.url == file.source:
                if source.version != file.version:
                    raise Refusal(f"{file.name}: {file.version} is now {source.version}", ExitCode.CHANGED)
                return source
    raise Refusal(f"{file.name}: its source {file.source} cannot be opened again", ExitCode.CANNOT)


def _there(descriptor: int, size: int, *, everything: bool) -> Iterator[tuple[int, bytes]]:
    """Yield what is there: all, if nothing is missing; otherwise what the kernel has, which it gives without asking."""
    status = os.fstat(descriptor)
    if everything or status.st_blocks * 512 >= size:
        for at in range(0, size, _PIECE):
            yield at, os.pread(descriptor, _PIECE, at)
        return
    for at in resident_pages(descriptor, size):
        yield at, os.pread(descriptor, PAGE_SIZE, at)


def _compare(source: Source, at: int, data: bytes, name: str) -> int:
    try:
        again = bytes(patiently(lambda: source.read(at, len(data)), 10))
    except (Retry, Unavailable) as error:
        raise Refusal(f"{name}: {error}", ExitCode.TEMPORARY) from error
    except Changed as error:
        raise Refusal(f"{name}: {error}", ExitCode.CHANGED) from error
    if again == data:
        return 0
    return sum(one != other for one, other in zip(again, data, strict=True))


def run_digests(parsed: argparse.Namespace) -> int:
    """``vmofs digests FILE``: print what ``--verify`` wants."""
    try:
        for line in digests_of(Path(parsed.file), parsed.chunk or CHUNK):
            sys.stdout.write(line + "\n")
    except OSError as error:
        raise Refusal(f"{parsed.file}: {error.strerror}", ExitCode.NOT_FOUND) from error
    return 0


def _short(number: int) -> str:
    """Return a number of bytes as people read it."""
    value, unit = float(number), ""
    for unit in ["", *_UNITS]:  # noqa: B007 - it is used after the loop
        if value < 1024:
            break
        value /= 1024
    return f"{value:.0f}" if not unit else f"{value:.1f}{unit}"

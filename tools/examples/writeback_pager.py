#!/usr/bin/env python3
"""Serve the files of a directory read-write: writeback_pager.py MOUNT PAGER DIRECTORY.

Missing pages come from the files. What was written goes back to them when somebody calls fsync, once a second, and at
the end. The pager may be killed at any moment and started again: pages count as written back only after
WRITEBACK_END, which is said after the file was synced; and what fsync waits for is asked for again.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from pathlib import Path

FLUSH_SECONDS = 1.0
PAGE = 4096


def escape(name: str) -> str:
    """Write a name as the control files do."""
    return re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", name)


def unescape(name: str) -> str:
    """Read a name as the control files write it."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)


class WritebackPager:
    """Answers for the VMOs ``vmo/NAME``, one for each file of the directory."""

    def __init__(self, mount: Path, pager: str, directory: Path) -> None:
        self.mount, self.directory = mount, directory
        self.control = mount / "control" / pager
        self.control.mkdir(exist_ok=True)
        self.stage_name = f"aux/stage-{pager}"
        self.stage = os.open(mount / self.stage_name, os.O_WRONLY | os.O_CREAT, 0o600)
        self.files: dict[str, int] = {}
        for path in sorted(directory.iterdir()):
            vmo = f"vmo/{path.name}"
            self.files[vmo] = os.open(path, os.O_RDWR)
            if not (mount / vmo).exists():
                self.say("create_vmo", f"{escape(vmo)} {path.stat().st_size} resizable writeback")

    def say(self, file: str, command: str) -> str:
        """Give a command and return its answer."""
        fd = os.open(self.control / file, os.O_RDWR)
        try:
            os.write(fd, command.encode())
            answer = b""
            while piece := os.read(fd, 65536):
                answer += piece
            return answer.decode()
        finally:
            os.close(fd)

    def supply(self, vmo: str, offset: int, length: int) -> None:
        """Answer a READ from the file; what is beyond its end is zeros."""
        data = os.pread(self.files[vmo], length, offset)
        os.ftruncate(self.stage, 0)
        os.pwrite(self.stage, data.ljust(length, b"\0"), 0)
        self.say("supply_pages", f"{escape(vmo)} {offset} {length} {self.stage_name} 0")

    def write_back(self, vmo: str) -> None:
        """Bring the file to what the VMO is now: its dirty ranges, and its size."""
        name, file = escape(vmo), self.files[vmo]
        begin, end = (f"WRITEBACK_{word} {name}" for word in ("BEGIN", "END"))
        # BEGIN comes before the data is read: a page that is written meanwhile is dirty again, and END leaves it so.
        # It comes before the size is read, too, and a BEGIN of no pages at all is for the size alone.
        self.say("op_range", f"{begin} 0 0")
        size = (self.mount / vmo).stat().st_size
        os.ftruncate(file, size)
        records = [line.split() for line in self.say("query_dirty_ranges", f"{name} 0 {size}").splitlines()[1:]]
        source = os.open(self.mount / vmo, os.O_RDONLY)
        os.posix_fadvise(source, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: an absent page would wait for ourselves
        try:
            for offset, length, kind in records:
                self.say("op_range", f"{begin} {offset} {length} {'is_zero' if kind == 'zero' else ''}")
                copy(source, file, int(offset), int(length))
        finally:
            os.close(source)
        os.fsync(file)
        for offset, length, _ in [*records, ("0", "0", "")]:
            self.say("op_range", f"{end} {offset} {length}")

    def flush(self) -> None:
        """Write back every VMO that was modified since the last time."""
        for vmo in self.files:
            if "modified=1" in self.say("query_vmo_stats", f"{escape(vmo)} reset"):
                self.try_to_write_back(vmo)

    def try_to_write_back(self, vmo: str) -> None:
        """Write back; what fails, as when the VMO shrinks meanwhile, stays dirty for the next time."""
        try:
            self.write_back(vmo)
        except OSError as error:
            print(f"{vmo}: {error}", file=sys.stderr)

    def serve(self) -> None:
        """Answer requests until there is nobody left to ask, or a signal comes."""
        for vmo in self.files:  # a pager before this one may have been killed
            self.try_to_write_back(vmo)
        requests = os.open(self.control / "requests", os.O_RDONLY)
        rest = b""
        while True:
            if not select.select([requests], [], [], FLUSH_SECONDS)[0]:
                self.flush()
                continue
            piece = os.read(requests, 65536)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                command, _, offset, length, name = line.decode().split(" ")
                self.answer(command, unescape(name), int(offset), int(length))

    def answer(self, command: str, vmo: str, offset: int, length: int) -> None:
        """Answer one request; what goes wrong with the file is the reader's error."""
        try:
            if command == "READ":
                self.supply(vmo, offset, length)
            elif command == "WRITEBACK":
                self.write_back(vmo)
        except OSError as error:
            print(f"{vmo} {offset}+{length}: {error}", file=sys.stderr)
            self.say("op_range", f"FAIL {escape(vmo)} {offset} {length} ZX_ERR_IO")


def copy(source: int, target: int, offset: int, length: int) -> None:
    """Copy a range of bytes as far as the source goes."""
    end = offset + length
    while offset < end and (data := os.pread(source, min(end - offset, 1 << 20), offset)):
        os.pwrite(target, data, offset)
        offset += len(data)


def main() -> None:
    """Serve; SIGTERM and Ctrl-C write back what is dirty first."""
    pager = WritebackPager(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        pager.serve()
    except KeyboardInterrupt:
        pass
    finally:
        pager.flush()


if __name__ == "__main__":
    main()

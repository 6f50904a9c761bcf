#!/usr/bin/env python3
"""Serve a directory read-write: writeback_pager.py MOUNT PAGER DIRECTORY shows DIRECTORY as MOUNT/vmo/PAGER.

Missing pages come from the files. What was written goes back to them when somebody calls fsync, once a second, and at
the end; so do new files, new sizes, new names and removals. The pager may be killed at any moment and started again:
a page counts as written back only after WRITEBACK_END, which is said after the file was synced; and what fsync waits
for is asked for again.

Names may change at any moment, even be exchanged, so content goes by keys. Commands go by names, so it is looked
whether a name is still the VMO's; if not, everything stays as it is for the next time. Who replaces a file that
somebody else has open lets him wait in vain for pages that he has not read yet: its name means the new file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

FLUSH_SECONDS = 1.0


def escape(name: str) -> str:
    """Write a name as the control files do."""
    return re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", name)


def unescape(name: str) -> str:
    """Read a name as the control files write it."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)


def key_of(path: Path) -> int:
    """Return the key of a VMO, or of that whose memory a view shows."""
    return int(os.getxattr(path, "user.vmofs.key"))


class WritebackPager:
    """Answers for the VMOs below ``vmo/PAGER``; ``backing`` is where each has its content, by its key."""

    def __init__(self, mount: Path, pager: str, directory: Path) -> None:
        self.mount, self.directory, self.top = mount, directory, Path("vmo", pager)
        self.control = mount / "control" / pager
        # What the next pager must know if this one is killed: "KEY FILE" for each VMO, and at last "shown". It lives as
        # long as the keys do, in the mount.
        self.state = os.open(mount / f"aux/state-{pager}", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self.control.mkdir()
            os.ftruncate(self.state, 0)
        except FileExistsError:
            pass
        try:
            self.born = os.getxattr(self.state, "user.born").decode()  # keys are unique in one mount only
        except OSError:
            self.born = str(time.time_ns())
            os.setxattr(self.state, "user.born", self.born.encode())
        self.view_name = f"vmo/view-{pager}"
        (mount / self.view_name).unlink(missing_ok=True)  # of one that was killed
        known = os.pread(self.state, os.fstat(self.state).st_size, 0).decode().splitlines()
        self.backing = self.known_places(line.partition(" ") for line in known if line != "shown")
        if "shown" not in known:  # else a file that is not there now was removed
            self.show(directory, self.top)
            os.write(self.state, b"shown\n")
        self.requests = -1
        self.lines: list[bytes] = []  # requests that are not answered yet
        self.rest = b""

    def known_places(self, notes: Iterable[tuple[str, str, str]]) -> dict[int, Path]:
        """Return where VMOs have their content; a later note counts more, and a file that was set aside most."""
        places: dict[int, Path] = {}
        owners: dict[Path, int] = {}
        for key, _, place in notes:
            places[int(key)] = self.directory / unescape(place)
            owners[places[int(key)]] = int(key)
        aside = {number: self.aside(number) for number in places if self.aside(number).exists()}
        return {number: place for number, place in places.items() if owners[place] == number} | aside

    def remember(self, key: int, place: Path) -> None:
        """Note where a VMO has its content."""
        self.backing[key] = place
        os.write(self.state, f"{key} {escape(str(place.relative_to(self.directory)))}\n".encode())

    def show(self, directory: Path, vmo: Path) -> None:
        """Make directories and VMOs for what is in a directory, unless a pager before this one did."""
        (self.mount / vmo).mkdir(exist_ok=True)
        self.say("serve_directory", f"{escape(str(vmo))} writeback")
        for path in sorted(directory.iterdir()):
            place = vmo / path.name
            if path.is_dir():
                self.show(path, place)
            else:
                if not (self.mount / place).exists():
                    mode = path.stat().st_mode & 0o777
                    size = path.stat().st_size
                    self.say("create_vmo", f"{escape(str(place))} {size} resizable writeback mode={mode:o}")
                self.remember(key_of(self.mount / place), path)

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

    def aside(self, key: int) -> Path:
        """Return where a VMO has its content while its name is on its way."""
        return self.directory / f".{self.top.name}-{self.born}-{key}"

    def set_aside(self, key: int) -> None:
        """Move the content of a VMO to where no other looks for its own."""
        place, aside = self.backing.get(key), self.aside(key)
        if place not in {None, aside} and place.exists():
            place.rename(aside)
        self.backing[key] = aside

    def file_of(self, key: int, vmo: Path) -> Path:
        """Return where a VMO has its content; follow it if it was renamed. Whose name it now has is set aside."""
        place = self.directory / vmo.relative_to(self.top)
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.backing.get(key) != place:
            for other in [other for other, its_place in self.backing.items() if its_place == place]:
                self.set_aside(other)
            self.set_aside(key)
            self.remember(key, place)
            if self.aside(key).exists():
                self.aside(key).rename(place)
        return place

    def check(self, key: int, vmo: Path) -> None:
        """Raise if a name is another VMO's by now. One that was unlinked keeps its own."""
        with contextlib.suppress(FileNotFoundError):
            if key_of(self.mount / vmo) != key:
                raise OSError(errno.ESTALE, f"{vmo} is not VMO {key} any more")

    def is_there(self, key: int, vmo: Path) -> bool:
        """Return whether a VMO has this name; it may have it and be detached."""
        with contextlib.suppress(OSError):
            return key_of(self.mount / vmo) == key
        return False

    def supply(self, key: int, vmo: Path, offset: int, length: int) -> None:
        """Answer a READ from the file; what is beyond its end is zeros."""
        with (self.backing.get(key) or self.file_of(key, vmo)).open("rb") as file:
            data = os.pread(file.fileno(), length, offset).ljust(length, b"\0")
        supplied = os.open(self.control / "supply" / vmo, os.O_WRONLY)
        try:
            self.check(key, vmo)  # what is open stays this VMO's, whatever is renamed now
            done = 0
            while done < length:
                done += os.pwrite(supplied, data[done:], offset + done)
        finally:
            os.close(supplied)

    def write_back(self, key: int, vmo: Path) -> None:
        """Bring the file to what the VMO is now: its dirty ranges, and its size."""
        self.check(key, vmo)
        name = escape(str(vmo))
        begin, end = (f"WRITEBACK_{word} {name}" for word in ("BEGIN", "END"))
        # BEGIN comes before the data is read: a page that is written meanwhile is dirty again, and END leaves it so.
        # A BEGIN of no pages at all is for the size alone, which is looked at after the last BEGIN: what it was until
        # then counts as written back at END.
        self.say("op_range", f"{begin} 0 0")
        status = (self.mount / vmo).stat()
        records = [line.split() for line in self.say("query_dirty_ranges", f"{name} 0 {status.st_size}").splitlines()]
        source = self.open_view(key, name)
        try:
            target = os.open(self.file_of(key, vmo), os.O_RDWR | os.O_CREAT)
        except OSError:
            os.close(source)
            raise
        try:
            for offset, length, kind in records[1:]:
                self.say("op_range", f"{begin} {offset} {length} {'is_zero' if kind == 'zero' else ''}")
            size = (self.mount / vmo).stat().st_size
            os.ftruncate(target, size)
            os.fchmod(target, status.st_mode & 0o777)
            for offset, length, kind in records[1:]:
                if kind == "zero":  # not read: what is cut off and zero again before END is clean then
                    zero(target, int(offset), max(0, min(int(length), size - int(offset))))
                else:
                    copy(source, target, int(offset), int(length))  # to the end of the VMO, which may have grown
            os.fsync(target)
        finally:
            os.close(source)
            os.close(target)
        self.check(key, vmo)
        for offset, length, _ in [["0", "0", ""], *records[1:]]:  # with the last of them fsync returns
            self.say("op_range", f"{end} {offset} {length}")

    def open_view(self, key: int, name: str) -> int:
        """Open the memory of a VMO as another file, past the page cache.

        Pages of the VMO's own file may be locked by a reader, and the file by a writer, who wait for us.
        """
        view = self.mount / self.view_name
        self.say("../vmo_create_child", f"reference {name} {self.view_name} 0 0 no_write")
        fd, seen = os.open(view, os.O_RDONLY | os.O_DIRECT), key_of(view)
        view.unlink()
        if seen != key:
            os.close(fd)
            raise OSError(errno.ESTALE, f"{name} is not VMO {key} any more")
        return fd

    def named(self) -> dict[int, Path]:
        """Return the VMOs that have a name, and it."""
        found = {}
        for path in sorted((self.mount / self.top).rglob("*")):
            with contextlib.suppress(OSError):  # it went
                if path.is_file():
                    found[key_of(path)] = path.relative_to(self.mount)
        return found

    def flush(self) -> None:
        """Write back every VMO whose file is behind, and follow names."""
        for key, vmo in self.named().items():
            with contextlib.suppress(OSError):  # it shrank or went: it stays dirty for the next time, or is gone
                if self.is_behind(key, vmo):
                    self.write_back(key, vmo)

    def finish(self) -> None:
        """Write back everything. Files that were removed are removed, or set aside if somebody has them open."""
        self.flush()
        end = time.monotonic() + FLUSH_SECONDS
        while self.requests >= 0 and (gone := self.backing.keys() - self.named().keys()) and self.control.exists():
            if time.monotonic() > end:
                for key in gone:
                    self.set_aside(key)
                return
            if select.select([self.requests], [], [], 0.1)[0] and not self.take():
                return
            for line in self.lines:
                if line.startswith(b"COMPLETE "):
                    self.answer_line(line)
            self.lines.clear()  # who waits for the others is told to the next pager

    def is_behind(self, key: int, vmo: Path) -> bool:
        """Return whether the file is not what the VMO is, or may not be.

        Whoever forgot that the VMO was modified may have been killed before he wrote it back; it is dirty still.
        """
        name, file = escape(str(vmo)), self.file_of(key, vmo)
        if "modified=1" in self.say("query_vmo_stats", f"{name} reset") or not file.exists():
            return True
        size = (self.mount / vmo).stat().st_size
        return file.stat().st_size != size or self.say("query_dirty_ranges", f"{name} 0 {size}") != "ZX_OK 0\n"

    def take(self) -> bool:
        """Read requests; return whether there is somebody left to ask."""
        piece = os.read(self.requests, 65536)
        *lines, self.rest = (self.rest + piece).split(b"\n")
        self.lines += lines
        return bool(piece)

    def serve(self) -> None:
        """Answer requests until there is nobody left to ask, or a signal comes."""
        self.requests = os.open(self.control / "requests", os.O_RDONLY)
        while True:
            while self.lines:
                self.answer_line(self.lines[0])
                del self.lines[0]
            if not select.select([self.requests], [], [], FLUSH_SECONDS)[0]:
                self.flush()
            elif not self.take():
                return

    def answer_line(self, line: bytes) -> None:
        """Answer the request of one line."""
        command, key, offset, length, name = line.decode().split(" ")
        self.answer(command, int(key), Path(unescape(name)), int(offset), int(length))

    def answer(self, command: str, key: int, vmo: Path, offset: int, length: int) -> None:
        """Answer one request; what goes wrong with the file is the error of who waits."""
        try:
            if command == "READ":
                self.supply(key, vmo, offset, length)
            elif command == "WRITEBACK":
                self.write_back(key, vmo)
            elif command == "COMPLETE" and key in self.backing and not self.is_there(key, vmo):
                self.backing.pop(key).unlink(missing_ok=True)
        except OSError as error:
            now = self.name_of(key, vmo)
            if now != vmo:  # renamed since we were asked
                self.answer(command, key, now, offset, length)
                return
            print(f"{vmo} {offset}+{length}: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):  # it is gone, and so is everybody who waited
                self.check(key, vmo)
                self.say("op_range", f"FAIL {escape(str(vmo))} {offset} {length} ZX_ERR_IO")

    def name_of(self, key: int, vmo: Path) -> Path:
        """Return the present name of a VMO that somebody waits for; ``vmo`` if nobody does."""
        waiting = [line.split() for line in (self.control / "pending").read_text().splitlines()]
        names = [Path(unescape(fields[4])) for fields in waiting if int(fields[1]) == key]
        return names[0] if names else vmo


def copy(source: int, target: int, offset: int, length: int) -> None:
    """Copy a range of bytes as far as the source goes."""
    end = offset + length
    while offset < end and (data := os.pread(source, min(end - offset, 1 << 20), offset)):
        os.pwrite(target, data, offset)
        offset += len(data)


def zero(target: int, offset: int, length: int) -> None:
    """Write zeros; as a hole at the end of the file, where files grow."""
    end = offset + length
    if end == os.fstat(target).st_size:
        os.ftruncate(target, offset)
        os.ftruncate(target, end)
        return
    while offset < end:
        offset += os.pwrite(target, bytes(min(end - offset, 1 << 20)), offset)


def main() -> None:
    """Serve; SIGTERM and Ctrl-C write back what is dirty first."""
    pager = WritebackPager(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        pager.serve()
    except KeyboardInterrupt:
        pass
    finally:
        pager.finish()


if __name__ == "__main__":
    main()

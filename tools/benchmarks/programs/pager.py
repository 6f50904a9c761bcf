"""pager.py MOUNT PAGER FILE HOW: serves FILE to every VMO of a pager, as a good pager in Python does.

HOW is ``supply`` (each request is answered by a write into ``supply/VMO``), ``ahead`` (the same, 1 MiB at a time),
``answers`` (as ``supply``, but all requests that are there by one write into ``answers``), or ``aux`` (all requests
that are there are staged by one write into one aux file and supplied by one write of lines).
"""

import mmap
import os
import struct
import sys
from pathlib import Path

AHEAD = 2**20
RECORD = struct.Struct("<3Q")
Request = tuple[int, int, str, int]


class Pager:
    """Reads request lines until the FIFO ends."""

    def __init__(self, mount: str, name: str, source: str) -> None:
        self._mount = mount
        self._control = f"{mount}/control/{name}"
        self._data = memoryview(mmap.mmap(os.open(source, os.O_RDONLY), 0, prot=mmap.PROT_READ))
        self._supply: dict[str, int] = {}

    def run(self) -> None:
        """Answer whatever is asked."""
        fifo = os.open(f"{self._control}/requests", os.O_RDONLY)
        rest = b""
        while got := os.read(fifo, 2**16):
            *lines, rest = (rest + got).split(b"\n")
            requests = []
            for line in lines:
                word, key, offset, length, vmo = line.decode().split(" ")
                if word == "READ":
                    requests.append((int(offset), int(length), vmo, int(key)))
                elif vmo in self._supply:
                    os.close(self._supply.pop(vmo))
            if requests:
                self.answer(requests)

    def answer(self, requests: list[Request]) -> None:
        """Supply what is asked for."""
        for offset, length, vmo, _ in requests:
            os.pwrite(self.supply_file(vmo), self._data[offset : offset + length], offset)

    def supply_file(self, vmo: str) -> int:
        """Return the descriptor to supply this VMO through."""
        if vmo not in self._supply:
            self._supply[vmo] = os.open(f"{self._control}/supply/{vmo}", os.O_WRONLY)
        return self._supply[vmo]


class AheadPager(Pager):
    """Supplies the whole MiB in which a requested page lies."""

    def __init__(self, mount: str, name: str, source: str) -> None:
        super().__init__(mount, name, source)
        self._last: tuple[str, int] | None = None

    def answer(self, requests: list[Request]) -> None:
        """Supply what is asked for and what will be.

        The kernel reads on ahead of a reader: while one request is being answered it makes another in the same MiB.
        """
        last, self._last = self._last, None
        for offset, length, vmo, _ in requests:
            for start in range(offset // AHEAD * AHEAD, offset + length, AHEAD):
                if (vmo, start) not in {last, self._last}:
                    os.pwrite(self.supply_file(vmo), self._data[start : start + AHEAD], start)
                    self._last = vmo, start


class AnswersPager(Pager):
    """Answers what is there together by one write, one alone as its base does; and all where there is no such file."""

    def __init__(self, mount: str, name: str, source: str) -> None:
        super().__init__(mount, name, source)
        path = Path(self._control, "answers")
        self._answers = os.open(path, os.O_WRONLY) if path.exists() else None

    def answer(self, requests: list[Request]) -> None:
        """Supply what is asked for."""
        if self._answers is None or len(requests) == 1:
            super().answer(requests)
            return
        while requests:
            records = [RECORD.pack(offset, length, key) for offset, length, _, key in requests]
            pages = [self._data[offset : offset + length] for offset, length, _, _ in requests]
            head = b"".join([len(requests).to_bytes(8, "little"), *records])
            left, done = os.writev(self._answers, [head, *pages]) - 8, 0
            while left:  # a write ends before what the kernel has cut
                left -= RECORD.size + requests[done][1]
                done += 1
            requests = requests[done:]


class AuxPager(Pager):
    """Stages what is asked for in an aux file, at its beginning: supplying has moved out what was there."""

    def __init__(self, mount: str, name: str, source: str) -> None:
        super().__init__(mount, name, source)
        self._aux = f"aux/stage-{name}"
        self._stage = os.open(f"{mount}/{self._aux}", os.O_WRONLY | os.O_CREAT, 0o600)
        self._commands = os.open(f"{self._control}/supply_pages", os.O_WRONLY)

    def answer(self, requests: list[Request]) -> None:
        """Stage all with one write, and supply all with another."""
        at, lines = 0, []
        for offset, length, vmo, _ in requests:
            lines.append(f"{vmo} {offset} {length} {self._aux} {at}\n")
            at += length
        os.pwritev(self._stage, [self._data[offset : offset + length] for offset, length, _, _ in requests], 0)
        text = "".join(lines).encode()
        while text:  # a write ends before a line that fails, or when others have their turn; the next one tells
            text = text[os.write(self._commands, text) :]


if __name__ == "__main__":
    {"supply": Pager, "ahead": AheadPager, "aux": AuxPager, "answers": AnswersPager}[sys.argv[4]](*sys.argv[1:4]).run()

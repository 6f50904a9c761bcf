#!/usr/bin/env python3
"""Serve a file as a pager VMO: pager.py MOUNT PAGER SOURCE NAME.

The same as pager.sh: makes the pager and the VMO if they are not there, stages page data in an aux file, supplies it
from there, and fails the request when SOURCE cannot be read. Requests that are there together are answered together, by
one write to the pager's file ``answers``. Nothing but the standard library.
"""

import os
import struct
import sys
from pathlib import Path

# In commands and requests a blank, tab, newline or backslash of a name is written in octal.
ESCAPES = {ord(character): f"\\{ord(character):03o}" for character in " \t\n\\"}

Request = tuple[int, int, int, str]
"""Key, offset, length, and the name of the VMO."""

mount, pager, source = Path(sys.argv[1]), Path(sys.argv[1], "control", sys.argv[2]), os.open(sys.argv[3], os.O_RDONLY)
pager.mkdir(exist_ok=True)
if not Path(mount, "vmo", sys.argv[4]).exists():
    (pager / "create_vmo").write_text(f"vmo/{sys.argv[4].translate(ESCAPES)} {os.fstat(source).st_size}\n")
answers, requests = os.open(pager / "answers", os.O_WRONLY), os.open(pager / "requests", os.O_RDONLY)


def answer_one(request: Request) -> None:
    """Answer a request from an aux file."""
    key, offset, length, vmo = request
    try:
        Path(mount, "aux", f"stage-{key}").write_bytes(os.pread(source, length, offset))
        (pager / "supply_pages").write_text(f"{vmo} {offset} {length} aux/stage-{key} 0\n")
    except OSError:
        (pager / "op_range").write_text(f"FAIL {vmo} {offset} {length} ZX_ERR_IO\n")


def answer_many(waiting: list[Request]) -> int:
    """Answer the first requests of some by one write, and return how many. It ends before one that it cannot answer."""
    pages = [os.pread(source, length, offset) for _, offset, length, _ in waiting]
    keys = [key for key, _, _, _ in waiting]
    offsets = [offset for _, offset, _, _ in waiting]
    records = [struct.pack("<3Q", *record) for record in zip(offsets, map(len, pages), keys, strict=True)]
    left = os.write(answers, b"".join([struct.pack("<Q", len(waiting)), *records, *pages])) - 8
    done = 0
    while left:  # as long as a write of those that were answered is
        left -= len(records[done]) + len(pages[done])
        done += 1
    return done


rest = b""
while piece := os.read(requests, 4096):
    *lines, rest = (rest + piece).split(b"\n")
    fields = [line.decode().split(" ") for line in lines]
    todo = [(int(key), int(offset), int(length), vmo) for word, key, offset, length, vmo in fields if word == "READ"]
    while todo:
        try:
            answered = answer_many(todo) if len(todo) > 1 else 0
        except OSError:
            answered = 0
        if not answered:
            answer_one(todo[0])
            answered = 1
        todo = todo[answered:]

"""A page fault inside a system call, such as a ``write`` from a mapping: one failing access is one request."""

from __future__ import annotations

import errno

import pytest

from tests.support.pager_client import PagerClient, Readers
from tests.support.writing import take
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE
ROUNDS = 10

_WRITER = r"""
import mmap, os, socket, sys
path, way, advice = sys.argv[1:4]
fd = os.open(path, os.O_RDONLY)
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
if advice == "random":
    mapping.madvise(mmap.MADV_RANDOM)
source = memoryview(mapping)
out, into = os.pipe()
left, right = socket.socketpair()
other = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
same = os.open(path, os.O_RDWR)
for page in range(2, int(sys.argv[4]) + 2):
    try:
        if way == "pipe":
            os.write(into, source[page * 4096 : page * 4096 + 100])
        elif way == "pwrite":
            os.pwrite(other, source[page * 4096 : page * 4096 + 100], 0)
        elif way == "writev":
            os.writev(into, [b"", source[page * 4096 : page * 4096 + 100]])
        elif way == "send":
            left.send(source[page * 4096 : page * 4096 + 100])
        elif way == "same":  # to another page of the file that it comes from
            os.pwrite(same, source[page * 4096 : page * 4096 + 100], 0)
    except OSError as error:
        print("errno", error.errno, flush=True)
    else:
        print("data", "", flush=True)
"""


@pytest.mark.parametrize("advice", ["", "random"])
@pytest.mark.parametrize("way", ["pipe", "pwrite", "writev", "send", "same"])
def test_a_write_from_a_mapping_that_fails_asks_once(pager: PagerClient, start: Readers, way: str, advice: str) -> None:
    vmo = pager.create(size=(ROUNDS + 3) * P)
    pager.supply_bytes(vmo, bytes(P))
    writer = start.run(_WRITER, vmo.path, way, advice, ROUNDS)
    for page in range(2, ROUNDS + 2):
        assert take(pager) == f"READ({page},1)"
        pager.fail(vmo, page * P, P)
        assert writer.next() == errno.EFAULT
    assert writer.process.wait(10) == 0
    assert pager.requests.is_quiet()
    assert pager.read_requests == ROUNDS

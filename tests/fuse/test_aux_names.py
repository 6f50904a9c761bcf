"""Who writes to an aux, or cuts it off, by one name is seen by all who read it by another."""

from __future__ import annotations

import os

import pytest

from tests.fuse.test_mapped_stores import child_of, say
from tests.support.pager_client import PagerClient
from tests.support.writing import opened
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE
ROUNDS = 20


@pytest.mark.parametrize("written_by", ["parent", "child"])
@pytest.mark.parametrize("kind", ["reference", "slice"])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY])
def test_what_is_written_by_one_name_is_read_by_the_other(
    pager: PagerClient, kind: str, written_by: str, flags: int
) -> None:
    parent = pager.aux("fixed")
    assert say(pager, "vmo_create", f"{parent.name} {2 * P}") == "ZX_OK\n"
    child = child_of(pager, parent, kind, size=2 * P)
    written, read = (parent, child) if written_by == "parent" else (child, parent)
    with opened(read.path, os.O_RDONLY) as reader, opened(written.path, flags) as writer:
        for number in range(1, ROUNDS):
            os.pread(reader, 2 * P, 0)
            os.pwrite(writer, bytes([number]) * 100, P + 10)
            assert os.pread(reader, 100, P + 10) == bytes([number]) * 100


@pytest.mark.parametrize("cut_by", ["parent", "child"])
def test_what_is_cut_off_by_one_name_is_gone_by_the_other(pager: PagerClient, cut_by: str) -> None:
    parent = pager.stage(b"x" * 2 * P, "a")
    child = child_of(pager, parent, "reference")
    cut, read = (parent, child) if cut_by == "parent" else (child, parent)
    with opened(read.path, os.O_RDONLY) as reader:
        for _ in range(ROUNDS):
            os.pread(reader, 2 * P, 0)
            os.truncate(cut.path, 100)
            assert read.path.stat().st_size == 100
            os.truncate(cut.path, 2 * P)
            assert os.pread(reader, 2 * P, 0) == b"x" * 100 + bytes(2 * P - 100)
            with opened(cut.path) as writer:
                os.pwrite(writer, b"x" * 2 * P, 0)

"""Marked pages: what is supplied ahead, and yet the pager hears of the reader that gets there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Readers
from tests.support.raw_mapping import mapped
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

P = PAGE_SIZE
PAGES = 64
MARKED = 32


def cached(path: Path) -> list[int]:
    """Return which pages the kernel has."""
    with path.open("rb", buffering=0) as file, mapped(file.fileno(), PAGES * P) as mapping:
        return [page for page in range(PAGES) if mapping.in_page_cache(page * P)]


def test_a_marked_page_that_is_supplied_ahead_is_not_stored_and_its_first_read_is_told(pager: PagerClient) -> None:
    vmo = pager.create("v", PAGES * P)
    with vmo.path.open("rb", buffering=0) as file:
        reader = Background(lambda: os.pread(file.fileno(), P, 0))
        pager.take_read(vmo, 0)
        pager.command("mark", f"{vmo.name} {MARKED * P} {P}")
        pager.supply(vmo, 0, PAGES * P)
        assert reader.result() == pattern.make(0, 0, P)
        others = [page for page in range(PAGES) if page != MARKED]
        wait_for(lambda: cached(vmo.path) == others, "all others are stored")
        assert pager.requests.is_quiet()
        assert os.pread(file.fileno(), PAGES * P, 0) == pattern.make(0, 0, PAGES * P)
        note = pager.requests.next()
        assert (note.command, note.offset, note.length) == (PacketCommand.TOUCH, MARKED * P, P)
        assert pager.pending() == []
        assert os.pread(file.fileno(), PAGES * P, 0) == pattern.make(0, 0, PAGES * P)
        assert pager.requests.is_quiet()


def test_writes_into_supply_leave_a_mark_alone(pager: PagerClient, readers: Readers) -> None:
    vmo = pager.create("v", PAGES * P)
    pager.command("mark", f"{vmo.name} {MARKED * P} {P}")
    with vmo.path.open("rb", buffering=0) as file:
        with (pager.control / "supply" / vmo.name).open("wb", buffering=0) as supply:
            supply.write(pattern.make(0, 0, PAGES * P))
        wait_for(lambda: len(cached(vmo.path)) == PAGES - 1, "all but one are stored")
        mapped_reader = readers("mmap", vmo.path, MARKED * P, 1)
        assert isinstance(mapped_reader.next(), bytes)
        assert pager.requests.next().command is PacketCommand.TOUCH
        assert file.readable()


def test_a_mark_on_what_the_kernel_has_takes_it_away(pager: PagerClient) -> None:
    vmo = pager.create("v", PAGES * P)
    with vmo.path.open("rb", buffering=0) as file:
        pager.supply(vmo, 0, PAGES * P)
        wait_for(lambda: len(cached(vmo.path)) == PAGES, "all are stored")
        pager.command("mark", f"{vmo.name} {MARKED * P} {P}")
        assert MARKED not in cached(vmo.path)
        os.pread(file.fileno(), P, MARKED * P)
        assert pager.requests.next().command is PacketCommand.TOUCH


def test_small_reads_in_sequence_are_told_of_though_what_lies_behind_is_stored(pager: PagerClient) -> None:
    vmo = pager.create("v", (PAGES + 1) * P)  # the last page is absent: no read-ahead
    pager.supply(vmo, 0, PAGES * P)
    for page in (20, 40):
        pager.command("mark", f"{vmo.name} {page * P} {P}")
    with vmo.path.open("rb", buffering=0) as file:
        for page in range(PAGES):
            assert os.pread(file.fileno(), P, page * P) == pattern.make(0, page * P, P)
    notes = [(note.command, note.offset // P) for note in pager.requests.take(2)]
    assert notes == [(PacketCommand.TOUCH, 20), (PacketCommand.TOUCH, 40)]


def test_a_mark_beyond_the_end_is_refused(pager: PagerClient) -> None:
    vmo = pager.create("v", P)
    assert pager.refused("mark", f"{vmo.name} 0 {2 * P}").errno == errno.ERANGE

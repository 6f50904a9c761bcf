"""What was stored through a shared mapping is there for whatever takes pages or content, without any msync."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import xxhash

from tests.support.mounted import Mounter
from tests.support.pager_client import Background, PagerClient, Vmo, metric
from tests.support.writing import SharedMapping, command_file, dirty, evict, mapped, op, opened, supply, take
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE
PAGES = 4
ROUNDS = 30
STORED = pattern.make(71 * pattern.KEY_STEP, 0, PAGES * P)
LATER = pattern.make(72 * pattern.KEY_STEP, 0, PAGES * P)
SUPPLIED = pattern.make(73 * pattern.KEY_STEP, 0, PAGES * P)
ZEROS = bytes(PAGES * P)
SOON = 0.9
"""Less than what anything is waited for that does not come; on a busy machine a call takes some hundredths."""


def content(file: Vmo, page: int = 0, pages: int = PAGES) -> bytes:
    """Return what a file has, without the page cache."""
    fd = os.open(file.path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, pages * P, page * P)
    finally:
        os.close(fd)


@contextmanager
def mapping_of(file: Vmo) -> Iterator[SharedMapping]:
    with opened(file.path) as fd, mapped(fd, PAGES) as mapping:
        yield mapping


def filled(pager: PagerClient, name: str = "v", options: str = "") -> Vmo:
    vmo = pager.create(name, PAGES * P, options)
    pager.supply_bytes(vmo, SUPPLIED)
    return vmo


def staging(pager: PagerClient, name: str = "a") -> Vmo:
    aux = pager.aux(name)
    aux.path.touch()
    os.truncate(aux.path, PAGES * P)
    return aux


def say(pager: PagerClient, file: str, line: str) -> str:
    with command_file(pager, file) as command:
        command.write(line)
        return command.wait()


def child_of(pager: PagerClient, parent: Vmo, kind: str, name: str = "child", size: int = PAGES * P) -> Vmo:
    where = pager.aux if parent.name.startswith("aux/") else pager.vmo
    child = where(name)
    window = 0 if kind == "reference" else size
    assert say(pager, "vmo_create_child", f"{kind} {parent.name} {child.name} 0 {window}") == "ZX_OK\n"
    return child


def supply_from(pager: PagerClient, vmo: Vmo, aux: Vmo, rest: str = "") -> None:
    assert pager.command("supply_pages", f"{vmo.name} 0 {PAGES * P} {aux.name} 0 {rest}") == "ZX_OK\n"


def test_a_pager_that_fills_a_mapping_of_its_aux_supplies_what_it_sees_there(pager: PagerClient) -> None:
    """In each round, and nothing of the round before."""
    aux = staging(pager)
    with mapping_of(aux) as mapping:
        for number, data in enumerate([STORED, LATER, STORED[:P] + ZEROS[P:]]):
            for page in range(PAGES):
                if any(data[page * P : (page + 1) * P]):  # a page that is not stored to is a hole
                    mapping.store(page * P, data[page * P : (page + 1) * P])
            vmo = pager.create(f"v{number}", PAGES * P)
            supply_from(pager, vmo, aux)
            assert vmo.path.read_bytes() == content(vmo) == data
            assert mapping.load(0, PAGES * P) == content(aux) == ZEROS


def test_stores_that_race_with_a_supply_are_lost_nowhere_else_and_bring_nothing_of_another_round(
    pager: PagerClient,
) -> None:
    """Somebody stores a word into each page of the aux all the time, and counts in a page that is never supplied."""
    aux = pager.stage(bytes((PAGES + 1) * P), "a")
    stopped = threading.Event()
    with opened(aux.path) as fd, mapped(fd, PAGES + 1) as mapping:

        def disturb() -> int:
            count = 0
            while not stopped.is_set():
                assert mapping.load(PAGES * P, 8) == count.to_bytes(8, "little")
                count += 1
                mapping.store(PAGES * P, count.to_bytes(8, "little"))
                for page in range(PAGES):
                    mapping.store(page * P, b"disturb!")
            return count

        disturber = Background(disturb)
        try:
            for number in range(ROUNDS):
                data = pattern.make(number * pattern.KEY_STEP, 0, PAGES * P)
                for page in range(PAGES):
                    mapping.store(page * P + 8, data[page * P + 8 : (page + 1) * P])
                vmo = pager.create("v", PAGES * P)
                supply_from(pager, vmo, aux)
                found = content(vmo)
                assert len(found) == PAGES * P
                for page in range(PAGES):
                    assert found[page * P + 8 : (page + 1) * P] == data[page * P + 8 : (page + 1) * P], (number, page)
                vmo.path.unlink()
        finally:
            stopped.set()
            assert disturber.result() > 0  # before the mapping goes


def test_the_sum_of_a_supply_is_that_of_what_the_mapping_shows(pager: PagerClient) -> None:
    aux, vmo = staging(pager), pager.create(size=PAGES * P)
    with mapping_of(aux) as mapping:
        mapping.store(0, STORED)
        supply_from(pager, vmo, aux, f"xxh3={xxhash.xxh3_64(STORED).hexdigest()}")
        assert content(vmo) == STORED


def test_pages_that_are_not_supplied_keep_what_was_stored_to_them(pager: PagerClient) -> None:
    aux, vmo = staging(pager), pager.create(size=PAGES * P)
    with mapping_of(aux) as mapping:
        mapping.store(0, STORED)
        assert pager.command("supply_pages", f"{vmo.name} 0 {P} {aux.name} {P}") == "ZX_OK\n"
        assert content(vmo, 0, 1) == STORED[P : 2 * P]
        assert mapping.load(0, PAGES * P) == STORED[:P] + bytes(P) + STORED[2 * P :]
    assert content(aux) == STORED[:P] + bytes(P) + STORED[2 * P :]


@pytest.mark.parametrize("stored_by", ["parent", "child"])
@pytest.mark.parametrize("kind", ["reference", "slice"])
def test_an_aux_is_filled_by_whatever_name(pager: PagerClient, kind: str, stored_by: str) -> None:
    vmo = pager.create(size=PAGES * P)
    parent = pager.aux("fixed")
    assert say(pager, "vmo_create", f"{parent.name} {PAGES * P}") == "ZX_OK\n"
    child = child_of(pager, parent, kind)
    with mapping_of(parent if stored_by == "parent" else child) as mapping:
        mapping.store(0, STORED)
        supply_from(pager, vmo, child)
        assert mapping.load(0, PAGES * P) == ZEROS
    assert content(vmo) == STORED
    assert content(parent) == ZEROS


@pytest.mark.parametrize("stored_by", ["root", "clone"])
def test_a_clone_as_aux_gives_what_was_stored_in_it_or_in_what_it_shows(pager: PagerClient, stored_by: str) -> None:
    root, vmo = filled(pager, "root"), pager.create(size=PAGES * P)
    clone = child_of(pager, root, "snapshot_at_least_on_write")
    with mapping_of(root if stored_by == "root" else clone) as mapping:
        mapping.store(P, STORED[P : 2 * P])
        supply_from(pager, vmo, clone)
    assert content(vmo) == SUPPLIED[:P] + STORED[P : 2 * P] + SUPPLIED[2 * P :]


@pytest.mark.parametrize("kind", ["snapshot_at_least_on_write", "snapshot_modified", "slice", "reference"])
def test_a_child_has_what_was_stored_in_its_parent_before_it_was_made(pager: PagerClient, kind: str) -> None:
    vmo = filled(pager)
    with mapping_of(vmo) as mapping:
        mapping.store(P, STORED[P : 2 * P])
        child = child_of(pager, vmo, kind)
        assert content(child) == SUPPLIED[:P] + STORED[P : 2 * P] + SUPPLIED[2 * P :]


@pytest.mark.parametrize("kind", ["snapshot", "slice", "reference"])
def test_a_child_of_an_aux_has_what_was_stored_before_it_was_made(pager: PagerClient, kind: str) -> None:
    aux = pager.aux("fixed")
    assert say(pager, "vmo_create", f"{aux.name} {PAGES * P}") == "ZX_OK\n"
    with mapping_of(aux) as mapping:
        mapping.store(0, STORED)
        child = child_of(pager, aux, kind)
        assert content(child) == STORED
        mapping.store(0, LATER)
    assert content(child) == (STORED if kind == "snapshot" else LATER)


def test_a_write_to_a_clone_forks_what_was_stored_in_the_root(pager: PagerClient) -> None:
    root = filled(pager, "root")
    clone = child_of(pager, root, "snapshot_at_least_on_write")
    with mapping_of(root) as mapping, opened(clone.path) as fd:
        mapping.store(0, STORED)
        os.pwrite(fd, b"xyz", P + 10)
        mapping.store(P, LATER[:P])
        expected = STORED[P : P + 10] + b"xyz" + STORED[P + 13 : 2 * P]
        assert content(clone, 1, 1) == os.pread(fd, P, P) == expected


@pytest.mark.parametrize("in_aux", [False, True])
def test_zeroes_are_not_overwritten_by_what_was_stored_before(pager: PagerClient, *, in_aux: bool) -> None:
    file = staging(pager) if in_aux else filled(pager)
    with mapping_of(file) as mapping:
        mapping.store(0, STORED)
        assert say(pager, "vmo_op_range", f"zero {file.name} 100 {2 * P}") == "ZX_OK\n"
        expected = STORED[:100] + bytes(2 * P) + STORED[2 * P + 100 :]
        assert content(file) == mapping.load(0, PAGES * P) == expected
    assert content(file) == expected


def test_what_is_decommitted_does_not_come_back(pager: PagerClient) -> None:
    aux = staging(pager)
    with mapping_of(aux) as mapping:
        mapping.store(0, STORED)
        assert say(pager, "vmo_op_range", f"decommit {aux.name} {P} {2 * P}") == "ZX_OK\n"
        assert mapping.load(0, PAGES * P) == STORED[:P] + bytes(2 * P) + STORED[3 * P :]
    assert content(aux) == STORED[:P] + bytes(2 * P) + STORED[3 * P :]


@pytest.mark.parametrize("in_aux", [False, True])
def test_a_file_that_shrinks_does_not_grow_by_what_was_stored_by_another_name(
    pager: PagerClient, *, in_aux: bool
) -> None:
    file = staging(pager) if in_aux else filled(pager, options="resizable")
    other = child_of(pager, file, "reference")
    with mapping_of(other) as mapping:
        mapping.store(0, STORED)
        os.truncate(file.path, P + 100)
        assert content(file, 1, 1) == STORED[P : P + 100]
    assert file.path.stat().st_size == other.path.stat().st_size == P + 100
    os.truncate(file.path, PAGES * P)
    assert content(file) == content(other) == STORED[: P + 100] + bytes(3 * P - 100)


def test_a_stream_size_that_is_lowered_cuts_what_was_stored(pager: PagerClient) -> None:
    vmo = filled(pager)
    with mapping_of(vmo) as mapping:
        mapping.store(0, STORED)
        assert say(pager, "vmo_set_stream_size", f"{vmo.name} {P + 100}") == "ZX_OK\n"
    assert content(vmo) == STORED[: P + 100]
    assert say(pager, "vmo_set_stream_size", f"{vmo.name} {PAGES * P}") == "ZX_OK\n"
    assert content(vmo) == STORED[: P + 100] + bytes(3 * P - 100)


def test_what_was_stored_is_dirty_and_stays_when_pages_are_evicted_or_the_vmo_is_detached(pager: PagerClient) -> None:
    vmo = filled(pager)
    with mapping_of(vmo) as mapping:
        mapping.store(0, STORED[:P])
        assert evict(pager, vmo, 0, 2) == 1
        assert dirty(pager, vmo) == "{0,1}"
        mapping.store(2 * P, STORED[2 * P : 3 * P])
        assert pager.command("detach_vmo", vmo.name) == "ZX_OK\n"
        assert content(vmo, 0, 1) == STORED[:P]
        assert content(vmo, 2, 1) == mapping.load(2 * P) == STORED[2 * P : 3 * P]


def test_a_store_that_its_pager_has_not_consented_to_has_not_happened_and_is_not_waited_for(
    pager: PagerClient,
) -> None:
    """The pager itself gives the commands. What is dirty already needs no consent."""
    vmo = filled(pager, options="trap_dirty")
    op(pager, "DIRTY", vmo, 2)
    with mapping_of(vmo) as mapping:
        mapping.store(0, STORED)
        began = time.monotonic()
        child = child_of(pager, vmo, "snapshot_at_least_on_write")
        assert time.monotonic() - began < SOON
        assert content(child) == SUPPLIED[: 2 * P] + STORED[2 * P : 3 * P] + SUPPLIED[3 * P :]
        assert pager.requests.is_quiet()
        sync = Background(mapping.msync)
        assert take(pager) == "DIRTY(0,2)"
        op(pager, "DIRTY", vmo, 0, 4)
        sync.result()
    assert content(vmo) == STORED


def test_stores_that_wait_for_consent_just_now_hold_up_nobody(pager: PagerClient) -> None:
    vmo = filled(pager, options="trap_dirty")
    with mapping_of(vmo) as mapping:
        mapping.store(0, STORED[:P])
        sync = Background(mapping.msync)
        assert take(pager) == "DIRTY(0,1)"
        began = time.monotonic()
        child = child_of(pager, vmo, "reference")
        assert time.monotonic() - began < SOON
        op(pager, "DIRTY", vmo)
        sync.result()
    assert content(child, 0, 1) == STORED[:P]


def test_readers_that_wait_hold_up_nobody(pager: PagerClient) -> None:
    vmo = pager.create(size=PAGES * P)
    supply(pager, vmo, 0, 1)
    with opened(vmo.path) as fd, mapped(fd, PAGES) as mapping:
        mapping.store(0, STORED[:P])
        reader = Background(lambda: os.pread(fd, P, 2 * P))
        assert take(pager) == "READ(2,1)"
        began = time.monotonic()
        child = child_of(pager, vmo, "snapshot_at_least_on_write")
        assert evict(pager, vmo, 0, PAGES) == 0
        assert time.monotonic() - began < SOON
        pager.supply_bytes(vmo, SUPPLIED[2 * P : 3 * P], 2 * P)
        assert reader.result() == SUPPLIED[2 * P : 3 * P]
    assert content(child, 0, 1) == STORED[:P]


def test_an_aux_that_nobody_has_open_for_reading_and_writing_costs_no_drop(pager: PagerClient) -> None:
    aux, vmo = staging(pager), pager.create(size=PAGES * P)
    before = drops(pager)
    for flags in (os.O_WRONLY, os.O_RDONLY):
        fd = os.open(aux.path, flags)
        if flags == os.O_WRONLY:
            os.pwrite(fd, STORED, 0)
            supply_from(pager, vmo, aux)
            assert drops(pager) == before
        os.close(fd)
    with opened(aux.path):
        pass
    evict(pager, vmo, 0, PAGES)
    aux.path.write_bytes(LATER)
    before = drops(pager)
    supply_from(pager, vmo, aux)
    assert drops(pager) <= before + 1  # what it moved, as ever


def drops(pager: PagerClient) -> int:
    return metric((pager.mount / "control" / "stats").read_text(), "vmofs_pagecache_dropped_ranges_total")


def test_stores_that_find_no_memory_fail_a_supply_until_they_are_made_again(mounter: Mounter) -> None:
    """And so if the kernel has tried to write them back before. Zeros, or older bytes, are never supplied."""
    pages = 64
    pager = PagerClient(mounter(f"memory_limit={pages // 2 * P}").path)
    aux, vmo = pager.aux("a"), pager.create(size=pages * P)
    aux.path.touch()
    os.truncate(aux.path, pages * P)
    line = f"{vmo.name} 0 {pages * P} {aux.name} 0"
    fd = os.open(aux.path, os.O_RDWR)
    with mapped(fd, pages) as mapping:
        for page in range(pages):
            mapping.store(page * P, STORED[:P])
        for _ in range(2):
            assert pager.refused("supply_pages", line).errno == errno.ENOMEM
        assert vmo.xattr("clean_pages") == "0"
        os.truncate(aux.path, 0)  # its owner begins anew
        os.truncate(aux.path, PAGES * P)
        mapping.store(0, STORED)
        supply_from(pager, vmo, aux)
        assert content(vmo) == STORED
    with pytest.raises(OSError, match="No space left"):
        os.close(fd)  # the kernel tells it once that some could not be written back
    pager.close()

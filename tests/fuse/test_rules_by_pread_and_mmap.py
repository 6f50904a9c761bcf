"""What the contract says of pages, seen through files: each rule once by pread, once by a mapping.

A mapping is read by a write(2) from its memory, in which one thread may wait. ``rules.toml`` says which rule is which.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.support.pager_client import Background, PagerClient, Vmo
from tests.support.raw_mapping import mapped
from tests.support.writing import (
    KEY,
    OTHER,
    CommandFile,
    clean,
    command_file,
    dirty,
    evict,
    fails_with,
    modified,
    op,
    opened,
    page_bytes,
    start_write,
    supply,
    supply_zeros,
    take,
)
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

ZEROS = bytes(PAGE_SIZE)
SUPPLIED = [page_bytes(page, key=KEY) for page in range(16)]


class Look(NamedTuple):
    """Reads whole pages of files in one way; nothing but the pages that are named is touched."""

    way: str

    def __call__(self, vmo: Vmo, page: int) -> bytes:
        """Return a page."""
        with opened(vmo.path, os.O_RDONLY) as fd:
            if self.way == "pread":
                return os.pread(fd, PAGE_SIZE, page * PAGE_SIZE)
            with mapped(fd, (page + 1) * PAGE_SIZE) as mapping:
                return mapping.copy(page * PAGE_SIZE, PAGE_SIZE)

    def start(self, vmo: Vmo, page: int) -> Background[bytes]:
        """Read a page in a thread."""
        return Background(lambda: self(vmo, page))


@pytest.fixture(params=["pread", "mmap"])
def look(request: pytest.FixtureRequest) -> Look:
    """Both ways of reading."""
    return Look(request.param)


@pytest.fixture
def command(pager: PagerClient) -> Iterator[Callable[[str], None]]:
    """A function that carries out a command on a VMO, which must succeed and not wait."""
    files: dict[str, CommandFile] = {}

    def run(line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in files:
            files[name] = CommandFile(pager.mount / "control" / name)
        assert files[name].say(rest) == "ZX_OK\n", line

    yield run
    for file in files.values():
        file.close()


def child(pager: PagerClient, command: Callable[[str], None], kind: str, parent: Vmo, offset: int, size: int) -> Vmo:
    """Make a child of a VMO."""
    made = pager.vmo(f"child-of-{parent.path.name}")
    command(f"vmo_create_child {kind} {parent.name} {made.name} {offset} {size}")
    return made


def test_only_a_gap_is_asked_for(pager: PagerClient, look: Look, command: Callable[[str], None]) -> None:
    vmo = pager.create(size=6 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 3)
    supply_zeros(pager, vmo, 3)
    op(pager, "WRITEBACK_BEGIN", vmo, 0, 6)
    with opened(vmo.path) as fd:
        start_write(fd, 1, 2).result()
    op(pager, "WRITEBACK_BEGIN", vmo, 2)
    command(f"vmo_op_range zero {vmo.name} {4 * PAGE_SIZE} {PAGE_SIZE}")
    os.truncate(vmo.path, 8 * PAGE_SIZE)
    shown = [SUPPLIED[0], page_bytes(1), page_bytes(2), ZEROS, ZEROS, None, ZEROS, ZEROS]
    assert [look(vmo, page) for page in range(8) if page != 5] == [data for data in shown if data is not None]
    assert pager.requests.is_quiet()
    reader = look.start(vmo, 5)
    assert take(pager) == "READ(5,1)"
    supply(pager, vmo, 5)
    assert reader.result() == SUPPLIED[5]


def test_what_is_there_is_kept_when_it_is_supplied_again(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    supply(pager, vmo, 0)
    supply_zeros(pager, vmo, 1)
    command(f"vmo_op_range zero {vmo.name} {2 * PAGE_SIZE} {PAGE_SIZE}")
    supply(pager, vmo, 0, 4, key=OTHER)
    assert [look(vmo, page) for page in range(4)] == [SUPPLIED[0], ZEROS, ZEROS, page_bytes(3, key=OTHER)]


def test_what_was_supplied_is_gone_from_the_aux(pager: PagerClient, look: Look) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    aux = pager.stage(b"".join(SUPPLIED[:2]), "sheet")
    assert look(aux, 1) == SUPPLIED[1]
    assert pager.command("supply_pages", f"{vmo.name} 0 {PAGE_SIZE} {aux.name} {PAGE_SIZE}") == "ZX_OK\n"
    assert [look(aux, 0), look(aux, 1), look(vmo, 0)] == [SUPPLIED[0], ZEROS, SUPPLIED[1]]
    assert aux.path.stat().st_blocks == PAGE_SIZE // 512


def test_a_marker_answers_who_waits_with_zeros(pager: PagerClient, look: Look) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    reader = look.start(vmo, 1)
    assert take(pager) == "READ(1,1)"
    supply_zeros(pager, vmo, 1)
    assert reader.result() == ZEROS
    assert (vmo.xattr("marker_pages"), vmo.path.stat().st_blocks) == ("1", 1)


def test_zero_answers_who_waits(pager: PagerClient, look: Look, command: Callable[[str], None]) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    reader = look.start(vmo, 1)
    assert take(pager) == "READ(1,1)"
    command(f"vmo_op_range zero {vmo.name} 0 {2 * PAGE_SIZE}")
    assert reader.result() == ZEROS
    assert (dirty(pager, vmo), modified(pager, vmo)) == ("{0,2,Z}", True)


def test_zeros_replace_what_was_seen(pager: PagerClient, look: Look, command: Callable[[str], None]) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE, options="trap_dirty")
    supply(pager, vmo, 0, 2)
    assert look(vmo, 1) == SUPPLIED[1]
    command(f"vmo_op_range zero {vmo.name} {PAGE_SIZE} {PAGE_SIZE}")
    assert [look(vmo, page) for page in (0, 1)] == [SUPPLIED[0], ZEROS]
    assert pager.requests.is_quiet()


def test_after_end_zeros_are_a_gap_that_may_come_back_as_anything(pager: PagerClient, look: Look) -> None:
    vmo = pager.create(size=0, options="resizable")
    os.truncate(vmo.path, 2 * PAGE_SIZE)
    assert look(vmo, 1) == ZEROS
    clean(pager, vmo, 0, 2)
    reader = look.start(vmo, 1)
    assert take(pager) == "READ(1,1)"
    supply(pager, vmo, 1)
    assert reader.result() == SUPPLIED[1]


def test_what_awaits_and_what_was_cleaned_is_readable(pager: PagerClient, look: Look) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    with opened(vmo.path) as fd:
        supply(pager, vmo, 0, 2)
        start_write(fd, 0, 2).result()
    op(pager, "WRITEBACK_BEGIN", vmo, 0, 2)
    assert (look(vmo, 1), dirty(pager, vmo)) == (page_bytes(1), "{0,2}")
    op(pager, "WRITEBACK_END", vmo, 0, 2)
    assert (look(vmo, 1), dirty(pager, vmo)) == (page_bytes(1), "")


def test_an_evicted_page_is_asked_for_again_and_a_dirty_or_pinned_one_is_not(pager: PagerClient, look: Look) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd:
        start_write(fd, 1).result()
    assert [look(vmo, page) for page in range(4)] == [SUPPLIED[0], page_bytes(1), SUPPLIED[2], SUPPLIED[3]]
    with command_file(pager, "vmo_pin") as pin:
        assert pin.say(f"{vmo.name} {2 * PAGE_SIZE} {PAGE_SIZE}") == "ZX_OK\n"
        assert evict(pager, vmo, 0, 4) == 2
        assert [look(vmo, page) for page in (1, 2)] == [page_bytes(1), SUPPLIED[2]]
    reader = look.start(vmo, 3)
    assert take(pager) == "READ(3,1)"
    supply(pager, vmo, 3, key=OTHER)
    assert reader.result() == page_bytes(3, key=OTHER)


def test_what_was_paged_in_is_not_asked_for_and_always_needed_pages_stay(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    for page, name in enumerate(("commit", "prefetch", "always_need")):
        with command_file(pager, "vmo_op_range") as file:
            file.write(f"{name} {vmo.name} {page * PAGE_SIZE} {PAGE_SIZE}")
            assert take(pager) == f"READ({page},1)"
            supply(pager, vmo, page)
    command(f"vmo_op_range dont_need {vmo.name} 0 {4 * PAGE_SIZE}")
    assert evict(pager, vmo, 2) == 0
    assert [look(vmo, page) for page in range(3)] == SUPPLIED[:3]
    assert pager.requests.is_quiet()


def test_a_lower_stream_size_drops_what_lay_beyond_and_a_higher_one_shows_zeros(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    supply(pager, vmo, 0, 4)
    assert look(vmo, 3) == SUPPLIED[3]
    command(f"vmo_set_stream_size {vmo.name} {2 * PAGE_SIZE}")
    assert vmo.path.stat().st_size == 2 * PAGE_SIZE
    assert dirty(pager, vmo) == ""
    command(f"vmo_set_stream_size {vmo.name} {4 * PAGE_SIZE}")
    assert [look(vmo, page) for page in range(4)] == [*SUPPLIED[:2], ZEROS, ZEROS]
    assert dirty(pager, vmo) == "{2,2,Z}"


def test_after_detach_what_is_dirty_is_readable(pager: PagerClient, look: Look) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    supply(pager, vmo, 0, 2)
    with opened(vmo.path) as fd:
        start_write(fd, 1).result()
    assert [look(vmo, page) for page in (0, 1)] == [SUPPLIED[0], page_bytes(1)]
    assert pager.command("detach_vmo", vmo.name) == "ZX_OK\n"
    assert (look(vmo, 1), vmo.xattr("clean_pages")) == (page_bytes(1), "0")
    assert fails_with(lambda: look(vmo, 0)) == (errno.EFAULT if look.way == "mmap" else errno.EBADFD)


def test_a_clone_asks_for_pages_of_the_root_and_shows_them_until_it_forks(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    root = pager.create(size=4 * PAGE_SIZE)
    clone = child(pager, command, "snapshot_at_least_on_write", root, PAGE_SIZE, 4 * PAGE_SIZE)
    reader = look.start(clone, 1)
    assert take(pager) == "READ(2,1)"
    supply(pager, root, 1, 3)
    assert reader.result() == SUPPLIED[2]
    assert look(clone, 3) == ZEROS  # past the end of the parent
    with opened(clone.path) as fd:
        start_write(fd, 0).result()
    with opened(root.path) as fd:
        start_write(fd, 1, 2).result()
    assert [look(clone, page) for page in (0, 1)] == [page_bytes(0), page_bytes(2)]
    assert [look(root, page) for page in (1, 2)] == [page_bytes(1), page_bytes(2)]
    assert (dirty(pager, root), pager.requests.is_quiet()) == ("{1,2}", True)


def test_a_snapshot_of_a_clone_keeps_what_the_clone_had_changed(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    root = pager.create(size=2 * PAGE_SIZE)
    supply(pager, root, 0, 2)
    clone = child(pager, command, "snapshot_modified", root, 0, 2 * PAGE_SIZE)
    with opened(clone.path) as fd:
        start_write(fd, 1).result()
        snapshot = child(pager, command, "snapshot_modified", clone, 0, 2 * PAGE_SIZE)
        os.pwrite(fd, b"later", PAGE_SIZE)
    assert [look(snapshot, page) for page in (0, 1)] == [SUPPLIED[0], page_bytes(1)]
    assert look(clone, 1) == b"later" + page_bytes(1)[5:]
    assert look(root, 1) == SUPPLIED[1]


def test_a_commit_of_a_clone_forks_its_pages(pager: PagerClient, look: Look, command: Callable[[str], None]) -> None:
    root = pager.create(size=2 * PAGE_SIZE)
    supply(pager, root, 0, 2)
    clone = child(pager, command, "snapshot_at_least_on_write", root, 0, 2 * PAGE_SIZE)
    command(f"vmo_op_range commit {clone.name} {PAGE_SIZE} {PAGE_SIZE}")
    with opened(root.path) as fd:
        start_write(fd, 0, 2).result()
    assert [look(clone, page) for page in (0, 1)] == [page_bytes(0), SUPPLIED[1]]
    assert clone.path.stat().st_blocks == PAGE_SIZE // 512


def test_a_zeroed_page_of_a_clone_never_shows_the_root_again(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    root = pager.create(size=2 * PAGE_SIZE)
    supply(pager, root, 0)
    clone = child(pager, command, "snapshot_modified", root, 0, 2 * PAGE_SIZE)
    assert look(clone, 0) == SUPPLIED[0]
    command(f"vmo_op_range zero {clone.name} 0 {2 * PAGE_SIZE}")
    supply(pager, root, 1)
    with opened(root.path) as fd:
        start_write(fd, 0).result()
    assert [look(clone, page) for page in (0, 1)] == [ZEROS, ZEROS]
    assert [look(root, page) for page in (0, 1)] == [page_bytes(0), SUPPLIED[1]]
    assert (dirty(pager, root), pager.requests.is_quiet()) == ("{0,1}", True)


def test_a_clone_is_served_after_its_root_was_removed(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    root = pager.create(size=2 * PAGE_SIZE)
    supply(pager, root, 0)
    clone = child(pager, command, "snapshot_modified", root, 0, 2 * PAGE_SIZE)
    root.path.unlink()
    assert look(clone, 0) == SUPPLIED[0]
    reader = look.start(clone, 1)
    assert take(pager) == "READ(1,1)"
    supply(pager, root, 1)
    assert reader.result() == SUPPLIED[1]
    clone.path.unlink()
    assert pager.requests.next().command is PacketCommand.COMPLETE


def test_what_the_root_cut_off_is_zero_in_clones_for_ever(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    root = pager.create(size=2 * PAGE_SIZE, options="resizable")
    supply(pager, root, 0, 2)
    clone = child(pager, command, "snapshot_modified", root, 0, 2 * PAGE_SIZE)
    assert [look(clone, page) for page in (0, 1)] == SUPPLIED[:2]
    os.truncate(root.path, PAGE_SIZE)
    assert look(clone, 1) == ZEROS
    os.truncate(root.path, 2 * PAGE_SIZE)
    clean(pager, root, 1)
    supply(pager, root, 1)
    assert [look(clone, 1), look(root, 1)] == [ZEROS, SUPPLIED[1]]


def test_a_slice_is_the_memory_of_the_root(pager: PagerClient, look: Look, command: Callable[[str], None]) -> None:
    root = pager.create(size=4 * PAGE_SIZE, options="trap_dirty")
    part = child(pager, command, "slice", root, PAGE_SIZE, 2 * PAGE_SIZE)
    supply(pager, root, 0, 4)
    assert [look(part, 1), look(root, 2)] == [SUPPLIED[2]] * 2
    with opened(part.path) as fd:
        writer = start_write(fd, 1)
        assert take(pager) == "DIRTY(2,1)"
        op(pager, "DIRTY", root, 2)
        writer.result()
    assert [look(part, 1), look(root, 2)] == [page_bytes(1)] * 2
    assert (dirty(pager, root), modified(pager, root)) == ("{2,1}", True)
    command(f"vmo_op_range zero {part.name} 0 {PAGE_SIZE}")
    assert [look(part, 0), look(root, 1)] == [ZEROS] * 2


def test_a_snapshot_of_anonymous_memory_keeps_what_was_there(
    pager: PagerClient, look: Look, command: Callable[[str], None]
) -> None:
    aux = pager.stage(b"".join(SUPPLIED[:2]), "sheet")
    copy = pager.aux("copy")
    command(f"vmo_create_child snapshot {aux.name} {copy.name} 0 {2 * PAGE_SIZE}")
    with opened(aux.path) as fd:
        start_write(fd, 1).result()
    assert [look(copy, 1), look(aux, 1)] == [SUPPLIED[1], page_bytes(1)]

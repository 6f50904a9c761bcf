"""What a user of a VMO does with a range of it, eviction, pins, special aux VMOs. Zircon: zircon-pager 2.11, 4.8, 5."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

import pytest

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Vmo
from tests.support.writing import (
    KEY,
    OTHER,
    CommandFile,
    SharedMapping,
    clean,
    command_file,
    dirty,
    evict,
    mapped,
    modified,
    op,
    opened,
    page_bytes,
    query,
    start_read,
    supply,
    supply_zeros,
    take,
)
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

OK = "ZX_OK\n"


@pytest.fixture
def vmo_op(pager: PagerClient) -> Iterator[CommandFile]:
    """An open ``control/vmo_op_range``."""
    with command_file(pager, "vmo_op_range") as file:
        yield file


def line(name: str, vmo: Vmo, page: int, pages: int = 1) -> str:
    return f"{name} {vmo.name} {page * PAGE_SIZE} {pages * PAGE_SIZE}"


def result(pager: PagerClient, file: CommandFile) -> str:
    """Return the result of a command that had to wait, now that it was answered."""
    del pager
    answer: list[str] = []

    def is_there() -> bool:
        try:
            answer.append(file.read())
        except BlockingIOError:
            return False
        return True

    wait_for(is_there, "the command ends")
    return answer[0]


def start_load(mapping: SharedMapping, page: int) -> Background[bytes]:
    return Background(lambda: mapping.load(page * PAGE_SIZE))


# ZERO


@pytest.mark.parametrize("options", ["", "trap_dirty"])
@pytest.mark.parametrize("way", ["pread", "mmap"])
def test_whole_pages_become_zeros_without_any_request(
    pager: PagerClient, vmo_op: CommandFile, way: str, options: str
) -> None:
    vmo = pager.create(size=8 * PAGE_SIZE, options=options)
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd, mapped(fd, 8) as mapping:
        pattern.check(mapping.load(0, 4 * PAGE_SIZE), KEY)
        assert vmo_op.say(line("zero", vmo, 2, 4)) == OK
        read = mapping.load if way == "mmap" else lambda at, length: os.pread(fd, length, at)
        assert read(2 * PAGE_SIZE, 4 * PAGE_SIZE) == bytes(4 * PAGE_SIZE)
        assert read(0, 2 * PAGE_SIZE) == page_bytes(0, 2, KEY)
    assert dirty(pager, vmo) == "{2,4,Z}"
    assert vmo.path.stat().st_blocks == 2 * PAGE_SIZE // 512
    assert modified(pager, vmo)
    assert pager.requests.is_quiet()


def test_zeros_are_seen_by_the_very_next_read(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=64 * PAGE_SIZE)
    supply(pager, vmo, 0, 64)
    with opened(vmo.path) as fd:
        for page in range(64):
            assert os.pread(fd, 8, page * PAGE_SIZE) == page_bytes(page, key=KEY)[:8]
            assert vmo_op.say(line("zero", vmo, page)) == OK
            assert os.pread(fd, 8, page * PAGE_SIZE) == bytes(8)


@pytest.mark.parametrize("way", ["pread", "mmap"])
def test_zero_answers_who_waits(pager: PagerClient, vmo_op: CommandFile, way: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        reader = start_read(fd, 1) if way == "pread" else start_load(mapping, 1)
        assert take(pager) == "READ(1,1)"
        assert vmo_op.say(line("zero", vmo, 0, 4)) == OK
        assert reader.result() == bytes(PAGE_SIZE)
    assert not pager.pending()


def test_markers_stay_clean_when_they_are_zeroed(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=3 * PAGE_SIZE)
    supply_zeros(pager, vmo, 1)
    assert vmo_op.say(line("zero", vmo, 0, 3)) == OK
    assert dirty(pager, vmo) == "{0,1,Z}{2,1,Z}"


def test_parts_of_pages_are_written(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="trap_dirty")
    supply(pager, vmo, 2)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        mapping.load(2 * PAGE_SIZE)
        vmo_op.write(f"zero {vmo.name} {PAGE_SIZE - 10} {PAGE_SIZE + 20}")
        assert take(pager) == "READ(0,1)"
        supply(pager, vmo)
        assert take(pager) == "DIRTY(0,1)"
        op(pager, "DIRTY", vmo)
        assert take(pager) == "DIRTY(2,1)"
        op(pager, "DIRTY", vmo, 2)
        assert result(pager, vmo_op) == OK
        expected = page_bytes(0, key=KEY)[:-10] + bytes(PAGE_SIZE + 20) + page_bytes(2, key=KEY)[10:]
        assert os.pread(fd, 3 * PAGE_SIZE, 0) == mapping.load(0, 3 * PAGE_SIZE) == expected
    assert dirty(pager, vmo) == "{0,1}{1,1,Z}{2,1}"


def test_a_part_that_is_refused_fails_the_command(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE, options="trap_dirty")
    supply(pager, vmo, 0, 2)
    vmo_op.write(f"zero {vmo.name} 10 {PAGE_SIZE}")
    assert take(pager) == "DIRTY(0,1)"
    pager.fail(vmo, 0, PAGE_SIZE, "ZX_ERR_NO_SPACE")
    assert result(pager, vmo_op).startswith("ZX_ERR_NO_SPACE: ")
    assert dirty(pager, vmo) == ""


# COMMIT, PREFETCH, hints


@pytest.mark.parametrize("name", ["commit", "prefetch", "always_need"])
def test_absent_pages_are_asked_for_run_by_run(pager: PagerClient, vmo_op: CommandFile, name: str) -> None:
    vmo = pager.create(size=16 * PAGE_SIZE)
    supply(pager, vmo, 3)
    vmo_op.write(line(name, vmo, 0, 16))
    assert take(pager) == "READ(0,3)"
    supply(pager, vmo, 0, 3)
    assert take(pager) == "READ(4,12)"
    supply(pager, vmo, 4, 12)
    assert result(pager, vmo_op) == OK
    assert dirty(pager, vmo) == ""
    assert vmo.path.stat().st_blocks == 16 * PAGE_SIZE // 512
    assert not modified(pager, vmo)


@pytest.mark.parametrize(
    ("name", "expected"), [("commit", "ZX_ERR_IO: "), ("prefetch", "ZX_ERR_IO: "), ("always_need", OK)]
)
def test_failed_pages_fail_the_command_but_not_the_hint(
    pager: PagerClient, vmo_op: CommandFile, name: str, expected: str
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    vmo_op.write(line(name, vmo, 0, 4))
    assert take(pager) == "READ(0,4)"
    pager.fail(vmo, 0, 4 * PAGE_SIZE)
    assert result(pager, vmo_op).startswith(expected)


def test_commit_gives_zeros_memory_and_makes_markers_no_dirtier(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=PAGE_SIZE, options="resizable trap_dirty")
    supply_zeros(pager, vmo)
    os.truncate(vmo.path, 3 * PAGE_SIZE)
    vmo_op.write(line("commit", vmo, 0, 3))
    assert take(pager) == "DIRTY(1,2)"
    op(pager, "DIRTY", vmo, 1, 2)
    assert result(pager, vmo_op) == OK
    assert dirty(pager, vmo) == "{1,2}"
    assert vmo.path.stat().st_blocks == 3 * PAGE_SIZE // 512


@pytest.mark.parametrize("name", ["commit", "always_need", "prefetch"])
def test_what_is_cut_off_meanwhile_is_no_error(pager: PagerClient, vmo_op: CommandFile, name: str) -> None:
    vmo = pager.create(size=8 * PAGE_SIZE, options="resizable")
    vmo_op.write(line(name, vmo, 4, 4))
    assert take(pager) == "READ(4,4)"
    os.truncate(vmo.path, 2 * PAGE_SIZE)
    assert result(pager, vmo_op) == OK


def test_decommit_is_not_supported(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    assert vmo_op.say(line("decommit", vmo, 0)).startswith(f"{errno.EOPNOTSUPP} ZX_ERR_NOT_SUPPORTED: ")
    assert vmo_op.say(line("decommit", vmo, 0, 0)) == OK
    assert vmo_op.say(line("decommit", vmo, 4)).startswith(f"{errno.ERANGE} ")


@pytest.mark.parametrize("name", ["commit", "decommit", "zero", "prefetch", "always_need", "dont_need"])
def test_ranges_must_lie_inside_and_names_must_be_of_vmos(pager: PagerClient, vmo_op: CommandFile, name: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    for wrong, expected in {
        line(name, vmo, 3, 2): f"{errno.ERANGE} ZX_ERR_OUT_OF_RANGE: ",
        f"{name} {vmo.name} 1 0xffffffffffffffff": f"{errno.ERANGE} ZX_ERR_OUT_OF_RANGE: ",
        f"{name} vmo/{pager.name}/none 0 0": f"{errno.ENOENT} ZX_ERR_BAD_HANDLE: ",
        f"{name} vmo/{pager.name} 0 0": f"{errno.EMEDIUMTYPE} ZX_ERR_WRONG_TYPE: ",
        f"{name} {vmo.name} 0": f"{errno.EINVAL} ZX_ERR_INVALID_ARGS: ",
        f"shrink {vmo.name} 0 0": f"{errno.EINVAL} ZX_ERR_INVALID_ARGS: ",
    }.items():
        answer = vmo_op.say(wrong)
        assert re.match(rf"{re.escape(expected)}\S.*\n\Z", answer), (wrong, answer)
    assert vmo_op.say(line(name, vmo, 4, 0)) == OK


def test_hints_are_rounded_outward_and_dont_need_asks_for_nothing(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=20 * PAGE_SIZE)
    assert vmo_op.say(line("dont_need", vmo, 0, 20)) == OK
    assert pager.requests.is_quiet()
    vmo_op.write(f"always_need {vmo.name} {15 * PAGE_SIZE - 8} 16")
    assert take(pager) == "READ(14,2)"
    supply(pager, vmo, 14, 2)
    assert result(pager, vmo_op) == OK
    assert evict(pager, vmo, 0, 20) == 0
    assert vmo_op.say(line("dont_need", vmo, 0, 20)) == OK
    assert evict(pager, vmo, 0, 20) == 0  # always needed it stays


def test_always_need_is_ok_without_a_pager(pager: PagerClient, vmo_op: CommandFile) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    pager.command("detach_vmo", vmo.name)
    assert vmo_op.say(line("always_need", vmo, 0, 4)) == OK
    assert vmo_op.say(line("commit", vmo, 0, 4)).startswith(f"{errno.EBADFD} ZX_ERR_BAD_STATE: ")


def test_an_aux_is_committed_decommitted_and_zeroed_at_once(pager: PagerClient, vmo_op: CommandFile) -> None:
    aux = pager.stage(page_bytes(0, 2))
    with opened(aux.path) as fd, mapped(fd, 2) as mapping:
        mapping.load(0)
        assert vmo_op.say(line("zero", aux, 0)) == OK
        assert mapping.load(0) == os.pread(fd, PAGE_SIZE, 0) == bytes(PAGE_SIZE)
        assert mapping.load(PAGE_SIZE) == page_bytes(1)
        assert vmo_op.say(line("decommit", aux, 0, 2)) == OK
        assert aux.path.stat().st_blocks == 0
        assert os.pread(fd, 2 * PAGE_SIZE, 0) == bytes(2 * PAGE_SIZE)
        assert vmo_op.say(line("commit", aux, 0, 2)) == OK
        assert aux.path.stat().st_blocks == 2 * PAGE_SIZE // 512


# Eviction


@pytest.mark.parametrize("way", ["pread", "mmap"])
def test_after_eviction_the_old_content_is_never_seen_again(pager: PagerClient, way: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    supply(pager, vmo, 0, 4)
    with opened(vmo.path, os.O_RDWR if way == "mmap" else os.O_RDONLY) as fd:
        mapping = SharedMapping(fd, 4) if way == "mmap" else None
        for turn in range(20):
            before, after = (OTHER, KEY) if turn % 2 else (KEY, OTHER)
            seen = mapping.load(0, 4 * PAGE_SIZE) if mapping else os.pread(fd, 4 * PAGE_SIZE, 0)
            pattern.check(seen, before)
            assert evict(pager, vmo, 0, 4) == 4
            reader = start_load(mapping, 2) if mapping else start_read(fd, 2)
            assert take(pager) == "READ(2,1)"
            supply(pager, vmo, 0, 4, after)
            pattern.check(reader.result(), after, 2 * PAGE_SIZE)
        if mapping:
            mapping.close()


def test_only_clean_pages_are_evicted(pager: PagerClient) -> None:
    vmo = pager.create(size=5 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 3)
    supply_zeros(pager, vmo, 3)
    os.truncate(vmo.path, 6 * PAGE_SIZE)
    with opened(vmo.path) as fd:
        os.pwrite(fd, page_bytes(0, 2), 0)
        op(pager, "WRITEBACK_BEGIN", vmo, 1)
        assert evict(pager, vmo, 0, 6) == 1
        assert os.pread(fd, 2 * PAGE_SIZE, 0) == page_bytes(0, 2)
        assert os.pread(fd, PAGE_SIZE, 3 * PAGE_SIZE) == os.pread(fd, PAGE_SIZE, 5 * PAGE_SIZE) == bytes(PAGE_SIZE)
    assert dirty(pager, vmo) == "{0,2}{5,1,Z}"
    assert pager.refused("evict", f"{vmo.name} {6 * PAGE_SIZE} 1").errno == errno.ERANGE


def test_a_store_into_a_page_that_is_evicted_meanwhile_is_not_lost(pager: PagerClient) -> None:
    """The pager has not consented to it, so the page is still clean."""
    vmo = pager.create(size=2 * PAGE_SIZE, options="trap_dirty")
    supply(pager, vmo, 0, 2)
    with opened(vmo.path) as fd, mapped(fd, 2) as mapping:
        mapping.store(PAGE_SIZE + 100, b"stored")
        evict(pager, vmo, 0, 2)  # the kernel still has what was stored, and writes it now
        assert take(pager) == "READ(1,1)"
        supply(pager, vmo, 1, key=OTHER)
        assert take(pager) == "DIRTY(1,1)"
        op(pager, "DIRTY", vmo, 1)
        mapping.msync()
        assert mapping.load(PAGE_SIZE + 100, 6) == b"stored"
        assert (
            os.pread(fd, PAGE_SIZE, PAGE_SIZE)
            == page_bytes(1, key=KEY)[:100] + b"stored" + page_bytes(1, key=KEY)[106:]
        )
    assert dirty(pager, vmo) == "{1,1}"


def test_pages_that_were_written_back_can_be_evicted_and_read_again(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    supply(pager, vmo, 0, 2)
    with opened(vmo.path) as fd, mapped(fd, 2) as mapping:
        mapping.store(0, page_bytes(0))
        mapping.msync()
        assert evict(pager, vmo, 0, 2) == 1
        clean(pager, vmo, 0)
        assert evict(pager, vmo, 0) == 1
        reader = start_load(mapping, 0)
        assert take(pager) == "READ(0,1)"
        pager.supply_bytes(vmo, page_bytes(0))
        assert reader.result() == page_bytes(0)


# Pins


def test_pinned_pages_stay_until_the_command_file_is_closed(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with command_file(pager, "vmo_pin") as pin:
        pin.write(f"{vmo.name} {PAGE_SIZE} {2 * PAGE_SIZE}")
        assert take(pager) == "READ(1,2)"
        supply(pager, vmo, 0, 4)
        assert result(pager, pin) == OK
        assert evict(pager, vmo, 0, 4) == 2
        assert evict(pager, vmo, 0, 4) == 0
        with opened(vmo.path) as fd:
            os.pwrite(fd, b"x", PAGE_SIZE)
        clean(pager, vmo, 1)
        assert dirty(pager, vmo) == "{1,1}"  # a pinned page is not cleaned
    clean(pager, vmo, 1)
    assert dirty(pager, vmo) == ""
    assert evict(pager, vmo, 0, 4) == 2


def test_pinning_checks_its_range(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with command_file(pager, "vmo_pin") as pin:
        assert pin.say(f"{vmo.name} {3 * PAGE_SIZE} {2 * PAGE_SIZE}").startswith(f"{errno.ERANGE} ")
        pin.write(f"{vmo.name} 0 {PAGE_SIZE}")
        assert take(pager) == "READ(0,1)"
        pager.fail(vmo, 0, PAGE_SIZE)
        assert result(pager, pin).startswith("ZX_ERR_IO: ")


def test_a_pinned_aux_gives_nothing_away(pager: PagerClient) -> None:
    vmo, aux = pager.create(size=2 * PAGE_SIZE), pager.stage(page_bytes(0, 2))
    supply_line = f"{vmo.name} 0 {2 * PAGE_SIZE} {aux.name} 0"
    with command_file(pager, "vmo_pin") as pin:
        assert pin.say(f"{aux.name} {PAGE_SIZE} {PAGE_SIZE}") == OK
        assert pager.refused("supply_pages", supply_line).errno == errno.EBADFD
        assert aux.path.read_bytes() == page_bytes(0, 2)
    assert pager.command("supply_pages", supply_line) == OK
    assert aux.path.read_bytes() == bytes(2 * PAGE_SIZE)


# Special aux VMOs


@pytest.mark.parametrize("kind", ["contiguous", "physical"])
def test_contiguous_and_physical_memory_gives_nothing_away(pager: PagerClient, kind: str) -> None:
    vmo, aux = pager.create(size=2 * PAGE_SIZE), pager.aux("special")
    with command_file(pager, "vmo_create") as create:
        assert create.say(f"{aux.name} {2 * PAGE_SIZE} {kind}") == OK
        assert create.say(f"{aux.name} {2 * PAGE_SIZE} {kind}").startswith(f"{errno.EEXIST} ZX_ERR_ALREADY_EXISTS: ")
        assert create.say(f"vmo/{pager.name}/x 1 {kind}").startswith(f"{errno.EINVAL} ")
    assert aux.path.stat().st_size == 2 * PAGE_SIZE
    assert aux.path.read_bytes() == bytes(2 * PAGE_SIZE)
    refused = pager.refused("supply_pages", f"{vmo.name} 0 {2 * PAGE_SIZE} {aux.name} 0")
    assert refused.errno == errno.EOPNOTSUPP
    assert refused.result.startswith("ZX_ERR_NOT_SUPPORTED: ")
    assert query(pager, vmo, 0, 2 * PAGE_SIZE) == ""


def test_a_fixed_aux_cannot_be_resized(pager: PagerClient) -> None:
    with command_file(pager, "vmo_create") as create:
        for name, options, expected in (("fixed", "", errno.EPERM), ("free", "resizable", 0)):
            aux = pager.aux(name)
            assert create.say(f"{aux.name} 5000 {options}") == OK
            error = 0
            try:
                os.truncate(aux.path, 100)
            except OSError as caught:
                error = caught.errno or 0
            assert error == expected

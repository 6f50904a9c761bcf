"""control/PAGER/supply/: pages are supplied by writing them there (INTERFACE.md section 5)."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import Background, PagerClient, Vmo, metric
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

P = PAGE_SIZE


def supply_path(pager: PagerClient, vmo: Vmo) -> Path:
    return pager.control / "supply" / vmo.path.relative_to(pager.mount)


def write(path: Path, data: bytes | memoryview, offset: int) -> int:
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def test_a_page_written_there_answers_its_reader(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * P)
    fd = os.open(vmo.path, os.O_RDONLY)
    reader = Background(lambda: os.pread(fd, P, 2 * P))
    pager.take_read(vmo, 2 * P)
    assert write(supply_path(pager, vmo), b"s" * P, 2 * P) == P
    assert reader.result() == b"s" * P
    os.close(fd)
    assert vmo.path.stat().st_blocks == P // 512


def nodes(pager: PagerClient) -> int:
    return metric((pager.mount / "control" / "stats").read_text(), "vmofs_nodes")


@pytest.mark.parametrize("renamed", [False, True], ids=["kept", "renamed"])
def test_what_is_removed_leaves_no_node_behind_in_supply(pager: PagerClient, *, renamed: bool) -> None:
    shared = supply_path(pager, pager.create(size=P)).parent
    assert shared.is_dir()  # what leads there stays
    before = nodes(pager)
    for number in range(10):
        directory = pager.mount / "vmo" / pager.name / "directory"
        directory.mkdir()
        vmo = pager.create(f"directory/v{number}", size=P)
        write(shared / "directory" / vmo.path.name, b"s" * P, 0)
        fd = os.open(supply_path(pager, vmo), os.O_WRONLY)
        mirror = os.open(shared / "directory", os.O_PATH)
        path = vmo.path.rename(directory / "other") if renamed else vmo.path
        assert path.read_bytes() == b"s" * P
        path.unlink()
        assert nodes(pager) > before
        os.close(fd)
        directory.rmdir()
        for _ in range(20):
            with pytest.raises(OSError, match="Stale"):
                os.open("nothing", os.O_WRONLY, dir_fd=mirror)
        os.close(mirror)
    wait_for(lambda: nodes(pager) == before, "the kernel forgets the names")


@pytest.mark.parametrize("way", ["supply/vmo", "supply"])
def test_a_pager_that_is_closed_while_its_supply_file_is_open_leaves_no_node_behind(mount: Mounted, way: str) -> None:
    pager = PagerClient(mount.path, "leaves_nothing")
    before = nodes(pager)
    control = mount.path / "control" / "closed"
    control.mkdir()
    (control / "create_vmo").write_text(f"vmo/leaves_nothing/v {P}\n")
    supply = control / way / "leaves_nothing"
    directory, fd = os.open(supply, os.O_PATH), os.open(supply / "v", os.O_WRONLY)
    control.rmdir()
    for _ in range(100):  # before the kernel has forgotten the names, and after it
        with pytest.raises(OSError, match="Stale"):
            os.open("v", os.O_WRONLY, dir_fd=directory)
    os.close(fd)
    os.close(directory)
    (mount.path / "vmo" / "leaves_nothing" / "v").unlink()
    wait_for(lambda: nodes(pager) == before, "the kernel forgets the names")
    pager.close()


def test_the_short_form_of_the_name_works_too(pager: PagerClient) -> None:
    vmo = pager.create(size=P)
    write(pager.control / "supply" / pager.name / "v", b"s" * P, 0)
    assert vmo.path.read_bytes() == b"s" * P


def test_a_file_that_is_open_for_reading_too_takes_pages_and_gives_none(pager: PagerClient) -> None:
    vmo = pager.create(size=P)
    fd = os.open(supply_path(pager, vmo), os.O_RDWR)  # as dd does when it is told where to begin
    try:
        assert os.pwrite(fd, b"s" * P, 0) == P
        with pytest.raises(PermissionError):
            os.pread(fd, P, 0)
    finally:
        os.close(fd)
    assert vmo.path.read_bytes() == b"s" * P


def test_supplied_pages_are_kept(pager: PagerClient) -> None:
    vmo = pager.create(size=P)
    write(supply_path(pager, vmo), b"1" * P, 0)
    write(supply_path(pager, vmo), b"2" * P, 0)
    assert vmo.path.read_bytes() == b"1" * P


def test_the_last_page_may_be_short(pager: PagerClient) -> None:
    vmo = pager.create(size=P + 7)
    write(supply_path(pager, vmo), b"s" * (P + 7), 0)
    assert vmo.path.read_bytes() == b"s" * (P + 7)


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [(1, P, errno.EINVAL), (0, P - 1, errno.EINVAL), (P, 6, errno.EINVAL), (2 * P, P, errno.ERANGE)],
)
def test_any_other_shape_is_refused(pager: PagerClient, offset: int, length: int, code: int) -> None:
    vmo = pager.create(size=P + 7)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        write(supply_path(pager, vmo), bytes(length), offset)
    assert caught.value.errno == code
    assert vmo.xattr("clean_pages") == "0"


def test_it_cannot_be_read(pager: PagerClient) -> None:
    vmo = pager.create(size=P)
    with pytest.raises(PermissionError):
        supply_path(pager, vmo).read_bytes()


def test_only_vmos_of_this_pager_are_there(pager: PagerClient) -> None:
    other = PagerClient(pager.mount)
    try:
        vmo = other.create(size=P)
        assert not supply_path(pager, vmo).exists()
        assert supply_path(other, vmo).exists()
    finally:
        other.close()


def test_a_renamed_vmo_is_found_under_its_new_name(pager: PagerClient) -> None:
    vmo = pager.create(size=P)
    old = supply_path(pager, vmo)
    assert old.exists()
    new = vmo.path.rename(vmo.path.with_name("with blank"))
    assert not old.exists()
    write(supply_path(pager, Vmo(new, "")), b"n" * P, 0)
    assert new.read_bytes() == b"n" * P


@pytest.mark.parametrize("block", ["4096", "1M", "3M"])
def test_dd_and_cp_work_on_it(pager: PagerClient, tmp_path: Path, block: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5 * 2**20 + 123))
    by_dd = pager.create("dd", source.stat().st_size)
    subprocess.run(["dd", f"if={source}", f"of={supply_path(pager, by_dd)}", f"bs={block}", "status=none"], check=True)
    assert by_dd.path.read_bytes() == source.read_bytes()
    by_cp = pager.create("cp", source.stat().st_size)
    subprocess.run(["cp", "--sparse=never", source, supply_path(pager, by_cp)], check=True)
    assert by_cp.path.read_bytes() == source.read_bytes()


def test_dd_can_seek_in_it(pager: PagerClient, tmp_path: Path) -> None:
    vmo = pager.create(size=8 * P)
    source = tmp_path / "page"
    source.write_bytes(b"p" * P)
    command = ["dd", f"if={source}", f"of={supply_path(pager, vmo)}", f"bs={P}", "seek=5", "status=none"]
    subprocess.run(command, check=True)
    fd = os.open(vmo.path, os.O_RDONLY)
    assert os.pread(fd, P, 5 * P) == b"p" * P
    os.close(fd)


def test_a_write_that_is_not_aligned_in_memory_supplies_everything(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * 2**20)
    data = os.urandom(2 * 2**20)
    done = 0
    while done < len(data):
        done += write(supply_path(pager, vmo), data[done:], done)
        assert done % P == 0
    assert vmo.path.read_bytes() == data


@pytest.mark.parametrize("size", [P, 2**20, 2**20 + P, 2**24], ids=["4K", "1M", "1M+4K", "16M"])
@pytest.mark.parametrize("begin", [0, 32, P - 1])
def test_one_write_supplies_whatever_it_is_given_wherever_in_memory_it_begins(
    pager: PagerClient, size: int, begin: int
) -> None:
    vmo = pager.create(size=size)
    memory = mmap.mmap(-1, begin + size)
    memory[begin:] = data = os.urandom(size)
    with memoryview(memory) as view:
        assert write(supply_path(pager, vmo), view[begin:], 0) == size
    memory.close()
    assert vmo.path.stat().st_blocks == size // 512
    assert vmo.path.read_bytes() == data
    assert pager.read_requests == 0


@pytest.mark.parametrize("size", [P, 2**20, 2**20 + P, 2**24], ids=["4K", "1M", "1M+4K", "16M"])
def test_one_write_of_bytes_of_python_supplies_them_all(pager: PagerClient, size: int) -> None:
    vmo = pager.create(size=size)
    assert write(supply_path(pager, vmo), bytes(size), 0) == size
    assert vmo.path.stat().st_blocks == size // 512


def test_a_large_write_that_ends_within_a_page_supplies_the_whole_ones_and_says_so(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * 2**20)
    written = write(supply_path(pager, vmo), bytes(2**20 + 100), 0)
    assert written == vmo.path.stat().st_blocks * 512 > 0
    assert written % P == 0


def test_writes_that_are_gathered_from_many_places_supply_every_page(pager: PagerClient) -> None:
    """Each piece begins within a page of memory, so the kernel cuts where it has 256 pages, and not where ours end."""
    data, at = os.urandom(2 * 2**20), 0
    vmo = pager.create(size=len(data))
    fd = os.open(supply_path(pager, vmo), os.O_WRONLY)
    while at < len(data):
        at += os.pwritev(fd, [data[start : start + 5000] for start in range(at, len(data), 5000)], at)
    os.close(fd)
    assert vmo.path.read_bytes() == data


def test_closing_a_file_that_was_only_read_does_not_wait_for_what_others_have_stored(pager: PagerClient) -> None:
    """Nor does closing one in ``supply/``, which has no page cache."""
    vmo = pager.create(size=P, options="trap_dirty")
    write(supply_path(pager, vmo), b"s" * P, 0)
    fds = [os.open(vmo.path, os.O_RDONLY), os.open(supply_path(pager, vmo), os.O_WRONLY)]
    writer = os.open(vmo.path, os.O_RDWR)
    mapping = mmap.mmap(writer, P)
    mapping[0] = 1
    for fd in fds:
        closing = Background(lambda fd=fd: os.close(fd))  # type: ignore[misc]
        closing.result(1)
    closing = Background(lambda: os.close(writer))
    assert pager.requests.next().command is PacketCommand.DIRTY
    assert not closing.done
    pager.command("op_range", f"DIRTY {vmo.name} 0 {P}")
    closing.result()
    mapping.close()

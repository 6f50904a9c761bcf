"""Children of VMOs as files: vmo_create_child (zircon-pager 2.12, 5.3)."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Vmo
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE


def create_child(pager: PagerClient, parent: Vmo, kind: str, offset: int = 0, size: int = 4 * P, rest: str = "") -> Vmo:
    """Make a child beside its parent."""
    child = Vmo(parent.path.with_name(f"child{len(list(parent.path.parent.iterdir()))}"), "")
    child = child._replace(name=str(child.path.relative_to(pager.mount)))
    line = f"{kind} {parent.name} {child.name} {offset} {size} {rest}"
    fd = os.open(pager.mount / "control" / "vmo_create_child", os.O_RDWR)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
    return child


@contextmanager
def opened(vmo: Vmo, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(vmo.path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def refusal(pager: PagerClient, parent: Vmo, kind: str, *arguments: object) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is returned
        create_child(pager, parent, kind, *arguments)  # type: ignore[arg-type]
    return caught.value.errno or 0


def supplied(pager: PagerClient, data: bytes, options: str = "") -> Vmo:
    vmo = pager.create(size=len(data), options=options)
    pager.supply_bytes(vmo, data)
    return vmo


ON_WRITE = "snapshot_at_least_on_write"


def test_a_miss_in_a_clone_is_a_read_of_the_root_with_its_key_and_offsets(pager: PagerClient) -> None:
    root = pager.create(size=8 * P, options="key=77")
    clone = create_child(pager, root, ON_WRITE, 4 * P)
    with opened(clone) as fd:
        reader = Background(lambda: os.pread(fd, P, 2 * P))
        request = pager.requests.next()
        assert (request.key, request.offset, request.length, request.path) == (77, 6 * P, P, root.name)
        pager.supply_bytes(root, b"r" * P, 6 * P)
        assert reader.result() == b"r" * P
    assert clone.path.stat().st_blocks == 1  # it has none, but shows what is no hole


def test_a_write_forks_the_page_of_the_clone_only(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 4 * P)
    clone = create_child(pager, root, ON_WRITE)
    with opened(clone) as fd:
        assert os.pwrite(fd, b"c", P + 1) == 1
        assert os.pread(fd, 3, P) == b"rcr"
    assert root.path.read_bytes() == b"r" * 4 * P
    assert clone.path.stat().st_blocks == P // 512
    assert pager.command("query_dirty_ranges", f"{root.name} 0 {4 * P}") == "ZX_OK 0\n"


def test_an_on_write_clone_sees_writes_to_the_root_until_it_forks(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 2 * P)
    clone = create_child(pager, root, ON_WRITE, 0, 2 * P)
    with opened(clone) as child, opened(root) as parent:
        assert os.pread(child, 1, 0) == b"r"
        os.pwrite(parent, b"W", 0)
        wait_for(lambda: os.pread(child, 1, 0) == b"W", "the write is seen")
        os.pwrite(child, b"C", 1)
        os.pwrite(parent, b"X", 0)
        assert os.pread(child, 2, 0) == b"WC"


def test_a_slice_is_the_memory_of_its_parent(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 4 * P)
    part = create_child(pager, root, "slice", P, 2 * P)
    with opened(part) as child, opened(root) as parent:
        os.pwrite(child, b"S", 0)
        wait_for(lambda: os.pread(parent, 1, P) == b"S", "the write is seen in the parent")
        os.pwrite(parent, b"R", 2 * P)
        wait_for(lambda: os.pread(child, 1, P) == b"R", "the write is seen in the slice")
    assert pager.command("query_dirty_ranges", f"{root.name} 0 {4 * P}") == f"ZX_OK 1\n{P} {2 * P} dirty\n"


def test_a_reference_grows_with_its_parent(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * P, "resizable")
    reference = create_child(pager, root, "reference", 0, 0, "resizable")
    os.truncate(reference.path, 3 * P)
    assert root.path.stat().st_size == reference.path.stat().st_size == 3 * P


def test_a_snapshot_of_an_aux_keeps_what_the_aux_had(pager: PagerClient) -> None:
    aux = pager.stage(b"a" * 4 * P)
    snapshot = create_child(pager, aux, "snapshot")
    with opened(aux) as fd:
        os.pwrite(fd, b"W" * 2 * P, P)
    assert snapshot.path.read_bytes() == b"a" * 4 * P
    assert aux.path.read_bytes() == b"a" * P + b"W" * 2 * P + b"a" * P


def test_an_aux_with_children_cannot_be_supplied(pager: PagerClient) -> None:
    root = pager.create(size=P)
    aux = pager.stage(b"a" * P)
    child = create_child(pager, aux, "snapshot", 0, P)
    refused = pager.refused("supply_pages", f"{root.name} 0 {P} {aux.name} 0")
    assert refused.errno == errno.EBADFD
    assert "1 child" in refused.result
    child.path.unlink()
    assert pager.command("supply_pages", f"{root.name} 0 {P} {aux.name} 0") == "ZX_OK\n"


def test_pager_calls_on_a_child_are_invalid(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * P)
    child = create_child(pager, root, ON_WRITE, 0, P)
    aux = pager.stage(b"a" * P)
    for file, line in (
        ("supply_pages", f"{child.name} 0 {P} {aux.name} 0"),
        ("detach_vmo", child.name),
        ("op_range", f"WRITEBACK_END {child.name} 0 {P}"),
        ("query_vmo_stats", child.name),
    ):
        assert pager.refused(file, line).errno == errno.EINVAL


def test_what_cannot_be_made_is_refused(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 4 * P)
    resizable = pager.create("resizable", 4 * P, "resizable")
    assert refusal(pager, root, "snapshot") == errno.EOPNOTSUPP
    assert refusal(pager, root, "slice", 2 * P, 4 * P) == errno.EINVAL
    assert refusal(pager, resizable, "slice", 0, P) == errno.EOPNOTSUPP
    assert refusal(pager, root, "reference", P, 0) == errno.EINVAL
    assert refusal(pager, root, "reference", 0, 0, "resizable") == errno.EOPNOTSUPP
    assert refusal(pager, root, ON_WRITE, 1) == errno.EINVAL
    assert refusal(pager, root, ON_WRITE, 0, P, "no_write resizable") == errno.EINVAL
    assert refusal(pager, pager.vmo("missing"), ON_WRITE) == errno.ENOENT


def test_a_no_write_child_is_read_only(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * P)
    child = create_child(pager, root, ON_WRITE, 0, P, "no_write")
    assert child.path.stat().st_mode & 0o222 == 0
    with opened(child) as fd, pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)


def test_pages_cut_off_the_root_are_zero_in_clones_for_ever(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 4 * P, "resizable")
    clone = create_child(pager, root, ON_WRITE)
    assert clone.path.read_bytes() == b"r" * 4 * P
    os.truncate(root.path, 2 * P)
    os.truncate(root.path, 4 * P)
    with opened(root) as fd:
        os.pwrite(fd, b"n" * 2 * P, 2 * P)
    wait_for(lambda: clone.path.read_bytes() == b"r" * 2 * P + bytes(2 * P), "zeros")


def test_a_clone_keeps_the_root_and_its_pager_after_the_root_was_removed(pager: PagerClient) -> None:
    root = pager.create(size=2 * P)
    clone = create_child(pager, root, ON_WRITE, 0, 2 * P)
    root.path.unlink()
    with opened(clone) as fd:
        reader = Background(lambda: os.pread(fd, P, P))
        pager.take_read(root, P)
        pager.supply_bytes(root, b"r" * P, P)
        assert reader.result() == b"r" * P
    assert pager.requests.is_quiet()
    clone.path.unlink()
    assert pager.requests.next().command == "COMPLETE"


def test_detach_is_seen_through_clones_but_forked_pages_stay(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 2 * P)
    clone = create_child(pager, root, ON_WRITE, 0, 2 * P)
    with opened(clone) as fd:
        os.pwrite(fd, b"c" * P, 0)
        pager.command("detach_vmo", root.name)
        assert os.pread(fd, P, 0) == b"c" * P
        wait_for(lambda: Background(lambda: os.pread(fd, P, P)).errno() == errno.EBADFD, "the other page is gone")


def test_a_snapshot_of_a_clone_freezes_what_was_modified(pager: PagerClient) -> None:
    root = supplied(pager, b"r" * 2 * P)
    clone = create_child(pager, root, ON_WRITE, 0, 2 * P)
    with opened(clone) as fd:
        os.pwrite(fd, b"1", 0)
        snapshot = create_child(pager, clone, "snapshot_modified", 0, 2 * P)
        os.pwrite(fd, b"2", 0)
        assert os.pread(fd, 2, 0) == b"2r"
    assert snapshot.path.read_bytes()[:2] == b"1r"
    assert int(clone.xattr("children")) == 1


def test_supplying_from_a_clone_waits_in_the_background_for_what_it_lacks(pager: PagerClient) -> None:
    root = pager.create("root", P)
    clone = create_child(pager, root, ON_WRITE, 0, P)
    target = pager.create("target", P)
    command = os.open(pager.control / "supply_pages", os.O_RDWR)
    try:
        os.write(command, f"{target.name} 0 {P} {clone.name} 0".encode())
        pager.take_read(root, 0)
        with pytest.raises(BlockingIOError):
            os.read(command, 100)
        pager.supply_bytes(root, b"r" * P)
        poll = select.poll()
        poll.register(command, select.POLLIN)
        assert poll.poll(5000)
        assert os.read(command, 100) == b"ZX_OK\n"
    finally:
        os.close(command)
    assert target.path.read_bytes() == b"r" * P
    assert clone.path.read_bytes() == bytes(P)

"""Read-ahead of the mount and of single files, the size of blocks, and what holds although requests are large."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, Mounter, wait_for
from tests.support.pager_client import Background, PagerClient, Readers, Vmo, metric
from tests.support.raw_mapping import mapped
from vmofs.status import Status
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.wire.names import escape
from vmofs.wire.packets import RequestLine

P = PAGE_SIZE
LARGE = 2**20
SIZE = 4 * LARGE


def setting(mount: Mounted) -> int:
    """Return what the kernel now reads ahead in files that are opened, in bytes."""
    minor = os.minor(mount.path.stat().st_dev)
    return int(Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb").read_text()) * 1024


def requests_until_done(pager: PagerClient, reader: Background[bytes]) -> Iterator[RequestLine]:
    """Yield what is asked for until a reader has what it wants."""
    while not reader.done:
        pager.requests.fill(0.05)
        while not pager.requests.is_quiet():
            yield pager.requests.next()


def asked(pager: PagerClient, vmo: Vmo, offset: int, length: int) -> list[tuple[int, int]]:
    """Read from a VMO, supply what is asked for, and return what that was."""
    with vmo.path.open("rb", buffering=0) as file:
        reader = Background(lambda: os.pread(file.fileno(), length, offset))
        requests = []
        for request in requests_until_done(pager, reader):
            asked_for = Vmo(pager.mount / request.path, escape(request.path))
            pager.supply(asked_for, request.offset, request.length)
            if asked_for.name == vmo.name:  # else the kernel goes on reading ahead in one that was read before
                requests.append((request.offset, request.length))
        assert reader.result() == pattern.make(0, offset, length)
    return requests


@pytest.fixture
def served(mounter: Mounter) -> Iterator[PagerClient]:
    """A pager of a mount with 1 MiB of read-ahead."""
    pager = PagerClient(mounter("deadline=20,readahead=1M,blksize=64K").path)
    yield pager
    pager.close()


def test_the_mount_says_how_much_is_asked_for_in_one_piece(served: PagerClient) -> None:
    assert asked(served, served.create("seq", SIZE), 0, LARGE)[0] == (0, LARGE)
    assert asked(served, served.create("one", SIZE), 5 * P, P) == [(5 * P, P)]
    assert asked(served, served.create("exact", SIZE, "readahead=4K"), 0, LARGE)[0] == (0, 2**17)


def test_a_file_has_its_own_read_ahead(pager: PagerClient, shared_mount: Mounted) -> None:
    vmo = pager.create("v", SIZE, f"readahead={LARGE}")
    other = pager.create("other", SIZE)
    assert asked(pager, vmo, 0, LARGE)[0] == (0, LARGE)
    assert asked(pager, other, 0, LARGE)[0] == (0, 2**17)
    wait_for(lambda: setting(shared_mount) == P, "the setting is back")


@pytest.mark.parametrize("length", [P, 16 * P, LARGE])
def test_a_read_at_random_asks_for_exactly_what_it_reads(pager: PagerClient, length: int) -> None:
    vmo = pager.create(f"v{length}", SIZE, f"readahead={LARGE}")
    assert asked(pager, vmo, LARGE + 3 * P, length) == [(LARGE + 3 * P, length)]


def test_a_fault_asks_for_what_lies_around_it(pager: PagerClient, readers: Readers) -> None:
    vmo = pager.create("v", SIZE, f"readahead={LARGE}")
    reader = readers("mmap", vmo.path, 2 * LARGE, 1)
    request = pager.requests.next()
    assert request.length == LARGE
    assert request.offset <= 2 * LARGE < request.offset + LARGE
    pager.supply(vmo, request.offset, request.length)
    assert reader.next() == pattern.make(0, 2 * LARGE, 1)


def test_children_are_read_as_their_parent_is(pager: PagerClient) -> None:
    pager.create("v", SIZE, f"readahead={LARGE} blksize=64K")
    child = pager.vmo("child")
    (pager.mount / "control" / "vmo_create_child").write_text(
        f"snapshot_at_least_on_write {pager.vmo('v').name} {child.name} 0 {SIZE}\n"
    )
    with child.path.open("rb", buffering=0) as file:
        reader = Background(lambda: os.pread(file.fileno(), LARGE, 0))
        pager.take_read(pager.vmo("v"), 0, LARGE)
        pager.supply(pager.vmo("v"), 0, 2 * LARGE)
        assert reader.result() == pattern.make(0, 0, LARGE)
    assert child.path.stat().st_blksize == 2**16


def cached_by_a_fault(path: Path, readers: Readers, offset: int = LARGE) -> int:
    """Drop a file from the kernel's cache, have one page faulted in, and return how many pages came."""
    pages = path.stat().st_size // P
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert isinstance(readers("mmap", path, offset, 1).next(), bytes)
        with mapped(file.fileno(), pages * P) as mapping:
            return sum(mapping.in_page_cache(page * P) for page in range(pages))


def test_without_a_pager_nothing_can_be_asked_for_so_the_kernel_reads_ahead(
    pager: PagerClient, readers: Readers
) -> None:
    vmo = pager.create("v", SIZE)
    exact = pager.create("exact", SIZE, "readahead=4096")
    for file in (vmo, exact):
        pager.supply(file, 0, SIZE)
        assert cached_by_a_fault(file.path, readers) == 1
    pager.control.rmdir()
    assert cached_by_a_fault(vmo.path, readers) == 32
    assert cached_by_a_fault(exact.path, readers) == 1


def test_of_a_large_request_one_page_fails_and_only_that_page(served: PagerClient, readers: Readers) -> None:
    """The READ as a whole fails, so the kernel asks again, page by page, for what a program then reads."""
    vmo, bad = served.create("v", LARGE), 100 * P
    with vmo.path.open("rb", buffering=0) as file:
        reader = Background(lambda: os.pread(file.fileno(), LARGE, 0))
        served.take_read(vmo, 0, LARGE)
        served.supply(vmo, 0, bad)
        served.supply(vmo, bad + P, LARGE - bad - P)
        served.fail(vmo, bad, P)
        for request in requests_until_done(served, reader):
            assert (request.offset, request.length) == (bad, P)
            served.fail(vmo, bad, P)
        assert reader.result() == pattern.make(0, 0, bad)
        assert os.pread(file.fileno(), LARGE, bad + P) == pattern.make(0, bad + P, LARGE - bad - P)
    faulting = readers("mmap", vmo.path, bad, 1)
    served.take_read(vmo, bad)
    served.fail(vmo, bad, P, "ZX_ERR_IO_DATA_INTEGRITY")
    assert faulting.failure() == -signal.SIGBUS
    late = readers("pread", vmo.path, bad)
    served.take_read(vmo, bad)
    served.supply(vmo, bad)
    assert late.next() == pattern.make(0, bad, P)


def test_a_reader_of_a_large_piece_dies_at_once_and_leaves_nothing_locked(
    served: PagerClient, readers: Readers
) -> None:
    vmo = served.create("v", LARGE)
    for kind in ("pread", "mmap"):
        reader = readers(kind, vmo.path, 0, LARGE)
        wait_for(reader.is_waiting, "it waits")
        assert reader.kill() < 1
    served.supply(vmo, 0, LARGE)
    reader = readers("pread", vmo.path, 0, LARGE)
    assert reader.next() == pattern.make(0, 0, LARGE)


def test_an_eviction_beside_a_large_read_that_waits_changes_nothing_of_it(served: PagerClient) -> None:
    vmo = served.create("v", LARGE)
    served.supply(vmo, 0, LARGE // 2)
    with vmo.path.open("rb", buffering=0) as file:
        reader = Background(lambda: os.pread(file.fileno(), LARGE, 0))
        served.take_read(vmo, LARGE // 2, LARGE // 2)
        assert served.command("evict", f"{vmo.name} 0 {LARGE // 2}").startswith(f"ZX_OK pages={LARGE // 2 // P}")
        served.supply(vmo, LARGE // 2, LARGE // 2)
        for request in requests_until_done(served, reader):
            served.supply(vmo, request.offset, request.length)
        assert reader.result() == pattern.make(0, 0, LARGE)


def test_a_piece_larger_than_memory_is_read_right_and_within_the_limit(mounter: Mounter) -> None:
    mount = mounter(f"deadline=20,readahead=1M,memory_limit={LARGE // 2}")
    pager = PagerClient(mount.path)
    vmo = pager.create("v", SIZE)
    with vmo.path.open("rb", buffering=0) as file:
        reader = Background(lambda: b"".join(os.pread(file.fileno(), LARGE, at) for at in range(0, SIZE, LARGE)))
        for request in requests_until_done(pager, reader):
            end = request.offset + request.length  # one for what was evicted meanwhile may begin and end anywhere
            for offset in range(request.offset, end, 8 * P):
                pager.supply(vmo, offset, min(8 * P, end - offset))
        assert reader.result() == pattern.make(0, 0, SIZE)
    stats = (mount.path / "control" / "stats").read_text()
    assert metric(stats, "vmofs_frames_peak") <= LARGE // 2 // P
    pager.close()


def test_blksize_is_what_stat_says(pager: PagerClient, served: PagerClient) -> None:
    assert pager.create("usual").path.stat().st_blksize == P
    assert pager.create("large", P, "blksize=128K").path.stat().st_blksize == 2**17
    assert served.create("of_mount").path.stat().st_blksize == 2**16
    assert served.create("own", P, "blksize=8192").path.stat().st_blksize == 8192


def test_python_reads_in_pieces_of_blksize(pager: PagerClient) -> None:
    vmo = pager.create("v", LARGE, "blksize=64K")
    with vmo.path.open("rb") as file:
        reader = Background(lambda: file.read(1))
        pager.take_read(vmo, 0, 2**16)
        pager.supply(vmo, 0, 2**16)
        reader.result()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("readahead=0", "readahead 0 is not a number of whole pages from 4096 to 67108864 bytes"),
        ("readahead=5000", "readahead 5000 is not"),
        ("readahead=128M", "readahead 134217728 is not"),
        ("blksize=2048", "blksize 2048 is not a power of two from 4096 to 67108864"),
        ("blksize=12288", "blksize 12288 is not"),
    ],
)
def test_what_cannot_be_is_refused_and_makes_no_file(pager: PagerClient, words: str, sentence: str) -> None:
    refused = pager.refused("create_vmo", f"{pager.vmo('v').name} {SIZE} {words}")
    assert refused.errno == errno.EINVAL
    assert refused.result.startswith(f"{Status.INVALID_ARGS.zx_name}: {sentence}")
    assert not pager.vmo("v").path.exists()


def read_in_sequence(vmo: Vmo, length: int) -> bytes:
    """Read a whole VMO in pieces."""
    with vmo.path.open("rb", buffering=0) as file:
        return b"".join(os.pread(file.fileno(), length, offset) for offset in range(0, vmo.path.stat().st_size, length))


@pytest.mark.parametrize("length", [P, 4 * P])
def test_what_is_there_is_not_read_page_by_page_though_requests_are_exact(
    pager: PagerClient, shared_mount: Mounted, length: int
) -> None:
    """The kernel gets what is present by stores, and the pager is asked for each absent page, and for nothing else."""
    vmo, distance = pager.create(f"v{length}", SIZE), 64 * P
    for offset in range(0, SIZE, distance):
        pager.supply(vmo, offset + P, distance - P)
    stored = shared_mount.counter("pagecache_stored_pages_total")
    reader = Background(lambda: read_in_sequence(vmo, length))
    requests = []
    for request in requests_until_done(pager, reader):
        requests.append((request.offset, request.length))
        pager.supply(vmo, request.offset, request.length)
    assert reader.result() == pattern.make(0, 0, SIZE)
    assert requests == [(offset, P) for offset in range(0, SIZE, distance)]
    stored = shared_mount.counter("pagecache_stored_pages_total") - stored
    assert stored > SIZE // P // 2


def test_who_may_write_reads_page_by_page_and_nothing_is_stored(pager: PagerClient, shared_mount: Mounted) -> None:
    vmo = pager.create("v", SIZE)
    pager.supply(vmo, 0, LARGE)
    stored = shared_mount.counter("pagecache_stored_pages_total")
    with vmo.path.open("r+b", buffering=0) as file:
        data = b"".join(os.pread(file.fileno(), P, offset) for offset in range(0, LARGE, P))
    assert data == pattern.make(0, 0, LARGE)
    assert shared_mount.counter("pagecache_stored_pages_total") == stored

"""What a command took or changed is gone from the page cache when it is answered, also when the answer is an error."""

from __future__ import annotations

import errno
import os

import pytest

from tests.support.pager_client import PagerClient
from tests.support.writing import command_file, op, opened, take
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE
PAGES = 64
ROUNDS = 40


@pytest.mark.parametrize("why", ["ERANGE", "EBADFD"])
def test_an_aux_is_empty_when_a_supply_has_failed_because_of_its_destination(pager: PagerClient, why: str) -> None:
    """Zircon takes the pages out first. Each round is a race: the reader comes as soon as the answer is there."""
    vmo = pager.create(size=PAGES * P)
    if why == "EBADFD":
        pager.command("detach_vmo", vmo.name)
    offset = PAGES * P if why == "ERANGE" else 0
    for _ in range(ROUNDS):
        aux = pager.stage(b"a" * PAGES * P, "a")
        with opened(aux.path, os.O_RDONLY) as fd:
            assert os.pread(fd, PAGES * P, 0) == b"a" * PAGES * P  # all of it is in the page cache
            line = f"{vmo.name} {offset} {PAGES * P} {aux.name} 0"
            assert pager.refused("supply_pages", line).errno == getattr(errno, why)
            assert os.pread(fd, P, (PAGES - 1) * P) == os.pread(fd, P, 0) == bytes(P)


def test_what_a_zero_that_fails_has_zeroed_is_seen(pager: PagerClient) -> None:
    """The parts of pages at its ends come first; the pager fails the second."""
    vmo = pager.create(size=PAGES * P)
    pager.supply_bytes(vmo, b"v" * (PAGES - 1) * P)
    for _ in range(4 * ROUNDS):
        with opened(vmo.path, os.O_RDONLY) as fd, command_file(pager, "vmo_op_range") as command:
            assert os.pread(fd, P, 0) == b"v" * P
            command.write(f"zero {vmo.name} 100 {(PAGES - 1) * P}")
            assert take(pager) == f"READ({PAGES - 1},1)"
            op(pager, "FAIL", vmo, PAGES - 1, 1, "ZX_ERR_IO")
            assert command.wait().startswith("ZX_ERR_IO")
            assert os.pread(fd, P, 0) == b"v" * 100 + bytes(P - 100)
        with opened(vmo.path) as fd:
            os.pwrite(fd, b"v" * P, 0)

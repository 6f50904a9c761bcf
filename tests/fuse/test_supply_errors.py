"""Every error of ``supply_pages``, from a shell: errno, sentence with its numbers, and what is left of the pages.

Zircon: zx_pager_supply_pages, zircon-pager 2.4. Errors about the aux leave it as it was; errors about the destination
cost the aux its content. No error changes the destination.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
import xxhash

from tests.support.pager_client import PagerClient, Vmo
from tests.support.shell import OK, Answer, shell_command
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

KEY = 7 * pattern.KEY_STEP
AUX_PAGES = 4
VMO_PAGES = 16

TOO_LARGE = 0xFFFF_FFFF_FFFF_F000
"""Page aligned, and beyond it there is no room for a page in 64 bits."""

SUM = xxhash.xxh3_64_hexdigest(pattern.make(KEY, 0, AUX_PAGES * PAGE_SIZE))
NOT_OURS = "ZX_ERR_INVALID_ARGS: the VMO was not made by this pager"


class Scene:
    """A pager with a VMO, a detached one and an aux of four pages; and another pager with a VMO."""

    def __init__(self, pager: PagerClient, other: PagerClient) -> None:
        self.pager = pager
        self.vmo = pager.create("v", VMO_PAGES * PAGE_SIZE, "key=77")
        self.detached = pager.create("detached", VMO_PAGES * PAGE_SIZE, "key=78")
        pager.command("detach_vmo", self.detached.name)
        self.foreign = other.create("foreign", VMO_PAGES * PAGE_SIZE)
        pager.vmo("directory").path.mkdir()
        self.aux = pager.stage(pattern.make(KEY, 0, AUX_PAGES * PAGE_SIZE), "a")

    def names(self) -> dict[str, str]:
        """Return what the lines of the tables may name."""
        return {
            "v": self.vmo.name,
            "detached": self.detached.name,
            "foreign": self.foreign.name,
            "directory": self.pager.vmo("directory").name,
            "a": self.aux.name,
            "p": self.pager.name,
        }

    def run(self, file: str, line: str) -> Answer:
        """Carry out a command in a shell."""
        return shell_command(self.pager.mount, f"control/{self.pager.name}/{file}", line.format(**self.names()))

    def refused(self, code: int, result: str) -> Answer:
        """Return the answer that says so."""
        return Answer.refused(code, result.format(**self.names()))

    def check_aux(self, emptied_pages: int) -> None:
        """Check that the first pages of the aux are zeros without memory, and the others what they were."""
        data = self.aux.path.read_bytes()
        emptied = emptied_pages * PAGE_SIZE
        assert data[:emptied] == bytes(emptied)
        pattern.check(data[emptied:], KEY, emptied)
        assert self.aux.path.stat().st_blocks == (AUX_PAGES - emptied_pages) * PAGE_SIZE // 512

    def check_absent(self, *vmos: Vmo) -> None:
        """Check that nothing was supplied."""
        for vmo in vmos or (self.vmo, self.detached, self.foreign):
            assert (vmo.xattr("clean_pages"), vmo.xattr("marker_pages")) == ("0", "0")


@pytest.fixture
def scene(pager: PagerClient) -> Iterator[Scene]:
    other = PagerClient(pager.mount)
    yield Scene(pager, other)
    other.close()


USAGE = "usage: VMO OFFSET LENGTH AUX AUX_OFFSET [xxh3=HEX]"
OF_AUX = [
    # Alignment comes before everything else.
    ("{v} 1 4K {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: offset 1 is not page aligned"),
    ("{v} 0 4095 {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: length 4095 is not page aligned"),
    ("{v} 0 4K {a} 0x1001", errno.EINVAL, "ZX_ERR_INVALID_ARGS: aux_offset 4097 is not page aligned"),
    ("vmo/none 1 4K aux/none 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: offset 1 is not page aligned"),
    ("{directory} 0 7 {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: length 7 is not page aligned"),
    ("{v} 0 4K aux/none 12", errno.EINVAL, "ZX_ERR_INVALID_ARGS: aux_offset 12 is not page aligned"),
    # The VMO: not there, no VMO, not of this pager.
    ("vmo/none 0 4K {a} 0", errno.ENOENT, "ZX_ERR_BAD_HANDLE: 'vmo/none' does not exist"),
    ("vmo/none/v 0 4K {a} 0", errno.ENOENT, "ZX_ERR_BAD_HANDLE: 'vmo/none/v' does not exist"),
    ("{v}/v 0 4K {a} 0", errno.ENOENT, "ZX_ERR_BAD_HANDLE: '{v}/v' does not exist"),
    ("{directory} 0 4K {a} 0", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: '{directory}' is no VMO"),
    ("control/version 0 4K {a} 0", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'control/version' is no VMO"),
    ("control/{p}/requests 0 4K {a} 0", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'control/{p}/requests' is no VMO"),
    ("{foreign} 0 4K {a} 0", errno.EINVAL, NOT_OURS),
    ("{a} 0 4K {a} 0", errno.EINVAL, NOT_OURS),
    # The aux is looked at only when the VMO is found to be good.
    ("{foreign} 0 4K aux/none 0", errno.EINVAL, NOT_OURS),
    ("{foreign} 0 4K {directory} 0", errno.EINVAL, NOT_OURS),
    ("{v} 0 4K aux/none 0", errno.ENOENT, "ZX_ERR_BAD_HANDLE: 'aux/none' does not exist"),
    ("{v} 0 4K aux 0", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'aux' is no VMO"),
    ("{v} 0 4K control/stats 0", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'control/stats' is no VMO"),
    # What can be taken from the aux; its range comes before its kind, and before the destination.
    ("{v} 0 4K {v} 0", errno.EOPNOTSUPP, "ZX_ERR_NOT_SUPPORTED: the aux is itself a pager VMO"),
    ("{v} 0 4K {foreign} 0", errno.EOPNOTSUPP, "ZX_ERR_NOT_SUPPORTED: the aux is itself a pager VMO"),
    (
        "{v} 0 4K {v} 1M",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 1048576+4096 does not lie inside the VMO of 65536 bytes",
    ),
    (
        "{v} 0 4K {a} 16K",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: aux range 16384+4096 does not lie inside the aux VMO of 16384 bytes",
    ),
    (
        "{v} 0 20K {a} 0",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: aux range 0+20480 does not lie inside the aux VMO of 16384 bytes",
    ),
    (
        f"{{v}} 0 4K {{a}} {TOO_LARGE}",
        errno.ERANGE,
        f"ZX_ERR_OUT_OF_RANGE: aux range {TOO_LARGE}+4096 does not lie inside the aux VMO of 16384 bytes",
    ),
    (
        "{v} 1M 20K {a} 0",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: aux range 0+20480 does not lie inside the aux VMO of 16384 bytes",
    ),
    (
        "{detached} 0 4K {a} 16K",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: aux range 16384+4096 does not lie inside the aux VMO of 16384 bytes",
    ),
    (
        "{v} 0 16K {a} 0 xxh3=0123456789abcdef",
        errno.EBADMSG,
        f"ZX_ERR_IO_DATA_INTEGRITY: xxh3 of aux range 0+16384 is {SUM}, not 0123456789abcdef; nothing was moved",
    ),
    # The text.
    ("{v} 0 4K {a}", errno.EINVAL, f"ZX_ERR_INVALID_ARGS: AUX_OFFSET missing; {USAGE}"),
    ("{v} 0 4K {a} 0 more", errno.EINVAL, f"ZX_ERR_INVALID_ARGS: 'more' is not expected here; {USAGE}"),
    ("{v} x 4K {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: OFFSET 'x' is not a number"),
    ("{v} 0 -4096 {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: LENGTH '-4096' is negative"),
    ("{v} 0 16E {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: LENGTH '16E' is above 2^64-1"),
    ("{v} 0 4K {a} 0 xxh3=12", errno.EINVAL, "ZX_ERR_INVALID_ARGS: xxh3 '12' is not 16 hexadecimal digits"),
    (
        "/{v} 0 4K {a} 0",
        errno.EINVAL,
        "ZX_ERR_INVALID_ARGS: path '/{v}' begins with '/'; paths are relative to the mount point",
    ),
    ("vmo/../{v} 0 4K {a} 0", errno.EINVAL, "ZX_ERR_INVALID_ARGS: path 'vmo/../{v}' has a component that is '..'"),
]


@pytest.mark.parametrize(("line", "code", "result"), OF_AUX, ids=[line for line, _, _ in OF_AUX])
def test_errors_before_pages_are_taken_leave_the_aux_as_it_was(scene: Scene, line: str, code: int, result: str) -> None:
    assert scene.run("supply_pages", line) == scene.refused(code, result)
    scene.check_aux(0)
    scene.check_absent()


OF_VMO = [
    (
        "{v} 64K 4K {a} 0",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 65536+4096 does not lie inside the VMO of 65536 bytes",
        1,
    ),
    (
        "{v} 60K 8K {a} 0",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 61440+8192 does not lie inside the VMO of 65536 bytes",
        2,
    ),
    (
        f"{{v}} {TOO_LARGE} 16K {{a}} 0",
        errno.ERANGE,
        f"ZX_ERR_OUT_OF_RANGE: range {TOO_LARGE}+16384 overflows",
        4,
    ),
    ("{detached} 0 12K {a} 0", errno.EBADFD, "ZX_ERR_BAD_STATE: the VMO with key 78 is detached", 3),
    # The range comes before the state.
    (
        "{detached} 64K 4K {a} 0",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 65536+4096 does not lie inside the VMO of 65536 bytes",
        1,
    ),
]


@pytest.mark.parametrize(("line", "code", "result", "taken"), OF_VMO, ids=[line for line, *_ in OF_VMO])
def test_errors_of_the_destination_cost_the_aux_its_content(
    scene: Scene, line: str, code: int, result: str, taken: int
) -> None:
    assert scene.run("supply_pages", line) == scene.refused(code, result)
    scene.check_aux(taken)
    scene.check_absent()


@pytest.mark.parametrize("line", ["{v} 0 0 {a} 0", "{v} 0 0 {a} 1M", "{detached} 0 0 {a} 0", "{detached} 1M 0 {a} 0"])
def test_supplying_nothing_is_no_error(scene: Scene, line: str) -> None:
    assert scene.run("supply_pages", line) == OK
    scene.check_aux(0)
    scene.check_absent()


@pytest.mark.parametrize("kind", ["contiguous", "physical"])
def test_special_memory_cannot_be_taken(scene: Scene, kind: str) -> None:
    special = scene.pager.aux("special")
    made = shell_command(scene.pager.mount, "control/vmo_create", f"{special.name} 16K {kind}")
    assert made == OK
    with special.path.open("r+b") as file:
        file.write(pattern.make(KEY, 0, PAGE_SIZE))
    for line in (f"{{v}} 0 4K {special.name} 0", f"{{v}} 0 4K {special.name} 1M"):
        answer = scene.run("supply_pages", line)
        assert answer == scene.refused(
            errno.EOPNOTSUPP, f"ZX_ERR_NOT_SUPPORTED: pages of {kind} memory cannot be taken"
        )
    pattern.check(special.path.read_bytes()[:PAGE_SIZE], KEY)
    scene.check_absent()


def test_the_right_sum_lets_pages_pass(scene: Scene) -> None:
    assert scene.run("supply_pages", f"{{v}} 0 16K {{a}} 0 xxh3={SUM}") == OK
    scene.check_aux(4)
    with scene.vmo.path.open("rb") as file:
        pattern.check(file.read(4 * PAGE_SIZE), KEY)


def test_pages_that_are_there_are_kept_and_the_offered_ones_are_gone(scene: Scene) -> None:
    scene.pager.supply(scene.vmo, PAGE_SIZE, key=2 * KEY)
    assert scene.run("supply_pages", "{v} 0 12K {a} 0") == OK
    scene.check_aux(3)
    with scene.vmo.path.open("rb") as file:
        data = file.read(3 * PAGE_SIZE)
    pattern.check(data[:PAGE_SIZE], KEY)
    pattern.check(data[PAGE_SIZE : 2 * PAGE_SIZE], 2 * KEY, PAGE_SIZE)
    pattern.check(data[2 * PAGE_SIZE :], KEY, 2 * PAGE_SIZE)


def test_a_pager_that_was_closed_leaves_a_vmo_to_nobody(scene: Scene) -> None:
    closed = PagerClient(scene.pager.mount)
    try:
        vmo = closed.create("v")
        closed.close_commands()
        closed.control.rmdir()
        assert scene.run("supply_pages", f"{vmo.name} 0 4K {{a}} 0") == scene.refused(errno.EINVAL, NOT_OURS)
        scene.check_aux(0)
    finally:
        closed.close()


AS_USER = ("setpriv", "--reuid", "1001", "--regid", "1001", "--clear-groups")
DENIED = [  # modes of the VMO and of the aux, and what is missing
    (0o666, 0o666, None),
    (0o644, 0o666, "ZX_ERR_ACCESS_DENIED: no permission to write '{v}'"),
    (0o622, 0o666, None),
    (0o666, 0o644, "ZX_ERR_ACCESS_DENIED: no permission to read and write '{a}'"),
    (0o666, 0o622, "ZX_ERR_ACCESS_DENIED: no permission to read and write '{a}'"),
    (0o644, 0o644, "ZX_ERR_ACCESS_DENIED: no permission to write '{v}'"),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("vmo_mode", "aux_mode", "result"), DENIED)
def test_who_supplies_needs_permissions_on_both(scene: Scene, vmo_mode: int, aux_mode: int, result: str | None) -> None:
    scene.vmo.path.chmod(vmo_mode)
    scene.aux.path.chmod(aux_mode)
    control = scene.pager.control / "supply_pages"
    control.chmod(0o606)
    answer = shell_command(
        scene.pager.mount,
        f"control/{scene.pager.name}/supply_pages",
        f"{scene.vmo.name} 0 4K {scene.aux.name} 0",
        prefix=AS_USER,
    )
    assert answer == (OK if result is None else scene.refused(errno.EACCES, result))
    scene.check_aux(0 if result else 1)
    assert scene.vmo.xattr("clean_pages") == ("0" if result else "1")

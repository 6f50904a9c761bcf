"""The errors of ``create_vmo``, ``detach_vmo`` and ``op_range FAIL``, from a shell: errno and sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.support.pager_client import PagerClient
from tests.support.shell import OK, Answer, shell_command
from vmofs.testing import pattern
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE

KEY = 9 * pattern.KEY_STEP
TOO_LARGE = 0xFFFF_FFFF_FFFF_F000


class Scene:
    """A pager with a VMO, a detached VMO, a directory and an aux; and another pager with a VMO."""

    def __init__(self, pager: PagerClient, other: PagerClient) -> None:
        self.pager = pager
        self.vmo = pager.create("v", 16 * PAGE_SIZE)
        self.detached = pager.create("detached", 4 * PAGE_SIZE, "key=78")
        pager.command("detach_vmo", self.detached.name)
        pager.vmo("directory").path.mkdir()
        self.names = {
            "v": self.vmo.name,
            "detached": self.detached.name,
            "foreign": other.create("foreign").name,
            "directory": pager.vmo("directory").name,
            "a": pager.stage(bytes(PAGE_SIZE)).name,
            "p": pager.name,
        }

    def run(self, file: str, line: str) -> Answer:
        """Carry out a command in a shell."""
        return shell_command(self.pager.mount, f"control/{self.pager.name}/{file}", line.format(**self.names))

    def refused(self, code: int, result: str) -> Answer:
        """Return the answer that says so."""
        return Answer.refused(code, result.format(**self.names))


@pytest.fixture
def scene(pager: PagerClient) -> Iterator[Scene]:
    other = PagerClient(pager.mount)
    yield Scene(pager, other)
    other.close()


CREATE = [
    ("{v} 4K", errno.EEXIST, "ZX_ERR_ALREADY_EXISTS: '{v}' exists"),
    ("{directory} 4K", errno.EEXIST, "ZX_ERR_ALREADY_EXISTS: '{directory}' exists"),
    ("vmo/{p}/n 4K resizable unbounded", errno.EINVAL, "ZX_ERR_INVALID_ARGS: a VMO cannot be both"),
    ("vmo/{p}/n 8E", errno.ERANGE, f"ZX_ERR_OUT_OF_RANGE: size {2**63} is above the largest VMO, {MAX_VMO_BYTES}"),
    ("vmo/{p}/n 8E unbounded", errno.ERANGE, f"ZX_ERR_OUT_OF_RANGE: size {2**63} is above the largest VMO"),
    ("vmo/{p}/n 16E", errno.EINVAL, "ZX_ERR_INVALID_ARGS: SIZE '16E' is above 2^64-1"),
    ("vmo/{p}/n -1", errno.EINVAL, "ZX_ERR_INVALID_ARGS: SIZE '-1' is negative"),
    ("vmo/{p}/n", errno.EINVAL, "ZX_ERR_INVALID_ARGS: SIZE missing; usage: VMO SIZE [key=N]"),
    ("vmo/none/n 4K", errno.ENOENT, "ZX_ERR_BAD_HANDLE: 'vmo/none' does not exist"),
    ("{v}/n 4K", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: '{v}' is no directory"),
    ("aux/{p}/n 4K", errno.EINVAL, "ZX_ERR_INVALID_ARGS: 'aux/{p}' does not lie below vmo/"),
    ("n 4K", errno.EINVAL, "ZX_ERR_INVALID_ARGS: 'n' does not lie below vmo/"),
    ("vmo 4K", errno.EINVAL, "ZX_ERR_INVALID_ARGS: 'vmo' does not lie below vmo/"),
    ("vmo/{p}/n 4K port=none", errno.ENOENT, "ZX_ERR_BAD_HANDLE: there is no FIFO 'none' in 'control/{p}'"),
    ("vmo/{p}/n 4K port=pending", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'pending' in 'control/{p}' is no FIFO"),
    ("vmo/{p}/n 4K port=supply_pages", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'supply_pages' in 'control/{p}' is no"),
    ("vmo/{p}/n 4K mode=1777", errno.EINVAL, "ZX_ERR_INVALID_ARGS: mode '1777' is not octal permission bits, 0 to 777"),
    ("vmo/{p}/n 4K discardable", errno.EINVAL, "ZX_ERR_INVALID_ARGS: 'discardable' is not expected here; usage: VMO"),
    ("vmo/{p}/n 4K key=x", errno.EINVAL, "ZX_ERR_INVALID_ARGS: key 'x' is not a number"),
    ("vmo/{p}/n\\x 4K", errno.EINVAL, "ZX_ERR_INVALID_ARGS: name 'vmo/{p}/n\\x' has a backslash that begins none of"),
]


@pytest.mark.parametrize(("line", "code", "result"), CREATE, ids=[line for line, _, _ in CREATE])
def test_a_vmo_is_refused_and_nothing_is_made(scene: Scene, line: str, code: int, result: str) -> None:
    before = sorted(path.name for path in scene.vmo.path.parent.iterdir())
    answer = scene.run("create_vmo", line)
    expected = scene.refused(code, result)
    assert answer.error == expected.error
    assert answer.result.startswith(expected.result)
    assert sorted(path.name for path in scene.vmo.path.parent.iterdir()) == before
    assert scene.pager.stat("vmos") == 2


NOT_OURS = "ZX_ERR_INVALID_ARGS: the VMO was not made by this pager"
DETACH = [
    ("vmo/none", errno.ENOENT, "ZX_ERR_BAD_HANDLE: 'vmo/none' does not exist"),
    ("{directory}", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: '{directory}' is no VMO"),
    ("control/{p}", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: 'control/{p}' is no VMO"),
    ("{foreign}", errno.EINVAL, NOT_OURS),
    ("{a}", errno.EINVAL, NOT_OURS),
    ("{v} now", errno.EINVAL, "ZX_ERR_INVALID_ARGS: 'now' is not expected here; usage: VMO"),
]


@pytest.mark.parametrize(("line", "code", "result"), DETACH, ids=[line for line, _, _ in DETACH])
def test_what_cannot_be_detached_stays_attached(scene: Scene, line: str, code: int, result: str) -> None:
    assert scene.run("detach_vmo", line) == scene.refused(code, result)
    assert scene.vmo.xattr("state") == "attached"


def test_detaching_twice_is_no_error_and_sends_one_complete(scene: Scene) -> None:
    assert scene.run("detach_vmo", "{v}") == OK
    assert scene.run("detach_vmo", "{v}") == OK
    completes = [request.path for request in scene.pager.requests.take(2)]
    assert completes == [scene.detached.name, scene.vmo.name]
    assert scene.pager.requests.is_quiet()


CODES = (
    "ZX_ERR_BUFFER_TOO_SMALL (-15), ZX_ERR_BAD_STATE (-20), ZX_ERR_IO (-40), ZX_ERR_IO_DATA_INTEGRITY (-42), "
    "ZX_ERR_NO_SPACE (-54)"
)
FAIL = [
    *(
        (
            f"FAIL {{v}} 0 4K {code}",
            errno.EINVAL,
            f"ZX_ERR_INVALID_ARGS: a range cannot fail with {number}, only with {CODES}",
        )
        for code, number in (
            ("ZX_OK", 0),
            ("0", 0),
            ("1", 1),
            ("NO_MEMORY", -4),
            ("ZX_ERR_TIMED_OUT", -21),
            ("0x11ffffffff", 0x11FFFFFFFF),
            ("0xffffffd8", 0xFFFFFFD8),
        )
    ),
    (
        "FAIL {v} 0 4K",
        errno.EINVAL,
        "ZX_ERR_INVALID_ARGS: FAIL needs a status; usage: FAIL VMO OFFSET LENGTH STATUS [reason=REASON]",
    ),
    ("FAIL {v} 0 4K INTERNAL", errno.EINVAL, "ZX_ERR_INVALID_ARGS: DATA 'INTERNAL' is not a number"),
    ("FAIL {v} 1 4K IO", errno.EINVAL, "ZX_ERR_INVALID_ARGS: offset 1 is not page aligned"),
    ("FAIL {v} 0 5 IO", errno.EINVAL, "ZX_ERR_INVALID_ARGS: length 5 is not page aligned"),
    ("FAIL vmo/none 1 4K IO", errno.EINVAL, "ZX_ERR_INVALID_ARGS: offset 1 is not page aligned"),
    ("NONSENSE {v} 0 5", errno.EINVAL, "ZX_ERR_INVALID_ARGS: length 5 is not page aligned"),
    ("FAIL vmo/none 0 4K IO", errno.ENOENT, "ZX_ERR_BAD_HANDLE: 'vmo/none' does not exist"),
    ("FAIL {directory} 0 4K IO", errno.EMEDIUMTYPE, "ZX_ERR_WRONG_TYPE: '{directory}' is no VMO"),
    ("FAIL {foreign} 0 4K ZX_OK", errno.EINVAL, NOT_OURS),
    ("FAIL {a} 0 4K IO", errno.EINVAL, NOT_OURS),
    ("NONSENSE {foreign} 0 4K", errno.EINVAL, NOT_OURS),
    ("NONSENSE {v} 0 4K", errno.EOPNOTSUPP, "ZX_ERR_NOT_SUPPORTED: there is no operation 'NONSENSE'"),
    (
        "FAIL {v} 60K 8K IO",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 61440+8192 does not lie inside the VMO of 65536 bytes",
    ),
    (
        f"FAIL {{v}} {TOO_LARGE} 4K IO",
        errno.ERANGE,
        f"ZX_ERR_OUT_OF_RANGE: range {TOO_LARGE}+4096 does not lie inside the VMO of 65536 bytes",
    ),
    (
        "FAIL {v} 68K 0 IO",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 69632+0 does not lie inside the VMO of 65536 bytes",
    ),
    ("FAIL {detached} 0 4K IO", errno.EBADFD, "ZX_ERR_BAD_STATE: the VMO with key 78 is detached"),
    (
        "FAIL {detached} 64K 4K IO",
        errno.ERANGE,
        "ZX_ERR_OUT_OF_RANGE: range 65536+4096 does not lie inside the VMO of 16384 bytes",
    ),
]


@pytest.mark.parametrize(("line", "code", "result"), FAIL, ids=[line for line, _, _ in FAIL])
def test_fail_is_refused(scene: Scene, line: str, code: int, result: str) -> None:
    assert scene.run("op_range", line) == scene.refused(code, result)


@pytest.mark.parametrize(
    "line", ["FAIL {v} 0 4K IO", "fail {v} 0 64K zx_err_io", "FAIL {v} 64K 0 -40", "FAIL {v} 0 4K 0xffffffffffffffd8"]
)
def test_failing_what_nobody_waits_for_is_no_error(scene: Scene, line: str) -> None:
    assert scene.run("op_range", line) == OK

"""A pager is tried without a mount; the failure rules are those of a mount, since it is the same service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from vmofs.client import Changed, Data, Object, Pager, Retry, Unavailable
from vmofs.status import IoDataIntegrityError, IoError
from vmofs.testing import Reading, pattern, read

PAGE = 4096
SIZE = 3_000_000
KEY = pattern.KEY_STEP


class Patterned(Pager):
    """A pager of one object, whose reads do first what a test says."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self.before = before
        self.calls: list[tuple[int, int]] = []

    def objects(self) -> list[Object]:
        return [Object("x", SIZE)]

    def read(self, obj: Object, offset: int, length: int) -> Data:
        assert obj.name == "x"
        self.calls.append((offset, length))
        self.before(len(self.calls))
        return pattern.make(KEY, offset, length)


def test_all_of_an_object_is_what_the_pager_has() -> None:
    pattern.check(read(Patterned(), "x"), KEY)
    assert len(read(Patterned(), "x")) == SIZE


@pytest.mark.parametrize(
    ("offset", "length", "count"), [(5, 10, 10), (SIZE - 3, 10, 3), (SIZE, 1, 0), (SIZE + 9, 1, 0)]
)
def test_parts_are_cut_as_those_of_a_file(offset: int, length: int, count: int) -> None:
    data = read(Patterned(), "x", offset, length)
    assert data == pattern.make(KEY, offset, count)


def test_there_must_be_such_an_object() -> None:
    with pytest.raises(KeyError):
        read(Patterned(), "y")


class Coroutine(Patterned):
    """The same by a coroutine function."""

    async def read(self, obj: Object, offset: int, length: int) -> bytes:  # type: ignore[override]
        import asyncio  # noqa: PLC0415

        await asyncio.sleep(0)
        return bytes(Patterned.read(self, obj, offset, length))


def test_a_coroutine_function_does_as_well() -> None:
    pattern.check(read(Coroutine(), "x"), KEY)


def test_a_pager_that_reads_several_ranges_is_asked_for_several() -> None:
    class Many(Patterned):
        def read(self, obj: Object, offset: int, length: int) -> Data:
            time.sleep(0.05)
            return Patterned.read(self, obj, offset, length)

        def read_many(self, obj: Object, ranges: Sequence[tuple[int, int]]) -> list[Data]:
            together.append(len(ranges))
            return [Patterned.read(self, obj, *each) for each in ranges]

    together: list[int] = []
    many = Many()
    many.threads = 1
    with Reading(many) as reading:
        threads = [threading.Thread(target=reading.read, args=("x", n * 300_000, 1)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(together) > 1


def raising(*errors: BaseException | None) -> Callable[[int], None]:
    """Return what raises one error after the other, the last one again and again."""

    def before(call: int) -> None:
        error = errors[min(call, len(errors)) - 1]
        if error:
            raise error

    return before


def test_what_is_to_be_tried_again_is() -> None:
    pager = Patterned(raising(Retry("busy"), Retry("busy", after=0.1), TimeoutError(), None))
    pattern.check(read(pager, "x", 0, PAGE), KEY)
    assert len(pager.calls) == 4


def test_tried_again_until_the_deadline_it_fails_with_the_sentence() -> None:
    pager = Patterned(raising(Retry("busy")))
    pager.deadline = 0.4
    began = time.monotonic()
    with pytest.raises(IoError, match="busy"):
        read(pager, "x", 0, PAGE)
    assert time.monotonic() - began < 0.4 + 0.3


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(Unavailable("the link has expired"), "the link has expired"), (OSError(5, "bad sector"), "bad sector")],
)
def test_what_is_unavailable_fails_and_is_asked_for_again_later(error: Exception, sentence: str) -> None:
    with Reading(Patterned(raising(error, error, None))) as reading:
        with pytest.raises(IoError, match=sentence):
            reading.read("x", 0, PAGE)
        pattern.check(reading.read("x", 0, PAGE), KEY)


def test_on_hard_terms_it_is_waited_for() -> None:
    pattern.check(read(Patterned(raising(Unavailable("no"), OSError("no"), None)), "x", 0, PAGE, hard=True), KEY)


def test_what_has_changed_is_not_asked_again_and_what_is_there_stays() -> None:
    pager = Patterned(raising(None, Changed("etag 2")))
    pager.cluster, pager.ahead = PAGE, 0
    with Reading(pager) as reading:
        reading.read("x", 0, PAGE)
        for _ in range(3):
            with pytest.raises(IoDataIntegrityError, match="etag 2"):
                reading.read("x", PAGE, PAGE)
        pattern.check(reading.read("x", 0, PAGE), KEY)
    assert len(pager.calls) == 2


@pytest.mark.parametrize("data", [b"", b"short", bytes(5 * PAGE), "text", None, 7])
def test_anything_but_the_bytes_asked_for_is_an_error(data: object, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Patterned):
        def read(self, obj: Object, offset: int, length: int) -> Data:
            del obj, offset, length
            return data  # type: ignore[return-value]

    wrong = Wrong()
    wrong.cluster = PAGE
    with pytest.raises(IoError):
        read(wrong, "x", 0, PAGE)
    assert caplog.records


def test_a_defect_of_the_pager_is_told_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    pager = Patterned(raising(ZeroDivisionError("mine"), ZeroDivisionError("mine"), ZeroDivisionError("mine"), None))
    pager.cluster = PAGE
    with Reading(pager) as reading:
        for _ in range(3):
            with pytest.raises(IoError, match="ZeroDivisionError: mine"):
                reading.read("x", 0, PAGE)
        pattern.check(reading.read("x", 0, PAGE), KEY)
    assert sum(record.exc_info is not None for record in caplog.records) == 1


def test_a_read_that_does_not_return_fails_by_the_deadline_and_holds_up_nobody() -> None:
    release = threading.Event()

    def hang(call: int) -> None:
        if call == 1:
            release.wait(20)

    pager = Patterned(hang)
    pager.threads, pager.deadline = 1, 0.3
    with Reading(pager) as reading:
        with pytest.raises(IoError, match=r"no answer within 0\.3 s"):
            reading.read("x", 0, PAGE)
        assert reading.statistics.hanging == 1
        pattern.check(reading.read("x", 0, PAGE), KEY)
        release.set()


def test_a_coroutine_that_does_not_return_fails_by_the_deadline() -> None:
    class Endless(Patterned):
        async def read(self, obj: Object, offset: int, length: int) -> bytes:  # type: ignore[override]
            import asyncio  # noqa: PLC0415

            await asyncio.sleep(3600)
            return bytes(Patterned.read(self, obj, offset, length))

    pager = Endless()
    pager.deadline = 0.3
    with pytest.raises(IoError):
        read(pager, "x", 0, PAGE)


def test_hints_are_read_after_the_first_request() -> None:
    class Hinting(Patterned):
        def hint(self, obj: Object) -> list[tuple[int, int]]:
            assert obj.name == "x"
            return [(2_000_000, 1000)]

    hinting = Hinting()
    with Reading(hinting) as reading:
        reading.read("x", 0, 1)
        until = time.monotonic() + 5
        while reading.statistics.reads_ahead == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert reading.statistics.reads_ahead == 1


def test_a_hint_that_fails_is_told_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Hinting(Patterned):
        def hint(self, obj: Object) -> list[tuple[int, int]]:
            raise ZeroDivisionError(obj.name)

    with Reading(Hinting()) as reading:
        pattern.check(reading.read("x"), KEY)
    assert any("hint failed" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("name", "value"), [("cluster", 5000), ("cluster", 0), ("ahead", -1), ("threads", 0), ("deadline", -1)]
)
def test_numbers_that_make_no_sense_are_refused(name: str, value: int) -> None:
    pager = Patterned()
    setattr(pager, name, value)
    with pytest.raises(ValueError, match=str(value)):
        read(pager, "x")


def test_importing_the_client_loads_neither_a_fuse_library_nor_an_event_loop() -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = "import sys, vmofs.client; print({'pyfuse3', 'trio', 'asyncio', 'vmofs_mount'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"

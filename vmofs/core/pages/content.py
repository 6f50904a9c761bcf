"""The bytes behind runs of pages: reading them, writing into them, giving pages a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmofs.core.pages.frames import FrameRun, Frames
from vmofs.core.pages.runs import NO_FRAME, Run, RunMap
from vmofs.core.pages.states import PageState
from vmofs.units import PAGE_SIZE, PageRange, page_count

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account

Bytes = bytes | memoryview

_ZEROS = memoryview(bytes(256 * PAGE_SIZE))


def zeros(length: int) -> Bytes:
    """Return ``length`` zero bytes, without allocating where that can be avoided."""
    return _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)


def run_bytes(frames: Frames, run: Run, offset: int, end: int) -> Bytes:
    """Return the bytes ``[offset, end)`` of an object, all of them in ``run``, without a copy if it has frames."""
    held = run.frames
    if held is None:
        return zeros(end - offset)
    return frames.part(held, offset - run.start * PAGE_SIZE, end - offset)


def read_present(frames: Frames, runs: RunMap, offset: int, end: int, *, gaps_are_zero: bool) -> Bytes | None:
    """Return the bytes ``[offset, end)``, or None if a page is absent and gaps are not zero. No copy for one run."""
    if not gaps_are_zero and runs.at(offset // PAGE_SIZE) is None:
        return None
    pages = PageRange.of_bytes(offset, end - offset)
    pieces: list[Bytes] = []
    position = offset
    for run in runs.whole_over(pages):
        start = run.start * PAGE_SIZE
        if start > position:
            if not gaps_are_zero:
                return None
            pieces.append(zeros(start - position))
            position = start
        stop = min(end, run.end * PAGE_SIZE)
        pieces.append(run_bytes(frames, run, position, stop))
        position = stop
    if position < end:
        if not gaps_are_zero:
            return None
        pieces.append(zeros(end - position))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_committed(frames: Frames, runs: RunMap, offset: int, data: Bytes) -> None:
    """Overwrite bytes of pages that all have frames, in place."""
    position, end = offset, offset + len(data)
    while position < end:
        page = position // PAGE_SIZE
        held = runs.frames_from(page)
        assert held is not None, page
        stop = min(end, (page + held.pages) * PAGE_SIZE)
        frames.write(held, position % PAGE_SIZE, data[position - offset : stop - offset])
        position = stop


def fresh(frames: Frames, pages: PageRange, data: Bytes, account: Account | None = None) -> list[Run]:
    """Return clean pages of no object yet, with new frames that hold ``data``, and zeros behind it.

    Raises:
        NoMemoryError: nothing changed.
    """
    runs: list[Run] = []
    page, position = pages.start, 0
    for held in frames.allocate(pages.pages, filled=True, account=account):
        stop = position + held.pages * PAGE_SIZE
        frames.write(held, 0, data[position:stop])
        runs.append(Run(page, page + held.pages, PageState.CLEAN, held.frame))
        page, position = page + held.pages, stop
    return runs


def wipe_committed(frames: Frames, runs: RunMap, offset: int, end: int) -> None:
    """Zero the bytes ``[offset, end)`` of pages that all have frames; whole pages cost nothing."""
    whole = PageRange(page_count(offset), end // PAGE_SIZE)
    if whole.end <= whole.start:
        write_committed(frames, runs, offset, zeros(end - offset))
        return
    write_committed(frames, runs, offset, zeros(whole.offset - offset))
    for run in runs.over(whole):
        held = run.frames
        assert held is not None, run
        frames.wipe(held)
    write_committed(frames, runs, whole.end * PAGE_SIZE, zeros(end - whole.end * PAGE_SIZE))


def commit_zero(
    frames: Frames,
    runs: RunMap,
    pages: PageRange,
    state: PageState,
    spared: Sequence[FrameRun] = (),
    *,
    filled: bool = False,
) -> None:
    """Put zeroed frames in state ``state`` where ``pages`` has no frames; whatever was there instead is dropped.

    Pages elsewhere may be evicted for that, except those in the frames ``spared``. ``filled``: as in ``allocate``.

    Raises:
        NoMemoryError: nothing changed.
    """
    whole = runs.frames_from(pages.start)
    if whole is not None and whole.pages >= pages.pages:
        return
    present = runs.over(pages)
    if not present:
        page = pages.start
        for new in frames.allocate(pages.pages, spared, filled=filled, account=runs.account):
            runs.put(Run(page, page + new.pages, state, new.frame))
            page += new.pages
        return
    bare = [run.range for run in present if run.frame == NO_FRAME] + runs.gaps(pages)
    if not bare:
        return
    held = [held for run in present if (held := run.frames)]
    wanted = sum(part.pages for part in bare)
    fresh = frames.allocate(wanted, [*held, *spared], filled=filled, account=runs.account)
    for part in bare:
        runs.take(part)
        position = part.start
        while position < part.end:
            run = fresh.pop()
            use = min(run.pages, part.end - position)
            runs.put(Run(position, position + use, state, run.frame))
            if use < run.pages:
                fresh.append(run._replace(frame=run.frame + use, pages=run.pages - use))
            position += use


def free_runs(frames: Frames, runs: list[Run]) -> None:
    """Give the frames of runs back that were taken out of an object."""
    frames.free(*(held for run in runs if (held := run.frames) is not None))

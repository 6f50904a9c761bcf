"""Families of VMOs that share pages by copy-on-write: a tree of nodes. Zircon: VmCowPages; zircon-pager 2.12, 5.3.

Rules:

* What a node shows at a page is what the first node on the way up has there, each step moved by ``offset`` and only
  below ``limit``. Behind that: zeros; at a root that has a pager, a gap to be READ.
* A node holds only the pages that are its own: CLEAN with a frame, MARKER for zeros that hide what is above. So a child
  costs what was changed in it, and nothing when it is made.
* The pages of a hidden node never change. Whoever writes takes a copy, or the page itself if nobody else sees it.
* Every frame of a hidden node is seen by a leaf. Who stops seeing one looks whether it is to be freed.

Theory. A child is made in one of two ways. An *on-write* child (pager families only) hangs below a node that stays
writable, and sees its writes until it forks a page::

    root    A B . D        the pager's; page 2 is absent
      |
    clone   _ b _ _        shows A b ? D; a read of page 2 asks the pager of the root

A *two-way* snapshot must not see later writes. So what the parent had moves, at no cost, into a new hidden node, below
which parent and child hang side by side. Here the parent has written page 0 since::

                hidden  A B C
                   |
          +--------+--------+
          |                 |
    parent  x _ _     child  _ _ _        they show x B C and A B C

Page 0 of the hidden node is now the child's alone: if that writes there, the frame moves down and nothing is copied.
Hidden nodes have at least two children. One with one child left gives its pages to that and goes (``melt``), unless
they are another's, and too many for who pays for the child. Nodes below a hidden one are hidden, or leaves; above it
are hidden ones, or the root of a pager family. A new child hangs as high as it can without seeing anything else, so
that trees stay flat.

Who sees a page is found out when it matters (a write, a close) by looking, not by counters that every snapshot would
have to touch. ``shared_pages`` of a leaf counts the frames of hidden nodes that it sees. Slices and references are no
nodes but *windows* on one: handles that show a part of it, or all.

The pages of a node are counted in one account: that of the VMO that made them. When that is closed, who keeps them by a
child or a window pays, as far as his limit allows; else they stay where they are counted.

Not nice: ``limit`` may sink below a marker, which then hides nothing (``shows_own``). Markers are not merged upward, so
a clone that was zeroed page by page keeps a run for each piece.

What changes with it: who reads through nodes by ``Found`` (``transfer``, ``commit``, ``taking``), ``children``, which
decides where a child hangs, and the edge, which asks ``viewers``, ``windows`` and ``written_by`` who shows a page.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmofs.core.pages import content
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import NO_FRAME, Run, RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.found import Found
from vmofs.units import ALL_PAGES, PAGE_SIZE, PageRange, page_count

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account
    from vmofs.core.pages.eviction import Recency
    from vmofs.core.requests.access import Need
    from vmofs.core.requests.system import System


class Viewer(Protocol):
    """A handle by which users see a node: the VMO that it belongs to, or a window on it."""

    owner: object

    def check(self) -> None:
        """Assert the invariants."""


class Window(NamedTuple):
    """What an open slice or reference shows of a node, and who made it."""

    pages: PageRange
    account: Account | None


_MOST_ASKED = 64
"""Of those who keep a node, whether one of them is who paid before."""

_NO_CHILDREN: dict[CowPages, None] = {}  # these two are replaced, never changed
_NO_WINDOWS: dict[Viewer, Window] = {}


class CowPages:
    """The pages of one VMO, and its place in the family. Pages are counted from the start of this node."""

    __slots__ = (
        "children",
        "frames",
        "has_source",
        "hidden",
        "is_open",
        "limit",
        "offset",
        "owner",
        "parent",
        "recency",
        "runs",
        "shared_pages",
        "system",
        "windows",
    )

    def __init__(
        self, system: System, runs: RunMap, owner: Viewer | None, *, has_source: bool = False, hidden: bool = False
    ) -> None:
        self.system = system
        self.frames = system.frames
        self.runs = runs
        self.has_source = has_source
        self.hidden = hidden
        self.parent: CowPages | None = None
        self.offset = 0
        self.limit = 0
        self.children = _NO_CHILDREN
        self.recency: Recency | None = None
        """Told which pages of this node are read through another one."""
        self.shared_pages = 0
        self.owner = owner
        self.is_open = owner is not None
        """Whether the VMO is open that is this node."""
        self.windows = _NO_WINDOWS
        """The open slices and references that are windows on this node, and what each shows."""
        if owner is None:
            system.register(self, runs)

    @property
    def viewers(self) -> list[Viewer]:
        """The open VMOs that are this node or a window on it."""
        return [*([self.owner] if self.owner and self.is_open else []), *self.windows]

    def add_window(self, view: Viewer, window: Window) -> None:
        """Note an open view."""
        if self.windows is _NO_WINDOWS:
            self.windows = {}
        self.windows[view] = window

    def members_of(self, account: Account) -> int:
        """Return how many children and windows are an account's."""
        windows = sum(window.account is account for window in self.windows.values())
        return windows + sum(child.runs.account is account for child in self.children)

    def depth(self) -> int:
        """Return how many nodes are above."""
        count, node = 0, self.parent
        while node is not None:
            count, node = count + 1, node.parent
        return count

    def written_by(self, pages: PageRange, *, own: bool = True) -> list[tuple[Viewer, PageRange]]:
        """Return the open VMOs whose writes a range may show, and the pages that they would be written to there.

        Those that are this node or windows on it, if ``own``, and those of the nodes above.
        """
        found: list[tuple[Viewer, PageRange]] = []
        node: CowPages | None = self
        while node is not None and pages:
            if own or node is not self:
                if node.owner and node.is_open:
                    found.append((node.owner, pages))
                for view, window in node.windows.items():
                    shown = pages & window.pages
                    if shown:
                        found.append((view, shown.moved(-window.pages.start)))
            pages = (pages & PageRange(0, node.limit)).moved(node.offset)
            node = node.parent
        return found

    def seen_by(self) -> list[Viewer]:
        """Return the open VMOs that show what is written to this node, as far as they have not forked it."""
        found: list[Viewer] = []
        waiting = [self]
        while waiting:
            node = waiting.pop()
            found += node.viewers
            waiting += node.children
        return found

    # Looking

    def need_read(self, gap: PageRange, wanted: int | None = None) -> Need:
        """Return what must be asked for first, for a gap of a root that has a pager."""
        raise NotImplementedError

    def find(self, page: int, end: int) -> Found:
        """Return what is shown from ``page`` on, at most up to ``end``: as far as it is all in one run of one node."""
        node, count = self, end - page
        while True:
            run = node.runs.at(page)
            if run is not None:
                return tuple.__new__(Found, (min(count, run.end - page), node, page, run))
            count = node.runs.next_start(page, page + count) - page
            if node.parent is None:
                return tuple.__new__(Found, (count, node if node.has_source else None, page, None))
            if page >= node.limit:
                return Found(count, None, page, None)
            count = min(count, node.limit - page)
            page += node.offset
            node = node.parent

    def find_all(self, pages: PageRange) -> list[tuple[int, Found]]:
        """Return everything that is shown in a range, ascending, with the page at which it is shown."""
        found, page = [], pages.start
        while page < pages.end:
            found.append((page, self.find(page, pages.end)))
            page += found[-1][1].pages
        return found

    def reach(self, start: int, end: int) -> int:
        """Return up to where, at most ``end``, no more is found from ``start`` on than is done in one go."""
        if self.parent is None:
            return self.runs.reach(start, end, SLICE)
        for _ in range(SLICE):
            if start >= end:
                break
            start += self.find(start, end).pages
        return start

    def committed(self, pages: PageRange) -> list[PageRange]:
        """Return the parts of a range that show more than zeros and are not absent."""
        return [PageRange(page, page + it.pages) for page, it in self.find_all(pages) if it.has_frames]

    def bytes_of(self, found: Found, start: int, end: int) -> Bytes:
        """Return the bytes ``[start, end)`` of something found, counted from its first page. It is not absent."""
        if found.run is None:
            return content.zeros(end - start)
        if found.node is not None and found.node.recency is not None and found.has_frames:
            found.node.recency.used(found.page, found.page + found.pages)
        base = found.page * PAGE_SIZE
        return content.run_bytes(self.frames, found.run, base + start, base + end)

    def read_present(self, offset: int, end: int) -> Bytes | None:
        """Return the bytes ``[offset, end)``, or None if a page is absent. No copy if they lie together."""
        page = offset // PAGE_SIZE
        held = self.runs.frames_from(page)
        if held is not None and end <= (page + held.pages) * PAGE_SIZE:  # mostly
            if self.recency is not None:
                self.recency.used(page, page_count(end))
            return self.frames.part(held, offset % PAGE_SIZE, end - offset)
        if self.parent is not None:
            return self._read_through(offset, end)
        data = content.read_present(self.frames, self.runs, offset, end, gaps_are_zero=not self.has_source)
        if self.recency is not None and data is not None:
            for run in self.runs.over(PageRange(page, page_count(end))):
                if run.frame != NO_FRAME:
                    self.recency.used(run.start, run.end)
        return data

    def _read_through(self, offset: int, end: int) -> Bytes | None:
        """Return bytes that lie in several runs or nodes."""
        pieces: list[Bytes] = []
        for page, found in self.find_all(PageRange.of_bytes(offset, end - offset)):
            if found.absent:
                return None
            base = page * PAGE_SIZE
            stop = min(end, base + found.pages * PAGE_SIZE)
            pieces.append(self.bytes_of(found, max(offset, base) - base, stop - base))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # Changing what is this node's own

    def own(self, *parts: PageRange, filled: bool = False) -> None:
        """Give every page of some ranges a frame that is this node's own, with what it shows. None may be absent.

        A frame that nobody else sees moves here, others are copied. ``filled``: the pages are about to be overwritten.

        Raises:
            NoMemoryError: nothing changed that can be seen.
        """
        if self.parent is None:
            for part in parts:
                content.commit_zero(self.frames, self.runs, part, PageState.CLEAN, filled=filled)
            return
        copies = {part: self._copies(part) for part in parts}
        spared = [frames for found in copies.values() for _, it in found if (frames := it.frames) is not None]
        for part, found_there in copies.items():
            content.commit_zero(self.frames, self.runs, part, PageState.CLEAN, spared, filled=filled)
            for page, found in found_there:
                data = self.bytes_of(found, 0, found.pages * PAGE_SIZE)
                content.write_committed(self.frames, self.runs, page * PAGE_SIZE, data)
                self.shared_pages -= found.pages if found.node is not None and found.node.hidden else 0

    def _copies(self, pages: PageRange) -> list[tuple[int, Found]]:
        """Take what of a range is in hidden nodes and nobody else sees; return what must be copied."""
        copies: list[tuple[int, Found]] = []
        for page, found in self.find_all(pages):
            if not found.has_frames or found.node is None or found.node is self:
                continue
            if not found.node.hidden:
                copies.append((page, found))
                continue
            moved = found.node.unseen(found.range, self)
            account = self.runs.account
            if account is not None and account is not found.node.runs.account:
                account.check(moved.pages)
            for part in moved:
                self._adopt(found.node.runs.take(part), page - found.page)
                self.shared_pages -= part.pages
            copies += [
                (page + part.start - found.page, found._replace(pages=part.pages, page=part.start))
                for part in moved.missing(found.range)
            ]
        return copies

    def _adopt(self, runs: list[Run], shift: int) -> None:
        for run in runs:
            self.runs.put(run.moved(shift))

    def blank(self, pages: PageRange) -> None:
        """Make whole pages zeros for good, whatever is above. Nothing is needed for that."""
        self._let_go(pages)
        content.free_runs(self.frames, self.runs.take(pages))
        self._hide_above(pages)

    def _hide_above(self, pages: PageRange) -> None:
        if pages.start < min(pages.end, self.limit):
            covered = pages & PageRange(0, self.limit)
            self.runs.put(Run(covered.start, covered.end, PageState.MARKER))

    def cut(self, size_pages: int) -> None:
        """Forget everything from a page on; what comes there later is zero, here and in all that hang below."""
        pages = PageRange(size_pages, ALL_PAGES.end)
        self._let_go(pages)
        content.free_runs(self.frames, self.runs.take(pages))
        self.limit = min(self.limit, size_pages)
        self.cut_children(size_pages)

    def cut_children(self, size_pages: int) -> None:
        """Let the nodes directly below see nothing from a page of this one on, for ever."""
        for child in self.children:
            child.limit = min(child.limit, max(0, size_pages - child.offset))

    def take(self, pages: PageRange) -> list[Run]:
        """Remove what a range shows and return it as runs with frames; from now on it reads as zeros.

        None may be absent. Pages that others see too are copied.

        Raises:
            NoMemoryError: nothing changed that can be seen.
        """
        if self.parent is not None:
            self.own(*self.committed(pages))
        taken = [run for run in self.runs.take(pages) if run.frame != NO_FRAME]
        self._hide_above(pages)
        for run in taken:
            self.changed(run.range)
        return taken

    def _let_go(self, pages: PageRange) -> None:
        """Stop seeing what hidden nodes have in a range; free what then nobody sees."""
        shown = pages & PageRange(0, self.limit)
        if shown and self.parent is not None and self.parent.hidden:
            self.shared_pages -= self.count_shared(shown)
            self._free_unseen_above(shown)

    def count_shared(self, pages: PageRange) -> int:
        """Return how many frames of hidden nodes are seen in a range."""
        found = (found for _, found in self.find_all(pages))
        return sum(it.pages for it in found if it.has_frames and it.node is not None and it.node.hidden)

    def _free_unseen_above(self, pages: PageRange) -> None:
        node, part = self, pages
        while part and node.parent is not None and node.parent.hidden:
            part = part.moved(node.offset)
            node = node.parent
            for unseen in node.unseen(part, self):
                content.free_runs(self.frames, node.runs.take(unseen))
            part &= PageRange(0, node.limit)

    def unseen(self, pages: PageRange, but: CowPages | None = None) -> RangeSet:
        """Return which pages of this hidden node no leaf shows except perhaps ``but``."""
        unseen = RangeSet()
        unseen.add(pages)
        waiting = _below(self, [pages], 0)
        while waiting and unseen:
            node, base, parts = waiting.pop()
            if node is but:
                continue
            gaps = [
                gap
                for part in parts
                for left in unseen.over(part.moved(base))
                for gap in node.runs.gaps(left.moved(-base))
            ]
            if node.hidden:
                waiting += _below(node, gaps, base)
            else:
                for gap in gaps:
                    unseen.discard(gap.moved(base))
        return unseen

    def changed(self, pages: PageRange, by: object = None) -> None:
        """Note that pages of this node have other bytes now, for all who show them except ``by``."""
        if not self.children and not self.windows:  # mostly
            if self.is_open and self.owner is not by:
                self.system.mark_stale(self.owner, pages)
            return
        waiting = [(self, pages)]
        while waiting:
            node, part = waiting.pop()
            if node.is_open and node.owner is not by:
                self.system.mark_stale(node.owner, part)
            for viewer, window in node.windows.items():
                if viewer is not by:
                    self.system.mark_stale(viewer, (part & window.pages).moved(-window.pages.start))
            for child in node.children:
                shown = part.moved(-child.offset) & PageRange(0, child.limit)
                waiting += [(child, gap) for gap in child.runs.gaps(shown)]

    # The family

    def place(self, offset: int, limit: int, *, two_way: bool) -> tuple[CowPages, int, int]:
        """Return where a child that shows ``[offset, offset+limit)`` of this node may hang at best, and what of it.

        That is below this node, or further up as long as no node on the way shows anything of its own there; a two-way
        snapshot only as far as nodes are hidden.
        """
        node = self
        while (parent := node.parent) is not None and (parent.hidden or not two_way):
            if node.shows_own(PageRange(offset, offset + limit)):
                break
            limit = max(0, min(offset + limit, node.limit) - offset)
            offset += node.offset
            node = parent
        return node, offset, limit

    def shows_own(self, pages: PageRange) -> bool:
        """Return whether a range shows anything that is this node's own: frames, or zeros that hide what is above.

        A marker beyond the limit hides nothing. One comes there when a node that was zeroed below a hidden one takes
        its place, or when the limit sinks.
        """
        return any(run.frame != NO_FRAME or run.start < self.limit for run in self.runs.over(pages))

    def hang(self, child: CowPages, offset: int, limit: int) -> None:
        """Make a node a child that shows ``limit`` pages from ``offset`` on."""
        child.parent, child.offset, child.limit = self, offset, limit
        if self.children is _NO_CHILDREN:
            self.children = {}
        self.children[child] = None

    def hide(self, size_pages: int) -> CowPages:
        """Move all pages of this node into a new hidden node above it, and return that."""
        hidden = CowPages(self.system, RunMap(self.runs.account), None, hidden=True)
        hidden.runs.swap(self.runs)
        self.shared_pages += hidden.runs.committed_pages
        self._replace_below_parent(hidden)
        hidden.hang(self, 0, size_pages)
        return hidden

    def _replace_below_parent(self, other: CowPages, offset: int | None = None, limit: int | None = None) -> None:
        """Give this node's place in the family to another one."""
        if self.parent is not None:
            del self.parent.children[self]
            self.parent.hang(other, self.offset if offset is None else offset, self.limit if limit is None else limit)

    def close(self, viewer: Viewer) -> None:
        """Forget an open VMO; free what nobody needs any more. A second call does nothing."""
        account = self.runs.account
        if self.is_open and viewer is self.owner:
            self.is_open = False
        elif viewer in self.windows:
            account = self.windows.pop(viewer).account
        else:
            return
        self.system.forget_stale(viewer)
        self._free_if_unused()
        self.pass_on(account)

    def _free_if_unused(self) -> None:
        node: CowPages | None = self
        while node is not None and not (node.is_open or node.windows or node.children):
            parent, account = node.parent, node.runs.account
            node.leave()
            if parent is not None and parent.children:
                parent.pass_on(account)
                if parent.hidden and len(parent.children) == 1:
                    parent.melt()
                return
            node = parent

    def pass_on(self, left: Account | None) -> None:
        """Let somebody who keeps this node pay for it, if who did has just left, and he has room."""
        if self.is_open or left is None or left is not self.runs.account:
            return
        accounts = [window.account for window in islice(self.windows.values(), _MOST_ASKED)]
        accounts += [child.runs.account for child in islice(self.children, _MOST_ASKED)]
        if (
            accounts
            and left not in accounts
            and (accounts[0] is None or accounts[0].has_room(self.runs.committed_pages))
        ):
            self.runs.charge_to(accounts[0])

    def leave(self) -> None:
        """Free everything, for a node that nobody needs, and go out of the family."""
        self._free_unseen_above(PageRange(0, self.limit))
        owner, self.owner = self.owner, None
        self.freed(owner or self)
        self.system.bury(self.runs)
        if self.parent is not None:
            del self.parent.children[self]
            self.parent = None

    def melt(self) -> None:
        """Give what the one child that is left sees of this hidden node to it, and take its place in the family."""
        (child,) = self.children
        account = child.runs.account
        if account is not self.runs.account:
            if account is not None and not account.has_room(self.runs.committed_pages):
                return
            self.runs.charge_to(account)
        below, before = self.runs, child.runs.committed_pages
        if child.offset:
            below = RunMap(account)
            for run in self.runs.take(ALL_PAGES):  # what the child does not see went when the last who saw it did
                below.put(run.moved(-child.offset))
        for run in child.runs.take(ALL_PAGES):  # mostly the smaller of the two
            content.free_runs(self.frames, below.take(run.range))
            below.put(run)
        child.runs.swap(below)
        child.runs_changed_owner(before)
        offset, limit = child.offset + self.offset, min(child.limit, max(0, self.limit - child.offset))
        child.parent, child.offset, child.limit = None, 0, 0
        self._replace_below_parent(child, offset, limit)
        self.children, self.parent, self.runs = _NO_CHILDREN, None, RunMap()
        self.freed(self)

    def runs_changed_owner(self, before: int) -> None:
        """Count what a hidden node gave to this one; it had ``before`` frames."""
        if not self.hidden:
            self.shared_pages -= self.runs.committed_pages - before

    def freed(self, owner: Viewer | CowPages) -> None:
        """Be counted as an object no longer; the pages are still there. ``owner`` is the VMO, or the hidden node."""
        self.system.unregister(owner)

    def root(self) -> CowPages:
        """Return the node behind which there is nothing."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def root_offset(self) -> int:
        """Return where page 0 lies in the root, in pages."""
        node, offset = self, 0
        while node.parent is not None:
            offset += node.offset
            node = node.parent
        return offset

    def check(self) -> None:
        """Assert that the tree hangs together, that hidden pages have somebody who sees them, and the counts."""
        assert self.parent is None or self in self.parent.children
        assert self.parent is not None or self.limit == self.offset == 0
        assert not self.hidden or (self.children and not self.viewers and not self.has_source)
        assert self.hidden or self.viewers or self.children
        assert self.hidden == (self.owner is None)
        above = self.parent
        assert not self.hidden or above is None or above.hidden or above.has_source
        assert not (above is not None and above.hidden) or self.hidden or not self.children
        if self.hidden:
            self.runs.check()
            assert not any(run.frames for part in self.unseen(ALL_PAGES) for run in self.runs.over(part))
        elif not self.has_source:
            assert self.shared_pages == self.count_shared(PageRange(0, self.limit))
            states = PageState.CLEAN, PageState.MARKER
            assert all(run.state in states for run in self.runs.over(ALL_PAGES))


def _below(node: CowPages, parts: list[PageRange], base: int) -> list[tuple[CowPages, int, list[PageRange]]]:
    """Return the children of a node with what they show of ``parts``; leaves come last, they mostly show the most."""
    below = []
    for child in sorted(node.children, key=lambda child: not child.hidden):
        window = PageRange(0, child.limit)
        shown = [common for part in parts if (common := part.moved(-child.offset) & window)]
        if shown:
            below.append((child, base + child.offset, shown))
    return below

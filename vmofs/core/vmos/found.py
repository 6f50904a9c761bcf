"""What a VMO shows at a page, and which VMO of its family has that."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmofs.core.pages.frames import FrameRun
from vmofs.core.pages.runs import NO_FRAME, Run
from vmofs.units import PageRange

if TYPE_CHECKING:
    from vmofs.core.requests.access import Need
    from vmofs.core.vmos.cow_pages import CowPages


class Found(NamedTuple):
    """What a node shows from some page on, the same kind of thing for ``pages`` pages.

    With ``run`` it is what ``node`` has at its page ``page`` and on; without, a gap of ``node``, or zeros if that is
    None.
    """

    pages: int
    node: CowPages | None
    page: int
    run: Run | None

    @property
    def absent(self) -> bool:
        """Whether the pager must be asked."""
        return self.run is None and self.node is not None

    def need(self, wanted: int | None = None) -> Need:
        """Return the need for this gap."""
        pages, node, page, _ = self
        assert node is not None
        return node.need_read(tuple.__new__(PageRange, (page, page + pages)), wanted)

    @property
    def range(self) -> PageRange:
        """The pages of ``node`` that are shown."""
        return tuple.__new__(PageRange, (self.page, self.page + self.pages))

    @property
    def has_frames(self) -> bool:
        """Whether it is more than zeros."""
        return self.run is not None and self.run.frame != NO_FRAME

    @property
    def frames(self) -> FrameRun | None:
        """The frames that hold the pages, None for zeros."""
        return None if self.run is None else self.run.cut(self.range).frames

"""Who was made from whom, as users see it: ZX_INFO_VMO's num_children. Who shares pages with whom: ``cow_pages``."""

from __future__ import annotations

_NO_CHILDREN: dict[Lineage, None] = {}  # replaced, never changed


class Lineage:
    """The place of one VMO among parents and children. Closing a VMO hands its children to its parent, as in Zircon."""

    __slots__ = ("children", "parent")

    def __init__(self) -> None:
        self.parent: Lineage | None = None
        self.children = _NO_CHILDREN

    @property
    def num_children(self) -> int:
        """Children that are open, of all kinds; those of closed children count too."""
        return len(self.children)

    def add(self, child: Lineage) -> None:
        """Count a new child."""
        child.parent = self
        if self.children is _NO_CHILDREN:
            self.children = {}
        self.children[child] = None

    def close(self) -> None:
        """Leave; a second call does nothing."""
        parent, self.parent = self.parent, None
        if parent is not None:
            del parent.children[self]
        for child in self.children:
            child.parent = None
            if parent is not None:
                parent.add(child)
        self.children = _NO_CHILDREN

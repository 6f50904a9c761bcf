"""Who was made from whom, as users see it: ZX_INFO_VMO's num_children. Who shares pages with whom is ``hierarchy``."""

from __future__ import annotations


class Lineage:
    """The place of one VMO among parents and children. Closing a VMO hands its children to its parent, as in Zircon."""

    def __init__(self) -> None:
        self.parent: Lineage | None = None
        self.children: dict[Lineage, None] = {}

    @property
    def num_children(self) -> int:
        """Children that are open, of all kinds; those of closed children count too."""
        return len(self.children)

    def add(self, child: Lineage) -> None:
        """Count a new child."""
        child.parent = self
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
        self.children = {}

"""VMOs that have lost their name, but not those who need them: they are open, or have children that go on asking.

Request lines call them by the name that they had last, and their pager answers by that name.
"""

from __future__ import annotations

from vmofs.core.pager import Pager
from vmofs_mount.tree.inodes import Node, VmoFile


class Orphans:
    """Orphans by pager and last name. Several of one pager may have had the same; the last one comes first."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[Pager | None, str], dict[VmoFile, None]] = {}

    def add(self, node: Node) -> None:
        """Note an orphan; what has no pager needs none."""
        if isinstance(node, VmoFile) and node.pager is not None:
            self._by_name.setdefault((node.pager, node.path), {})[node] = None

    def discard(self, node: Node) -> None:
        """Note that nobody needs it any more."""
        if node in self:
            assert isinstance(node, VmoFile)
            same = self._by_name[node.pager, node.path]
            del same[node]
            if not same:
                del self._by_name[node.pager, node.path]

    def find(self, pager: Pager, path: str) -> VmoFile | None:
        """Return the orphan of a pager that had this name last."""
        return next(reversed(self._by_name.get((pager, path), {})), None)

    def __contains__(self, node: object) -> bool:
        """Return whether it is an orphan."""
        return isinstance(node, VmoFile) and node in self._by_name.get((node.pager, node.path), {})

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._by_name.values()))

    def check(self) -> None:
        """Assert that none has a name."""
        assert not any(file.nlink for same in self._by_name.values() for file in same)

"""Files whose text is made when they are opened and read, such as ``stats``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from vmofs_mount.tree.inodes import Node

_LONG_SECONDS = 0.02
_REST_PER_TEXT = 10


class TextFile(Node):
    """Text that is made when the file is opened and read, such as ``stats``.

    ``produce`` yields the text, and ``personal``, if any, what only the user with that number sees at its end;
    ``accept``, if any, takes what one ``write`` brought. A text that may change has the size 0, as in ``/proc``.
    """

    __slots__ = ("_made", "_made_again_at", "accept", "personal", "produce")

    def __init__(
        self,
        permissions: int,
        uid: int,
        gid: int,
        produce: Callable[[], Iterator[str]],
        accept: Callable[[bytes], None] | None = None,
        *,
        personal: Callable[[int], str] | None = None,
    ) -> None:
        super().__init__(permissions, uid, gid)
        self.produce = produce
        self.personal = personal
        self.accept = accept
        self._made = ""
        self._made_again_at = 0.0

    def pieces(self, uid: int) -> Iterator[str]:
        """Yield the text that a user sees, piece by piece: each takes little work, and after each others may go on.

        A text that took long to make is given again for a while, so that who reads it again and again does not take all
        the time. A mount with 65536 VMOs takes 0.1 s for its statistics, and everybody may read them.
        """
        if time.perf_counter() >= self._made_again_at:
            yield from self._make()
        yield self._made
        self._made = self._made if time.perf_counter() < self._made_again_at else ""
        if self.personal is not None:
            yield self.personal(uid)

    def _make(self) -> Iterator[str]:
        pieces, took = [], 0.0
        produced = self.produce()
        while True:
            began = time.thread_time()  # while another process has the CPU, we hold nobody up
            piece = next(produced, None)
            took += time.thread_time() - began
            if piece is None:
                break
            pieces.append(piece)
            yield ""
        self._made = "".join(pieces)
        self._made_again_at = time.perf_counter() + _REST_PER_TEXT * took if took > _LONG_SECONDS else 0.0

    def text(self, uid: int = 0) -> str:
        """Return the text that a user sees, in one go."""
        return "".join(self.pieces(uid))


class ConstantText(TextFile):
    """Text that never changes: it has a size, and the kernel may cache it."""

    __slots__ = ("_text",)

    def __init__(self, permissions: int, uid: int, gid: int, text: str) -> None:
        super().__init__(permissions, uid, gid, self._produce)
        self._text = text

    def _produce(self) -> Iterator[str]:
        yield self._text

    @property
    def size_bytes(self) -> int:
        """The length of the text."""
        return len(self._text.encode())

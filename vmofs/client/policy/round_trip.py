"""How many bytes to read for one page that somebody waits for: as many as cost little beside the question itself.

Measured (20 ms a request, random pages): 128 KiB cost the time of 4 KiB, and 1 MiB 10 % more with one reader and 2.5
times as much with 32. From a source that answers in 0.1 ms 128 KiB take three times as long as 4 KiB.

A source that is slow by the byte is taken for one that is far, and gets large clusters: its reads of 4 KiB last as long
as those of a far one, and nothing is read so often as to tell. Its pager says ``cluster``.
"""

from __future__ import annotations

from collections import deque

LEAST = 4 << 10
MOST = 128 << 10
FIRST = 16 << 10
"""Before anything was read."""

_REMEMBERED = 16
_BYTES_PER_SECOND = 64 << 20
"""What may be read in the time of a round trip: 128 KiB from 2 ms on."""


class RoundTrip:
    """How long short reads of a source took lately; the shortest counts, since the others have waited for something."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def learn(self, length: int, seconds: float) -> None:
        """Learn how long a read took."""
        if length <= MOST:
            self._seconds.append(seconds)

    @property
    def seconds(self) -> float | None:
        """How long one read takes at least, or None if nothing was read yet."""
        return min(self._seconds) if self._seconds else None

    @property
    def cluster(self) -> int:
        """How many bytes to read, a power of two."""
        seconds = self.seconds
        if seconds is None:
            return FIRST
        affordable = int(seconds * _BYTES_PER_SECOND)
        return min(max(1 << affordable.bit_length() >> 1, LEAST), MOST)

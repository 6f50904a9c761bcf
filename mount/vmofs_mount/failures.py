"""A short memory of failed reads, for the kernel's own retries.

The kernel asks again before it tells a reader that a page failed: the first READ comes from read-ahead, and when that
fails it reads the page once more (pread: 2 READs, a page fault: 3). A retry must get the error of the access that it
belongs to and raise no request. The next real access must raise one: a failure is never the state of a page.

Nothing in a READ tells the two apart, but this much is known: a retry comes from a file that was open when the access
failed, soon after, and not more than twice. Others who waited for the same page (they waited in the kernel, for the
page's lock) come once each, from their own open files. After a time-out the pager is known to be stuck, and everybody
who waited behind the page's lock would wait for another deadline; so such a failure holds for ``TIMEOUT_SECONDS``,
however often it is met.
"""

from __future__ import annotations

from vmofs.status import Status, VmoError
from vmofs.units import PageRange

RETRY_SECONDS = 1.0
"""How long a retry may take to arrive; a loaded machine needs some of it."""

TIMEOUT_SECONDS = 1.0
"""How long everybody gets TIMED_OUT after a deadline passed."""

_RETRIES_OF_READER = 2
_RETRIES_OF_OTHERS = 1


class _Failure:
    """One failed READ: pages, error, and how many more READs of each open file are retries of it."""

    __slots__ = ("error", "expires", "left", "pages")

    def __init__(self, pages: PageRange, error: VmoError, expires: float, left: dict[int, int]) -> None:
        self.pages = pages
        self.error = error
        self.expires = expires
        self.left = left


class Failures:
    """The recent failures of one VMO. ``fh`` numbers an open file."""

    __slots__ = ("_recent",)

    def __init__(self) -> None:
        self._recent: list[_Failure] = []

    def remember(self, fh: int, open_files: list[int], pages: PageRange, error: VmoError, now: float) -> None:
        """Note that a READ of ``pages`` by ``fh`` failed, while ``open_files`` had the VMO open."""
        if error.status is Status.OUT_OF_RANGE:  # the file was cut: nothing to ask for
            return
        timed_out = error.status is Status.TIMED_OUT
        left = dict.fromkeys(open_files, _RETRIES_OF_OTHERS) | {fh: _RETRIES_OF_READER}
        self._forget(pages)
        self._recent.append(_Failure(pages, error, now + (TIMEOUT_SECONDS if timed_out else RETRY_SECONDS), left))

    def recall(self, fh: int, pages: PageRange, now: float) -> VmoError | None:
        """Return the error if a READ of ``pages`` by ``fh`` is a retry of a failed one; it then has one less."""
        if not self._recent:
            return None
        self._recent = [failure for failure in self._recent if failure.expires > now]
        for failure in self._recent:
            if failure.pages & pages and failure.left.get(fh, 0) > 0:
                if failure.error.status is not Status.TIMED_OUT:
                    failure.left[fh] -= 1
                return failure.error
        return None

    def forget(self, pages: PageRange) -> None:
        """Drop what is known about pages that were supplied."""
        if self._recent:
            self._forget(pages)

    def _forget(self, pages: PageRange) -> None:
        self._recent = [failure for failure in self._recent if not failure.pages & pages]

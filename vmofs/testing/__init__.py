"""For tests of pagers, and of vmofs itself: page patterns; ``read``, which reads from a pager without a mount."""

from vmofs.testing.reading import Reading, read

__all__ = ["Reading", "read"]

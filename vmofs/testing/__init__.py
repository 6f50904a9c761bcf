"""For tests of pagers, and of vmofs itself: page patterns."""

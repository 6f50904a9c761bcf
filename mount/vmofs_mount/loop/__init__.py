"""One thread: who goes on when, for how long, and what has been waited for too long."""

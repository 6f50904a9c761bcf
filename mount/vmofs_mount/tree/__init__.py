"""Names and inodes, what may be done in each kind of directory, and how much of it each user may have."""

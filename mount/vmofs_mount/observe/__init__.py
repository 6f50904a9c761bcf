"""What is kept for those who look: the log, and counts."""

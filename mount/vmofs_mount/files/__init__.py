"""Open files: what ``open`` returned, until ``release``."""

"""Memory and maps of it: nothing here waits, or knows of pagers."""

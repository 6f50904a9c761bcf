"""Who waits, on whom, and who must be let go so that others can go on."""

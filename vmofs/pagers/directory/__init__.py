"""A directory of this machine, served as a directory of a mount; read-write, what is done there is done to it."""

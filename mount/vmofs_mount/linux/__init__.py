"""Facts and calls of this kernel. Knows nothing of the mount that uses them."""

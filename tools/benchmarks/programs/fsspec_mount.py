"""fsspec_mount.py URL MOUNT: fsspec's own mount of what lies below a URL."""

import sys

import fsspec
from fsspec.fuse import run

run(fsspec.filesystem("http"), sys.argv[1], sys.argv[2], foreground=True, threads=False)

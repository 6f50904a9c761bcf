"""``python -m vmofs``: the program ``vmofs``, which is part of the mount, where that is installed."""

import runpy

# By its name: the package can be used without FUSE, and imports nothing of the mount.
runpy.run_module("vmofs_mount.cli", run_name="__main__", alter_sys=True)

"""For programs that are pagers, or that use a mount: nothing but the files of the mount, and no FUSE library."""

from vmofs.client.pager import Changed, Data, Object, Pager, Retry, Unavailable

__all__ = ["Changed", "Data", "Object", "Pager", "Retry", "Unavailable"]

"""For programs that are pagers, or that use a mount: nothing but the files of the mount, and no FUSE library."""

from vmofs.client.mount import Aux, Mount, PagerDirectory, PagerVmo, Vmo
from vmofs.client.pager import Changed, Data, Object, Pager, Retry, Unavailable
from vmofs.client.requests import Request, Requests
from vmofs.client.serving import Server, serve

__all__ = [
    "Aux",
    "Changed",
    "Data",
    "Mount",
    "Object",
    "Pager",
    "PagerDirectory",
    "PagerVmo",
    "Request",
    "Requests",
    "Retry",
    "Server",
    "Unavailable",
    "Vmo",
    "serve",
]

#!/usr/bin/env python3
"""Serve a file of squares: squares.py MOUNT. The whole of a pager on the client library, without which see pager.py."""

import sys

from vmofs.client import Object, Pager, serve


class Squares(Pager):
    """A million bytes that are computed when they are read."""

    def objects(self) -> list[Object]:
        """Return what there is."""
        return [Object("squares", 1_000_000)]

    def read(self, obj: Object, offset: int, length: int) -> bytes:  # noqa: ARG002 - there is only one
        """Return bytes of it."""
        return bytes(n * n % 251 for n in range(offset, offset + length))


serve(sys.argv[1], Squares())

"""What a service manager wants to know, told as sd_notify(3) does: one datagram to $NOTIFY_SOCKET for each news."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1`` to the service manager, if there is one. A lost message is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send("\n".join(assignments).encode())
        except OSError:
            return

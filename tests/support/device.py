"""The FUSE device with a socket for the kernel's end."""

from __future__ import annotations

import os
import socket
import struct

from vmofs_mount.front.device import Device

HEADER, ANSWER = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
READ_IN = struct.Struct("=QQII")
READ = 15


class Kernel:
    """The other end of the device, and libfuse, which knows a number only."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.number = theirs.detach()
        self.device = Device(self.number)
        self.end.setblocking(False)

    def ask(self, opcode: int, unique: int, body: bytes) -> bytes:
        """Send a message, and return it."""
        message = HEADER.pack(40 + len(body), opcode, unique, 1, 0, 0, 7, 0, 0) + body
        self.end.send(message)
        return message

    def read(self, unique: int, offset: int, size: int) -> bytes:
        """Send a READ of the open file 5."""
        return self.ask(READ, unique, READ_IN.pack(5, offset, size, 0) + bytes(16))

    def ask_for(self, node: int, opcode: int, unique: int, body: bytes) -> list[bytes]:
        """Send a message about an inode, let the device take it, and return the answers."""
        self.end.send(HEADER.pack(40 + len(body), opcode, unique, node, 0, 0, os.getpid(), 0, 0) + body)
        self.device.take()
        return self.answers()

    def answers(self) -> list[bytes]:
        """Return the answers that have come."""
        found = []
        try:
            while True:
                found.append(self.end.recv(2**20))
        except BlockingIOError:
            return found

    def close(self) -> None:
        """Close everything."""
        self.device.close()
        os.close(self.number)
        self.end.close()

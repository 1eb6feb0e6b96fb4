"""Bound what the system holds for the connections of this process, which granian has no setting for."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

SEND_BYTES = (
    256 * 1024
)  # of an answer on its way; the system's own bound is 4 MB, which counts as the container's memory
# Without progress of a client that reads nothing, or is gone without a word; it is retried for 15 minutes otherwise.
SEND_SECONDS = 60
_OPEN = Path("/proc/self/fd")


def bound_connections() -> bool:
    """Set options of the listening sockets, which new connections inherit on Linux; return whether there is one."""
    if not _OPEN.exists():
        return True  # a laptop without Linux
    found = False
    for name in os.listdir(_OPEN):
        with suppress(OSError):  # it was closed meanwhile, or is not a socket
            one = socket.socket(fileno=int(name))
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_SECONDS * 1000)
                found = True
            one.detach()
    return found

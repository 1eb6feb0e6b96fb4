"""Check a port before a server opens it."""

from __future__ import annotations

import socket


def check_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0. The processes share it, so none of them notices another owner.

    Raises:
        OSError: the port is in use.
    """
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        found: int = one.getsockname()[1]
        return found

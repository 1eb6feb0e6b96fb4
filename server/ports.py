"""Parse a port, and check it before a server opens it."""

from __future__ import annotations

import socket


def parse_port(text: str) -> int:
    """Parse the argument of a command.

    Raises:
        ValueError: it is no number of a port.
    """
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError(text)
    return port


parse_port.__name__ = "port from 0 to 65535"  # argparse names it in its message


def check_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0. The processes share it, so none of them notices another owner.

    Raises:
        OSError: the port is in use.
    """
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        found: int = one.getsockname()[1]
        return found

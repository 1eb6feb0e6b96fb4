"""Options of listening sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from server import listener
from server.listener import SEND_BYTES, SEND_SECONDS, bound_connections
from tests.doors.kit import LOOPBACK

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has it")


def test_connections_inherit_what_a_listening_socket_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small buffer and a time-out; other files and sockets stay as they are, and open."""
    monkeypatch.setattr(listener, "_OPEN", tmp_path)
    with socket.create_server((LOOPBACK, 0)) as server, socket.socket() as other, (tmp_path / "x").open("w") as file:
        large = other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        for one in (other, file):
            (tmp_path / str(one.fileno())).touch()
        (tmp_path / "x").unlink()
        assert not bound_connections(), "the server does not listen yet"
        (tmp_path / str(server.fileno())).touch()
        assert bound_connections()
        with socket.create_connection(server.getsockname()), server.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SEND_SECONDS * 1000
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BYTES  # the system doubles it
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == large
        assert file.write("open") == 4


def test_elsewhere_nothing_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc it is not tried again."""
    monkeypatch.setattr(listener, "_OPEN", tmp_path / "none")
    assert bound_connections()

"""The folder that the processes of a server share, and the start of a process."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from server.run import create_folder
from server.worker import serve
from tests.unit.server.kit import build


def test_the_folder_of_a_killed_server_is_deleted(tmp_path: Path) -> None:
    """One of a server that runs stays, and so does what is no folder of a server."""
    running, lock = create_folder(tmp_path)
    killed, dead = create_folder(tmp_path)
    (killed / "counter_1.db").touch()
    os.close(dead)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "larder-server-link").symlink_to(elsewhere)
    found, own = create_folder(tmp_path)
    assert {one for one in (running, killed, found, elsewhere) if one.exists()} == {running, found, elsewhere}
    os.close(lock)
    os.close(own)


def test_a_process_that_cannot_listen_ends_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last lines, such as those of models that were not loaded, wait to be written."""
    ended: list[str] = []
    reads, writes = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as other, open(reads) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(OSError, match="in use"):
            asyncio.run(serve(build(stop=lambda: ended.append("stop")), *other.getsockname()))
    os.close(writes)
    assert ended == ["stop"]

"""The start of a process."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from server.worker import serve
from tests.unit.server.kit import build


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

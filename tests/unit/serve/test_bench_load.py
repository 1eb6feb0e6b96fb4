"""The latencies that the benchmark of servers measures at a fixed rate."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Any, cast

from tests.bench.read_servers import Load
from tests.loopback import Loopback, Peer

STALLED, SECONDS = 40, 0.2  # the number of a request that the server answers late, and how late
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nJetBlue Airways"


class _Server:
    name = "stalls once"
    pid = os.getpid()
    request = b"GET / HTTP/1.1\r\n\r\n"
    items = 1

    def __init__(self, port: int) -> None:
        self.port = port


def _stall_once(peer: Peer) -> None:
    number = 0
    while peer.socket.recv(1000):
        time.sleep(SECONDS if number == STALLED else 0)
        peer.socket.sendall(ANSWER)
        number += 1


def test_a_stall_delays_each_request_that_was_due_in_it() -> None:
    """A client that waits for one response before it sends the next request would count a stall once."""
    with closing(Loopback(_stall_once)) as server:
        load = Load(cast(Any, _Server(server.address[1])), rate=400.0)
        with load._open(1) as (connection,):
            latencies = load._ask_at_rate(connection, 150)
    assert len(latencies) == 150
    assert max(latencies) >= SECONDS
    assert sum(latency > SECONDS / 4 for latency in latencies) >= 0.7 * SECONDS * 400

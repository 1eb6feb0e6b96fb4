"""What awscrt does by itself; if one of these fails, a new version has changed what the writing side is built on."""

from typing import Any

import pytest
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest

from tests.unit.wire.faulty_server import FaultyServer, answer, raw, reset, silence, then_closed
from wire.connection import Exchange, open_connection
from wire.errors import TransportError


def start(server: Any, limit: Any = 1000) -> Any:
    connection = open_connection(server.endpoint(), 1.0).result(2)
    exchange = Exchange("GET", limit)
    return connection, exchange, exchange.start(connection, HttpRequest("GET", "/", HttpHeaders([("host", "x")])))


def test_awscrt_leaves_a_connection_open_after_a_timeout() -> None:
    """Waiting for an answer in vain closes nothing: whoever gives up must close the connection."""
    with FaultyServer(silence) as server:
        connection, _, done = start(server)
        with pytest.raises(TimeoutError):
            done.result(0.2)
        assert connection.is_open()
        connection.close().result(2)
        assert server.peers[0].closed_by_client.wait(2)


def test_awscrt_reports_a_reset() -> None:
    """A reset is an `AwsCrtError` and no answer."""
    with FaultyServer(reset) as server:
        _, exchange, done = start(server)
        assert isinstance(done.exception(2), AwsCrtError)
        with pytest.raises(TransportError):
            exchange.response(done.exception())


def test_awscrt_fails_a_cut_body_after_its_status() -> None:
    """Status 200 and a part of the body arrive before the error: they are no answer."""
    with FaultyServer(raw(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nshort")) as server:
        _, exchange, done = start(server)
        failed = done.exception(2)
        assert (exchange.status, exchange.parts) == (200, [b"short"])
        with pytest.raises(TransportError):
            exchange.response(failed)


def test_awscrt_refuses_a_connection_closed_while_idle() -> None:
    """A request on a connection that the server closed fails when it is made, and says so in our words."""
    with FaultyServer(then_closed(answer())) as server:
        connection, _, done = start(server)
        assert done.result(2) == 200
        connection.shutdown_future.exception(2)
        with pytest.raises(TransportError, match="idle"):
            Exchange("GET", 1).start(connection, HttpRequest("GET", "/", HttpHeaders([("host", "x")])))


def test_awscrt_takes_a_body_without_length_for_an_empty_one() -> None:
    """A body that ends with the connection is lost without an error: an answer must say how long it is."""
    with FaultyServer(raw(b"HTTP/1.1 200 X\r\n\r\nhello")) as server:
        _, exchange, done = start(server)
        assert done.result(2) == 200
        with pytest.raises(TransportError, match="how long"):
            exchange.response(None)

"""The pool for many concurrent requests, against a server that misbehaves."""

import selectors
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.unit.wire.faulty_server import (
    FaultyServer,
    answer,
    drip,
    error,
    late,
    raw,
    reset,
    silence,
    then_closed,
    together,
)
from tests.unit.wire.tls_server import UNTRUSTED, issue, refuse_early, socket_server, tls_server
from wire.addresses import Address, Addresses
from wire.endpoint import Endpoint
from wire.errors import NoCredentials, TransportError
from wire.response import Response
from wire.response_parser import ResponseParser
from wire.sigv4 import Credentials
from wire.slot import Slot, State
from wire.transport import Outgoing, Transport

KEYS = Credentials("AKIDEXAMPLE", "secret")
TARGET = "DynamoDB_20120810.BatchWriteItem"


def transport_to(server: Any, **options: Any) -> Any:
    return Transport(server.endpoint(), lambda: KEYS, **{"connect_timeout": 2.0, "timeout": 10.0, **options})


def collect(transport: Any, count: int, patience: float = 15.0) -> Any:
    """Wait for `count` reports; every handle must occur once."""
    answers: dict[Any, Any] = {}
    ends = time.monotonic() + patience
    while len(answers) < count and time.monotonic() < ends:
        for handle, got in transport.wait(0.2):
            assert handle not in answers
            answers[handle] = got
    assert len(answers) == count
    return answers


def test_many_requests_are_in_flight_at_once() -> None:
    """None waits for the response to another, each is on its own connection, and each handle gets its own response."""
    with FaultyServer(together(8, answer())) as server:
        transport = transport_to(server, connections=8, timeout=60)
        handles = [transport.send(TARGET, b"%d" % n) for n in range(8)]
        answers = collect(transport, 8, patience=20)
        assert {handle: answers[handle].status for handle in handles} == dict.fromkeys(handles, 200)
    assert len({seen.connection for seen in server.seen}) == 8
    assert {seen.headers["x-amz-target"] for seen in server.seen} == {TARGET}
    assert {(seen.method, seen.path) for seen in server.seen} == {("POST", "/")}
    assert {seen.headers["content-type"] for seen in server.seen} == {"application/x-amz-json-1.0"}
    assert all("authorization" in seen.headers for seen in server.seen)


def test_requests_beyond_the_pool_wait_for_a_connection() -> None:
    """More requests than connections all get a response, over no more connections than allowed."""
    with FaultyServer(answer()) as server:
        transport = transport_to(server, connections=3)
        for n in range(50):
            transport.send(TARGET, b"%d" % n)
        collect(transport, 50)
        assert sorted(int(seen.body) for seen in server.seen) == list(range(50))
        assert len(server.peers) <= 3


CLOSED = "connection failed: closed before the end of a response"
FAULTS = {
    "reset": (reset, "connection failed: [Errno 104]"),
    "silent": (silence, "no response within 0.2 s"),
    "slow drip": (drip, "no response within 0.2 s"),
    "closed without an answer": (raw(b""), CLOSED),
    "cut off": (raw(b'HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{"Unproc'), CLOSED),
    "no length": (raw(b"HTTP/1.1 200 X\r\n\r\n{}"), "response 200 does not state its length"),
    "no HTTP": (raw(b"hello\r\n\r\n"), "response is not HTTP/1.1"),
    "wrong checksum": (answer(headers=(("x-amz-crc32", "7"),)), "response does not match its checksum"),
    "too large": (answer(body=b"x" * 5000), "response is larger than 4000 bytes"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_is_reported_and_the_pool_continues(fault: Any, message: str) -> None:
    """A request without a complete response is reported once, in time; the next one has a new connection."""
    with FaultyServer(fault, answer()) as server:
        transport = transport_to(server, connections=1, largest=4000, timeout=0.2 if fault in (silence, drip) else 60)
        bad = transport.send(TARGET, b"1")
        answers = collect(transport, 1)
        assert isinstance(answers[bad], TransportError)
        assert str(answers[bad]).startswith(message)
        transport.timeout = 60
        good = transport.send(TARGET, b"2")
        assert collect(transport, 1)[good].status == 200
        assert [seen.connection for seen in server.seen] == [0, 1]
        assert transport.wait(0.05) == []


def test_the_largest_response_of_dynamodb_is_accepted() -> None:
    """16 MB of items, and JSON's overhead of up to as much again."""
    with FaultyServer(answer(body=b"x" * (32 << 20))) as server:
        transport = transport_to(server, connections=1)
        transport.send(TARGET, b"1")
        (response,) = collect(transport, 1).values()
        assert (response.status, len(response.body)) == (200, 32 << 20)


def test_error_of_the_service_is_a_response() -> None:
    """Whatever its status, it is passed on unchanged, and the connection is kept."""
    with FaultyServer(error("ThrottlingException"), answer(503, b"")) as server:
        transport = transport_to(server, connections=1)
        transport.send(TARGET, b"1")
        transport.send(TARGET, b"2")
        answers = collect(transport, 2)
        assert [answers[n].status for n in sorted(answers)] == [400, 503]
        assert len(server.peers) == 1


def test_timeout_does_not_wait_for_the_others() -> None:
    """A request without a response times out, while others on other connections continue."""
    with FaultyServer(silence, answer()) as server:
        transport = transport_to(server, connections=2, timeout=0.2)
        stuck = transport.send(TARGET, b"stuck")
        began = time.monotonic()
        while not server.seen:  # the server does not respond to the first request
            assert transport.wait(0.0) == []
            assert time.monotonic() - began < 20
        while True:
            transport.send(TARGET, b"x")
            got = dict(transport.wait(1.0))
            if stuck in got:
                break
            assert time.monotonic() - began < 20
        assert isinstance(got[stuck], TransportError)
        assert server.peers[0].closed_by_client.wait(10)


def test_connecting_and_responding_have_separate_times() -> None:
    """A request's time-out starts when it is sent; the time to connect neither shortens nor prolongs it."""
    with FaultyServer(late(0.7, answer()), silence) as server:
        transport = transport_to(server, connections=1, connect_timeout=0.4, timeout=60)
        handle = transport.send(TARGET, b"1")
        assert collect(transport, 1)[handle].status == 200
        transport = transport_to(server, connections=1, connect_timeout=2.0, timeout=0.2)
        handle, began = transport.send(TARGET, b"2"), time.monotonic()
        assert "no response within 0.2 s" in str(collect(transport, 1)[handle])
        assert time.monotonic() - began > 0.19


def test_times_are_checked_four_times_while_a_connection_is_made() -> None:
    """A request has failed from the very end of its time on, if that is checked then."""
    now = [100.0]
    with FaultyServer(silence) as server:
        transport = transport_to(server, connections=2, connect_timeout=2.0, timeout=1.0, clock=lambda: now[0])
        first = transport.send(TARGET, b"1")
        while not server.seen:
            assert transport.wait(0.0) == []
        for now[0] in (100.25, 100.5, 100.75):
            assert transport.wait(0.0) == []
        second = transport.send(TARGET, b"2")
        while len(server.seen) < 2:
            assert transport.wait(0.0) == []
        now[0] = 101.0
        ((handle, report),) = transport.wait(0.0)
        assert (handle, str(report)) == (first, "no response within 1.0 s")
        for now[0] in (101.25, 101.5, 101.75, 101.99):
            assert transport.wait(0.0) == []
        now[0] = 102.0
        assert [handle for handle, _ in transport.wait(0.0)] == [second]
        transport.close()


def test_a_connection_fails_from_the_very_end_of_its_time_on() -> None:
    """That of a handshake, too."""
    now = [100.0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("dynamodb", "x", "127.0.0.1", listener.getsockname()[1], tls=True)
        transport = Transport(endpoint, lambda: KEYS, connections=1, connect_timeout=2.0, clock=lambda: now[0])
        transport.send(TARGET, b"1")
        for now[0] in (100.0, 100.5, 101.0, 101.5):
            assert transport.wait(0.0) == []
        now[0] = 102.0
        ((_, report),) = transport.wait(0.0)
        assert str(report).endswith("not within 2.0 s")
        transport.close()


@pytest.mark.parametrize(("pause", "is_sent"), [(5.0, True), (5.01, False)])
def test_a_request_that_has_waited_for_its_time_out_is_not_sent(pause: float, *, is_sent: bool) -> None:
    """A process was paused while it connected, e.g. until another one writes: its request must not leave any more."""
    now = [100.0]
    with FaultyServer(answer()) as server:
        transport = transport_to(server, timeout=5.0, wall=lambda: now[0])
        handle = transport.send(TARGET, b"1")  # begins to connect
        now[0] += pause
        got = collect(transport, 1)[handle]
        assert (str(got) == "not sent within 5.0 s") is not is_sent
        assert len(server.seen) == is_sent
        transport.close()


def test_the_rest_of_a_request_is_not_sent_after_its_time_out() -> None:
    """A process was paused while it sent a large request: the service never gets a complete one."""
    now, read, continued = [100.0], list[int](), threading.Event()

    def take(peer: socket.socket) -> None:
        continued.wait(20)
        while received := peer.recv(1 << 20):
            read.append(len(received))

    with socket_server(None, take) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, timeout=5.0, clock=lambda: now[0])
        handle = transport.send(TARGET, b"x" * 30_000_000)
        (slot,) = transport._slots
        while slot.state is not State.BUSY:
            assert transport.wait(0.0) == []
        transport._look_at = 1000.0  # the check for time-outs comes after what is ready
        now[0] = 105.0
        continued.set()
        while not (reports := transport.wait(0.0)) and sum(read) < 30_000_000:
            pass
        assert [(one, str(got)) for one, got in reports] == [(handle, "not sent within 5.0 s")]
    assert 0 < sum(read) < 30_000_000


def test_waiting_lasts_as_long_as_asked() -> None:
    """While a request is in flight, checks for time-outs do not end the wait early; a response does."""
    with FaultyServer(silence, late(0.1, answer())) as server:
        transport = transport_to(server, connections=2, connect_timeout=0.08, timeout=60)
        transport.send(TARGET, b"1")
        began = time.monotonic()
        assert transport.wait(0.3) == []
        assert 0.29 < time.monotonic() - began < 20
        handle, began = transport.send(TARGET, b"2"), time.monotonic()
        assert [one for one, _ in transport.wait(60)] == [handle]
        assert time.monotonic() - began < 20
        transport.close()


def test_waiting_takes_no_cpu() -> None:
    """Time-outs are checked four times per connect time-out, and not continuously."""
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        return time.monotonic()

    with FaultyServer(silence) as server:
        transport = transport_to(server, connect_timeout=0.4, timeout=60, clock=clock)
        transport.send(TARGET, b"1")
        while not server.seen:
            transport.wait(0.01)
        readings = 0
        assert transport.wait(0.5) == []
        assert 4 <= readings <= 30
        transport.close()


def test_late_response_reaches_nobody() -> None:
    """A response after its time-out is not taken for that of a later request."""
    with FaultyServer(late(0.2, answer(body=b"late")), answer(body=b"good")) as server:
        transport = transport_to(server, connections=1, timeout=0.1)
        transport.send(TARGET, b"1")
        collect(transport, 1)
        transport.timeout = 5
        second = transport.send(TARGET, b"2")
        assert collect(transport, 1) == {second: Response(200, {"content-length": "4"}, b"good")}
        assert transport.wait(0.2) == []


def test_connection_closed_while_idle_is_replaced() -> None:
    """If the server closed a connection between two requests, the second one only needs a new connection."""
    with FaultyServer(then_closed(answer()), answer()) as server:
        now = [1e6]
        transport = transport_to(server, connections=1, wall=lambda: now[0])
        transport.send(TARGET, b"1")
        collect(transport, 1)
        server.peers[0].wait_closed()
        now[0] += 1
        second = transport.send(TARGET, b"2")
        assert collect(transport, 1)[second].status == 200


def test_each_request_is_reported_if_nobody_listens() -> None:
    """If no connection can be made, every request is reported, and none waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    transport = Transport(Endpoint("dynamodb", "x", "127.0.0.1", port, tls=False), lambda: KEYS, connections=2)
    for n in range(5):
        transport.send(TARGET, b"%d" % n)
    assert all(isinstance(got, TransportError) for got in collect(transport, 5).values())


def test_another_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of a service's addresses refuses and another is unreachable, no request is affected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = listener.getsockname()
    with FaultyServer(answer()) as server:
        found = [
            (socket.AF_INET, ("255.255.255.255", 1)),  # a broadcast address, which the system refuses at once
            (socket.AF_INET, refusing),
            (socket.AF_INET, ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr("wire.addresses.look_up", lambda *_: found)
        transport = transport_to(server, connections=8)
        for n in range(20):
            transport.send(TARGET, b"%d" % n)
        assert {getattr(got, "status", got) for got in collect(transport, 20).values()} == {200}


HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")


def test_connections_are_spread_over_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses gets as many connections at each, so that no host carries all."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultyServer(late(0.1, answer()), host=host)) for host in HOSTS]
        found = [(socket.AF_INET, server.address) for server in servers]
        monkeypatch.setattr("wire.addresses.look_up", lambda *_: found)
        transport = transport_to(servers[0], connections=8, timeout=5)
        for n in range(8):
            transport.send(TARGET, b"%d" % n)
        assert {getattr(got, "status", got) for got in collect(transport, 8).values()} == {200}
        assert [len(server.peers) for server in servers] == [2, 2, 2, 2]
        transport.close()


def test_an_address_that_does_not_respond_is_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that accepts connections but does not respond gets no new ones after a request has timed out there."""
    with ExitStack() as stack:
        silent = stack.enter_context(FaultyServer(silence, host=HOSTS[0]))
        good = [
            stack.enter_context(FaultyServer(answer(headers=(("Connection", "close"),)), host=host))
            for host in HOSTS[1:]
        ]
        found = [(socket.AF_INET, server.address) for server in (silent, *good)]
        monkeypatch.setattr("wire.addresses.look_up", lambda *_: found)
        transport = transport_to(silent, connections=4, timeout=1.0)
        for n in range(4):
            transport.send(TARGET, b"%d" % n)
        failed = [got for got in collect(transport, 4).values() if isinstance(got, TransportError)]
        assert len(failed) == len(silent.peers) == 1
        for n in range(20):
            transport.send(TARGET, b"%d" % n)
        assert {getattr(got, "status", got) for got in collect(transport, 20).values()} == {200}
        assert len(silent.peers) == 1


def test_stalled_tls_handshake_times_out() -> None:
    """A server that sends nothing in the handshake costs one connect time-out, and its request is reported."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("dynamodb", "x", "127.0.0.1", listener.getsockname()[1], tls=True)
        transport = Transport(endpoint, lambda: KEYS, connections=1, connect_timeout=0.1)
        handle = transport.send(TARGET, b"1")
        assert "not within 0.1 s" in str(collect(transport, 1)[handle])


def test_many_requests_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handshakes, tickets and requests of many records run concurrently without blocking."""
    issued = issue(tmp_path, "127.0.0.1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(issued.path))
    with tls_server(issued) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, connections=4, timeout=60)
        for size in (1, 20_000, 8_000_000, 20_000) * 10:
            transport.send(TARGET, b"x" * size)
        assert {got.status for got in collect(transport, 40, patience=30.0).values()} == {200}


@pytest.mark.parametrize("make", UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_an_untrusted_server_gets_no_request(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another issuer, another host's certificate, an expired one: the request is reported, with the reason."""
    served, trusted = make(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted.path))
    with tls_server(served) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, connections=1)
        handle = transport.send(TARGET, b"1")
        assert "CERTIFICATE_VERIFY_FAILED" in str(collect(transport, 1)[handle])


def test_missing_credentials_are_reported() -> None:
    """A request that can't be signed is reported, and nothing is sent unsigned."""

    def fail() -> Credentials:
        raise NoCredentials("no credentials, they are away")

    with FaultyServer() as server:
        transport = Transport(server.endpoint(), fail)
        handle = transport.send(TARGET, b"1")
        assert "credentials" in str(collect(transport, 1)[handle])
        assert server.seen == []


def test_what_is_known_already_is_reported_at_once() -> None:
    """Without waiting for a connection that is open and has nothing to say."""
    found = [KEYS]

    def find() -> Credentials:
        if not found:
            raise NoCredentials("gone")
        return found[0]

    with FaultyServer() as server:
        transport = Transport(server.endpoint(), find)
        transport.send(TARGET, b"{}")
        while not transport.wait(1.0):
            pass
        found.clear()
        began = time.monotonic()
        handle = transport.send(TARGET, b"{}")
        ((reported, failure),) = transport.wait(60)
        assert (reported, str(failure)) == (handle, "gone")
        assert time.monotonic() - began < 20
        transport.close()


def test_waiting_for_nothing_sleeps() -> None:
    """With nothing in flight, waiting takes the given time and reports nothing: a caller can use it to sleep."""
    transport = Transport(Endpoint("dynamodb", "x", "127.0.0.1", 1, tls=False), lambda: KEYS)
    began = time.monotonic()
    assert transport.wait(0.15) == []
    assert 0.14 < time.monotonic() - began < 20


def test_connections_do_not_wait_for_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection has Nagle's algorithm off, which would delay the end of a large request by 40 ms."""
    made: list[socket.socket] = []
    connect = Addresses.connect

    def keep(addresses: Addresses, now: float) -> tuple[socket.socket, Address]:
        connection, address = connect(addresses, now)
        made.append(connection)
        return connection, address

    monkeypatch.setattr(Addresses, "connect", keep)
    with FaultyServer(answer()) as server:
        transport = transport_to(server, connections=2)
        for _ in range(2):
            transport.send(TARGET, b"x" * 20_000)
        collect(transport, 2)
        assert len(made) == 2
        assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in made)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
            size = other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert {each.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for each in made} == {size}


def test_request_larger_than_the_buffers_arrives_complete() -> None:
    """What does not fit into the system's buffers follows when they empty, while others get responses."""
    large = bytes(range(256)) * 32_768  # 8 MB
    with FaultyServer(answer()) as server:
        transport = transport_to(server, connections=2, timeout=10)
        for body in (large, b"1", b"2", b"3"):
            transport.send(TARGET, body)
        collect(transport, 4)
        assert sorted(seen.body for seen in server.seen) == sorted([large, b"1", b"2", b"3"])


def test_response_before_the_request_is_complete_ends_the_connection() -> None:
    """If a server refuses a request half-way, its response is delivered, and the rest of the request is not sent."""
    delivered = threading.Semaphore(0)
    read: list[int] = []

    def refuse(peer: socket.socket) -> None:
        read.append(len(peer.recv(100)))
        peer.sendall(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        delivered.acquire(timeout=20)  # what it read before would make room for more of the request
        while received := peer.recv(65536):  # until the client closes
            read[-1] += len(received)

    with socket_server(None, refuse) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, connections=1, timeout=60)
        for _ in range(2):
            handle = transport.send(TARGET, b"x" * 30_000_000)
            assert collect(transport, 1, patience=20)[handle].status == 413
            delivered.release()
    assert len(read) == 2, "the second request has a connection of its own"
    assert max(read) < 30_000_000


def test_a_response_is_received_while_the_request_is_being_sent() -> None:
    """Also from a server that reads no more of the request and keeps the connection open."""
    received = threading.Event()

    def refuse(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        received.wait(20)

    with socket_server(None, refuse) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, connections=1, timeout=60)
        handle = transport.send(TARGET, b"x" * 30_000_000)
        assert collect(transport, 1)[handle].status == 413
        received.set()
        transport.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_response_before_a_reset_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool) -> None:
    """A server can refuse a request half-way and reset the connection: its response came before the reset."""
    issued = issue(tmp_path, "127.0.0.1") if tls else None
    monkeypatch.setenv("AWS_CA_BUNDLE", str(issued.path) if issued else "")
    with socket_server(issued, refuse_early(b"HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nlarge")) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, connections=4, timeout=60)
        for _ in range(20):
            transport.send(TARGET, b"x" * 8_000_000)
        assert {getattr(got, "body", got) for got in collect(transport, 20).values()} == {b"large"}


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nlarg"], ids=["none", "half"])
def test_a_reset_before_the_end_of_a_response_is_reported_at_once(data: bytes) -> None:
    """A response that the reset cut off is never returned, and its time-out is not waited for."""
    with socket_server(None, refuse_early(data)) as endpoint:
        transport = Transport(endpoint, lambda: KEYS, connections=1, timeout=60)
        handle = transport.send(TARGET, b"x" * 8_000_000)
        got = collect(transport, 1)[handle]
        assert isinstance(got, TransportError)
        assert str(got).startswith("connection failed: [Errno ")
        transport.close()


def test_close_ends_every_connection() -> None:
    """Closing the pool closes its connections, including busy ones, and whatever else it had open."""
    with FaultyServer(answer(), silence) as server:
        transport = transport_to(server, connections=2, timeout=5)
        transport.send(TARGET, b"1")
        collect(transport, 1)
        transport.send(TARGET, b"2")
        while len(server.seen) < 2:
            transport.wait(0.01)
        transport.close()
        assert all(peer.closed_by_client.wait(10) for peer in server.peers)
    assert transport._selector.get_map() is None, "its own descriptor is closed as well"


def test_connection_that_was_idle_for_long_is_not_used() -> None:
    """After minutes of idleness (a frozen Lambda) a connection can be dropped silently: a new one is made."""
    now = [0.0]
    with FaultyServer(answer()) as server:
        transport = transport_to(server, wall=lambda: now[0])
        for now[0] in (0.0, 100.0, 1000.0, 900.0, 899.5):  # the last two: the clock was set back
            transport.send(TARGET, b"")
            collect(transport, 1)
        assert [seen.connection for seen in server.seen] == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(("idle", "is_checked"), [(0.0, False), (0.04, False), (0.06, True), (-0.01, True)])
def test_a_connection_is_checked_if_it_was_idle_for_a_while(idle: float, *, is_checked: bool) -> None:
    """Within 50 ms a system call is saved: if the server closed meanwhile, that request fails; later, it does not."""
    now = [1e6]
    with FaultyServer(then_closed(answer()), answer()) as server:
        transport = transport_to(server, connections=1, wall=lambda: now[0])
        transport.send(TARGET, b"1")
        collect(transport, 1)
        server.peers[0].wait_closed()
        now[0] += idle
        handle = transport.send(TARGET, b"2")
        assert (getattr(collect(transport, 1)[handle], "status", None) == 200) is is_checked
        transport.close()


def test_renewing_keeps_idle_connections_and_drops_busy_ones() -> None:
    """The next user of a transport has its own time-out and reports; requests of the user before are never reported."""
    with FaultyServer(answer(), silence, answer()) as server:
        transport = transport_to(server, connections=2, timeout=60)
        transport.send(TARGET, b"answered")
        collect(transport, 1)
        left = transport.send(TARGET, b"in flight")
        while len(server.seen) < 2:
            assert transport.wait(0.0) == []
        assert transport.renew(0.5) is transport
        handle = transport.send(TARGET, b"next")
        assert handle != left
        assert list(collect(transport, 1)) == [handle]
        assert server.peers[0].closed_by_client.wait(10)


def test_renewing_forgets_waiting_requests_and_sets_the_time_out() -> None:
    """A request that the user before had queued is never sent, and the time-out is the new user's."""
    with FaultyServer(silence) as server:
        transport = transport_to(server, connections=1, timeout=60)
        transport.send(TARGET, b"in flight")
        while not server.seen:
            transport.wait(0.01)
        transport.send(TARGET, b"queued")
        assert transport.renew(0.2).timeout == 0.2
        handle = transport.send(TARGET, b"next")
        assert "no response within 0.2 s" in str(collect(transport, 1)[handle])
        assert [seen.body for seen in server.seen] == [b"in flight", b"next"]
        transport.close()


def test_nothing_is_reported_to_the_next_user() -> None:
    """A failure that was not fetched is discarded with the user whose request it was."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    transport = Transport(Endpoint("dynamodb", "eu-west-1", "127.0.0.1", port, tls=False), lambda: KEYS)
    transport.send(TARGET, b"1")
    assert transport.renew(1.0).wait(0.1) == []
    assert [handle for handle, _ in transport.wait(0.0)] == []
    handle = transport.send(TARGET, b"2")
    assert list(collect(transport, 1)) == [handle]


def test_a_connection_that_was_reset_is_not_quiet() -> None:
    """It is not used again, and the reset is no error of the next request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = socket.create_connection(listener.getsockname())
        peer, address = listener.accept()
    with connection:
        connection.settimeout(0)
        slot = Slot(connection, (socket.AF_INET, address), 0.0)
        assert slot.is_quiet()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert not slot.is_quiet()


def test_each_request_is_reported_if_no_connection_can_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that were queued: each would fail for the same reason."""
    transport = Transport(Endpoint("dynamodb", "x", "name.example", 80, tls=False), lambda: KEYS, connections=2)
    connect = Mock(side_effect=OSError("no route"))
    monkeypatch.setattr(transport._addresses, "connect", connect)
    for n in range(3):
        transport._waiting.append(Outgoing(n, TARGET, b"", float("inf")))
    handle = transport.send(TARGET, b"")
    reports = transport.wait(0.0)
    assert [number for number, _ in reports] == [0, 1, 2, handle]
    assert {str(report) for _, report in reports} == {"no connection to name.example: no route"}
    assert (transport._connecting, transport._slots, connect.call_count) == (0, set(), 1)
    transport.close()


def test_an_idle_connection_that_ends_is_dropped_while_others_are_waited_for() -> None:
    """It is not looked at again, so that waiting takes no CPU; one that is quiet stays."""
    with FaultyServer(then_closed(answer())) as server:
        transport = transport_to(server, connections=1)
        transport.send(TARGET, b"")
        collect(transport, 1)
        (slot,) = transport._idle
        server.peers[0].wait_closed()
        ends = time.monotonic() + 10
        while transport._slots and time.monotonic() < ends:
            assert transport.wait(0.02) == []
        assert (transport._slots, transport._idle, slot.connection.fileno()) == (set(), [], -1)
        transport.close()


def test_a_request_that_cannot_be_sent_fails_if_no_response_is_there() -> None:
    """The error is that of sending: a broken connection is not waited for."""
    transport = Transport(Endpoint("dynamodb", "x", "name.example", 80, tls=False), lambda: KEYS)
    slot = Slot(Mock(recv=Mock(side_effect=BlockingIOError)), (socket.AF_INET, ()), 0.0)
    slot.state, slot.handle, slot.parser = State.BUSY, 7, ResponseParser("POST", 100)
    transport._slots.add(slot)
    transport._pull(slot, broken=BrokenPipeError("gone"))
    ((handle, report),) = transport.wait(0.0)
    assert (handle, str(report), transport._slots) == (7, "connection failed: gone", set())
    transport.close()


@pytest.mark.parametrize(
    ("error", "events"),
    [(ssl.SSLWantReadError, selectors.EVENT_READ), (ssl.SSLWantWriteError, selectors.EVENT_WRITE)],
)
def test_a_handshake_waits_for_what_it_wants(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], events: int
) -> None:
    """To read or to write; the connection is still being made then."""
    with FaultyServer(answer()) as server:
        transport = transport_to(server, connections=1)
        with monkeypatch.context() as patch:
            patch.setattr(Slot, "connect", Mock(side_effect=error))
            handle = transport.send(TARGET, b"")
            (slot,) = transport._slots
            slot.watch(transport._selector, selectors.EVENT_READ | selectors.EVENT_WRITE)
            transport._connect(slot)
        ((_, key),) = transport._selector.get_map().items()
        assert (key.events, transport._connecting) == (events, 1)
        slot.watch(transport._selector, selectors.EVENT_WRITE)
        assert collect(transport, 1)[handle].status == 200
        transport.close()

"""Connections of the reading side: which servers they trust, time-outs of name resolution, when they are used again."""

import os
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.unit.wire.faulty_server import FaultyServer, answer, raw
from tests.unit.wire.tls_server import UNTRUSTED, issue, refuse_early, socket_server, tls_server
from wire.channel import AMAZON_ROOTS, _is_certified_by_amazon, _left, open_channel, tls_context
from wire.client import Client, Limits
from wire.endpoint import Endpoint
from wire.errors import Dropped, TransportError, Unavailable

OTHER_ROOTS = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
QUICK = Limits(connect=1.0, attempt=0.5, budget=2.0, tries=1)


def get(endpoint: Endpoint) -> bytes:
    """Send one request."""
    return Client(endpoint, None, QUICK).call("GET", "/").body


def test_a_trusted_server_gets_requests_over_one_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_CA_BUNDLE names the trusted issuers; the connection is kept."""
    issued = issue(tmp_path, "127.0.0.1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(issued.path))
    with tls_server(issued) as endpoint:
        client = Client(endpoint, None, QUICK)
        assert [client.call("GET", "/").body for _ in range(3)] == [b"{}"] * 3
        assert len(client._idle) == 1


@pytest.mark.parametrize("tls", [False, True])
def test_what_is_larger_than_a_socket_s_buffer_is_exchanged_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool
) -> None:
    """A request to a server that begins to read late, and a response in many parts, each of which is waited for."""
    issued = issue(tmp_path, "127.0.0.1") if tls else None
    monkeypatch.setenv("AWS_CA_BUNDLE", str(issued.path) if issued else "")
    sent = os.urandom(8 * 1024 * 1024)

    def serve(peer: socket.socket) -> None:
        time.sleep(0.1)
        with peer.makefile("rb") as stream:
            while stream.readline().strip():
                pass
            received = stream.read(len(sent))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(received)}\r\n\r\n".encode()
        for part in (head[:20], head[20:], received[:5], received[5:-1], received[-1:]):
            peer.sendall(part)
            time.sleep(0.02)

    with socket_server(issued, serve) as endpoint:
        limits = Limits(attempt=30, budget=30, tries=1)
        assert Client(endpoint, None, limits).call("POST", "/", body=sent).body == sent


@pytest.mark.parametrize("make", UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_an_untrusted_server_gets_no_request(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another issuer, another host's certificate, an expired one: no connection, and the error says why."""
    served, trusted = make(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted.path))
    with tls_server(served) as endpoint, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        get(endpoint)


def test_the_system_s_roots_are_trusted_by_default() -> None:
    """Without AWS_CA_BUNDLE, host and certificate are verified with the system's store, from TLS 1.2 on."""
    context = tls_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    paths = ssl.get_default_verify_paths()
    assert context.cert_store_stats()["x509"] > 0 or not os.path.isfile(paths.cafile or "")


ROOTS = {  # SHA-256 of the certificates in DER, as https://www.amazontrust.com/repository/ lists them
    "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
    "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
    "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
    "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
    "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
}


def test_the_roots_for_aws_are_amazon_s_and_no_others() -> None:
    """They are compared with published digests."""
    context = tls_context(AMAZON_ROOTS)
    assert {sha256(root).hexdigest() for root in context.get_ca_certs(binary_form=True)} == ROOTS


@pytest.fixture
def _aws_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHER_ROOTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("wire.channel.AMAZON_HOSTS", "127.0.0.1")


@pytest.mark.usefixtures("_aws_on_loopback")
def test_a_host_of_aws_is_trusted_by_amazon_s_roots_or_the_system_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading Amazon's takes less time; the system's decide where a firewall inspects TLS, or AWS has a new root."""
    ours, other = issue(tmp_path, "127.0.0.1"), issue(tmp_path, "localhost")
    with tls_server(ours) as endpoint:
        for amazon, system in ((ours, other), (other, ours)):
            contexts = {"amazon": tls_context(str(amazon.path)), None: tls_context(str(system.path))}
            monkeypatch.setattr("wire.channel.AMAZON_ROOTS", "amazon")
            monkeypatch.setattr("wire.channel.tls_context", contexts.__getitem__)
            assert get(endpoint) == b"{}"


@pytest.mark.usefixtures("_aws_on_loopback")
@pytest.mark.parametrize("make", UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_an_untrusted_server_is_no_host_of_aws(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If neither trusts its certificate, there is no connection."""
    served, trusted = make(tmp_path)
    monkeypatch.setattr("wire.channel.AMAZON_ROOTS", str(trusted.path))
    with tls_server(served) as endpoint, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        get(endpoint)


@pytest.mark.usefixtures("_aws_on_loopback")
@pytest.mark.parametrize("name", OTHER_ROOTS)
def test_roots_that_the_environment_names_replace_amazon_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A server that only Amazon's roots trust is not trusted then."""
    issued = issue(tmp_path, "127.0.0.1")
    monkeypatch.setattr("wire.channel.AMAZON_ROOTS", str(issued.path))
    monkeypatch.setenv(name, str(issue(tmp_path, "localhost").path))
    with tls_server(issued) as endpoint, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        get(endpoint)


@pytest.mark.parametrize("host", ["example.com", "amazonaws.com.example.com", "notamazonaws.com", "x.amazonaws.com.cn"])
def test_other_hosts_are_trusted_by_the_system_s_roots(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an issuer's server of keys."""
    for name in OTHER_ROOTS:
        monkeypatch.delenv(name, raising=False)
    assert not _is_certified_by_amazon(host)
    assert _is_certified_by_amazon("dynamodb.eu-central-1.amazonaws.com")


def test_a_resolver_that_stalls_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver has no time-out, but the call ends in time."""
    ends = threading.Event()

    def stall(*_: Any, **__: Any) -> list[Any]:
        ends.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", stall)
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="in time"):
        open_channel(Endpoint("dynamodb", "x", "example.com", 443, tls=True), 0.05)
    assert time.monotonic() - begin < 10
    ends.set()


def test_an_unknown_name_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's error is reported with the endpoint's name."""

    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Unavailable, match=r"example\.com.*Name or service not known"):
        open_channel(Endpoint("dynamodb", "x", "example.com", 443, tls=True), 1.0)


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """If an address has no listener, or sends nothing, the next one is used."""
    with FaultyServer() as server, socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()
        closed.close()
        _resolve_to(monkeypatch, (socket.AF_INET, dead), (socket.AF_INET, server.address))
        for _ in range(20):  # whichever of the two is tried first
            channel = open_channel(server.endpoint(), 1.0)
            assert channel.exchange("GET", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 100, 1.0).status == 200
            channel.close()


def test_an_address_that_does_not_respond_has_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is reached in time: a listener whose queue is full drops connections."""
    with FaultyServer() as server, socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        _resolve_to(monkeypatch, (socket.AF_INET, full.getsockname()), (socket.AF_INET, server.address))
        monkeypatch.setattr("wire.channel.draw", lambda: 0.0)
        began = time.monotonic()
        open_channel(server.endpoint(), 2.0).close()
        assert time.monotonic() - began > 0.95


def test_root_certificates_are_read_once() -> None:
    """Reading them takes longer than a request."""
    assert tls_context(None) is tls_context(None)


def test_addresses_that_do_not_respond_share_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part of what is left, so that the last attempt ends with the time."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        _resolve_to(monkeypatch, *[(socket.AF_INET, full.getsockname())] * 3)
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r" in time$"):
            open_channel(Endpoint("s3", "x", "127.0.0.1", full.getsockname()[1], tls=False), 0.4)
        assert time.monotonic() - began > 0.38


def test_without_an_address_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is waited for once the time is up."""
    _resolve_to(monkeypatch)
    with pytest.raises(Unavailable, match=r"^no connection to example\.com: no address$"):
        open_channel(Endpoint("s3", "x", "example.com", 443, tls=True), 1.0)
    for late in (0.0, 0.5, 5.0):
        with pytest.raises(TimeoutError):
            _left(time.monotonic() - late)
    assert 0 < _left(time.monotonic() + 10) <= 10


def test_half_a_response_of_a_server_that_stops_reading_is_not_waited_for() -> None:
    """When the time for sending is up, only what has arrived counts."""

    def refuse(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(EARLY[:-1])
        peer.settimeout(5)
        while peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1:  # until the client has closed
            time.sleep(0.01)

    with socket_server(None, refuse) as endpoint:
        channel = open_channel(endpoint, 2.0)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no response in time"):
            channel.exchange("POST", b"x" * 30_000_000, 1000, 0.1)
        assert time.monotonic() - began < 4
        channel.close()


def test_a_handshake_has_all_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer the share of one address: 0.75 s of 1.5 s."""

    def answer_late(peer: socket.socket) -> None:
        time.sleep(0.85)
        peer.sendall(b"no handshake of TLS")
        peer.recv(1000)

    with socket_server(None, answer_late) as plain:
        endpoint = plain._replace(tls=True)
        _resolve_to(monkeypatch, *[(socket.AF_INET, (endpoint.host, endpoint.port))] * 2)
        with pytest.raises(Unavailable, match="SSL"):
            open_channel(endpoint, 1.5)


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *found: tuple[socket.AddressFamily, tuple[Any, ...]]) -> None:
    infos = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)


def test_connections_are_spread_over_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses is connected to at any of them: each is missed with a chance of 1e-12."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultyServer(host=f"127.0.0.{number}")) for number in (1, 2, 3, 4)]
        _resolve_to(monkeypatch, *((socket.AF_INET, server.address) for server in servers))
        for _ in range(100):
            open_channel(servers[0].endpoint(), 5.0).close()
        ends = time.monotonic() + 5
        while sum(len(server.peers) for server in servers) < 100 and time.monotonic() < ends:
            time.sleep(0.01)
        assert all(server.peers for server in servers)


def test_a_request_does_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm would delay the end of a request by 40 ms."""
    with FaultyServer() as server:
        channel = open_channel(server.endpoint(), 5.0)
        assert channel._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        channel.close()


def test_an_address_of_an_unknown_family_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver can return addresses of a family for which the system has no sockets, e.g. IPv6 in a container."""
    with FaultyServer() as server:
        _resolve_to(monkeypatch, (socket.AF_APPLETALK, ()), (socket.AF_INET, server.address))
        open_channel(server.endpoint(), 5.0).close()


ENDS = {
    "it says so": answer(headers=(("Connection", "keep-alive, Close"),)),
    "HTTP/1.0": raw(b"HTTP/1.0 200 X\r\nContent-Length: 2\r\n\r\n{}", then_close=False),
    "more came than the answer": raw(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200", then_close=False),
}


@pytest.mark.parametrize("behaviour", ENDS.values(), ids=ENDS.keys())
def test_a_connection_that_ends_is_not_used_again(behaviour: Any) -> None:
    """Bytes that belong to no request must not become the response to the next one."""
    with FaultyServer(behaviour) as server:
        client = Client(server.endpoint(), None, QUICK)
        assert [client.call("GET", "/").body for _ in range(2)] == [b"{}"] * 2
        assert [seen.connection for seen in server.seen] == [0, 1]


def test_an_unexpected_response_is_discarded() -> None:
    """A response that arrives while the connection is idle closes it, and is given to no request."""
    with FaultyServer(answer(body=b"first"), answer(body=b"second")) as server:
        client = Client(server.endpoint(), None, QUICK)
        assert client.call("GET", "/").body == b"first"
        server.peers[0].socket.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nstray")
        time.sleep(0.05)
        assert client.call("GET", "/").body == b"second"
        assert [seen.connection for seen in server.seen] == [0, 1]


def test_an_interim_response_is_skipped() -> None:
    """100 and 103 come before the response."""
    data = b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}"
    with FaultyServer(raw(data)) as server:
        assert get(server.endpoint()) == b"{}"


def test_chunks_are_joined() -> None:
    """With extensions and trailers, which are not in the body."""
    head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"3;a=b\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    with FaultyServer(raw(head + chunks, then_close=False)) as server:
        client = Client(server.endpoint(), None, QUICK)
        assert client.call("GET", "/").body == b"abc0123456789"
        assert len(client._idle) == 1


EARLY = b"HTTP/1.1 413 X\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_response_before_the_request_is_complete_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool
) -> None:
    """A server can refuse a request half-way and reset the connection: its response came before the reset."""
    issued = issue(tmp_path, "127.0.0.1") if tls else None
    monkeypatch.setenv("AWS_CA_BUNDLE", str(issued.path) if issued else "")
    with socket_server(issued, refuse_early(EARLY)) as endpoint:
        for _ in range(5):
            channel = open_channel(endpoint, 2.0)
            response = channel.exchange("POST", b"x" * 8_000_000, 1000, 2.0)
            assert (response.status, response.body) == (413, b"large")
            assert not channel.is_reusable
            channel.close()


def test_half_a_response_before_a_reset_is_an_error() -> None:
    """A response that the reset cut off is never returned."""
    with socket_server(None, refuse_early(EARLY[:-1])) as endpoint:
        channel = open_channel(endpoint, 2.0)
        with pytest.raises(TransportError):
            channel.exchange("POST", b"x" * 8_000_000, 1000, 2.0)
        channel.close()


def test_a_reset_without_a_response_is_a_drop() -> None:
    """A connection that ends while the request is sent, without a response, can be replaced by another."""
    with socket_server(None, refuse_early(b"")) as endpoint:
        channel = open_channel(endpoint, 2.0)
        with pytest.raises(Dropped):
            channel.exchange("POST", b"x" * 8_000_000, 1000, 2.0)
        channel.close()


def test_a_server_that_refuses_and_stops_reading_is_heard() -> None:
    """It leaves the request in the buffers and the connection open: its response counts at the time-out."""

    def refuse(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(EARLY)
        peer.settimeout(5)
        while peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1:  # until the client has closed
            time.sleep(0.01)

    with socket_server(None, refuse) as endpoint:
        channel = open_channel(endpoint, 2.0)
        assert channel.exchange("POST", b"x" * 30_000_000, 1000, 0.3).status == 413
        channel.close()


def test_a_connection_is_reusable_only_after_a_response() -> None:
    """Neither before the first exchange nor after a failed one."""
    with FaultyServer(answer(), raw(b"HTTP/1.1 200 X\r\n")) as server:
        channel = open_channel(server.endpoint(), 2.0)
        states = [channel.is_reusable]
        channel.exchange("GET", b"GET / HTTP/1.1\r\n\r\n", 100, 2.0)
        states.append(channel.is_reusable)
        with pytest.raises(TransportError, match="closed before the end of a response"):
            channel.exchange("GET", b"GET / HTTP/1.1\r\n\r\n", 100, 2.0)
        assert [*states, channel.is_reusable] == [False, True, False]
        channel.close()


def test_checking_whether_it_is_quiet_takes_no_time() -> None:
    """It is checked before each request."""
    with FaultyServer(answer()) as server:
        channel = open_channel(server.endpoint(), 2.0)
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert all(channel.is_quiet() for _ in range(200))
            took.append(time.monotonic() - began)
        assert min(took) < 0.15, "a wait of a millisecond each would be 0.2 s"
        channel.close()

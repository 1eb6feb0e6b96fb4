"""The synchronous client against a server that misbehaves."""

import socket
import threading
import time
import zlib
from typing import Any
from unittest.mock import Mock

import pytest

from tests.loopback import Peer
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
from wire.client import DEFAULTS, Client, Limits
from wire.endpoint import Endpoint, object_path
from wire.errors import NoCredentials, Refused, Throttled, TooLarge, Unavailable
from wire.sigv4 import Credentials

KEYS = Credentials("AKIDEXAMPLE", "secret", "token")


def keys() -> Credentials:
    return KEYS


QUICK = Limits(connect=2.0, attempt=1.0, budget=5.0, base=0.001, cap=0.01)
GET_ITEM = "DynamoDB_20120810.GetItem"


def client_of(server: Any, limits: Any = QUICK, service: Any = "dynamodb", **options: Any) -> Any:
    return Client(server.endpoint(service), keys, limits, **options)


def test_request_is_signed_and_gets_its_response() -> None:
    """An operation is sent as JSON with its target, signed with the session's token, on a kept-alive connection."""
    with FaultyServer(answer(body=b'{"Item":{}}')) as server:
        client = client_of(server)
        assert [client.send(GET_ITEM, b'{"a":1}') for _ in range(3)] == [b'{"Item":{}}'] * 3
    seen = server.seen[0]
    assert (seen.method, seen.path, seen.body) == ("POST", "/", b'{"a":1}')
    assert seen.headers["content-type"] == "application/x-amz-json-1.0"
    assert seen.headers["x-amz-target"] == GET_ITEM
    assert seen.headers["x-amz-security-token"] == "token"
    assert "/eu-west-1/dynamodb/aws4_request, SignedHeaders=" in seen.headers["authorization"]
    assert {one.connection for one in server.seen} == {0}


def test_object_is_fetched_as_s3_requires() -> None:
    """S3 gets the body's hash in a header, and the unchanged path; it returns bytes and headers."""
    with FaultyServer(answer(body=b"keys", headers=(("ETag", '"1"'),))) as server:
        response = client_of(server, service="s3").call("GET", object_path("b", "a b/k"), [("if-match", '"1"')])
    assert (response.body, response.headers.get("etag")) == (b"keys", '"1"')
    seen = server.seen[0]
    assert (seen.path, seen.headers["if-match"]) == ("/b/a%20b/k", '"1"')
    assert len(seen.headers["x-amz-content-sha256"]) == 64
    assert "content-length" not in seen.headers


RETRIED = {
    "500": error("InternalServerError", 500),
    "503 without a body": answer(503, b""),
    "throttled": error("ProvisionedThroughputExceededException"),
    "throttling": error("ThrottlingException"),
    "S3 slow down": answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    "reset": reset,
    "silent": silence,
    "slow drip": drip,
    "closed without an answer": raw(b""),
    "body cut off": raw(b'HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{"Item"'),
    "chunks cut off": raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    "no length": raw(b"HTTP/1.1 200 X\r\n\r\nhello"),
    "no HTTP": raw(b"hello\r\n\r\n"),
    "wrong checksum": answer(headers=(("x-amz-crc32", "7"),)),
}


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED.keys())
def test_fault_is_retried(fault: Any) -> None:
    """The caller never sees a single fault: the next attempt succeeds, and nothing short or damaged is returned."""
    good = b'{"Item":{"n":1}}'
    with FaultyServer(fault, answer(body=good, headers=(("x-amz-crc32", str(zlib.crc32(good))),))) as server:
        assert client_of(server).send(GET_ITEM, b"{}") == good
        assert len(server.seen) == 2


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED.keys())
def test_lasting_fault_is_unavailable(fault: Any) -> None:
    """A lasting fault is reported with its kind, after as many attempts as the limits allow."""
    with FaultyServer(fault) as server:
        attempt = 0.1 if fault in (silence, drip) else 20.0
        with pytest.raises(Unavailable) as caught:
            client_of(server, QUICK._replace(tries=2, attempt=attempt, budget=60.0)).send(GET_ITEM, b"{}")
        assert len(server.seen) == 2
    throttled = fault in (RETRIED["throttled"], RETRIED["throttling"], RETRIED["S3 slow down"])
    assert isinstance(caught.value, Throttled) == throttled


def test_a_response_can_be_waited_for_as_long_as_one_likes() -> None:
    """As Lambda's extensions wait for their next event."""
    with FaultyServer(answer(body=b"good")) as server:
        limits = QUICK._replace(attempt=float("inf"), budget=float("inf"))
        assert client_of(server, limits).send(GET_ITEM, b"{}") == b"good"


def test_timeout_closes_the_connection() -> None:
    """After a time-out the server sees the connection closed, and the late response is discarded."""
    released = threading.Event()

    def answer_late(peer: Peer) -> bool:
        released.wait(20)
        return answer(body=b"late")(peer)

    with FaultyServer(answer_late, answer(body=b"good")) as server:
        client = client_of(server, QUICK._replace(attempt=0.5))
        assert client.send(GET_ITEM, b"{}") == b"good"
        released.set()
        server.peers[0].wait_closed()
        assert client.send(GET_ITEM, b"{}") == b"good"
        assert [seen.connection for seen in server.seen] == [0, 1, 1]


def test_unanswered_request_leaves_no_connection() -> None:
    """A request that timed out leaves nothing open, neither here nor at the server."""
    with FaultyServer(silence) as server:
        with pytest.raises(Unavailable):
            client_of(server, QUICK._replace(tries=1, attempt=0.1)).send(GET_ITEM, b"{}")
        assert server.peers[0].closed_by_client.wait(10)


def test_connection_closed_while_idle_costs_one_silent_retry() -> None:
    """A connection that died while idle is replaced at once, without a pause, even if only one attempt is allowed."""
    pauses: list[float] = []
    with FaultyServer(then_closed(answer()), answer(body=b"second")) as server:
        client = client_of(server, QUICK._replace(tries=1), sleep=pauses.append)
        client.send(GET_ITEM, b"{}")
        server.peers[0].wait_closed()
        assert client.send(GET_ITEM, b"{}") == b"second"
    assert sum(pauses) == 0


def test_connection_reset_as_it_is_used_again_costs_one_silent_retry() -> None:
    """A request that finds a kept connection dead is sent again on a new one, at once."""
    pauses: list[float] = []
    with FaultyServer(answer(), reset, answer(body=b"third")) as server:
        client = client_of(server, QUICK._replace(tries=1), sleep=pauses.append)
        client.send(GET_ITEM, b"{}")
        assert client.send(GET_ITEM, b"{}") == b"third"
        assert [seen.connection for seen in server.seen] == [0, 0, 1]
    assert sum(pauses) == 0


def test_only_one_retry_is_free() -> None:
    """A reset on a new connection counts as an attempt, so that a dead service is given up."""
    with FaultyServer(answer(), reset) as server:
        client = client_of(server, QUICK._replace(tries=1))
        client.send(GET_ITEM, b"{}")
        with pytest.raises(Unavailable):
            client.send(GET_ITEM, b"{}")
        assert len(server.seen) == 3


def test_connection_that_was_idle_for_long_is_not_used() -> None:
    """After minutes of idleness (a frozen Lambda) a connection can be dropped silently: a new one is made."""
    now = [0.0]
    with FaultyServer(answer()) as server:
        client = client_of(server, clock=lambda: now[0])
        for now[0] in (0.0, 100.0, 1000.0):
            client.send(GET_ITEM, b"{}")
        assert [seen.connection for seen in server.seen] == [0, 0, 1]


@pytest.mark.parametrize(
    ("later", "is_kept"),
    [(0.0, True), (DEFAULTS.idle - 0.01, True), (DEFAULTS.idle, False), (-0.01, False), (-1e6, False)],
)
def test_a_connection_is_used_again_within_its_idle_time(later: float, is_kept: bool) -> None:
    """From the end of the last response on, by the wall clock; one that went back is not trusted."""
    now = [1e6]
    with FaultyServer(answer()) as server:
        client = client_of(server, clock=lambda: now[0])
        client.send(GET_ITEM, b"{}")
        now[0] += later
        client.send(GET_ITEM, b"{}")
        assert [seen.connection for seen in server.seen] == [0, 0 if is_kept else 1]
        if not is_kept:
            assert server.peers[0].closed_by_client.wait(10)


def send_at_once(client: Client, calls: int) -> None:
    """Send on several threads, and wait for all."""
    threads = [threading.Thread(target=client.send, args=(GET_ITEM, b"{}")) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_each_exchange_has_its_own_connection_and_all_are_kept() -> None:
    """Concurrent calls on several threads never share one; later calls use the newest idle one."""
    with FaultyServer(together(3, answer())) as server:
        client = client_of(server, QUICK._replace(attempt=20.0, budget=60.0))
        send_at_once(client, 3)
        server.script[:] = [answer()]
        assert sorted(seen.connection for seen in server.seen) == [0, 1, 2]
        client.send(GET_ITEM, b"{}")
        client.send(GET_ITEM, b"{}")
        assert len(server.peers) == 3
        client.close()
        assert all(peer.closed_by_client.wait(10) for peer in server.peers)
        client.send(GET_ITEM, b"{}")
        assert len(server.peers) == 4


def test_the_most_recent_connection_is_used_next() -> None:
    """It is the least likely to have been dropped; the others can become too old together."""
    released = threading.Event()

    def answer_late(peer: Peer) -> bool:
        released.wait(20)
        return answer()(peer)

    with FaultyServer(answer_late, answer()) as server:
        client = client_of(server, QUICK._replace(attempt=30.0, budget=60.0))
        slow = threading.Thread(target=client.call, args=("GET", "/slow"))
        slow.start()
        while not server.seen:
            time.sleep(0.01)
        client.call("GET", "/quick")
        released.set()
        slow.join()
        client.call("GET", "/next")
        assert [(seen.path, seen.connection) for seen in server.seen] == [("/slow", 0), ("/quick", 1), ("/next", 0)]


def test_one_dead_connection_closes_the_other_idle_ones() -> None:
    """They died together, e.g. while a Lambda was frozen: the retry uses a new one without trying the others."""
    with FaultyServer(together(3, answer())) as server:
        client = client_of(server, QUICK._replace(attempt=20.0, budget=60.0))
        send_at_once(client, 3)
        server.script[:] = [reset, answer(body=b"new")]
        assert client.send(GET_ITEM, b"{}") == b"new"
        dead, fresh = (seen.connection for seen in server.seen[-2:])
        assert fresh == 3
        assert all(peer.closed_by_client.wait(10) for peer in server.peers[:3] if peer.number != dead)


def test_a_client_with_one_idle_connection_closes_it() -> None:
    """The client stays usable."""
    with FaultyServer(answer()) as server:
        client = client_of(server)
        client.send(GET_ITEM, b"{}")
        client.close()
        assert server.peers[0].closed_by_client.wait(10)
        client.send(GET_ITEM, b"{}")
        assert [seen.connection for seen in server.seen] == [0, 1]


def test_pauses_follow_the_backoff_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure doubles the bound up to the cap; no pause follows the last attempt, or exceeds the budget."""
    monkeypatch.setattr("wire.client.draw", lambda: 0.5)
    pauses: list[float] = []
    with FaultyServer(answer(500)) as server:
        client = client_of(server, Limits(base=0.2, cap=0.5, tries=5, budget=60), sleep=pauses.append)
        with pytest.raises(Unavailable):
            client.send(GET_ITEM, b"{}")
        assert pauses == [0.1, 0.2, 0.25, 0.25]
        assert len(server.seen) == 5
        pauses.clear()
        with pytest.raises(Unavailable):
            client.send(GET_ITEM, b"{}", budget=0.09)
        assert pauses == []
        assert len(server.seen) == 6


def test_a_call_without_time_is_unavailable() -> None:
    """Whether the time is up before it begins, or while it does: for a new connection and for one that was kept."""
    with FaultyServer(late(0.02, answer())) as server:
        client = client_of(server, QUICK._replace(tries=1))
        for budget in (0.0, 1e-9, 1e-9):
            with pytest.raises(Unavailable):
                client.send(GET_ITEM, b"{}", budget=budget)
        client.send(GET_ITEM, b"{}")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.send(GET_ITEM, b"{}", budget=1e-9)
        assert time.monotonic() - began < 4


def test_a_connection_and_an_exchange_get_what_is_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most what the limits allow, and a millisecond at least: zero would mean not to wait, or for ever."""
    channel = Mock(is_reusable=False, exchange=Mock(side_effect=Unavailable("gone")))
    connect = Mock(return_value=channel)
    monkeypatch.setattr("wire.client.open_channel", connect)
    endpoint = Endpoint("dynamodb", "x", "127.0.0.1", 1, tls=False)
    client = Client(endpoint, keys, Limits(connect=50.0, attempt=40.0, budget=1000.0, tries=1))
    for budget, most, least in ((None, (50.0, 40.0), (50.0, 40.0)), (30.0, (30.0, 30.0), (0.0, 0.0)),
                                (1e-9, (0.001, 0.001), (0.001, 0.001))):  # fmt: skip
        with pytest.raises(Unavailable):
            client.send(GET_ITEM, b"{}", budget=budget)
        given = connect.call_args.args[1], channel.exchange.call_args.args[3]
        assert all(low <= one <= high for low, one, high in zip(least, given, most, strict=True)), (budget, given)


def test_the_default_limits() -> None:
    """A change is deliberate: it must change this line, too."""
    expected = (1.0, 2.0, 6.0, 4, 0.025, 1.0, 16 * 1024 * 1024, 240.0)
    assert tuple(DEFAULTS) == expected


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_a_connection_is_kept_after_a_response_without_a_body(method: str, status: int) -> None:
    """Its length is that of a body which is not sent."""
    bare = raw(f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n".encode(), then_close=False)
    with FaultyServer(bare, answer(body=b"next")) as server:
        client = client_of(server)
        assert client.call(method, "/").body == b""
        assert client.call("GET", "/").body == b"next"
        assert [seen.connection for seen in server.seen] == [0, 0]


def test_refusal_is_not_retried() -> None:
    """A refused request would be refused again: one request, and AWS's code and message for the caller."""
    with FaultyServer(error("AccessDeniedException")) as server:
        with pytest.raises(Refused) as caught:
            client_of(server).send(GET_ITEM, b"{}")
        assert len(server.seen) == 1
    assert (caught.value.status, caught.value.code, caught.value.message) == (400, "AccessDeniedException", "because")


def test_connection_is_kept_after_a_refusal() -> None:
    """A 4xx is a complete response: its connection is used for the next request."""
    with FaultyServer(error("ValidationException"), answer()) as server:
        client = client_of(server)
        with pytest.raises(Refused):
            client.send(GET_ITEM, b"{}")
        client.send(GET_ITEM, b"{}")
        assert [seen.connection for seen in server.seen] == [0, 0]


def test_response_over_the_limit_is_not_read_to_its_end() -> None:
    """A response larger than allowed is a separate error, not retried, and its connection is closed."""
    with FaultyServer(answer(body=b"x" * 300_000)) as server:
        with pytest.raises(TooLarge):
            client_of(server, QUICK._replace(largest=100_000)).send(GET_ITEM, b"{}")
        assert len(server.seen) == 1
        assert server.peers[0].closed_by_client.wait(10)


def test_response_over_the_limit_ends_at_the_limit() -> None:
    """What comes after the limit is not waited for."""
    with FaultyServer(drip) as server, pytest.raises(TooLarge):
        client_of(server, QUICK._replace(largest=5, attempt=5.0, tries=1)).send(GET_ITEM, b"{}")


def test_large_response_within_the_limit_is_complete() -> None:
    """A megabyte in many pieces arrives unchanged."""
    body = bytes(range(256)) * 4096
    with FaultyServer(answer(body=body)) as server:
        assert client_of(server, QUICK._replace(attempt=5.0)).send(GET_ITEM, b"{}") == body


def test_budget_bounds_the_whole_call() -> None:
    """Retries end with the call's budget, however many attempts are left."""
    with FaultyServer(silence) as server:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client_of(server, QUICK._replace(tries=1000, attempt=0.05)).send(GET_ITEM, b"{}", budget=0.2)
        assert time.monotonic() - began < 20


def test_endpoint_without_a_listener_is_unavailable() -> None:
    """A refused connection is retried and then reported with the endpoint's name."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(Endpoint("dynamodb", "x", "127.0.0.1", port, tls=False), keys, QUICK)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        client.send(GET_ITEM, b"{}")


def test_tls_handshake_that_stalls_times_out() -> None:
    """The connect time-out includes the handshake: a server that sends nothing in it is given up in time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("dynamodb", "x", "127.0.0.1", listener.getsockname()[1], tls=True)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="in time"):
            Client(endpoint, keys, QUICK._replace(tries=1, connect=0.1)).send(GET_ITEM, b"{}")
        assert time.monotonic() - began < 20


def test_missing_credentials_are_unavailable() -> None:
    """If credentials cannot be found, this is reported, and no request is sent unsigned."""

    def fail() -> Credentials:
        raise NoCredentials("the container's endpoint is away")

    with FaultyServer() as server:
        with pytest.raises(NoCredentials):
            Client(server.endpoint(), fail, QUICK._replace(tries=2)).send(GET_ITEM, b"{}")
        assert server.seen == []

"""H9 from end to end: the handler over real connections to a DynamoDB that closes, resets, stalls, throttles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serve.handler import LIMITS, MARGIN_SECONDS, REQUEST_SECONDS, build_dependencies, build_handler
from serve.item import encode
from serve.storage import Storage
from serve.tokens.key_cache import KeysUnavailable, Unreadable
from serve.tokens.key_sources import READING_SECONDS, open_source
from tests.unit.serve.kit import AUDIENCE, ISSUER, NOW, SERVED, Answered, event, item, jwks, public_jwk, sign
from tests.unit.wire.faulty_server import (
    Behaviour,
    FaultyServer,
    answer,
    drip,
    error,
    late,
    raw,
    reset,
    silence,
    then_closed,
)
from wire.client import Client, Limits
from wire.credentials import find_source

GOOD = answer(body=json.dumps({"Item": encode(item("a", '{"x":1}'))}).encode())
THROTTLED = error("ProvisionedThroughputExceededException")
ENV = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
TOKEN = sign()
BRIEF = Limits(connect=0.3, attempt=0.2, budget=0.8, tries=4, base=0.001)

Ask = Callable[..., Answered]


class Deployment(NamedTuple):
    """A handler built from its environment, over the server; `clock` is the wall clock, which a freeze moves."""

    server: FaultyServer
    clock: dict[str, float]
    lines: list[dict[str, Any]]
    ask: Ask


class Invocation(NamedTuple):
    """Lambda's context, of which the handler reads the remaining time."""

    milliseconds: float

    def get_remaining_time_in_millis(self) -> float:
        """Return it, as if no time passed."""
        return self.milliseconds


Start = Callable[..., FaultyServer]
Deploy = Callable[..., Deployment]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a server, which ends with the test."""
    with ExitStack() as stack:
        yield lambda *script: stack.enter_context(FaultyServer(*script))


@pytest.fixture
def deploy(tmp_path: Path, start: Start) -> Deploy:
    """Return a function that starts a server and builds a deployment over it."""
    return lambda *script, **options: _deploy(tmp_path, start(*script), **options)


def _deploy(
    folder: Path, server: FaultyServer, limits: Limits = LIMITS, keys: str = "", env: Mapping[str, str] = ENV
) -> Deployment:
    (folder / "jwks.json").write_text(jwks(public_jwk("RS256")))
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": keys or f"file:{folder}/jwks.json"}]
    clock, lines = {"now": NOW}, list[dict[str, Any]]()
    client = Client(server.endpoint(), find_source(ENV), limits, clock=lambda: clock["now"])
    parts = build_dependencies(
        {**env, "LARDER_TABLE": "table", "LARDER_ISSUERS": json.dumps(issuers)}, SERVED
    )._replace(
        storage=Storage(client.send, "table"),
        now=lambda: clock["now"],
        write=lambda line: lines.append(json.loads(line)),
    )
    handler = build_handler(parts)

    def ask(path: str = "/v1/flight-delays/a", milliseconds: float | None = None) -> Answered:
        context = None if milliseconds is None else Invocation(milliseconds)
        return Answered(handler(event("rest", "GET", path, {}, {"Authorization": f"Bearer {TOKEN}"}), context))

    return Deployment(server, clock, lines, ask)


FREEZES: dict[str, tuple[Behaviour, ...]] = {
    "closed while frozen": (then_closed(GOOD), GOOD),
    "reset as it is used again": (GOOD, reset, GOOD),
    "closed as it is used again": (GOOD, raw(b""), GOOD),
}


@pytest.mark.parametrize("name", FREEZES)
def test_a_connection_that_died_while_frozen_costs_one_retry(deploy: Deploy, name: str) -> None:
    """The first request after a freeze of a minute is a 200, on the second connection, without a pause."""
    found = deploy(*FREEZES[name], limits=LIMITS._replace(attempt=20.0, budget=60.0, base=20.0, cap=20.0))
    assert found.ask().status == 200
    if name == "closed while frozen":
        found.server.peers[0].wait_closed()
    found.clock["now"] += 60
    begin = time.monotonic()
    assert found.ask().json == {"x": 1}
    assert time.monotonic() - begin < 5
    assert len(found.server.peers) == 2
    assert len(found.server.seen) == len(FREEZES[name])
    assert found.ask().status == 200
    assert len(found.server.peers) == 2, "the new connection is kept"


def test_several_dead_connections_cost_one_retry_together(deploy: Deploy) -> None:
    """After several freezes, each request is a 200 at once."""
    found = deploy(*[GOOD, reset] * 5, GOOD)
    for turn in range(6):
        found.clock["now"] += 60
        assert found.ask().status == 200, turn


def test_a_connection_that_a_gateway_dropped_in_silence_is_not_used(deploy: Deploy) -> None:
    """After four minutes a connection can be dropped silently; waiting for it would cost a time-out."""
    found = deploy(GOOD)
    assert found.ask().status == 200
    found.clock["now"] += LIMITS.idle
    assert found.ask().status == 200
    assert [seen.connection for seen in found.server.seen] == [0, 1]


def test_a_connection_that_is_dropped_sooner_costs_one_attempt(deploy: Deploy) -> None:
    """Silence on a kept connection ends with the attempt, and the next one is a 200."""
    found = deploy(GOOD, silence, GOOD, limits=BRIEF._replace(attempt=0.5, budget=4.0))
    assert found.ask().status == 200
    found.clock["now"] += 60
    assert found.ask().status == 200
    assert len(found.server.seen) == 3


@pytest.mark.parametrize("fault", [THROTTLED, error("InternalServerError", 500), answer(503), reset, raw(b"")])
@pytest.mark.parametrize("path", ["/v1/flight-delays/a", "/v1/flight-delays"])
def test_a_temporary_fault_is_hidden(deploy: Deploy, fault: Behaviour, path: str) -> None:
    """Throttled or failed twice, then successful: 200."""
    good = GOOD if path.endswith("a") else answer(body=b'{"Items": [], "Count": 0}')
    found = deploy(fault, fault, good, limits=LIMITS._replace(base=0.001))
    assert found.ask(path).status == 200
    assert len(found.server.seen) == 3


@pytest.mark.parametrize("fault", [THROTTLED, error("ThrottlingException"), answer(500), reset, silence, drip])
@pytest.mark.parametrize("path", ["/v1/flight-delays/a", "/v1/flight-delays"])
def test_a_lasting_fault_is_a_503(deploy: Deploy, fault: Behaviour, path: str) -> None:
    """Within the budget, with Retry-After, as a problem that is not stored: never "not found", never a 500."""
    found = deploy(fault, limits=BRIEF)
    begin = time.monotonic()
    answered = found.ask(path)
    assert time.monotonic() - begin < 5
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")
    assert (answered.json["code"], answered.headers["cache-control"]) == ("unavailable", "no-store")
    assert found.lines[-1]["reason"].startswith("storage: ")
    assert 1 <= len(found.server.seen) <= BRIEF.tries


@pytest.mark.parametrize(
    "code",
    ["AccessDeniedException", "ResourceNotFoundException", "UnrecognizedClientException", "KMSAccessDeniedException"],
)
@pytest.mark.parametrize("path", ["/v1/flight-delays/a", "/v1/flight-delays"])
def test_what_storage_refuses_is_a_503_with_its_code(deploy: Deploy, code: str, path: str) -> None:
    """A missing table or permission is not the caller's mistake; the log says what an operator must fix."""
    found = deploy(error(code))
    answered = found.ask(path)
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")
    assert found.lines[-1]["reason"] == f"storage: {code}"
    assert len(found.server.seen) == 1, "asking again would not help"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(answer(403, body=b"<html>secret</html>"), "Refused 403"), (answer(body=b"<html>"), "NotJson")],
)
def test_a_response_not_from_dynamodb_is_a_503(deploy: Deploy, fault: Behaviour, reason: str) -> None:
    """E.g. of a proxy; nothing of it is logged."""
    found = deploy(fault)
    assert found.ask().status == 503
    assert found.lines[-1]["reason"] == f"storage: {reason}"
    assert "secret" not in str(found.lines)


def test_the_budget_is_far_below_the_gateways() -> None:
    """API Gateway gives up after 29 s; a request takes less than a third of that, and storage a part of it."""
    assert LIMITS.connect + LIMITS.attempt < LIMITS.budget <= 4
    assert READING_SECONDS + LIMITS.connect + 2 * LIMITS.attempt <= REQUEST_SECONDS <= 7
    assert MARGIN_SECONDS >= 1


@pytest.mark.parametrize(
    ("env", "region"),
    [({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "x"}, "eu-central-1"),
     ({"AWS_DEFAULT_REGION": "eu-west-3"}, "eu-west-3"), ({}, "us-east-1")],
)  # fmt: skip
def test_a_deployment_reads_its_own_table(tmp_path: Path, env: dict[str, str], region: str) -> None:
    """Endpoint, region and table come from the environment; each request names the table and is signed."""
    (tmp_path / "jwks.json").write_text(jwks(public_jwk("RS256")))
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": f"file:{tmp_path}/jwks.json"}]
    with FaultyServer(GOOD, answer(body=b'{"Items": [], "Count": 0}')) as server:
        where = {"AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{server.port}", "LARDER_TABLE": 'ta"ble'}
        parts = build_dependencies({**ENV, **env, **where, "LARDER_ISSUERS": json.dumps(issuers)}, SERVED)
        handler = build_handler(parts._replace(now=lambda: NOW, write=lambda _: None))
        for path in ("/v1/flight-delays/a", "/v1/flight-delays"):
            assert (
                handler(event("rest", "GET", path, {}, {"Authorization": f"Bearer {TOKEN}"}), None)["statusCode"] == 200
            )
        targets = [seen.headers["x-amz-target"] for seen in server.seen]
        assert targets == ["DynamoDB_20120810.GetItem", "DynamoDB_20120810.Query"]
        for seen in server.seen:
            assert json.loads(seen.body)["TableName"] == 'ta"ble'
            assert f"/{region}/dynamodb/aws4_request" in seen.headers["authorization"]


def test_unreadable_keys_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A deployment reports keys that cannot be read on standard output, with its environment."""
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": f"file:{tmp_path}/none.json"}]
    env = {**ENV, "LARDER_TABLE": "t", "LARDER_ISSUERS": json.dumps(issuers), "LARDER_ENVIRONMENT": "prod"}
    parts = build_dependencies(env, SERVED)
    begin = time.time()
    with pytest.raises(KeysUnavailable):
        parts.verifier.verify(TOKEN, NOW)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["Environment"], line["KeyFailures"]) == ("keys-unreadable", "prod", 1)
    assert line["_aws"]["Timestamp"] == pytest.approx(begin * 1000, abs=5000)


EMPTY_PAGE = json.dumps({"Items": [], "Count": 0, "LastEvaluatedKey": {"pk": {"S": "p"}, "sk": {"S": "a"}}}).encode()
LIST, ONE = "/v1/flight-delays", "/v1/flight-delays/a"
LISTED = b"<ListBucketResult>" + b"<Key>all/1</Key><Key>all/2</Key>" * 20 + b"</ListBucketResult>"
SLOW: dict[str, tuple[str, str, Behaviour]] = {  # path, location of the keys, responses of the services to each call
    "five queries of a list": (LIST, "", late(0.15, answer(body=EMPTY_PAGE))),
    "retries": (ONE, "", late(0.15, answer(500))),
    "one silent query": (LIST, "", silence),
    "pages of SSM": (ONE, "ssm:/keys", late(0.1, answer(body=b'{"Parameters": [], "NextToken": "more"}'))),
    "silent SSM": (ONE, "ssm:/keys", silence),
    "objects of S3": (ONE, "s3://keys/all/", late(0.1, answer(body=LISTED))),
    "one object of S3": (ONE, "s3://keys/jwks.json", late(0.15, answer(500))),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_request_has_one_time_limit(deploy: Deploy, start: Start, name: str) -> None:
    """For any number of calls to any service: then 503 with Retry-After, and the line says which call was running."""
    path, keys, behaviour = SLOW[name]
    env = dict(ENV)
    if keys:
        env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{start(behaviour).port}"
    found = deploy(behaviour, keys=keys, env=env, limits=LIMITS._replace(tries=100))
    begin = time.monotonic()
    answered = found.ask(path, milliseconds=1000 * MARGIN_SECONDS + 400)
    assert 0.2 < time.monotonic() - begin < 3
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")
    assert (answered.json["code"], answered.headers["cache-control"]) == ("unavailable", "no-store")
    assert found.lines[-1]["status"] == 503
    assert found.lines[-1]["reason"].startswith("keys" if keys else "storage: ")


def test_a_time_limit_ends_with_its_request(deploy: Deploy) -> None:
    """The next request, and one with more time, succeed; one without time is not even sent."""
    found = deploy(GOOD)
    assert found.ask(milliseconds=1000 * MARGIN_SECONDS).status == 503
    assert found.server.seen == []
    assert found.ask().status == 200
    assert found.ask(milliseconds=1e9).status == 200


def test_a_request_waits_no_longer_than_its_limit(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """`REQUEST_SECONDS` decide if the invocation has more time, and if its remaining time is unknown."""
    monkeypatch.setattr("serve.handler.REQUEST_SECONDS", 0.2)
    found = deploy(silence)
    for milliseconds in (10_000, None):
        begin = time.monotonic()
        assert found.ask(milliseconds=milliseconds).status == 503
        assert time.monotonic() - begin < 3


@pytest.mark.parametrize("location", ["ssm:/keys", "s3://keys/all/"])
def test_reading_keys_has_its_own_limit(monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    """It covers all calls together, so that a request with the last good keys has time left for its item."""
    monkeypatch.setattr("serve.tokens.key_sources.READING_SECONDS", 0.3)
    behaviour = SLOW["pages of SSM" if location.startswith("ssm") else "objects of S3"][2]
    with FaultyServer(behaviour) as server:
        read = open_source(location, {**ENV, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"})
        begin = time.monotonic()
        with pytest.raises(Unreadable):
            read()
        assert time.monotonic() - begin < 2
        assert len(server.seen) > 1

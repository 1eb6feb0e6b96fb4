"""H9 from end to end: the handler over real connections to a DynamoDB that closes, resets, stalls, throttles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serve.handler import LIMITS, build_dependencies, build_handler
from serve.item import encode
from serve.storage import Storage
from tests.unit.serve.kit import AUDIENCE, ISSUER, NOW, Answered, event, item, jwks, public_jwk, sign
from tests.unit.wire.faulty_server import Behaviour, FaultyServer, answer, drip, error, raw, reset, silence, then_closed
from wire.client import Client, Limits
from wire.credentials import find_source

GOOD = answer(body=json.dumps({"Item": encode(item("a", '{"x":1}'))}).encode())
THROTTLED = error("ProvisionedThroughputExceededException")
ENV = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
TOKEN = sign()
BRIEF = Limits(connect=0.3, attempt=0.2, budget=0.8, tries=4, base=0.001)

Ask = Callable[..., Answered]


class Deployment(NamedTuple):
    """A handler made from its environment, over the server; `clock` is the wall's, which a freeze moves."""

    server: FaultyServer
    clock: dict[str, float]
    lines: list[dict[str, Any]]
    ask: Ask


def _deploy(folder: Path, *script: Behaviour, limits: Limits = LIMITS) -> Deployment:
    (folder / "jwks.json").write_text(jwks(public_jwk("RS256")))
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": f"file:{folder}/jwks.json"}]
    server, clock, lines = FaultyServer(*script), {"now": NOW}, list[dict[str, Any]]()
    client = Client(server.endpoint(), find_source(ENV), limits, clock=lambda: clock["now"])
    parts = build_dependencies({**ENV, "LARDER_TABLE": "table", "LARDER_ISSUERS": json.dumps(issuers)})._replace(
        storage=Storage(client.send, "table"),
        now=lambda: clock["now"],
        write=lambda line: lines.append(json.loads(line)),
    )
    handler = build_handler(parts)

    def ask(path: str = "/v1/flight-delays/a") -> Answered:
        return Answered(handler(event("rest", "GET", path, {}, {"Authorization": f"Bearer {TOKEN}"}), None))

    return Deployment(server, clock, lines, ask)


FREEZES: dict[str, tuple[Behaviour, ...]] = {
    "closed while frozen": (then_closed(GOOD), GOOD),
    "reset as it is used again": (GOOD, reset, GOOD),
    "closed as it is used again": (GOOD, raw(b""), GOOD),
}


@pytest.mark.parametrize("name", FREEZES)
def test_a_connection_that_died_while_frozen_costs_one_retry(tmp_path: Path, name: str) -> None:
    """The first request after a freeze of a minute is a 200, on the second connection, without a pause."""
    found = _deploy(tmp_path, *FREEZES[name])
    assert found.ask().status == 200
    time.sleep(0.05)  # the server's FIN arrives
    found.clock["now"] += 60
    begin = time.monotonic()
    assert found.ask().json == {"x": 1}
    assert time.monotonic() - begin < LIMITS.attempt / 2
    assert len(found.server.peers) == 2
    assert len(found.server.seen) == len(FREEZES[name])
    assert found.ask().status == 200
    assert len(found.server.peers) == 2, "the new connection is kept"


def test_several_dead_connections_cost_one_retry_together(tmp_path: Path) -> None:
    """Freeze after freeze, request after request: each is a 200 at once."""
    found = _deploy(tmp_path, *[GOOD, reset] * 5, GOOD)
    for turn in range(6):
        found.clock["now"] += 60
        assert found.ask().status == 200, turn


def test_a_connection_that_a_gateway_dropped_in_silence_is_not_used(tmp_path: Path) -> None:
    """After four minutes a flow may be gone without a word; waiting for it would cost a time-out."""
    found = _deploy(tmp_path, GOOD)
    assert found.ask().status == 200
    found.clock["now"] += LIMITS.idle
    assert found.ask().status == 200
    assert [seen.connection for seen in found.server.seen] == [0, 1]


def test_a_connection_that_is_dropped_sooner_costs_one_attempt(tmp_path: Path) -> None:
    """Silence on a kept connection ends with the attempt, and the next one is a 200."""
    found = _deploy(tmp_path, GOOD, silence, GOOD, limits=BRIEF._replace(budget=2.0))
    assert found.ask().status == 200
    found.clock["now"] += 60
    assert found.ask().status == 200
    assert len(found.server.seen) == 3


@pytest.mark.parametrize("fault", [THROTTLED, error("InternalServerError", 500), answer(503), reset, raw(b"")])
@pytest.mark.parametrize("path", ["/v1/flight-delays/a", "/v1/flight-delays"])
def test_a_fault_that_passes_is_not_seen(tmp_path: Path, fault: Behaviour, path: str) -> None:
    """Throttled or failed twice, then answered: 200."""
    good = GOOD if path.endswith("a") else answer(body=b'{"Items": [], "Count": 0}')
    found = _deploy(tmp_path, fault, fault, good, limits=LIMITS._replace(base=0.001))
    assert found.ask(path).status == 200
    assert len(found.server.seen) == 3


@pytest.mark.parametrize("fault", [THROTTLED, error("ThrottlingException"), answer(500), reset, silence, drip])
@pytest.mark.parametrize("path", ["/v1/flight-delays/a", "/v1/flight-delays"])
def test_a_fault_that_stays_is_a_503(tmp_path: Path, fault: Behaviour, path: str) -> None:
    """Within the budget, with Retry-After, as a problem that is not stored: never "not found", never a 500."""
    found = _deploy(tmp_path, fault, limits=BRIEF)
    begin = time.monotonic()
    answered = found.ask(path)
    assert time.monotonic() - begin < BRIEF.budget + 0.5
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")
    assert (answered.json["code"], answered.headers["cache-control"]) == ("unavailable", "no-store")
    assert found.lines[-1]["reason"].startswith("storage: ")
    assert 1 <= len(found.server.seen) <= BRIEF.tries


def test_the_budget_is_far_below_the_gateways(tmp_path: Path) -> None:
    """API Gateway gives up after 29 s, keys and storage together take less than a third of it."""
    assert LIMITS.budget <= 4
    assert LIMITS.connect + LIMITS.attempt < LIMITS.budget


@pytest.mark.parametrize(
    "code",
    ["AccessDeniedException", "ResourceNotFoundException", "UnrecognizedClientException", "KMSAccessDeniedException"],
)
@pytest.mark.parametrize("path", ["/v1/flight-delays/a", "/v1/flight-delays"])
def test_what_storage_refuses_is_a_503_with_its_code(tmp_path: Path, code: str, path: str) -> None:
    """A table or a permission that is missing is no fault of the caller; the log has what an operator must fix."""
    found = _deploy(tmp_path, error(code))
    answered = found.ask(path)
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")
    assert found.lines[-1]["reason"] == f"storage: {code}"
    assert len(found.server.seen) == 1, "asking again would not help"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(answer(403, body=b"<html>secret</html>"), "Refused 403"), (answer(body=b"<html>"), "NotJson")],
)
def test_an_answer_that_is_not_dynamodbs_is_a_503(tmp_path: Path, fault: Behaviour, reason: str) -> None:
    """E.g. of a proxy; nothing of it is logged."""
    found = _deploy(tmp_path, fault)
    assert found.ask().status == 503
    assert found.lines[-1]["reason"] == f"storage: {reason}"
    assert "secret" not in str(found.lines)

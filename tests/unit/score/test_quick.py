"""Requests that a server answers without a thread: those that wait for nothing and are done within milliseconds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from score.handler import QUICK_CHARACTERS, QUICK_SECONDS, is_quick
from score.store import REFRESH_SECONDS
from serve.tokens.key_cache import FRESHNESS
from serve.tokens.verifier import CACHED_SECONDS
from server.app import build_event
from tests.unit.score.kit import SCOPES, VIRGINICA, App, alias_of, iris_version, share_of
from tests.unit.serve.kit import NOW, claims, item, sign
from tests.unit.server.kit import ask, build, scope

TOKEN = sign(claims(scope=SCOPES, exp=int(NOW) + 3600))
BODY = json.dumps({"instance": VIRGINICA}).encode()


def event(path: str = "/v1/models/iris/score", query: bytes = b"", token: str = TOKEN, body: bytes = BODY) -> Any:
    """Build the event of a request as the server does."""
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")]
    return build_event(scope(path.encode(), "POST", query, headers), body, "id")


@pytest.fixture
def app() -> App:
    """An app that has answered a request to each of two models: these, keys and token are in memory."""
    warm = App(item("a"))
    late = json.dumps({"instance": {"departure_delay": 1, "flight_id": "a"}}).encode()
    for each in (event(), event("/v1/models/delay/score", body=late)):
        assert warm.handler(each, None)["statusCode"] == 200  # type: ignore[call-overload]
    return warm


def _slow(app: App) -> None:
    serving = app.parts.store.current("iris", app.now)
    serving.live.seconds = 2 * QUICK_SECONDS


def _slow_shadow(app: App) -> None:
    other = iris_version(2.0)
    app.bucket.put(other)
    app.bucket.point(alias_of(iris_version(), shadow=share_of(other, 0.1)))
    app.now += REFRESH_SECONDS
    shadow = app.parts.store.current("iris", app.now).shadow
    assert shadow
    shadow.seconds = 2 * QUICK_SECONDS


def _later(seconds: float) -> Callable[[App], None]:
    def wait(app: App) -> None:
        app.now += seconds

    return wait


@pytest.mark.parametrize(
    ("asked", "change", "expected"),
    [
        (event(), None, True),
        (event(), _later(REFRESH_SECONDS - 1.5), True),
        (event(), _later(REFRESH_SECONDS - 0.5), False),  # the alias is read again within the second
        (event("/v1/models/news/score"), None, False),  # not loaded yet
        (event("/v1/models/delay/score"), None, False),  # reads an item
        (event("/v1/models/unknown/score"), None, False),
        (event("/v1/models/iris"), None, False),
        (event("/v1/models/%69ris/score"), None, False),
        (event(query=b"explain=true"), None, False),
        (event(token="another"), None, False),
        (event(token=""), None, False),
        (event(body=b" " * QUICK_CHARACTERS), None, False),
        (event(body=b""), None, True),
        (event(), _slow, False),
        (event(), _slow_shadow, False),
    ],
)
def test_a_request_is_quick_if_all_that_it_needs_is_in_memory(
    asked: Any, change: Any, expected: bool, app: App
) -> None:
    """Anything else can wait for S3, DynamoDB or an issuer's keys, or takes long."""
    if change:
        change(app)
    assert is_quick(app.parts, asked) == expected


def test_a_token_must_be_remembered_and_its_keys_in_memory(app: App) -> None:
    """Not after the time that tokens are remembered, nor when the keys are old; another thread can be reading them."""
    verifier = app.parts.verifier
    assert verifier.remembers(TOKEN, NOW + CACHED_SECONDS - 1)
    assert not verifier.remembers(TOKEN, NOW + CACHED_SECONDS)
    (issuer,) = verifier._issuers.values()
    assert not issuer.keys.is_ready(NOW + FRESHNESS.max_age)
    reads, release = threading.Event(), threading.Event()

    def read(_: float) -> Any:
        reads.set()
        release.wait(10)
        raise OSError

    issuer.keys._read = read
    thread = threading.Thread(target=issuer.keys.renewed, args=(NOW,))
    thread.start()
    assert reads.wait(10)
    assert verifier.remembers(TOKEN, NOW)
    assert verifier.verify(TOKEN, NOW).claims["sub"] == "client-1"
    release.set()
    thread.join()


def test_the_server_calls_the_handler_in_its_own_thread_only_if_it_is_quick(app: App) -> None:
    """The first request loads the model, in a thread; the second has it."""
    threads: list[bool] = []

    def handle(given: Any, context: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return app.handler(given, context)

    server = build(handle, is_quick=partial(is_quick, app.parts))
    for name in ("iris", "wine", "iris"):
        body = BODY if name == "iris" else b'{"values": {"region": "north"}}'
        sent = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-length", str(len(body)).encode())]
        assert ask(server, f"/v1/models/{name}/score".encode(), "POST", headers=sent, parts=[body]).status == 200
    assert threads == [True, False, True]

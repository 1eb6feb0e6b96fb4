"""Readiness of score: one model is loaded, as by a request; a model that serves is left to requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from score.handler import REQUEST_SECONDS
from score.store import REFRESH_SECONDS, RETRY_SECONDS, ModelStore, ModelUnavailable
from server.functions import open_score
from tests.unit.score.kit import MODELS, S3_DOWN, VIRGINICA, App, alias_of, iris_version
from wire.deadline import deadline


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[App], Callable[[], None]]:
    """Return a function that opens score over an app, and returns its check."""

    def open_check(app: App) -> Callable[[], None]:
        monkeypatch.setattr("score.model.load_models", lambda: app.parts.models)
        monkeypatch.setattr("serve.datasets.load_served", lambda: app.parts.served)
        monkeypatch.setattr("score.handler.build_dependencies", lambda *_: app.parts)
        return open_score({}, app.lines.append).check

    return open_check


def test_a_probe_loads_a_model_in_the_time_of_a_request(opened: Callable[[App], Callable[[], None]]) -> None:
    """A large model takes some seconds: with less time, a server that started without S3 would never be ready."""
    app, left = App(), list[float]()

    def fetch(key: str, etag: str | None) -> Any:
        left.append(deadline() - time.monotonic())
        return app.bucket.fetch(key, etag)

    app.parts = app.parts._replace(store=ModelStore(fetch, MODELS, app.report))
    check = opened(app)
    app.bucket.error = S3_DOWN
    with pytest.raises(ModelUnavailable, match="SlowDown"):
        check()
    app.bucket.error = None
    app.now += RETRY_SECONDS
    left.clear()
    check()
    alias, *others = left
    assert 5 < alias <= 6
    assert len(others) == 2
    assert all(REQUEST_SECONDS - 1 < each <= REQUEST_SECONDS for each in others)


def test_a_probe_leaves_a_model_that_serves_to_requests(opened: Callable[[App], Callable[[], None]]) -> None:
    """It reads no alias: with a probe's time, it could fail to load a version that was promoted, for 30 s each."""
    app = App()
    check = opened(app)
    check()
    app.bucket.put(new := iris_version(2.0))
    app.bucket.point(alias_of(new))
    app.now += REFRESH_SECONDS
    asked = len(app.bucket.asked)
    check()
    assert len(app.bucket.asked) == asked
    assert app.post({"instance": VIRGINICA}).json["model"]["version"] == new[1].version


def test_one_model_is_enough(opened: Callable[[App], Callable[[], None]]) -> None:
    """Models that cannot be loaded are no reason to refuse requests to the others."""
    app = App()
    for key in [key for key in app.bucket.objects if "iris" in key]:
        del app.bucket.objects[key]
    check = opened(app)
    check()
    app.bucket.objects.clear()
    check()

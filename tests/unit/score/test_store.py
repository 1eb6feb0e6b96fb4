"""Which version serves: aliases, reloads, refused versions, and failures of S3."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from score.log import count
from score.manifest import Golden, dump_alias, dump_manifest, signed_bytes
from score.paths import alias_key, manifest_key, model_key
from score.store import (
    LIMITS,
    REFRESH_SECONDS,
    REFUSED_SECONDS,
    RETRY_SECONDS,
    ModelStore,
    ModelUnavailable,
    open_fetch,
    open_verify,
)
from serve.tokens.key_cache import CLOCKS
from tests.unit.score.kit import MODELS, S3_DOWN, SCOPES, VIRGINICA, App, alias_of, iris_version, share_of
from tests.unit.serve.kit import NOW, claims, sign
from wire.client import Client
from wire.credentials import find_source
from wire.deadline import deadline
from wire.endpoint import resolve
from wire.errors import Unavailable

BODY = {"instance": VIRGINICA}
OLD, NEW = iris_version(), iris_version(2.0)
OLD_NAME, NEW_NAME = OLD[1].version, NEW[1].version


def _version(app: App) -> str:
    answer = app.post(BODY)
    assert answer.status == 200, answer.body
    version: str = answer.json["model"]["version"]
    return version


def test_a_promoted_version_answers_within_thirty_seconds_and_one_request() -> None:
    """The alias is requested once in 30 s; an unchanged version is not loaded again."""
    app = App()
    assert _version(app) == OLD_NAME
    app.bucket.put(NEW)
    app.bucket.point(alias_of(NEW, previous=OLD_NAME))
    app.now += REFRESH_SECONDS - 1
    asked = len(app.bucket.asked)
    assert _version(app) == OLD_NAME
    assert len(app.bucket.asked) == asked
    app.now += 1
    assert _version(app) == NEW_NAME
    app.now += REFRESH_SECONDS
    asked = len(app.bucket.asked)
    assert _version(app) == NEW_NAME
    assert app.bucket.asked[asked:] == [alias_key("iris")]
    loaded = [(each["event"], each["Version"], each["role"], each["ModelLoads"]) for each in app.events()]
    assert loaded == [("model_loaded", version, "live", 1) for version in (OLD_NAME, NEW_NAME)]


def _breaks() -> dict[str, Callable[[App], object]]:
    objects = model_key("iris", NEW_NAME), manifest_key("iris", NEW_NAME)

    def change(key: str, value: bytes | None) -> Callable[[App], object]:
        def apply(app: App) -> object:
            return app.bucket.objects.pop(key) if value is None else app.bucket.objects.update({key: value})

        return apply

    def manifest(**changes: Any) -> Callable[[App], object]:
        return change(objects[1], dump_manifest(NEW[1]._replace(**changes)))

    onnx = NEW[0]
    wrong = Golden(VIRGINICA, (0.1, 0.2, 0.7))
    text = dump_manifest(NEW[1])
    return {
        "model missing": change(objects[0], None),
        "manifest missing": change(objects[1], None),
        "model truncated": change(objects[0], onnx[:-1]),
        "model of another hash": change(objects[0], onnx[:-1] + bytes([onnx[-1] ^ 1])),
        "model empty": change(objects[0], b""),
        "manifest empty": change(objects[1], b""),
        "manifest of a later format": change(objects[1], text.replace(b'"format": 1', b'"format": 2')),
        "manifest with an unknown member": change(objects[1], text.replace(b'"format": 1', b'"format": 1, "x": 1')),
        "manifest with a member twice": change(objects[1], text.replace(b'"format": 1', b'"format": 1, "format": 1')),
        "manifest with NaN": change(objects[1], text.replace(b'"sepal_length": 5.9', b'"sepal_length": NaN')),
        "manifest of another version": change(objects[1], dump_manifest(OLD[1])),
        "both objects of another version": lambda app: app.bucket.objects.update(
            {objects[0]: OLD[0], objects[1]: dump_manifest(OLD[1])}
        ),
        "manifest of another model": manifest(model="wine"),
        "another task": manifest(task="regression", labels=(), golden=(Golden(VIRGINICA, (1.0,)),)),
        "an unknown feature": manifest(inputs=(NEW[1].inputs[0]._replace(features=("a", "b", "c", "d")),)),
        "too few features": manifest(inputs=(NEW[1].inputs[0]._replace(features=("sepal_length",)),)),
        "another element type": manifest(inputs=(NEW[1].inputs[0]._replace(type="double"),)),
        "a text input": manifest(inputs=(NEW[1].inputs[0]._replace(type="string"),)),
        "another input": manifest(inputs=(NEW[1].inputs[0]._replace(name="y"),)),
        "another output": manifest(output="label"),
        "a wrong golden row": manifest(golden=(wrong,)),
        "a golden row without a feature": manifest(golden=(Golden({"sepal_length": 1}, wrong.prediction),)),
        "a golden row of a text": manifest(golden=(Golden({**VIRGINICA, "sepal_length": "x"}, wrong.prediction),)),
        "another size": manifest(size=len(onnx) + 1),
        "alias of another model": change(alias_key("iris"), dump_alias(alias_of(NEW, model="wine"))),
        "alias that names nothing": lambda app: app.bucket.point(alias_of(NEW, live="0" * 16)),
        "alias that is not JSON": change(alias_key("iris"), b"<Error/>"),
        "alias missing": change(alias_key("iris"), None),
        "S3 down": lambda app: setattr(app.bucket, "error", S3_DOWN),
    }


@pytest.mark.parametrize("name", _breaks())
def test_a_broken_version_never_replaces_a_good_one(name: str) -> None:
    """The last good version keeps answering, and each refresh reports the error; without one the response is a 503.

    Both recover when the version is repaired and promoted.
    """
    for is_cold in (False, True):
        app = App()
        if not is_cold:
            assert _version(app) == OLD_NAME
        app.bucket.put(NEW)
        app.bucket.point(alias_of(NEW, previous=OLD_NAME))
        _breaks()[name](app)
        for _ in range(2):
            app.now += REFRESH_SECONDS
            answer = app.post(BODY)
            failed = [each for each in app.events() if each["event"] == "model_not_loaded"]
            assert failed[-1]["ModelFailures"] == 1
            assert failed[-1]["Model"] == "iris"
            if is_cold:
                assert (answer.status, answer.json["code"]) == (503, "model_unavailable")
                assert answer.headers["retry-after"] == "2"
            else:
                assert answer.json["model"]["version"] == OLD_NAME
        assert len(failed) == 2
        app.bucket.error = None
        app.bucket.put(NEW)
        app.bucket.point(alias_of(NEW, at="later"))
        app.now += REFRESH_SECONDS
        assert _version(app) == NEW_NAME


@pytest.mark.parametrize("seconds", [3600, 45, 11])
def test_a_clock_that_went_back_does_not_freeze_the_version(seconds: int) -> None:
    """An alias is read at the next request; the same if a version was refused, or there is nothing to serve yet."""
    app, now = App(), NOW

    def serving() -> str:
        return app.parts.store.current("iris", now).live.version

    app.bucket.error = S3_DOWN
    with pytest.raises(ModelUnavailable):
        serving()
    app.bucket.error = None
    now -= seconds
    assert serving() == OLD_NAME
    app.bucket.put(NEW)
    app.bucket.point(alias_of(NEW))
    now -= seconds
    assert app.parts.store.find_loaded("iris", now) is None
    assert serving() == NEW_NAME
    app.bucket.objects[model_key("iris", OLD_NAME)] = b""
    app.bucket.point(alias_of(OLD))
    now += REFRESH_SECONDS
    assert serving() == NEW_NAME
    app.bucket.put(OLD)
    now -= seconds
    assert serving() == OLD_NAME


def test_a_clock_that_is_a_moment_behind_reads_no_alias_again() -> None:
    """The clocks of threads differ: ten seconds back are no step."""
    app = App()
    app.parts.store.current("iris", NOW)
    asked = len(app.bucket.asked)
    app.parts.store.current("iris", NOW - CLOCKS)
    assert len(app.bucket.asked) == asked


def test_without_a_model_not_every_request_calls_s3() -> None:
    """If the bucket fails, a cold container responds 503 at once for two seconds."""
    app = App()
    app.bucket.error = S3_DOWN
    for _ in range(5):
        assert app.post(BODY).status == 503
    assert len(app.bucket.asked) == 1
    app.now += 2
    app.bucket.error = None
    assert _version(app) == OLD_NAME


def test_a_canary_has_its_share_of_the_subjects() -> None:
    """A subject always gets the same version; with a share of 1 the canary answers every subject."""
    app = App()
    app.bucket.put(NEW)
    app.bucket.point(alias_of(OLD, canary=share_of(NEW, 0.3)))
    tokens = [sign(claims(scope=SCOPES, sub=f"client-{number}")) for number in range(200)]
    seen = [app.post(BODY, token=token).json["model"]["version"] for token in tokens]
    assert 35 <= count(seen)[NEW_NAME] <= 85
    assert [app.post(BODY, token=token).json["model"]["version"] for token in tokens[:20]] == seen[:20]
    assert app.line["role"] in ("live", "canary")
    app.bucket.point(alias_of(OLD, canary=share_of(NEW, 1)))
    app.now += REFRESH_SECONDS
    assert app.post(b"", method="GET", path="/v1/models/iris").json["version"] == NEW_NAME
    assert _version(app) == NEW_NAME


def test_a_shadow_scores_a_sample_and_changes_no_answer() -> None:
    """Only the difference is logged, and the number of labels that differ."""
    app = App()
    app.bucket.put(NEW)
    app.bucket.point(alias_of(OLD, shadow=share_of(NEW, 0.6)))
    plain = App().post(BODY).json
    assert app.post(BODY).json == plain
    line = app.line
    assert (line["shadow"], line["ShadowLabelsDiffer"]) == (NEW_NAME, 0)
    assert 0 < line["ShadowDifference"] < 1
    app.chance = 0.6
    app.post(BODY)
    assert "shadow" not in app.line


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_broken_canary_or_shadow_does_not_affect_live(role: str) -> None:
    """It gets no share, is reported, and is tried again."""
    app = App()
    app.bucket.point(alias_of(OLD, **{role: share_of(NEW, 1)}))
    assert _version(app) == OLD_NAME
    failed = [each for each in app.events() if each["event"] == "model_not_loaded"]
    assert [(each["role"], each["Version"]) for each in failed] == [(role, NEW_NAME)]
    app.bucket.put(NEW)
    app.now += REFRESH_SECONDS
    app.post(BODY)
    assert NEW_NAME in (app.line["Version"], app.line.get("shadow"))
    assert [(each["role"], each["Version"]) for each in app.events()[-1:]] == [(role, NEW_NAME)]


def test_a_file_with_names_that_are_not_utf_8_does_not_stop_the_good_version() -> None:
    """The name of a tensor can have any bytes; the file is refused and reported like any other."""
    onnx = OLD[0].replace(b"\n\x01x", b"\n\x01\xff")
    assert onnx != OLD[0]
    digest = sha256(onnx).hexdigest()
    bad = onnx, OLD[1]._replace(version=digest[:16], sha256=digest, size=len(onnx))
    for role in ("live", "canary"):
        app = App()
        assert _version(app) == OLD_NAME
        app.bucket.put(bad)
        app.bucket.point(alias_of(bad) if role == "live" else alias_of(OLD, canary=share_of(bad, 1)))
        app.now += REFRESH_SECONDS
        assert _version(app) == OLD_NAME
        failed = [each for each in app.events() if each["event"] == "model_not_loaded"]
        assert [(each["Version"], each["reason"]) for each in failed] == [(digest[:16], "VersionRefused")]


@pytest.mark.parametrize("role", ["live", "shadow"])
def test_an_unexpected_failure_of_a_version_does_not_stop_the_good_one(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that occurs while a version is loaded is reported, and the request has its response."""
    app = App()
    assert _version(app) == OLD_NAME
    app.bucket.put(NEW)
    app.bucket.point(alias_of(NEW) if role == "live" else alias_of(OLD, shadow=share_of(NEW, 1)))

    def fail(*_: object) -> None:
        raise KeyError("unexpected")

    monkeypatch.setattr("score.store.load_scorer", fail)
    app.now += REFRESH_SECONDS
    assert _version(app) == OLD_NAME
    failed = [each for each in app.events() if each["event"] == "model_not_loaded"]
    assert [each["reason"] for each in failed] == ["KeyError"]


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_with_a_public_key_only_the_publishers_manifests_are_used(kind: str) -> None:
    """Manifests without a signature, with another signature, or changed after signing are refused."""
    private: Any = (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )
    more = () if kind == "ed25519" else (ec.ECDSA(SHA256()),)
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = b64encode(private.sign(signed_bytes(OLD[1]), *more)).decode()
    for manifest, is_good in (
        (OLD[1]._replace(signature=signature), True),
        (OLD[1], False),
        (OLD[1]._replace(signature=signature, created="later"), False),
        (OLD[1]._replace(signature="AAAA"), False),
        (OLD[1]._replace(signature="no base64"), False),
    ):
        app = App()
        app.bucket.put((OLD[0], manifest))
        store = ModelStore(app.bucket.fetch, MODELS, app.report, open_verify(b64encode(der).decode()))
        app = App(store=store)
        assert app.post(BODY).status == (200 if is_good else 503)


def test_a_version_whose_fetch_failed_is_fetched_again() -> None:
    """If S3 fails between alias and model, the next refresh loads the version, without another promote."""
    app = App()
    assert _version(app) == OLD_NAME
    app.bucket.put(NEW)
    app.bucket.point(alias_of(NEW))
    fetch, broken = app.bucket.fetch, [True]

    def flaky(key: str, etag: str | None) -> Any:
        if key.endswith(".onnx") and broken[0]:
            raise Unavailable("reset")
        return fetch(key, etag)

    vars(app.parts.store)["_fetch"] = flaky
    app.now += REFRESH_SECONDS
    assert _version(app) == OLD_NAME
    broken[0] = False
    app.now += REFRESH_SECONDS
    assert _version(app) == NEW_NAME


def test_versions_promoted_while_threads_score() -> None:
    """Each answer is whole: it is that of the version that it names, and no request fails."""
    app = App()
    app.bucket.put(NEW)
    expected = {}
    for version in (OLD, NEW):
        app.bucket.point(alias_of(version))
        app.now += REFRESH_SECONDS
        expected[version[1].version] = app.post(BODY).json["prediction"]
    answers: list[Any] = []
    token = sign(claims(scope=SCOPES, exp=int(app.now) + 10**6))  # the clock below runs fast

    def ask() -> None:
        answers.extend(app.post(BODY, token=token) for _ in range(100))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    turns = 0
    while any(thread.is_alive() for thread in threads):
        turns += 1
        broken = {"live": "0" * 16} if turns % 3 == 0 else {}
        app.bucket.point(alias_of((OLD, NEW)[turns % 2], **broken))
        app.now += REFRESH_SECONDS
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {200}
    named = [(answer.json["model"]["version"], answer.json["prediction"]) for answer in answers]
    assert all(prediction == expected[version] for version, prediction in named)
    assert {version for version, _ in named} == {OLD_NAME, NEW_NAME}


def test_s3_that_hangs_delays_a_request_by_a_second_at_most() -> None:
    """While a version serves, a request waits no longer for the alias; a cold container waits longer."""
    left: list[float] = []
    app = App()

    def fetch(key: str, etag: str | None) -> Any:
        left.append(deadline() - time.monotonic())
        return app.bucket.fetch(key, etag)

    app = App(store=ModelStore(fetch, MODELS, app.report))
    _version(app)
    app.now += REFRESH_SECONDS
    _version(app)
    first, *_, later = left
    assert 5 < first <= 6
    assert 0.5 < later <= 1


def test_s3_that_hangs_before_a_version_is_loaded_delays_one_thread() -> None:
    """Once it has failed: the others respond at once, so that the models that are loaded keep their threads."""
    app, begun, release = App(), Event(), Event()

    def fetch(key: str, etag: str | None) -> Any:
        if begun.is_set() or not is_hanging:
            raise S3_DOWN
        begun.set()
        release.wait(20)
        return app.bucket.fetch(key, etag)

    store, is_hanging = ModelStore(fetch, MODELS, app.report), False
    with pytest.raises(ModelUnavailable):
        store.current("iris", NOW)
    is_hanging = True
    with ThreadPoolExecutor(2) as pool:
        try:
            pool.submit(store.current, "iris", NOW + RETRY_SECONDS)
            assert begun.wait(10)
            with pytest.raises(ModelUnavailable, match="503 SlowDown"):
                pool.submit(store.current, "iris", NOW + RETRY_SECONDS).result(10)
        finally:
            release.set()


def test_a_container_whose_s3_is_down_at_its_start_and_later() -> None:
    """Over sockets: a 503 while it is down, an answer when it is up, and the same answer when it is down again."""
    objects = App().bucket.objects
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    is_down = [True]

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = b"" if is_down[0] else objects.get(self.path.removeprefix("/b/"), b"")
            self.send_response(200 if data else 503)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = resolve("s3", "us-east-1", {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"})
        client = Client(endpoint, find_source(keys), LIMITS._replace(budget=0.5))
        app = App()
        app = App(store=ModelStore(open_fetch(client, "b"), MODELS, app.report))
        assert app.post(BODY).status == 503
        is_down[0] = False
        app.now += REFRESH_SECONDS
        before = app.post(BODY)
        assert before.status == 200
        is_down[0] = True
        app.now += REFRESH_SECONDS
        assert app.post(BODY).json == before.json
        server.shutdown()
    app.now += REFRESH_SECONDS
    assert app.post(BODY).json == before.json  # nothing listens there


@pytest.mark.parametrize(("is_warm", "pause"), [(True, REFUSED_SECONDS), (False, REFRESH_SECONDS)])
def test_a_version_whose_object_is_restored_is_used_without_a_new_alias(is_warm: bool, pause: float) -> None:
    """The refused version is not read at each refresh, but after a while: at once would read it for each request."""
    app = App()
    if is_warm:
        assert _version(app) == OLD_NAME
    app.bucket.put(NEW)
    app.bucket.objects[model_key("iris", NEW_NAME)] = NEW[0][:-1]
    app.bucket.point(alias_of(NEW))
    app.now += REFRESH_SECONDS
    found = app.post(BODY)
    assert (found.status, found.json.get("model", {}).get("version")) == ((200, OLD_NAME) if is_warm else (503, None))
    app.bucket.put(NEW)
    refused_at, asked = app.now, len(app.bucket.asked)
    while app.now + REFRESH_SECONDS < refused_at + pause:
        app.now += REFRESH_SECONDS
        assert _version(app) == OLD_NAME
    assert set(app.bucket.asked[asked:]) <= {alias_key("iris")}
    app.now = refused_at + pause
    assert _version(app) == NEW_NAME

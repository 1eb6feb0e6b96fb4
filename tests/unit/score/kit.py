"""Helpers of the tests of score: small models, a bucket in memory, and a handler that uses both."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from score.handler import Dependencies, Handler, build_handler
from score.log import build_event_line
from score.manifest import Alias, Golden, Input, Manifest, Scalar, Share, TextVectorizer, dump_alias, dump_manifest
from score.model import Boolean, Category, Model, Number, Stored, Text
from score.paths import alias_key, manifest_key, model_key
from score.settings import ScoreSettings
from score.store import Fetched, ModelStore
from serve.item import Item
from serve.settings import IssuerSettings, Settings
from serve.storage import Storage
from serve.tokens.jwks import KeyDocument
from serve.tokens.jwt import Policy
from serve.tokens.key_cache import KeyStore
from serve.tokens.verifier import Issuer, Verifier
from tests.doubles.onnx_writer import classifier, regressor
from tests.unit.serve.kit import NOW, POLICY, SERVED, Answered, Query, Table, all_jwks, claims, event, sign
from wire.errors import Refused, Unavailable

IRIS_FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
IRIS = Model(
    name="iris",
    subject=("sub",),
    scope="iris:score",
    task="classification",
    features={name: Number(low=0, high=30) for name in IRIS_FEATURES},
    forms=("bare",),
    decimals=4,
    about="The species of an iris",
)
WINE = Model(
    name="wine",
    subject=("sub",),
    scope=None,
    task="regression",
    features={"alcohol": Number(missing=0.0), "red": Boolean(missing=False), "region": Category(("north", "south"))},
    forms=("values",),
    direct=True,
)
NEWS = Model(
    name="news",
    subject=("sub",),
    scope="news:score",
    task="classification",
    features={"text": Text(longest=100)},
    forms=("texts",),
)
DELAY = Model(
    name="delay",
    subject=("carrier", "sub"),
    scope="delay:score",
    task="regression",
    features={
        "departure_delay": Number(low=-60, high=1440),
        "batch_late": Stored(
            "flight-delays", id="{flight_id}", at="/prediction/late", missing=-1.0, max_age=timedelta(hours=36)
        ),
    },
)
MODELS = {model.name: model for model in (IRIS, WINE, NEWS, DELAY)}
VIRGINICA = dict(zip(IRIS_FEATURES, (5.9, 3, 5.1, 1.8), strict=True))
IRIS_LABELS = ("setosa", "versicolor", "virginica")
IRIS_WEIGHTS = ((0.5, 1.0, -2.0, -1.0), (0.4, 0.2, 0.3, -0.5), (-0.3, -0.4, 1.5, 1.9))
VOCABULARY = ("ball", "engine", "game", "good game", "space")
NEWS_WEIGHTS = ((2.0, 0.0, 1.0, 1.5, -1.0), (-1.0, 1.0, -1.0, -1.0, 2.0))
SCOPES = "iris:score news:score delay:score flight-delays:read"

Version = tuple[bytes, Manifest]


def softmax(weights: Sequence[Sequence[float]], row: Sequence[float]) -> tuple[float, ...]:
    """Compute the probabilities of `classifier`, in Python's doubles."""
    powers = [math.exp(sum(w * x for w, x in zip(each, row, strict=True))) for each in weights]
    return tuple(power / sum(powers) for power in powers)


def version_of(
    model: Model,
    onnx: bytes,
    inputs: Sequence[Input],
    golden: tuple[Mapping[str, Scalar], tuple[float, ...]],
    labels: Sequence[str] = (),
    **changes: Any,
) -> Version:
    """Build a version with its manifest, as publishing does."""
    digest = sha256(onnx).hexdigest()
    manifest = Manifest(
        model=model.name,
        version=digest[:16],
        sha256=digest,
        size=len(onnx),
        task=model.task,
        labels=tuple(labels),
        inputs=tuple(inputs),
        output="probabilities" if labels else "value",
        baseline={name: value for name, value in golden[0].items() if model.name != "news"},
        golden=(Golden(*golden),),
        bins={},
        scores=None,
        created="2024-01-02T03:04:05Z",
        release="0.1.0",
    )
    return onnx, manifest._replace(**changes)


def iris_version(scale: float = 1.0, **changes: Any) -> Version:
    """Build a version of iris; each scale gives another version."""
    weights = [[scale * weight for weight in each] for each in IRIS_WEIGHTS]
    golden = VIRGINICA, softmax(weights, list(VIRGINICA.values()))
    inputs = [Input("x", "float", IRIS_FEATURES)]
    return version_of(IRIS, classifier(weights, [0.0] * 3), inputs, golden, IRIS_LABELS, **changes)


def wine_version() -> Version:
    """Build a version of wine: alcohol + 10 red + 100 region."""
    row: dict[str, Scalar] = {"alcohol": 2.5, "red": True, "region": "south"}
    golden = row, (112.5,)
    return version_of(WINE, regressor([1, 10, 100], 0), [Input("x", "double", tuple(WINE.features))], golden)


def news_version(**changes: Any) -> Version:
    """Build a version of news, with a tokeniser."""
    text = TextVectorizer(VOCABULARY, ngram_range=(1, 2), idf=(1.0, 2.0, 1.5, 2.5, 1.0), norm="l2", **changes)
    row = [0.0, 0.0, 1.5, 2.5, 0.0]
    length = math.sqrt(sum(cell * cell for cell in row))
    golden = {"text": "A GOOD game"}, softmax(NEWS_WEIGHTS, [cell / length for cell in row])
    inputs = [Input("x", "float", ("text",), text)]
    return version_of(NEWS, classifier(NEWS_WEIGHTS, [0.0, 0.0]), inputs, golden, ("sport", "science"))


def delay_version(scale: float = 1.0) -> Version:
    """Build a version of delay: departure_delay + 100 batch_late, scaled."""
    golden = {"departure_delay": 10.0, "batch_late": 0.5}, (60.0 * scale,)
    inputs = [Input("x", "double", ("departure_delay", "batch_late"))]
    return version_of(DELAY, regressor([scale, 100 * scale], 0), inputs, golden)


def alias_of(version: Version, **changes: Any) -> Alias:
    """Build an alias with a live version."""
    manifest = version[1]
    base = Alias(manifest.model, manifest.version, None, None, None, "publisher", "2024-01-02T03:04:05Z")
    return base._replace(**changes)


def share_of(version: Version, share: float) -> Share:
    """Build the share of a canary or shadow."""
    return Share(version[1].version, share)


class Bucket:
    """A bucket in memory that responds as S3 does if the role can't list it, and records the object keys requested."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.error: Exception | None = None

    def put(self, version: Version) -> None:
        """Put the two objects of a version."""
        onnx, manifest = version
        self.objects[model_key(manifest.model, manifest.version)] = onnx
        self.objects[manifest_key(manifest.model, manifest.version)] = dump_manifest(manifest)

    def point(self, alias: Alias) -> None:
        """Write an alias."""
        self.objects[alias_key(alias.model)] = dump_alias(alias)

    def fetch(self, key: str, etag: str | None) -> Fetched:
        """Respond to a GET with If-None-Match."""
        self.asked.append(key)
        if self.error:
            raise self.error
        if key not in self.objects:
            raise Refused(403, "AccessDenied", "Access Denied")
        found = f'"{sha256(self.objects[key]).hexdigest()[:32]}"'
        return Fetched(None if etag == found else self.objects[key], found)


S3_DOWN = Unavailable("503 SlowDown: reduce your request rate")


class App:
    """A handler with a bucket and a table in memory, and with a clock and a log that tests can read."""

    def __init__(
        self,
        *items: Item,
        policies: tuple[Policy, ...] = (POLICY,),
        models: Mapping[str, Model] = MODELS,
        **parts: Any,
    ) -> None:
        self.bucket = Bucket()
        for version in (iris_version(), wine_version(), news_version(), delay_version()):
            self.bucket.put(version)
            self.bucket.point(alias_of(version))
        self.table = Table(*items)
        self.now = NOW
        self.chance = 0.5
        self.lines: list[str] = []
        document = KeyDocument("jwks.json", all_jwks().encode())
        issuers = [Issuer(policy, KeyStore(lambda _: [document], lambda event, details: None)) for policy in policies]
        api = Settings("table", tuple(IssuerSettings(p, "file:x") for p in policies), "larder", (), "test")
        self.parts = Dependencies(
            settings=ScoreSettings(api, "models", ""),
            models=models,
            served=SERVED,
            store=ModelStore(self.bucket.fetch, models, self.report),
            storage=Storage(self.table.send, "table", sleep=lambda seconds: None),
            verifier=Verifier(issuers),
            now=lambda: self.now,
            write=self.lines.append,
            draw=lambda: self.chance,
        )._replace(**parts)
        self.handler: Handler = build_handler(self.parts)

    def report(self, event: str, details: Mapping[str, object]) -> None:
        """Write the line that the function would write, at the test's time."""
        self.lines.append(build_event_line("test", self.now, event, details))

    def post(
        self,
        body: Any,
        model: str = "iris",
        token: str | None = None,
        *,
        path: str | None = None,
        method: str = "POST",
        form: str = "rest",
        query: Query | None = None,
        is_base64: bool = True,
        **headers: str,
    ) -> Answered:
        """Send a request in the event form of one of AWS's front doors; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Authorization"] = f"Bearer {token or sign(claims(scope=SCOPES))}"
        made = event(form, method, path or f"/v1/models/{model}/score", query or {}, sent)
        made |= {"body": base64.b64encode(data).decode() if is_base64 else data.decode(), "isBase64Encoded": is_base64}
        result = self.handler(made, None)
        assert isinstance(result, dict)
        return Answered(result)

    @property
    def line(self) -> dict[str, Any]:
        """The last log line."""
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found

    def events(self) -> list[dict[str, Any]]:
        """The log lines of events of models."""
        return [line for line in map(json.loads, self.lines) if "event" in line]

"""Kept features: they are sent after the response, become Parquet, and are read by one query; drift."""

from __future__ import annotations

import io
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.local.athena.engine import run_statement
from infra.local.athena.statement import TableName, parse_statement
from infra.translate import read_template
from score.keep import handler as keeping
from score.keep.drift import LEAST_ROWS, measure
from score.keep.table import SCHEMA, build_key, parse_message, render_rows
from score.kept import MAX_BYTES, Message
from score.model import Keep, Number, Text, parse_models, render_models
from score.outbox import (
    COOL_DOWN_SECONDS,
    EXTENSION_LIMITS,
    FLUSH_SECONDS,
    LIMITS,
    MAX_WAITING,
    Outbox,
    register_extension,
)
from score.publish.distribution import find_bins
from score.publish.training_query import build_training_query
from server.run import KILL_SECONDS
from server.settings import SCORE_SECONDS
from tests.doubles.moto_aws import moto_aws
from tests.unit.score.kit import DELAY, IRIS, MODELS, NEWS, VIRGINICA, WINE, App, alias_of, iris_version
from tests.unit.serve.kit import NOW, item
from wire.client import Client
from wire.endpoint import parse_endpoint
from wire.errors import Unavailable

NUMBERS = itertools.count()
ALL = Keep(share=1.0)
KEEPING = {name: model._replace(keep=ALL) for name, model in MODELS.items()}
DAY = f"{datetime.fromtimestamp(NOW, UTC):%Y-%m-%d}"


class Kept(App):
    """An app whose models keep features, and the messages that were sent."""

    def __init__(self, *items: Any, models: Any = KEEPING, send: Any = None, **parts: Any) -> None:
        self.sent: list[str] = []
        self.clock = 0.0
        outbox = Outbox(send or self.sent.append, self.report, clock=lambda: self.clock)
        super().__init__(*items, models=models, outbox=outbox, **parts)

    def failures(self) -> list[dict[str, Any]]:
        """The log lines about features that were not kept."""
        return [line for line in self.events() if line["event"] == "not_kept"]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all messages that were sent, read from Parquet."""
        wait_until(lambda: not self.parts.outbox or self.parts.outbox.is_empty)
        found: list[dict[str, Any]] = []
        for body in self.sent:
            _, rows = parse_message(body)
            table = pq.read_table(io.BytesIO(render_rows(rows)))
            assert table.schema.equals(SCHEMA)
            found += table.to_pylist(maps_as_pydicts="strict")
        return found


def wait_until(condition: Any) -> None:
    """Wait for the thread of an outbox."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_features_of_a_request_are_kept() -> None:
    """A row has the features as the model got them, the origin of stored ones, prediction, version and time."""
    app = Kept(item("a", '{"prediction": {"late": 0.25}}'))
    instances = [{"departure_delay": 7.5, "flight_id": "a"}, {"departure_delay": -3, "flight_id": "none"}]
    answer = app.post({"instances": instances}, "delay")
    assert answer.status == 200
    first, second = app.rows()
    assert first == {
        "version": answer.json["model"]["version"],
        "role": "live",
        "scored_at": datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None),
        "request_id": app.line["request_id"],
        "instance": 0,
        "subject": app.line["subject"],
        "label": None,
        "probability": None,
        "value": 32.5,
        "numbers": {"departure_delay": 7.5, "batch_late": 0.25},
        "texts": {},
        "ids": {"flight_id": "a"},
        "stored": {"batch_late": {"as_of": "2023-11-14T22:13:20Z", "run": 1, "missing": None}},
    }
    assert (second["instance"], second["value"], second["ids"]) == (1, -103.0, {"flight_id": "none"})
    assert second["stored"] == {"batch_late": {"as_of": None, "run": None, "missing": "absent"}}
    assert app.line["kept"] == 2


@pytest.mark.parametrize(
    ("name", "body", "numbers", "texts"),
    [
        ("iris", VIRGINICA, VIRGINICA, {}),
        (
            "wine",
            {"values": {"alcohol": 2, "red": True, "region": "south"}},
            {"alcohol": 2, "red": 1},
            {"region": "south"},
        ),
        ("wine", {"values": {"region": "north"}}, {"alcohol": 0, "red": 0}, {"region": "north"}),
        ("news", ["A GOOD game", "space"], {}, {}),
    ],
)
def test_each_kind_of_feature(name: str, body: Any, numbers: Any, texts: Any) -> None:
    """Numbers, booleans and categories are kept, a text only with `texts`; a label has its probability."""
    app = Kept()
    answer = app.post(body, name)
    assert answer.status == 200
    row = app.rows()[0]
    assert (row["numbers"], row["texts"]) == (numbers, texts)
    assert (row["label"] is None, row["value"] is None) == (name == "wine", name != "wine")
    with_texts = {name: model._replace(keep=Keep(1.0, texts=True)) for name, model in MODELS.items()}
    other = Kept(models=with_texts)
    other.post(body, name)
    assert other.rows()[0]["texts"] == (texts or ({"text": body[0]} if name == "news" else {}))


def test_direct_invocations_are_kept_without_a_subject() -> None:
    """A caller with IAM permissions has no token, and so no subject."""
    app = Kept()
    app.handler({"model": "wine", "values": {"alcohol": 2.5, "red": True, "region": "south"}}, None)
    (row,) = app.rows()
    assert (row["subject"], row["value"]) == ("", 112.5)


@pytest.mark.parametrize(("share", "chance", "kept"), [(0.25, 0.24, 1), (0.25, 0.25, 0), (1.0, 0.999, 1)])
def test_a_sample_is_kept_of_models_with_keep(share: float, chance: float, kept: int) -> None:
    """It is random; the log line has the number; a model without `keep`, or without a queue, keeps nothing."""
    models = {**MODELS, "iris": IRIS._replace(keep=Keep(share))}
    app = Kept(models=models)
    app.chance = chance
    app.post(VIRGINICA)
    assert (len(app.rows()), app.line.get("kept", 0)) == (kept, kept)
    app.post({"values": {"region": "north"}}, "wine")
    assert len(app.rows()) == kept
    assert App(models=models).post(VIRGINICA).status == 200


def test_a_refused_request_is_not_kept() -> None:
    """It has no prediction."""
    app = Kept()
    assert app.post({"instance": {**VIRGINICA, "petal_width": 31}}).status == 422
    assert app.rows() == []


def test_no_log_line_has_kept_features() -> None:
    """A line has no feature, no id and no text, whether the message can be sent or not."""
    secret = "zeppelin"

    def fail(body: str) -> None:
        raise RuntimeError(body)

    for send, failures in ((None, 0), (fail, 2)):
        app = Kept(
            send=send, models={name: model._replace(keep=Keep(1.0, texts=True)) for name, model in MODELS.items()}
        )
        app.post([f"{secret} game"], "news")
        app.post({"instance": {"departure_delay": 777.125, "flight_id": secret}}, "delay")
        app.rows()
        wait_until(lambda: len(app.failures()) == failures)  # noqa: B023 - called in this round
        assert not [line for line in app.lines if secret in line or "777.125" in line]


def test_a_queue_that_fails_or_hangs_does_not_affect_responses() -> None:
    """Instances are counted as failures; for 30 s nothing is sent; then the next message is tried."""
    tried: list[str] = []
    release = threading.Event()

    def send(body: str) -> None:
        tried.append(body)
        release.wait(30)
        raise Unavailable("503: slow down")

    app = Kept(send=send)
    started = time.perf_counter()
    answers = [app.post({"instances": [VIRGINICA] * 2}).status for _ in range(3)]
    assert (answers, time.perf_counter() - started < 20) == ([200] * 3, True)
    release.set()
    wait_until(lambda: len(app.failures()) == 3)
    assert (len(tried), [line["reason"] for line in app.failures()]) == (1, ["Unavailable", "Resting", "Resting"])
    assert [(line["KeepFailures"], line["Model"], line["level"]) for line in app.failures()] == [
        (2, "iris", "ERROR")
    ] * 3
    app.clock += COOL_DOWN_SECONDS
    app.post(VIRGINICA)
    wait_until(lambda: len(app.failures()) == 4)
    assert len(tried) == 2


def test_a_full_outbox_drops_and_counts() -> None:
    """Memory is bounded, and no request waits for space."""
    release, app = threading.Event(), Kept()

    def hold(_: str) -> None:
        release.wait(10)

    outbox = Outbox(hold, app.report)
    for _ in range(MAX_WAITING + 5):
        outbox.put("iris", Message("{}", 3))
    release.set()
    assert 4 <= len(app.failures()) <= 5  # the thread can have taken one
    assert app.failures()[0]["KeepFailures"] == 3


def test_the_end_waits_for_the_message_that_is_being_sent() -> None:
    """Whether others wait behind it or not; then the outbox is empty."""
    for number in (1, 3):
        sent: list[str] = []
        begun = threading.Event()

        def send(body: str, sent: list[str] = sent, begun: threading.Event = begun) -> None:
            begun.set()
            time.sleep(0.2)
            sent.append(body)

        app = Kept()
        outbox = Outbox(send, app.report)
        messages = [f"m{each}" for each in range(number)]
        for each in messages:
            outbox.put("iris", Message(each, 1))
        assert begun.wait(10)
        outbox.flush()
        assert (sent, outbox.is_empty, app.failures()) == (messages, True, [])


def test_what_cannot_be_sent_before_the_end_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the message in hand, if sending it has no end: e.g. the role's credentials do not come."""
    monkeypatch.setattr("score.outbox.FLUSH_SECONDS", 0.2)
    begun, release, app = threading.Event(), threading.Event(), Kept()

    def send(_: str) -> None:
        begun.set()
        release.wait(20)

    outbox = Outbox(send, app.report)
    for instances in (1, 2, 4):
        outbox.put("iris", Message("{}", instances))
    assert begun.wait(10)
    started = time.monotonic()
    outbox.flush()
    assert 0.15 < time.monotonic() - started < 5
    assert sorted((line["KeepFailures"], line["reason"]) for line in app.failures()) == [
        (instances, "Late") for instances in (1, 2, 4)
    ]
    release.set()


def test_the_end_of_a_container_leaves_time_for_its_messages() -> None:
    """The longest request and then the outbox take less time than the server gives its processes."""
    assert LIMITS.budget < FLUSH_SECONDS < KILL_SECONDS - SCORE_SECONDS


def test_an_error_while_building_messages_does_not_affect_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response is a 200, and the failure is counted."""
    monkeypatch.setattr("score.handler.build_messages", lambda *_: 1 / 0)
    app = Kept()
    assert app.post(VIRGINICA).status == 200
    assert [(line["KeepFailures"], line["reason"]) for line in app.failures()] == [(1, "ZeroDivisionError")]


def test_a_large_request_is_several_messages() -> None:
    """Each instance is in one of them; an instance that is larger than a message is dropped and counted."""
    model = NEWS._replace(features={"text": Text(longest=300_000)}, keep=Keep(1.0, texts=True))
    app = Kept(models={**MODELS, "news": model})
    texts = ["game " * 4000, "ball " * 30_000, "\u00e9" * 50_000, *["space " * 5000] * 12]
    assert app.post(texts, "news").status == 200
    assert [(row["instance"], row["texts"]["text"]) for row in app.rows()] == [
        (number, text) for number, text in enumerate(texts) if number != 2
    ]
    assert max(map(len, app.sent)) <= MAX_BYTES + 100
    assert 2 <= len(app.sent) < 5
    assert [(line["KeepFailures"], line["reason"]) for line in app.failures()] == [(1, "TooLarge")]


class LambdaApi(BaseHTTPRequestHandler):
    """Lambda's extension API: a test releases the events, and the requests are recorded."""

    asked: list[tuple[str, str, str]]
    release: threading.Semaphore

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, self.headers.get("Lambda-Extension-Identifier", "")))
        if self.path.endswith("/next"):
            self.release.acquire()
        self.send_response(200 if not self.path.endswith("/next") or self.asked[-1][2] == "id-1" else 403)
        self.send_header("Lambda-Extension-Identifier", "id-1")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def lambda_api() -> Iterator[tuple[Client, type[LambdaApi]]]:
    """A server of Lambda's extension API."""
    api = type("Api", (LambdaApi,), {"asked": [], "release": threading.Semaphore(0), "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), api)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = parse_endpoint(f"http://127.0.0.1:{server.server_port}", "lambda", "x")
    yield Client(endpoint, None, EXTENSION_LIMITS), api
    server.shutdown()
    server.server_close()


def test_on_lambda_messages_are_sent_before_the_container_freezes(lambda_api: Any) -> None:
    """After each invocation, the thread requests the next event only when all messages are sent."""
    client, api = lambda_api
    order: list[str] = []
    outbox = Outbox(
        lambda body: order.append(f"{body} after {len(api.asked)}"), lambda *_: None, register_extension(client, "o")
    )
    wait_until(lambda: len(api.asked) == 2)
    for number in range(3):
        api.release.release()
        if number != 1:
            outbox.put("iris", Message(f"m{number}", 1))
        time.sleep(0.02)
        assert len(api.asked) == 2 + number  # the handler is still running
        assert len(order) == (0, 1, 1)[number]
        outbox.end_invocation()
        wait_until(lambda: len(api.asked) == 3 + number)  # noqa: B023 - called in this round
    assert order == ["m0 after 2", "m2 after 4"]
    assert [path for _, path, _ in api.asked] == ["/2020-01-01/extension/register"] + [
        "/2020-01-01/extension/event/next"
    ] * 4


def test_on_lambda_a_slow_queue_delays_the_container_by_seconds(lambda_api: Any) -> None:
    """Whatever waits: the rest is dropped and counted, since Lambda ends a function that takes too long."""
    client, api = lambda_api
    app, clock = Kept(), 0.0

    def send(_: str) -> None:
        nonlocal clock
        clock += 0.4

    outbox = Outbox(send, app.report, register_extension(client, "o"), clock=lambda: clock)
    wait_until(lambda: len(api.asked) == 2)
    api.release.release()
    for _ in range(50):
        outbox.put("iris", Message("{}", 2))
    outbox.end_invocation()
    wait_until(lambda: len(api.asked) == 3)
    assert clock == pytest.approx(FLUSH_SECONDS, abs=0.41)
    assert {(line["KeepFailures"], line["reason"]) for line in app.failures()} == {(2, "Late")}
    assert len(app.failures()) == 50 - round(clock / 0.4)
    assert outbox.is_empty


# --- the function that keeps ------------------------------------------------------------------------------------------


class Bucket:
    """The function with moto's S3, and an empty bucket."""

    def __init__(self, s3: Any) -> None:
        self.s3, self.lines, self.name = s3, list[str](), f"larder-{next(NUMBERS)}"
        self.s3.create_bucket(Bucket=self.name)
        self.services = keeping.Services(self.s3, self.name, "test", lambda: NOW, self.lines.append)

    def handle(self, *bodies: str) -> list[str]:
        """Handle a batch; return the ids of the messages that failed."""
        records = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
        return [
            one["itemIdentifier"] for one in keeping.handle(self.services, {"Records": records})["batchItemFailures"]
        ]

    def keys(self) -> list[str]:
        """The objects of the table."""
        return [one["Key"] for one in self.s3.list_objects_v2(Bucket=self.name, Prefix="kept/").get("Contents", ())]

    @property
    def line(self) -> dict[str, Any]:
        """The last log line."""
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of moto."""
    with moto_aws() as client:
        yield client("s3")


@pytest.fixture
def bucket(s3: Any) -> Bucket:
    """An empty bucket."""
    return Bucket(s3)


def messages(count: int = 1, model: str = "iris", body: Any = VIRGINICA) -> list[str]:
    """Return the messages of some requests."""
    app = Kept()
    for _ in range(count):
        assert app.post(body, model).status == 200
    app.rows()
    return app.sent


def test_a_batch_is_one_file_for_each_model_and_day(bucket: Bucket) -> None:
    """The same batch again overwrites its files; all rows are in them."""
    iris, wine = messages(3), messages(1, "wine", {"values": {"region": "north"}})
    old = json.dumps({**json.loads(iris[0]), "time": NOW - 86400})
    batch = [*iris, *wine, old]
    assert bucket.handle(*batch) == bucket.handle(*batch) == []
    keys = bucket.keys()
    places = [key.rpartition("/")[0] for key in keys]
    assert sorted(places) == ["kept/model=iris/dt=2023-11-13", f"kept/model=iris/dt={DAY}", f"kept/model=wine/dt={DAY}"]
    read = [
        pq.ParquetFile(io.BytesIO(bucket.s3.get_object(Bucket=bucket.name, Key=key)["Body"].read())) for key in keys
    ]
    assert sorted(one.metadata.num_rows for one in read) == [1, 1, 3]
    assert (bucket.line["FeaturesKept"], bucket.line["FeaturesRefused"], bucket.line["level"]) == (5, 0, "INFO")


GOOD = {
    "format": 1,
    "model": "iris",
    "version": "v",
    "role": "live",
    "time": NOW,
    "request_id": "r",
    "subject": "s",
    "rows": [],
}
ROW = {"instance": 0, "numbers": {"a": 1.0}, "texts": {}, "ids": {}, "stored": {}, "value": 1.0}


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "null", "{", "7",
        json.dumps({**GOOD, "format": 2}),
        json.dumps({**GOOD, "model": "../x"}),
        json.dumps({**GOOD, "model": None}),
        json.dumps({**GOOD, "time": "yesterday"}),
        json.dumps({**GOOD, "time": 1e300}),
        json.dumps({name: value for name, value in GOOD.items() if name != "subject"}),
        json.dumps({**GOOD, "version": 5, "rows": [ROW]}),
        json.dumps({**GOOD, "rows": [{**ROW, "numbers": {"a": "zeppelin"}}]}),
        json.dumps({**GOOD, "rows": [{**ROW, "numbers": []}]}),
        json.dumps({**GOOD, "rows": [{**ROW, "stored": {"a": 5}}]}),
        json.dumps({**GOOD, "rows": [{**ROW, "instance": "one"}]}),
        json.dumps({**GOOD, "rows": [5]}),
    ],
)  # fmt: skip
def test_only_an_invalid_message_is_redelivered(body: str, bucket: Bucket) -> None:
    """The others of its batch are kept, and no log line has its data."""
    assert bucket.handle(json.dumps({**GOOD, "rows": [ROW]}), body, messages()[0]) == ["1"]
    assert len(bucket.keys()) == 1
    assert (bucket.line["FeaturesKept"], bucket.line["FeaturesRefused"]) == (2, 1)
    assert "zeppelin" not in bucket.lines[-1]


def test_all_messages_are_redelivered_if_s3_fails(bucket: Bucket) -> None:
    """Nothing is lost: messages that were not written stay in the queue."""
    bucket.s3.delete_bucket(Bucket=bucket.name)
    assert bucket.handle(*messages(2)) == ["0", "1"]
    assert (bucket.line["FeaturesKept"], bucket.line["level"]) == (0, "ERROR")


def test_the_template_has_the_columns_of_the_files() -> None:
    """Names, order and types are equal, and the folders are those of the object keys."""
    names = {"string": "string", "int64": "bigint", "int32": "int", "double": "double", "timestamp[ms]": "timestamp"}
    hive = {
        "map<string, string>": "map<string,string>",
        "map<string, double>": "map<string,double>",
        "map<string, struct<as_of: string, run: int64, missing: string>>":
            "map<string,struct<as_of:string,run:bigint,missing:string>>",
    }  # fmt: skip
    table = read_template()["Resources"]["KeptTable"]["Properties"]["TableInput"]
    expected = [(field.name, {**names, **hive}[str(field.type)]) for field in SCHEMA]
    assert [(one["Name"], one["Type"]) for one in table["StorageDescriptor"]["Columns"]] == expected
    assert [one["Name"] for one in table["PartitionKeys"]] == ["model", "dt"]
    location = table["Parameters"]["storage.location.template"]["Fn::Sub"]
    assert location == "s3://${Bucket}/kept/model=${!model}/dt=${!dt}/"
    assert build_key(("iris", DAY), ["1"]).startswith(f"kept/model=iris/dt={DAY}/")


ODD = WINE._replace(
    features={**WINE.features, 'it\'s "odd"': Number(missing=None)}, keep=ALL, direct=False, name="wine"
)


@pytest.mark.parametrize(
    ("model", "name", "body", "expected"),
    [
        (KEEPING["iris"], "iris", VIRGINICA, {**VIRGINICA, "label": "virginica"}),
        (
            KEEPING["wine"], "wine", {"values": {"region": "south", "red": True}},
            {"alcohol": 0.0, "red": True, "region": "south", "value": 110.0},
        ),
        (
            KEEPING["delay"], "delay", {"instance": {"departure_delay": 1, "flight_id": "none"}},
            {"departure_delay": 1.0, "batch_late": -1.0, "batch_late_missing": "absent", "batch_late_run": None,
             "batch_late_as_of": None, "flight_id": "none", "value": -99.0},
        ),
        (ODD, "wine", {"values": {"region": "north"}}, {"it's \"odd\"": None}),
        (KEEPING["news"], "news", ["game"], {"label": "sport"}),
    ],
)  # fmt: skip
def test_a_training_set_is_one_query(model: Any, name: str, body: Any, expected: dict[str, Any]) -> None:
    """In the local Athena, it returns a column for each feature, and a row that was delivered twice only once."""
    (message,) = messages(1, name, body)
    (_, day), rows = parse_message(message)
    table = pq.read_table(io.BytesIO(render_rows(rows * 2)))
    for column, value in (("model", name), ("dt", day)):
        table = table.append_column(column, [[value] * table.num_rows])
    today = date.fromisoformat(day)
    statement = parse_statement(build_training_query(model, "larder_kept.kept_features", today, today), "default")
    tables = {TableName("larder_kept", "kept_features"): table}
    (found,) = run_statement(statement, tables, started=lambda _: None).to_pylist()
    assert {column: found.get(column, "no column") for column in expected} == expected
    assert "text" not in found


# --- drift ------------------------------------------------------------------------------------------------------------


def manifest_with_bins() -> Any:
    """Return a version of iris with bins of training rows around VIRGINICA."""
    draw = random.Random(1)
    columns = {name: [value + draw.gauss(0, 1) for _ in range(2000)] for name, value in VIRGINICA.items()}
    columns["red"] = [draw.random() < 0.3 for _ in range(2000)]
    model = IRIS._replace(features={**IRIS.features, "red": WINE.features["red"]})
    onnx, manifest = iris_version()
    return onnx, manifest._replace(bins=find_bins(model, columns))


def rows_around(shift: float, red: float = 0.3, count: int = LEAST_ROWS) -> list[dict[str, Any]]:
    """Return kept rows that are shifted in one feature."""
    draw, rows = random.Random(2), []
    for number in range(count):
        numbers = {name: value + draw.gauss(0, 1) for name, value in VIRGINICA.items()}
        numbers["petal_width"] += shift
        numbers["red"] = int(draw.random() < red)
        rows.append({**ROW, "instance": number, "numbers": numbers, "probability": 0.9})
    return rows


@pytest.mark.parametrize(
    ("shift", "red", "changed"), [(0, 0.3, []), (1.5, 0.3, ["petal_width"]), (0, 0.9, ["red"]), (0.1, 0.32, [])]
)
def test_drift_of_kept_features(shift: float, red: float, changed: list[str], bucket: Bucket) -> None:
    """The schedule's event logs the PSI of each feature of the live version; the largest is a metric."""
    version = manifest_with_bins()
    for key, data in _objects(version).items():
        bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=data)
    kept = {version[1].version: rows_around(shift, red), "f" * 16: rows_around(9)}  # rows of other versions are ignored
    assert bucket.handle(*(json.dumps({**GOOD, "version": name, "rows": rows}) for name, rows in kept.items())) == []
    keeping.handle(bucket.services, {"drift": True})
    line = bucket.line
    assert [name for name, psi in line["psi"].items() if psi > 0.2] == changed
    assert (line["Drift"], line["rows"]) == (max(line["psi"].values()), LEAST_ROWS)
    assert (line["Drift"] > 0.2) == bool(changed)


def _objects(version: Any) -> dict[str, bytes]:
    from score.manifest import dump_alias, dump_manifest
    from score.paths import alias_key, manifest_key

    manifest = version[1]
    return {
        alias_key(manifest.model): dump_alias(alias_of(version)),
        manifest_key(manifest.model, manifest.version): dump_manifest(manifest),
    }


def test_too_few_rows_and_broken_models_have_no_drift(bucket: Bucket) -> None:
    """A few rows would raise false alarms; a model without an alias, or with a broken one, does not stop the others."""
    manifest = manifest_with_bins()[1]
    assert measure(manifest, rows_around(9, count=LEAST_ROWS - 1)) is None
    assert bucket.handle(*messages(1), *messages(1, "wine", {"values": {"region": "north"}})) == []
    bucket.s3.put_object(Bucket=bucket.name, Key="models/wine/alias.json", Body=b"{")
    assert keeping.handle(bucket.services, {"drift": True}) == {"drift": {}}


def test_definitions_keep_their_share_through_the_bundle() -> None:
    """The bundle has `keep` as defined; a bundle of an earlier release has no `keep`."""
    models = {"iris": IRIS._replace(keep=Keep(0.05, texts=True)), "delay": DELAY}
    assert parse_models(render_models(models)) == models
    older = json.dumps(
        [
            {name: value for name, value in one.items() if name != "keep"}
            for one in json.loads(render_models({"delay": DELAY}))
        ]
    )
    assert parse_models(older) == {"delay": DELAY}

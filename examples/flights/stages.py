"""The stages of the demo: each does one step of the main job, prints what it does, and checks the result."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from enrich.ledger.records import Run
from examples.flights import lake
from examples.flights.http import Answer, get, post
from examples.flights.model import Model, load_or_train
from examples.flights.outputs import object_key, to_parquet
from examples.flights.show import Show, Stage
from examples.flights.site import LAKE, NotAsExpected, Site, deploy_site
from examples.flights.tokens import Issuer
from examples.score.pretrained import VIRGINICA, publish_iris
from infra.bundle import Bundle, check_imports, unpack
from infra.local.ministack import Ministack
from serve.datasets import Served

LARDER = Path(__file__).parents[2] / ".larder"
PATH = "/flight-delays"


@dataclass(frozen=True)
class Plan:
    """The day of the demo, the season of its flights, and the airlines that read their flights."""

    today: date
    like: date | None
    airline: str
    other: str


def train(show: Show) -> Model:
    """Train the model or load the existing one, and print its report."""
    with show.stage("A model that predicts how late a flight arrives") as stage:
        model, was_there = load_or_train(say=stage.update)
        stage.note(f"model {model.version}, {'trained before' if was_there else 'trained just now'}")
        for line in model.report.lines():
            stage.note(line)
        if not model.report.beats_naive:
            raise NotAsExpected("the model is not better than a constant guess")
    return model


def check_bundles(show: Show, built: Callable[[], dict[str, Bundle]]) -> dict[str, Bundle]:
    """Wait for the bundles for AWS, and import each with nothing else on the path."""
    with show.stage("The bundles for AWS") as stage:
        stage.update("building them (the first time, pip downloads their packages)")
        bundles = built()
        for bundle in bundles.values():
            stage.update(f"importing {bundle.name} with python -I -S and nothing else on the path")
            check_imports(bundle, unpack(bundle, bundle.path.parent))
            stage.note(f"{bundle.name}: {bundle.unzipped / 1e6:.0f} MB unzipped, imports by itself")
    return bundles


def deploy_stack(show: Show, ministack: Ministack, bundles: dict[str, Bundle]) -> Site:
    """Deploy the template."""
    with show.stage("infra/template.yaml, deployed") as stage:
        stage.update("SAM is translated to CloudFormation, bundles are uploaded, the stack is created")
        site = deploy_site(ministack, bundles)
        stage.note(f"the API is at {site.stack.base_url}")
    return site


def load_lake(show: Show, site: Site, plan: Plan) -> None:
    """Load the metadata into the lake."""
    with show.stage("Metadata in the lake: Parquet on S3, tables in Glue") as stage:
        tables = lake.build_tables(plan.today, plan.like)
        lake.load(site.client("s3"), site.client("glue"), LAKE, tables)
        stage.note(", ".join(f"{name} {table.num_rows:,}" for name, table in tables.items()) + " rows")


def write_output(show: Show, site: Site, scored: date, output: pa.Table) -> None:
    """Write one output, and wait until its event has resulted in items."""
    name = object_key(scored)
    with show.stage("The model writes a file; its event starts enrich") as stage:
        site.put_output(name, to_parquet(output))
        stage.note(f"{name}: {output.num_rows:,} flights of the next three days")
        run = site.wait_for_run(name, lambda run: _show_run(stage, run))
        _note_run(stage, run)
        if run.rows != output.num_rows or run.counts.read != output.num_rows:
            raise NotAsExpected(f"{run.counts.read} of {output.num_rows} predictions are counted: {run.counts}")
        if (items := site.count_items()) != run.counts.written or not items:
            raise NotAsExpected(f"{run.counts.written} items were written, and the table has {items}")
        stage.note(f"S3 -> EventBridge -> SQS -> enrich (+ Athena) -> DynamoDB: {items:,} items")


def ask(show: Show, site: Site, plan: Plan, issuer: Issuer, output: pa.Table) -> None:
    """Read an airline's flights like a consumer, over HTTP, and send requests that must be refused."""
    token, url = issuer.sign(plan.airline, time.time()), site.stack.base_url + PATH
    with show.stage(f"{plan.airline} reads its flights") as stage:
        page = _expect(200, get(f"{url}?limit=3", token))
        stage.note(f"first authenticated 200 after {show.elapsed:.1f} s")
        members = page.json()["items"]
        stage.note(f"GET {PATH}?limit=3 -> 200, {len(page.body):,} bytes, {len(members)} flights of this page:")
        stage.note(json.dumps(page.json(), ensure_ascii=False)[:400] + " ...")
        name = _prediction_id(output, plan.airline)
        item = _expect(200, get(f"{url}/{name}", token))
        stage.note(f"GET {PATH}/{name} -> 200, {len(item.body):,} bytes:")
        stage.note(json.dumps(item.json(), indent=1, ensure_ascii=False))
        if item.json()["carrier"]["code"] != plan.airline or not members:
            raise NotAsExpected(f"not a flight of {plan.airline}: {item.body!r}")
    with show.stage("Requests that are refused") as stage:
        answer = _expect(401, get(f"{url}/{name}", None))
        stage.note(f"without a token -> 401 {answer.json().get('code', '')}")
        answer = _expect(401, get(f"{url}/{name}", token[:-4] + "AAAA"))
        stage.note(f"with a forged token -> 401 {answer.json().get('code', '')}")
        theirs = _prediction_id(output, plan.other)
        answer = _expect(404, get(f"{url}/{theirs}", token))
        stage.note(f"{plan.other}'s flight {theirs} with {plan.airline}'s token -> 404 {answer.json().get('code', '')}")
        _expect(200, get(f"{url}/{theirs}", issuer.sign(plan.other, time.time())))
        stage.note(f"the same with {plan.other}'s token -> 200")


def score(show: Show, site: Site, issuer: Issuer) -> None:
    """Publish a model that scores at the moment of the request, and ask it."""
    with show.stage("A model that answers requests: iris, as ONNX on S3") as stage:
        version = publish_iris(site.client("s3"), site.stack["BucketName"])
        token = issuer.sign_for(Served("iris", ("sub",), "iris:score"), {"sub": "demo"}, time.time())
        answer = _expect(200, post(f"{site.stack.base_url}/models/iris/score", token, json.dumps(VIRGINICA)))
        stage.note(f"POST /models/iris/score {json.dumps(VIRGINICA)} -> 200")
        stage.note(answer.body.decode())
        if answer.json() != {"prediction": {"label": "virginica", "probability": 0.9997}}:
            raise NotAsExpected(f"another answer than scikit-learn's: {answer.body!r}")
        stage.note(f"version {version}; training, conversion and proof: python -m examples.score iris")


def write_next(show: Show, site: Site, scored: date, output: pa.Table, before: pa.Table) -> None:
    """Write the next day's output, which scores most flights again, and check that only changed items are written."""
    name = object_key(scored)
    with show.stage("The next day's file: most flights are scored again") as stage:
        site.put_output(name, to_parquet(output))
        run = site.wait_for_run(name, lambda run: _show_run(stage, run))
        _note_run(stage, run)
        scored_before = {tuple(row.values()) for row in before.to_pylist()}
        same = sum(tuple(row.values()) in scored_before for row in output.to_pylist())
        if (run.counts.unchanged, run.counts.written) != (same, output.num_rows - same):
            raise NotAsExpected(f"{same} of {output.num_rows} predictions are unchanged since yesterday: {run.counts}")
        stage.note(f"{same / output.num_rows:.0%} of the predictions were unchanged and were not written")


def hold(show: Show, site: Site, scored: date, output: pa.Table, plan: Plan, issuer: Issuer) -> None:
    """Write the output of a broken model, and check that it is held and consumers get what they got before."""
    name = object_key(scored, part=1)
    url = f"{site.stack.base_url}{PATH}/{_prediction_id(output, plan.airline)}"
    token = issuer.sign(plan.airline, time.time())
    with show.stage("A broken model: it predicts seconds, not minutes") as stage:
        before = site.count_items(), _expect(200, get(url, token)).body
        seconds = pc.multiply(output.column("predicted_delay"), pa.scalar(60, pa.float32()))
        at = output.schema.get_field_index("predicted_delay")
        site.put_output(name, to_parquet(output.set_column(at, output.schema.field(at), seconds)))
        run = site.wait_for_run(name, lambda run: _show_run(stage, run), state="held")
        stage.note(f"run {run.run} is held: {'; '.join(run.shifts)}")
        if (site.count_items(), _expect(200, get(url, token)).body) != before or run.counts.read:
            raise NotAsExpected("a held run changed what is served")
        stage.note(f"consumers get the items of before; ./larder reject flight-delays {run.run} closes it")


def sweep(show: Show, site: Site, scored: date, issuer: Issuer, late: pa.Table) -> None:
    """Write an old file while the rule is off; the sweep finds it, and no newer item is overwritten."""
    name, first = object_key(scored), scored + timedelta(days=1)
    with show.stage("A file without an event; the sweep finds it") as stage:
        site.set_rule(enabled=False)
        before = site.count_items()
        site.put_output(name, to_parquet(late))
        stage.note(f"the EventBridge rule is off; an older file arrives late: {name}, {late.num_rows:,} flights")
        site.sweep_now(datetime.now(UTC))
        run = site.wait_for_run(name, lambda run: _show_run(stage, run))
        site.set_rule(enabled=True)
        _note_run(stage, run)
        new = sum(day == first for day in late.column("flight_date").to_pylist())
        counts = run.counts
        if counts.written != new or counts.superseded != late.num_rows - new:
            raise NotAsExpected(f"{new} flights of {first} should be written, the others superseded: {counts}")
        if site.count_items() != before + new:
            raise NotAsExpected(f"{before} + {new} items were expected, the table has {site.count_items()}")
        stage.note("flights of its first day were new; those that a newer file had predicted were not overwritten")
        airline = late.filter(pc.equal(late.column("flight_date"), first)).column("carrier")[0].as_py()
        fresh = _prediction_id(late, airline, first)
        _expect(200, get(f"{site.stack.base_url}{PATH}/{fresh}", issuer.sign(airline, time.time())))
        stage.note(f"GET {PATH}/{fresh} -> 200")


def stay(show: Show, site: Site, plan: Plan, issuer: Issuer, output: pa.Table) -> None:
    """Print commands to paste and run until Ctrl-C."""
    tokens = LARDER / "tokens"
    airlines = sorted(set(output.column("carrier").to_pylist()))
    url = site.stack.base_url + PATH
    try:
        shutil.rmtree(tokens, ignore_errors=True)
        tokens.mkdir(parents=True)
        for airline in airlines:
            (tokens / airline).write_text(issuer.sign(airline, time.time()))
        show.heading("Try it (tokens for 12 hours):")
        for airline in (plan.airline, plan.other):
            bearer = f'-H "Authorization: Bearer $(cat {tokens / airline})"'
            show.console.print(f"curl -s {bearer} '{url}?limit=5'", markup=False)
            show.console.print(f"curl -s {bearer} {url}/{_prediction_id(output, airline)}", markup=False)
        show.say("./larder serve                        # the API on this machine, with its documentation at /docs")
        show.say('eval "$(./larder env --local)"         # then: ./larder status')
        show.say(f"there is a token for each of {' '.join(airlines)}. Ctrl-C ends all processes.")
        threading.Event().wait()
    except KeyboardInterrupt:
        show.heading("Stopped; all processes have ended.")
    finally:
        shutil.rmtree(tokens, ignore_errors=True)


def _prediction_id(output: pa.Table, airline: str, day: date | None = None) -> str:
    """Return the prediction_id of the first flight of an airline in an output."""
    for row in output.to_pylist():
        if row["carrier"] == airline and day in (None, row["flight_date"]):
            return f"{row['flight_date']}.{row['origin']}.{row['carrier']}{row['flight']}"
    raise NotAsExpected(f"the output has no flight of {airline}: choose another airline with --airline")


def _expect(status: int, answer: Answer) -> Answer:
    if answer.status != status:
        raise NotAsExpected(f"GET {answer.url}: expected {status}, got {answer.status}: {answer.body[:500]!r}")
    return answer


def _show_run(stage: Stage, run: Run | None) -> None:
    if run is None:
        stage.update("waiting for enrich to start")
    else:
        stage.update(f"run {run.run} is {run.state}, {run.stage}", run.next_row, run.rows)


def _note_run(stage: Stage, run: Run) -> None:
    counts = run.counts
    stage.note(
        f"run {run.run} in the ledger: {run.rows:,} predictions = {counts.written:,} written + {counts.unchanged:,} "
        f"unchanged + {counts.superseded:,} superseded + {counts.expired:,} expired + {counts.rejected:,} rejected"
    )
    if run.reasons:
        stage.note(f"reject reasons: {run.reasons}")

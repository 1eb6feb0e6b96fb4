"""Models on a deployed stack: over HTTP with a token, by `lambda.invoke`, with a stored feature, and promoted."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.env import fetch_variables
from infra.local.athena.catalog import read_table
from infra.local.athena.engine import run_statement
from infra.local.athena.statement import parse_statement
from score.manifest import Input, dump_alias, dump_manifest
from score.model import Keep, Model, Number, Stored
from score.paths import alias_key, manifest_key, model_key
from score.publish.training_query import build_training_query
from serve.datasets import Served
from tests.doubles.onnx_writer import regressor
from tests.integration.infra.deployed import Deployed, deploy_larder, find_resource, object_key, parquet, run_stand_in
from tests.unit.score.kit import IRIS, VIRGINICA, WINE, Version, alias_of, iris_version, version_of, wine_version

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
FLIGHTS = Model(
    name="flights",
    subject=("carrier",),
    scope="flights:score",
    task="regression",
    features={
        "departure_delay": Number(),
        "batch": Stored("flight-delays", id="{flight_id}", at="/prediction/late_probability", missing=-1.0),
    },
    keep=Keep(share=1.0),
)
FLIGHTS_VERSION = version_of(
    FLIGHTS,
    regressor([1, 100], 0),
    [Input("x", "double", ("departure_delay", "batch"))],
    ({"departure_delay": 1.0, "batch": 0.5}, (51.0,)),
)
MODELS = {"iris": IRIS, "wine": WINE, "flights": FLIGHTS}
SCOPE = "iris:score flights:score flight-delays:read"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A stand-in for AWS that enforces roles, and a project with one dataset and three models."""
    project = tmp_path_factory.mktemp("project")
    (project / "models").mkdir()
    shutil.copytree(ROOT / "examples/flights/datasets", project / "datasets")
    for name, model in MODELS.items():
        text = "from score.models import REQUIRED, Boolean, Category, Keep, Model, Number, Stored\n"
        kinds = repr(model).replace("<Required.REQUIRED: 'required'>", "REQUIRED")
        (project / f"models/{name}.py").write_text(f"{text}\nmodel = {kinds}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARDER_PROJECT", str(project))
        with run_stand_in(project / "log", auth=True) as found:
            yield found


@pytest.fixture(scope="module")
def larder(stand_in: tuple[Any, str]) -> Deployed:
    """Deploy the project, and publish a version of each model."""
    deployed = deploy_larder(*stand_in, "models")
    for version in (iris_version(), wine_version(), FLIGHTS_VERSION):
        publish(deployed, version)
    return deployed


def publish(larder: Deployed, version: Version) -> None:
    """Write a version and make it live."""
    onnx, manifest = version
    names = manifest.model, manifest.version
    objects = {model_key(*names): onnx, manifest_key(*names): dump_manifest(manifest)}
    for key, data in {**objects, alias_key(manifest.model): dump_alias(alias_of(version))}.items():
        larder.client("s3").put_object(Bucket=larder.stack["BucketName"], Key=key, Body=data)


def ask(larder: Deployed, path: str, body: Any, scope: str = SCOPE, **headers: str) -> tuple[int, Any]:
    """Send a POST with a token of carrier B6, or a GET without a body."""
    token = larder.issuer.sign_for(Served("any", ("carrier",), scope), {"carrier": "B6"}, time.time())
    request = urllib.request.Request(
        f"{larder.stack.base_url}/models/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_model_answers_over_http(larder: Deployed) -> None:
    """The form of the contract and the bare one; what does not fit; a missing scope."""
    version = iris_version()[1].version
    status, answer = ask(larder, "iris/score", {"instance": VIRGINICA})
    assert (status, answer["model"]) == (200, {"name": "iris", "version": version})
    assert ask(larder, "iris/score", VIRGINICA) == (200, {"prediction": answer["prediction"]})
    assert ask(larder, "iris", None)[1]["version"] == version
    status, answer = ask(larder, "iris/score", {"instance": {}})
    assert (status, len(answer["errors"])) == (422, 4)
    assert ask(larder, "iris/score", VIRGINICA, "other")[0] == 403


def test_a_direct_model_answers_to_lambda_invoke(larder: Deployed) -> None:
    """With boto3 and without a token, by the function's name in `./larder env`; another model does not."""
    variables = fetch_variables(larder.client("cloudformation"), larder.client("lambda"), larder.stack.name)
    for event, expected in (
        ({"values": {"alcohol": 2.5, "red": True, "region": "south"}}, {"prediction": {"value": 112.5}}),
        ({"model": "iris", "instance": VIRGINICA}, "not_found"),
    ):
        done = larder.client("lambda").invoke(
            FunctionName=variables["LARDER_SCORE"], Payload=json.dumps(event).encode()
        )
        answer = json.loads(done["Payload"].read())
        assert "FunctionError" not in done
        assert expected in (answer, answer.get("code"))


def test_a_stored_prediction_is_a_feature(larder: Deployed) -> None:
    """What enrich wrote for the carrier; another flight has none."""
    key = larder.put(object_key(), parquet())
    assert larder.run(key) == ""
    assert larder.wait(key) == "done"
    names = [item["prediction_id"] for item in json.loads(larder.get().body)["items"]]
    status, answer = ask(larder, "flights/score", {"instance": {"departure_delay": 3, "flight_id": names[0]}})
    assert (status, answer["prediction"]["value"], answer["prediction"]["stored"]["batch"]["run"]) == (200, 53.0, 1)
    status, answer = ask(larder, "flights/score", {"instance": {"departure_delay": 3, "flight_id": "none"}})
    assert answer["prediction"] == {"value": -97.0, "stored": {"batch": {"missing": "absent"}}}
    assert ask(larder, "flights/score", {"instance": {}}, "flights:score")[0] == 403
    rows = wait_for_training_set(larder, 2)
    assert [(row["departure_delay"], row["batch"], row["flight_id"], row["value"]) for row in rows] == [
        (3.0, -1.0, "none", -97.0),
        (3.0, 0.5, names[0], 53.0),
    ]
    assert [(row["batch_run"], row["batch_missing"]) for row in rows] == [(None, "absent"), (1, None)]
    done = larder.client("lambda").invoke(FunctionName=larder.stack["KeepFunctionName"], Payload=b'{"drift": true}')
    assert json.loads(done["Payload"].read()) == {"drift": {}}  # two rows are too few


def test_a_usage_plan_bounds_each_key(stand_in: tuple[Any, str]) -> None:
    """The text system's plan: 10 requests a second, bursts of 10, 100 a day; a request without a key is refused."""
    client, _ = stand_in
    plan = {"ApiKeys": "required", "UsageRate": "10", "UsageBurst": "10", "UsageQuota": "100"}
    larder = deploy_larder(*stand_in, "planned", parameters=plan)
    publish(larder, iris_version())
    gateway = client("apigateway")
    plan_id, key_id = (find_resource(client, "planned", name) for name in ("UsagePlan", "FirstApiKey"))
    found = gateway.get_usage_plan(usagePlanId=plan_id)
    assert found["throttle"] == {"rateLimit": 10.0, "burstLimit": 10}
    assert (found["quota"]["limit"], found["quota"]["period"]) == (100, "DAY")
    key = {"X-Api-Key": gateway.get_api_key(apiKey=key_id, includeValue=True)["value"]}

    def score(**headers: str) -> tuple[int, Any]:
        return ask(larder, "iris/score", VIRGINICA, **headers)

    assert [score()[0], score(**{"X-Api-Key": "another"})[0], ask(larder, "iris", None)[0]] == [403] * 3
    change_rate(gateway, plan_id, "0.001")  # else a slow machine would never send 11 requests within the time of 10
    burst = [score(**key) for _ in range(11)]
    assert [status for status, _ in burst] == [200] * 10 + [429]
    assert burst[-1][1] == {"message": "Too Many Requests"}
    change_rate(gateway, plan_id, "10000")
    rest = [score(**key) for _ in range(91)]
    assert [status for status, _ in rest] == [200] * 90 + [429], "100 a day"
    assert rest[-1][1] == {"message": "Limit Exceeded"}


def change_rate(gateway: Any, plan_id: str, rate: str) -> None:
    """Change the requests a second of a usage plan."""
    change = [{"op": "replace", "path": "/throttle/rateLimit", "value": rate}]
    gateway.update_usage_plan(usagePlanId=plan_id, patchOperations=change)


def wait_for_training_set(larder: Deployed, count: int) -> list[dict[str, Any]]:
    """Run the query of `./larder score kept` in the local Athena until it finds some rows; return them by value."""
    variables = fetch_variables(larder.client("cloudformation"), larder.client("lambda"), larder.stack.name)
    today = datetime.now(UTC).date()
    query = build_training_query(FLIGHTS, variables["LARDER_KEPT_TABLE"], today - timedelta(days=1), today)
    statement = parse_statement(query, "default")
    deadline = time.monotonic() + 60
    while True:
        tables = {name: read_table(larder.client("glue"), larder.client("s3"), name) for name in statement.tables}
        rows = run_statement(statement, tables, started=lambda _: None).to_pylist()
        if len(rows) >= count or time.monotonic() > deadline:
            return sorted(rows, key=lambda row: float(row["value"]))
        time.sleep(0.2)

"""Each operation of the runbook: the commands of its section, in order, on a deployed stack."""

from __future__ import annotations

import functools
import io
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.ledger.records import Run
from enrich.ledger.store import Ledger
from examples.flights import lake
from examples.flights.outputs import to_parquet
from examples.flights.tokens import open_issuer
from infra import bundle
from infra.bundle import ROOT
from infra.local.deploy import deploy
from infra.local.ministack import ACCOUNT as LARDER
from infra.local.ministack import REGION
from infra.local.stand_in import run_stand_in
from infra.synthetic import send
from serve.item import EXPIRES_AT, ORDER, PK, RANK, SK
from tests.integration.infra.deployed import (
    AUDIENCE,
    DATASET,
    ISSUER,
    Deployed,
    deploy_larder,
    object_key,
    parquet,
)
from tests.integration.infra.rehearsal import Consumer, Shell, read_blocks

pytestmark = pytest.mark.slow  # each operation has its own stack

OWNER = "222222222222"  # another account: to the stand-in, an access key of twelve digits is the account
STOP, ROTATE, REPLAY = "Stop and start enrich", "Rotate a signing key", "Replay a day"
WITHDRAW, AGAIN, RESTORE = "Withdraw a bad output", "Write everything again", "Restore the table"
IMPORT = "Load a new table by import"
REMOVE, VERSIONS = "Remove a dataset", "Delete old versions of functions"
BUDGET, API_KEY, ACCOUNT = "Raise the write budget", "Give a consumer an API key", "Take outputs from another account"
PATIENCE = 120.0  # seconds, for a busy machine
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A stand-in; its end point, and the environment of its command lines."""
    with run_stand_in(tmp_path_factory.mktemp("operations") / "ministack.log") as (ministack, athena):
        yield ministack.endpoint, {**ministack.env, "AWS_ENDPOINT_URL_ATHENA": athena.endpoint}


def make_client(endpoint: str, account: str = "test") -> Callable[[str], Any]:
    session = boto3.Session(account, "test", region_name=REGION)
    return functools.cache(functools.partial(session.client, endpoint_url=endpoint))


@pytest.fixture
def larder(site: tuple[str, dict[str, str]]) -> Deployed:
    return deploy_larder(make_client(site[0]), site[0], f"larder-{next(_numbers)}")


@pytest.fixture
def shell(site: tuple[str, dict[str, str]], larder: Deployed, tmp_path: Path) -> Iterator[Shell]:
    """An operator's shell; at the end, every block of the sections that were begun must have been run."""
    opened = Shell(tmp_path, {**site[1], "DATASET": DATASET}, larder.stack.name)
    yield opened
    assert opened.left() == []


def runs(larder: Deployed) -> list[Run]:
    """Return the dataset's runs, oldest first."""
    found = Ledger(larder.client("dynamodb"), larder.stack["LedgerName"]).fetch_runs(DATASET)
    return sorted(found, key=lambda run: run.run)


def run_output(larder: Deployed, name: str, body: bytes) -> None:
    """Write an output as the model does, and wait until its run is closed."""
    assert larder.wait(larder.put(name, body), PATIENCE) == "done"


def sizes(larder: Deployed) -> int:
    """Return the number of items of the table."""
    scanned: int = larder.client("dynamodb").scan(TableName=larder.stack["TableName"], Select="COUNT")["Count"]
    return scanned


def test_signing_key_is_rotated_without_a_gap(larder: Deployed, shell: Shell) -> None:
    """The new key is trusted when its kid first appears, the old one until it is deleted; there is no 5xx."""
    ssm: Any = larder.client("ssm")
    new = replace(larder, issuer=open_issuer(ssm, "/issuer/", ISSUER, AUDIENCE, kid="demo-2"))
    (shell.directory / "demo-2.pem").write_text(ssm.get_parameter(Name="/issuer/demo-2.pem")["Parameter"]["Value"])
    shell.variables |= {"OLD": "demo-1", "NEW": "demo-2"}
    with Consumer(larder.get) as before:
        shell.next(ROTATE)
        assert shell.next(ROTATE).split() == ["demo-1", "ES256", "demo-2", "ES256"]
        until(lambda: new.get().status == 200)  # an unknown kid makes serve read the keys, at most every 30 s
    unknown = replace(larder, issuer=replace(larder.issuer, kid="unknown"))
    with Consumer(new.get) as after, Consumer(larder.get, unknown.get) as old:
        shell.next(ROTATE)
        until(lambda: larder.get().status == 401)  # the unknown kid makes serve read the keys early
    assert set(before.statuses) == set(after.statuses) == {200}
    assert set(old.statuses) <= {200, 401}


def test_day_is_replayed(larder: Deployed, shell: Shell) -> None:
    """An output is run again; then, with the metadata that was missing, only its rejects."""
    run_output(larder, object_key(), with_carriers(["B6"] * 99 + ["ZZ"]))
    shell.variables["RUN"] = str(runs(larder)[-1].run)
    assert "replay" in shell.next(REPLAY)
    table = pa.Table.from_pylist([{"carrier": "ZZ", "name": "Zed"}], lake.TABLES["airlines"])
    larder.client("s3").put_object(
        Bucket=f"{larder.stack.name}-lake", Key="reference/airlines/more.parquet", Body=to_parquet(table)
    )
    shell.next(REPLAY)
    assert [(run.kind, run.counts.written) for run in runs(larder)] == [("output", 99), ("replay", 0), ("rejects", 1)]
    assert larder.get("/2030-03-01.JFK.ZZ99", carrier="ZZ").status == 200


def test_backfill_is_executed_by_the_deployed_function(larder: Deployed, shell: Shell) -> None:
    """`--send`: outputs for which no event arrived, oldest first; the same command again runs nothing."""
    larder.client("events").disable_rule(Name=larder.stack["OutputsRuleName"])
    days = [3, 2, 1]
    for day in reversed(days):
        larder.put(object_key(day), parquet(3, delay=float(day)))
    since, until = (str(date.today() - timedelta(days=day)) for day in (3, 1))
    command = f"./larder backfill {DATASET} --since {since} --until {until} --send --yes --json"
    shell.run(command)
    assert [(run.object_key, run.state, run.counts.written) for run in runs(larder)] == [
        (object_key(day), "done", 3) for day in days
    ]
    assert larder.get("/2030-03-01.JFK.B61").body.count(b'"delay_minutes":1.0')
    shell.run(command)
    assert len(runs(larder)) == 3


def test_bad_output_is_withdrawn(larder: Deployed, shell: Shell) -> None:
    """While enrich is stopped, no output is run; afterwards consumers get the bodies from before the bad output."""
    good, bad = parquet(3), parquet(3, delay=45.0)  # which the guards of the dataset accept
    run_output(larder, object_key(1), good)
    before = larder.get("/2030-03-01.JFK.B61").body
    run_output(larder, object_key(), bad)
    assert larder.get("/2030-03-01.JFK.B61").body != before
    shell.next(STOP)
    late = larder.put(object_key(0, part=1), parquet(4))
    shell.variables["RUN"] = str(runs(larder)[-1].run)
    shell.next(WITHDRAW)
    assert larder.get("/2030-03-01.JFK.B61").body == before
    assert larder.state(late) == ""
    shell.next(STOP)
    assert larder.wait(late, PATIENCE) == "done"


def test_table_is_restored(larder: Deployed, shell: Shell) -> None:
    """Consumers get 503 while there is no table, then the restored items, and finally all live items."""
    run_output(larder, object_key(), parquet(6))
    shell.next(STOP)
    shell.variables["INSTANT"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    shell.next(RESTORE)
    for number in (1, 3, 5):  # the stand-in restores the current items; delete some as if they were newer
        key = {PK: {"S": f"{DATASET}#B6"}, SK: {"S": f"2030-03-01.JFK.B6{number}"}}
        larder.client("dynamodb").delete_item(TableName=f"{larder.stack['TableName']}-restored", Key=key)
    assert shell.next(RESTORE) == "AVAILABLE"
    assert larder.get("/2030-03-01.JFK.B61").status == 200
    shell.next(RESTORE)
    assert larder.get("/2030-03-01.JFK.B62").status == 503
    shell.next(RESTORE)
    assert [larder.get(f"/2030-03-01.JFK.B6{number}").status for number in range(6)] == [200, 404] * 3
    shell.next(RESTORE)
    described = larder.client("dynamodb").describe_time_to_live(TableName=larder.stack["TableName"])
    assert described["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": EXPIRES_AT}
    shell.next(RESTORE)
    assert [larder.get(f"/2030-03-01.JFK.B6{number}").status for number in range(6)] == [200] * 6
    shell.next(STOP)
    shell.next(RESTORE)
    run_output(larder, object_key(0, part=1), parquet(7))
    assert sizes(larder) == 7


def test_table_is_loaded_by_import(larder: Deployed, shell: Shell) -> None:
    """The imported items are served, the run that compares keeps them, and the next run has nothing to write."""
    shell.next(STOP)
    shell.variables["OUTPUT"] = f"s3://{larder.stack['OutputsBucketName']}/{larder.put(object_key(), parquet(6))}"
    assert shell.next(IMPORT).startswith("6 items in 1 files")
    assert larder.get("/2030-03-01.JFK.B62").status == 404
    shell.next(IMPORT)
    assert larder.get("/2030-03-01.JFK.B62").status >= 500
    status = shell.next(IMPORT)
    while "IN_PROGRESS" in status:
        status = shell.run(read_blocks(IMPORT)[2].splitlines()[1])
    assert json.loads(status) == ["COMPLETED", 6, 0, None]
    (expiry,) = (block for block in read_blocks(RESTORE) if "update-time-to-live" in block)
    shell.run(expiry)
    assert [larder.get(f"/2030-03-01.JFK.B6{number}").status for number in range(6)] == [200] * 6
    shell.next(IMPORT)
    shell.next(STOP)
    run_output(larder, object_key(0, part=1), parquet(6))
    assert [(each.counts.written, each.counts.unchanged) for each in runs(larder)] == [(6, 0), (0, 6)]


def test_everything_is_written_again(larder: Deployed, shell: Shell) -> None:
    """Lost items are written again, also those of older outputs, and no request fails meanwhile."""
    for days_ago, rows in ((1, 4), (0, 2)):
        run_output(larder, object_key(days_ago), parquet(rows, delay=days_ago))
    for number in (0, 3):
        key = {PK: {"S": f"{DATASET}#B6"}, SK: {"S": f"2030-03-01.JFK.B6{number}"}}
        larder.client("dynamodb").delete_item(TableName=larder.stack["TableName"], Key=key)
    with Consumer(larder.get, functools.partial(larder.get, "/2030-03-01.JFK.B61")) as consumer:
        shell.next(AGAIN)
    assert set(consumer.statuses) == {200}
    delays = [larder.get(f"/2030-03-01.JFK.B6{n}").json()["prediction"]["delay_minutes"] for n in range(4)]
    assert delays == [0.0, 0.0, 1.0, 1.0]


def test_write_budget_is_kept_and_raised(larder: Deployed, shell: Shell) -> None:
    """A run uses no more write units a second than its budget; with a larger budget it is faster."""
    shell.next(STOP)
    seconds = {}
    for units in (40, 8000):
        name = larder.put(object_key(0, part=units), parquet(300, delay=units / 1000))  # guards accept both
        shell.variables |= {"UNITS": str(units), "OUTPUT": f"s3://{larder.stack['OutputsBucketName']}/{name}"}
        for block in read_blocks(BUDGET):
            shell.run(block)
        run = runs(larder)[-1]
        assert (run.state, run.counts.written) == ("done", 300)
        seconds[units] = ((run.ended_ms or 0) - (run.decided_ms or 0)) / 1000  # from its first write on
    assert seconds[40] > (300 - 25) / 40 - 0.2  # the first batch is sent at once, and a tenth of a second's units
    assert seconds[8000] < seconds[40] / 2
    shell.next(STOP)


def test_item_format_is_changed_without_an_error(
    site: tuple[str, dict[str, str]], larder: Deployed, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item and list have the same bodies in all three steps, with a rollback in between."""
    monkeypatch.setattr(bundle, "ROOT", copy := copy_sources(tmp_path / "copy"))
    shell.use(copy)

    def deploy_step(step: str) -> None:
        for path, changes in FORMATS[step].items():
            text = (ROOT / path).read_text()
            for old, new in changes.items():
                assert old in text, old
                text = text.replace(old, new)
            (copy / path).write_text(text)
        bundles = {name: bundle.build(name, cache=copy / "cache") for name in ("serve", "enrich")}
        parameters = {"Service": larder.stack.name, "LakeBucketName": f"{larder.stack.name}-lake"}
        parameters |= {"Issuer": ISSUER, "Audience": AUDIENCE}
        deploy(larder.client, site[0], name=larder.stack.name, parameters=parameters, bundles=bundles)

    def stored() -> set[str]:
        items = larder.client("dynamodb").scan(TableName=larder.stack["TableName"])["Items"]
        return {name for item in items for name in item} - {PK, SK, ORDER, EXPIRES_AT, RANK}

    run_output(larder, object_key(), parquet(3))
    with Consumer(larder.get, functools.partial(larder.get, "/2030-03-01.JFK.B61")) as consumer:
        deploy_step("both are read")
        deploy_step("the new one is written")
        run_output(larder, object_key(0, part=1), parquet(3))
        shell.next(AGAIN)
        assert stored() == {"j"}
        deploy_step("both are read")
        shell.run(read_blocks(AGAIN)[0])
        assert stored() == {"b"}
        deploy_step("the new one is written")
        shell.run(read_blocks(AGAIN)[0])
        deploy_step("the new one alone")
        time.sleep(1)
    assert set(consumer.statuses) == {200}
    answers = [json.loads(answer) for answer in consumer.bodies]
    bodies = [entry["body"] for answer in answers for entry in answer.get("items", [{"body": answer}])]
    assert len({json.dumps(body) for body in bodies}) == 3
    assert stored() == {"j"}


BODY_NAME = 'BODY = "b"'
READ = "    stored = attributes.get(BODY)\n"
READ_BOTH = "    stored = attributes.get(BODY) or attributes.get(OTHER)\n"
FILTER = {
    "attribute_exists(#b)": "(attribute_exists(#b) or attribute_exists(#other))",
    '"#b": BODY}': '"#b": BODY, "#other": OTHER}',
    "import BODY, ": "import BODY, OTHER, ",
}
FORMATS = {  # what a change of format edits, in the copy
    "both are read": {
        "serve/item.py": {BODY_NAME: 'BODY, OTHER = "b", "j"', READ: READ_BOTH},
        "serve/storage.py": FILTER,
    },
    "the new one is written": {
        "serve/item.py": {BODY_NAME: 'BODY, OTHER = "j", "b"', READ: READ_BOTH},
        "serve/storage.py": FILTER,
    },
    "the new one alone": {"serve/item.py": {BODY_NAME: 'BODY = "j"'}, "serve/storage.py": {}},
}


def copy_sources(target: Path) -> Path:
    """Copy the sources of the bundles and the command line; wheels are linked."""
    target.mkdir()
    for name in ("larder", "dev.py"):
        shutil.copy(ROOT / name, target)
    for name in ("enrich", "notify", "serve", "wire", "infra"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "cache").mkdir()
    (target / "cache" / "wheels").symlink_to(bundle.CACHE / "wheels")
    return target


def test_dataset_is_removed(larder: Deployed, shell: Shell) -> None:
    """Its items, records and files are deleted, and those of other datasets are not."""
    run_output(larder, object_key(), with_carriers(["B6"] * 99 + ["ZZ"]))  # more than a batch; one is rejected
    dynamodb, s3 = larder.client("dynamodb"), larder.client("s3")
    other = {PK: {"S": f"{DATASET}-2#B6"}, SK: {"S": "one"}}
    record = {PK: {"S": f"{DATASET}-2"}, SK: {"S": "one"}}
    tables = larder.stack["TableName"], larder.stack["LedgerName"]
    dynamodb.put_item(TableName=tables[0], Item=other)
    dynamodb.put_item(TableName=tables[1], Item=record)
    s3.put_object(Bucket=larder.stack["BucketName"], Key=f"fingerprints/{DATASET}-2/one", Body=b"")
    shell.next(REMOVE)
    assert dynamodb.scan(TableName=tables[0])["Items"] == [other]
    shell.next(REMOVE)
    assert dynamodb.scan(TableName=tables[1])["Items"] == [record]
    left = {each["Key"] for each in s3.list_objects_v2(Bucket=larder.stack["BucketName"])["Contents"]}
    assert {each for each in left if not each.startswith("athena/")} == {f"fingerprints/{DATASET}-2/one"}


def test_old_versions_are_deleted(larder: Deployed, shell: Shell) -> None:
    """The newest three stay, of which the alias names one; consumers notice nothing."""
    functions, name = larder.client("lambda"), larder.stack["ServeFunctionName"]
    for number in range(10):
        functions.update_function_configuration(FunctionName=name, Description=f"release {number}")
        newest = functions.publish_version(FunctionName=name)["Version"]
    functions.update_alias(FunctionName=name, Name="live", FunctionVersion=newest)
    with Consumer(larder.get) as consumer:
        shell.next(VERSIONS)
        time.sleep(1)
    assert set(consumer.statuses) == {200}
    left = [each["Version"] for each in functions.list_versions_by_function(FunctionName=name)["Versions"]]
    assert left == ["$LATEST", *(str(int(newest) - n) for n in (2, 1, 0))]


def test_consumer_is_given_an_api_key(site: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """A request needs both the key and a token; a deleted key is refused."""
    client = make_client(site[0])
    larder = deploy_larder(client, site[0], "keyed", parameters={"ApiKeys": "required"})
    shell = Shell(tmp_path, {**site[1], "CONSUMER": "somebody"}, "keyed")
    key = shell.next(API_KEY).splitlines()[-1]
    token = larder.issuer.sign("B6", time.time())

    def ask(**headers: str) -> int:
        return send(
            f"{larder.stack.base_url}/flight-delays", {n.replace("_", "-"): v for n, v in headers.items()}, None
        ).status

    bearer = f"Bearer {token}"
    assert ask(Authorization=bearer) == 403
    assert ask(x_api_key=key) == 401
    assert ask(Authorization=bearer, x_api_key=key) == 200
    shell.next(API_KEY)
    assert ask(Authorization=bearer, x_api_key=key) == 403
    assert shell.left() == []


def test_outputs_come_from_another_account(site: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Another account's bucket is read only after its owner allows our role to; the sweep finds the output."""
    endpoint, env = site
    owner = make_client(endpoint, OWNER)
    owner("s3").create_bucket(Bucket="their-outputs")
    owner("s3").put_object(Bucket="their-outputs", Key=object_key(), Body=parquet(3))
    parameters = {"OutputsBucketName": "their-outputs", "OutputsAccount": OWNER}
    larder = deploy_larder(make_client(endpoint), endpoint, "foreign", parameters=parameters)
    shell = Shell(tmp_path, {**env, "OUTPUTS": "their-outputs"}, "foreign")
    shell.next(ACCOUNT)
    larder.enrich({"sweep": True})
    assert larder.state(object_key()) == ""
    shell.variables["AWS_ACCESS_KEY_ID"] = OWNER
    shell.next(ACCOUNT)
    # To the stand-in, a caller from another account is that account's root.
    policy = owner("s3").get_bucket_policy(Bucket="their-outputs")["Policy"]
    root = f"arn:aws:iam::{LARDER}:root"
    assert policy.count(shell.variables["ROLE"]) == 2
    owner("s3").put_bucket_policy(Bucket="their-outputs", Policy=policy.replace(shell.variables["ROLE"], root))
    shell.next(ACCOUNT)
    target = owner("events").list_targets_by_rule(Rule="larder-outputs")["Targets"][0]
    assert target["Arn"] == shell.variables["BUS"] != ""
    shell.variables["AWS_ACCESS_KEY_ID"] = env["AWS_ACCESS_KEY_ID"]
    shell.next(ACCOUNT)
    assert larder.wait(object_key(), PATIENCE) == "done"
    assert len(larder.get().json()["items"]) == 3
    assert shell.left() == []


def with_carriers(carriers: list[str]) -> bytes:
    """Build an output with a row per carrier."""
    table = pq.read_table(io.BytesIO(parquet(len(carriers))))
    at = table.schema.get_field_index("carrier")
    return to_parquet(table.set_column(at, "carrier", pa.array(carriers, table.schema.field(at).type)))


def until(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.5)

"""The model of a run of any size, and what `plan` says of it."""

from __future__ import annotations

import json
import random
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from enrich.cli.exit_codes import DONE
from enrich.commands import runs
from enrich.intake.events import Arrived
from enrich.intake.find import find_output
from enrich.intake.worker import handle_requests
from enrich.ledger.run_state import EngineKind
from enrich.plan.plan import Plan, plan
from enrich.plan.report import describe_plan, render_plan
from enrich.plan.scale import Limit, Load, Quotas, estimate, find_floor
from enrich.plan.subjects import KEPT, SubjectCounter
from enrich.read.pieces import PIECE_BYTES
from enrich.read.s3_object import Part
from enrich.run.engine import choose_by_size, estimate_rows, read_rates
from tests.bench.scale_model import list_curves, render_table
from tests.unit.enrich.small_shop import DATASET, ROWS, SETTINGS, SmallShop, parquet

LOCAL, SPARK = EngineKind.LOCAL, EngineKind.SPARK


def load(rows: int, written: int | None = None, largest: float = 0.0) -> Load:
    """Return a run over Parquet; `None`: a first load of items of one write unit."""
    written = rows if written is None else written
    return Load(rows=rows, size=rows * 16, written=written, units=written, largest=largest)


def test_seconds_follow_from_rates_and_quotas() -> None:
    """Unchanged rows take the processor; a first load takes that time, and then the table's write units."""
    rates = read_rates()["rows_per_cpu_second"]["local"]
    unchanged = estimate(load(1_000_000, written=0), LOCAL)
    assert dict(unchanged.waits) == {Limit.PROCESSOR: pytest.approx(1e6 / rates["unchanged"])}
    first = estimate(load(1_000_000), LOCAL)
    assert first.waits[Limit.TABLE] == pytest.approx(1e6 / 40_000)
    assert first.seconds == pytest.approx(1e6 / rates["unchanged"] + 25)
    assert first.limit is Limit.TABLE
    fast = estimate(load(1_000_000), LOCAL, Quotas(table_units=1e9))
    assert fast.seconds == pytest.approx(1e6 / rates["first_load"])
    assert fast.limit is Limit.PROCESSOR


@pytest.mark.parametrize(("seconds", "invocations"), [(1, 1), (869, 1), (871, 2), (8701, 11)], ids=str)
def test_a_long_run_takes_several_invocations(seconds: int, invocations: int) -> None:
    """An invocation ends after 15 minutes, and the next one continues."""
    rows = int(seconds * read_rates()["rows_per_cpu_second"]["local"]["unchanged"])
    assert estimate(load(rows, written=0), LOCAL).invocations == invocations


def test_scratch_disk_limits_one_lambda() -> None:
    """The rows from which on a run goes to Spark fit, half as many again do not, and the estimate says why."""
    most = read_rates()["local_rows"]
    assert estimate(load(most), LOCAL).refused == ""
    assert estimate(load(most * 3 // 2), LOCAL).refused == "6.0 GB of scratch disk are needed, 4.3 GB are there"


def test_a_hot_subject_is_a_floor_on_both_engines() -> None:
    """Half of 10 million units are one subject's: 5,000 s on each engine, whatever its processors."""
    hot = load(10_000_000, largest=0.5)
    assert find_floor(hot) == 5000
    for engine in EngineKind:
        found = estimate(hot, engine)
        assert (found.limit, found.waits[Limit.SUBJECT]) == (Limit.SUBJECT, 5000)
    assert Limit.SUBJECT not in estimate(load(10_000_000, largest=0.02), LOCAL).waits


def test_more_workers_help_until_the_table_is_full() -> None:
    """The check gets faster with each worker; writing 100 million units takes 2,500 s with any number of them."""
    few, many = (estimate(load(100_000_000), SPARK, Quotas(workers=workers)) for workers in (2, 20))
    assert many.waits[Limit.PROCESSOR] < few.waits[Limit.PROCESSOR] / 5
    assert many.waits[Limit.TABLE] == 2500
    assert many.limit is Limit.TABLE


def test_few_pieces_leave_slots_idle() -> None:
    """An output of one piece is checked by one core, however many there are."""
    (one,) = {estimate(load(1000, written=0), SPARK, Quotas(workers=w)).waits[Limit.PROCESSOR] for w in (2, 100)}
    assert one == pytest.approx(1000 / read_rates()["rows_per_cpu_second"]["spark"]["unchanged"])
    assert estimate(load(1000, written=0), SPARK).limit is Limit.START


def test_the_driver_limits_the_number_of_pieces() -> None:
    """10 billion rows fit; a hundred times as many need larger pieces."""
    assert estimate(load(10_000_000_000), SPARK).refused == ""
    assert "--piece-bytes" in estimate(load(1_000_000_000_000), SPARK).refused
    assert estimate(load(10_000_000_000), SPARK).pieces == -(-160_000_000_000 // PIECE_BYTES)


@pytest.mark.parametrize(
    ("name", "source_format", "size", "rows"),
    [("p.parquet", "parquet", 1600, 100), ("p.csv", "csv", 1200, 10), ("p.csv.gz", "csv", 1200, 60)],
)
def test_rows_are_estimated_from_bytes(name: str, source_format: Any, size: int, rows: int) -> None:
    """Before an output is read, its rows follow from its bytes; compressed text has more."""
    source = replace(DATASET.source, format=source_format)
    parts = [Part("outputs", name, None, "etag", size)] * 2
    assert estimate_rows(parts, source) == 2 * rows
    assert choose_by_size(parts, source) is LOCAL
    large = [parts[0]._replace(size=read_rates()["local_rows"] * size)]
    assert choose_by_size(large, source) is SPARK


def request(*pks: str, body: str = "{}") -> bytes:
    items = [{"PutRequest": {"Item": {"pk": {"S": pk}, "sk": {"S": "1"}, "body": {"S": body}}}} for pk in pks]
    return orjson.dumps({"RequestItems": {"t": items}})


def test_subjects_are_counted_in_requests() -> None:
    """The share of the largest subject, whatever a body contains and however a subject is escaped."""
    counter = SubjectCounter()
    assert counter.largest == 0.0
    counter.look(request("d#a", 'd#"\\', 'd#"\\', body=json.dumps({"pk": {"S": "d#a"}}) + '"pk":{"S":"d#a"}'))
    assert counter.largest == pytest.approx(2 / 3)


def test_counting_takes_fixed_memory() -> None:
    """Among far more subjects than are kept, the share of a large one is off by at most a ten-thousandth."""
    counter, rng, exact = SubjectCounter(), random.Random(1), Counter[str]()
    for _ in range(300):
        pks = ["d#hot" if rng.random() < 0.03 else f"d#{rng.randrange(10**9)}" for _ in range(500)]
        exact.update(pks)
        counter.look(request(*pks))
        assert len(counter._counts) <= 2 * KEPT + 500
    assert exact["d#hot"] / exact.total() - 1 / KEPT <= counter.largest <= exact["d#hot"] / exact.total()


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    """The plan of an output in which a subject has two of three items."""
    shop = SmallShop(tmp_path)
    shop.put(shop.key(), parquet({"shop": ["x", "x", "y"], "sku": ["a", "b", "a"], "units": [1.0, 2.0, 3.0]}))
    return shop.plan(shop.key())


def test_a_plan_says_where_it_runs(planned: Plan) -> None:
    """A small run: one line, in one Lambda, without a word of Spark."""
    assert planned.run.engine is LOCAL
    assert planned.largest == pytest.approx(2 / 3)
    text = render_plan(planned, "us-east-1")
    assert "in one Lambda: about 0.0 s, $0.0000; first limit: write units of one subject" in text
    assert "Spark" not in text
    assert "one subject takes" not in text
    found = describe_plan(planned, "us-east-1")
    assert [each["engine"] for each in found["engines"]] == [LOCAL, SPARK]
    assert found["largest_subject"] == {"share": pytest.approx(2 / 3), "seconds": pytest.approx(0.002)}
    assert found["rates"]["as_of"] == read_rates()["as_of"]


def test_a_large_plan_compares_both_engines(planned: Plan) -> None:
    """From a tenth of the rows on that go to Spark, and if an operator chose it, the text has both engines."""
    large = replace(planned, run=replace(planned.run, rows=20_000_000, size=16 * 20_000_000))
    assert "or on Spark, 10 pieces on 10 workers: about " in render_plan(large, "us-east-1")
    chosen = render_plan(replace(planned, run=replace(planned.run, engine=SPARK)), "us-east-1")
    assert chosen.index("on Spark, 1 pieces") < chosen.index("or in one Lambda")


def test_a_plan_shows_the_floor_of_a_hot_subject(planned: Plan) -> None:
    """If a subject makes the run longer by some seconds, its share and the least duration are shown."""
    run = replace(planned.run, units=60_000)
    assert "one subject takes 67% of the write units, and DynamoDB accepts 1,000 a second of it: at least 40 s" in (
        render_plan(replace(planned, run=run), "us-east-1")
    )


def test_an_operator_overrides_the_size(tmp_path: Path) -> None:
    """`--engine spark` plans a small output for Spark; the run would be executed there."""
    shop = SmallShop(tmp_path)
    shop.put(shop.key(), parquet(ROWS))
    services = replace(shop.services(), engine=SPARK)
    output = find_output(services, SETTINGS.outputs, shop.key())
    assert output is not None
    assert plan(services, output).run.engine is SPARK


@pytest.mark.parametrize("has_job", [False, True])
@pytest.mark.parametrize("name", ["local_rows", "MAX_METADATA_BYTES", ""])
def test_a_plan_chooses_as_a_run_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_job: bool
) -> None:
    """By rows and by metadata, and never for a job that the stack does not have."""
    if name == "local_rows":
        monkeypatch.setitem(read_rates(), name, 0)
    elif name:
        monkeypatch.setattr(f"enrich.run.engine.{name}", 10)
    shop = SmallShop(tmp_path)
    shop.put(shop.key(), parquet(ROWS))
    services = replace(shop.services(), start_job=list[str]().append if has_job else None)
    output = find_output(services, SETTINGS.outputs, shop.key())
    assert output is not None
    planned = plan(services, output).run.engine
    handle_requests(services, [Arrived(SETTINGS.outputs, shop.key())])
    (run,) = shop.ledger.fetch_runs("stock")
    assert planned is run.engine is (SPARK if has_job and name else LOCAL)


def plan_large_metadata(shop: SmallShop, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Plan:
    """Plan an output whose metadata is 1 MB, where 1 KB fits."""
    products = parquet({"sku": [f"sku-{n}" for n in range(9)], "title": [f"{n:0100000x}" for n in range(9)]})
    monkeypatch.setattr(shop, "start", lambda _, location: put(shop, location, products))
    for limit in ("enrich.run.engine", "enrich.run.context", "enrich.plan.plan"):
        monkeypatch.setattr(f"{limit}.MAX_METADATA_BYTES", 1000)
    monkeypatch.setattr("enrich.run.pieces.gather.MOST_BYTES", 1000)
    shop.put(shop.key(), parquet(ROWS))
    services = replace(shop.services(), **changes)
    output = find_output(services, SETTINGS.outputs, shop.key())
    assert output is not None
    return plan(services, output)


def put(shop: SmallShop, location: str, content: bytes) -> str:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    shop.s3.put(bucket, f"{prefix}0.parquet", content)
    return location


@pytest.mark.parametrize("changes", [{"start_job": print}, {"engine": SPARK}], ids=["by size", "by an operator"])
def test_what_only_a_job_can_check_does_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any) -> None:
    """Metadata that fits in no process: the plan says where the run goes, what it takes, and what is not known."""
    shop = SmallShop(tmp_path)
    found = plan_large_metadata(shop, monkeypatch, **changes)
    assert (found.run.engine, found.run.state, found.run.error) == (SPARK, "pending", None)
    text = render_plan(found, "us-east-1")
    rows = estimate_rows([Part("outputs", "p.parquet", None, "", found.run.size)], DATASET.source)
    for expected in (
        "not checked here: metadata products does not fit into one process, and a job exchanges it; only the run finds",
        f"rows        {rows:>14,}  estimated from its bytes",
        "nothing changed: on Spark, 1 pieces on 10 workers: about 1 min 30 s, $0.1100; first limit: start of the job",
        "all written: on Spark, 1 pieces",
        f"Plan: about {rows} rows on Spark, not checked here, at most $0.0000",
    ):
        assert expected in text
    assert "would" not in text
    assert "fail" not in text
    described = describe_plan(found, "us-east-1")
    assert described["unchecked"] == found.unchecked
    assert described["engines"][0] == {**described["engines"][0], "engine": SPARK, "pieces": 1}
    assert shop.table.items == {}
    options = Namespace(output=f"s3://outputs/{shop.key()}", show=1, region="us-east-1", per_month=None, json=True)
    assert runs._plan(replace(shop.services(), **changes), options) == DONE


@pytest.mark.parametrize("case", ["local", "not hashed", "other mistake"])
def test_what_a_job_cannot_check_either_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Metadata that a job would not exchange, a run that stays here, and an output with another mistake."""
    shop, changes = SmallShop(tmp_path), {"engine": LOCAL if case == "local" else SPARK}
    if case == "not hashed":
        products = replace(DATASET.metadata["products"], on={"units": "sku"})
        source = replace(DATASET.source, columns={**DATASET.source.columns, "units": "double"})
        shop.dataset = replace(DATASET, source=source, metadata={"products": products})
    if case == "other mistake":
        shop.dataset = replace(DATASET, body={"title": "products.titel"})
    found = plan_large_metadata(shop, monkeypatch, **changes)
    assert (found.unchecked, found.run.state) == ("", "failed")
    assert "does not fit into" in (found.run.error or "")


def test_a_plan_waits_for_a_run_of_a_job(tmp_path: Path) -> None:
    """An earlier run that was handed over changes what this one finds, so nothing is claimed of it."""
    shop = SmallShop(tmp_path)
    shop.put(shop.key(1), parquet(ROWS))
    handed = replace(shop.services(), start_job=list[str]().append, engine=SPARK)
    handle_requests(handed, [Arrived(SETTINGS.outputs, shop.key(1))])
    shop.put(shop.key(), parquet(ROWS))
    found = shop.plan(shop.key())
    assert (found.unchecked, found.run.engine) == ("a job executes an earlier run of the dataset first", LOCAL)
    assert "nothing changed: in one Lambda: about 0.0 s" in render_plan(found, "us-east-1")


def test_the_page_has_the_figures_of_the_model() -> None:
    """docs/scale.md is what the model gives (`python -m tests.bench.scale_model`), and so are the limits it names."""
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text()
    assert render_table() in page
    assert len(list(list_curves())) == 6
    rates = read_rates()
    assert f"{Quotas().scratch_bytes // rates['scratch_bytes_per_row'] // 10**6} million rows, 40 bytes each" in page
    per_row = 1 / rates["rows_per_cpu_second"]["local"]["unchanged"] + 1 / Quotas().table_units
    assert f"| {round(Quotas().lambda_seconds / per_row / 1e6)} million rows of a first load |" in page
    estimated = estimate(load(56_000_000_000, written=0), SPARK)
    assert (estimated.refused, round(estimated.pieces, -3)) == ("", 27_000)

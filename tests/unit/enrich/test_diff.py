"""`diff` reports exactly what runs of two outputs would serve, item by item; it writes nothing and shows no data."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.dataset.definition import Dataset, Derive, Guard, LastModified, Metadata, Shares, Source
from enrich.diff import compare as compare_module
from enrich.diff.diff import Diff, diff
from enrich.diff.distributions import QUANTILES, find_psi, pick_quantiles
from enrich.diff.page import render_page
from enrich.diff.report import describe_diff, render_diff
from enrich.errors import Failed, Stopped
from enrich.intake.held import approve
from enrich.intake.operations import replay_rejects, withdraw
from enrich.intake.worker import run_pending
from enrich.ledger.run_state import RunState
from enrich.read.chunks import CHUNK_ROWS
from enrich.services import Services
from serve.item import body_text
from tests.unit.enrich.small_shop import DATASET, ROWS, SETTINGS, SmallShop, parquet

BODY: Any = {
    "title": "products.title",
    "units": "units",
    "shape": {"pair": "{'half': units / 2, 'word': case when units > 3 then 'much' else 'little' end}"},
    "a/b~c": "units > 2",
    "list": "[units]",
    "large": "cast(units * 1e15 as bigint)",
}


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, replace(DATASET, body=BODY))


def serve(directory: Path, dataset: Dataset, rows: Any) -> dict[tuple[str, str], Any]:
    """Run an output into an empty table; return the bodies that a consumer gets."""
    directory.mkdir()
    shop = SmallShop(directory, replace(dataset, tolerated=replace(dataset.tolerated, share=1.0)))
    shop.run(rows)
    items = shop.table.items.values()
    return {(item.pk, item.sk): json.loads(body_text(item.body)) for item in items if item.body is not None}


def make_rows(rng: random.Random, count: int) -> dict[str, list[Any]]:
    """Make an output with duplicates, rejects, nulls, extreme values and items that the other output has as well."""
    units = [rng.choice([None, 1.0, 2.0, 3.5, 1e9, -1e9, float("nan"), rng.gauss(0, 9)]) for _ in range(count)]
    return {
        "shop": [rng.choice(["x", "y", None, "<script>ü"]) for _ in range(count)],
        "sku": [rng.choice("abcdq") for _ in range(count)],
        "units": units,
    }


def get(body: Any, *names: str) -> Any:
    for name in names:
        body = None if body is None else body[name]
    return body


@pytest.mark.parametrize("seed", [0, 1, 3])  # in 1 and 3 equal rows count once
def test_counts_and_summaries_are_those_of_the_served_items(
    shop: SmallShop, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outputs are run into separate tables, and compared in Python: the oracle shares no code with diff."""
    monkeypatch.setattr(compare_module, "JOINED_ROWS", 3)  # large outputs are joined a part of the keys at a time
    rng = random.Random(seed)
    once = rng.random() < 0.3
    shop.dataset = replace(shop.dataset, equal_rows="once" if once else "reject", body={**BODY, "large": "'1'"})
    outputs = [make_rows(rng, rng.choice([1, 9, 30])) for _ in "ab"]
    for name, rows in zip("ab", outputs, strict=True):
        (tmp_path / f"{name}.parquet").write_bytes(parquet_of(rows))
    a, b = (serve(tmp_path / f"run-{n}", shop.dataset, parquet_of(rows)) for n, rows in enumerate(outputs))
    if not a and not b:
        with pytest.raises(Failed, match="nothing to compare"):
            compare(shop, tmp_path)
        return
    found = compare(shop, tmp_path, show=100, show_data=True)
    both = a.keys() & b.keys()
    changed = {key for key in both if a[key] != b[key]}
    assert (found.counts.same, found.counts.changed) == (len(both) - len(changed), len(changed))
    assert (found.counts.only_in_a, found.counts.only_in_b) == (len(a.keys() - b.keys()), len(b.keys() - a.keys()))
    assert (found.a.items, found.b.items) == (len(a), len(b))
    for name in ("changed", "only_in_a", "only_in_b"):
        expected = {"changed": changed, "only_in_a": a.keys() - b.keys(), "only_in_b": b.keys() - a.keys()}[name]
        samples = {(s.key.pk, s.key.prediction_id): (s.before, s.after) for s in found.samples[name] if s.key}
        assert samples == {key: (a.get(key), b.get(key)) for key in expected}
    members = {each.member.place: each for each in found.members}
    paths = {"units": ["units"], "shape.pair.half": ["shape", "pair", "half"], '"a/b~c"': ["a/b~c"]}
    for place, names in paths.items():
        mine = [[get(side[key], *names) for key in side] for side in (a, b)]
        assert members[place].nulls == tuple(values.count(None) for values in mine), place
        differ = [key for key in both if get(a[key], *names) != get(b[key], *names)]
        assert members[place].changed == len(differ), place
    for numbers, side in zip(members["units"].numbers or (), (a, b), strict=True):
        values = [body["units"] for body in side.values() if body["units"] is not None]
        assert numbers.values == len(values)
        if values:
            expected_quantiles = np.quantile(values, list(QUANTILES.values()))
            assert list(numbers.quantiles.values()) == pytest.approx(list(expected_quantiles))
            assert numbers.mean == pytest.approx(np.mean(values))
    top = {each.value: (each.a, each.b) for each in members["shape.pair.word"].top}
    words = [[body["shape"]["pair"]["word"] for body in side.values()] for side in (a, b)]
    assert top == {word: (words[0].count(word), words[1].count(word)) for word in {*words[0], *words[1]}}
    deltas = [
        abs(b[key]["units"] - a[key]["units"]) for key in changed if None not in (a[key]["units"], b[key]["units"])
    ]
    assert [abs(one.after - one.before) for one in members["units"].largest] == sorted(filter(None, deltas))[::-1]
    json.dumps(describe_diff(found), allow_nan=False)
    render_page(found)


def parquet_of(rows: dict[str, list[Any]]) -> bytes:
    table = pa.table(rows, schema=pa.schema([("shop", pa.string()), ("sku", pa.string()), ("units", pa.float64())]))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def compare(shop: SmallShop, directory: Path, **options: Any) -> Diff:
    return diff(shop.services(), str(directory / "a.parquet"), str(directory / "b.parquet"), **options)


def test_integers_past_two_to_the_53_differ_exactly(shop: SmallShop, tmp_path: Path) -> None:
    """A double can't distinguish two neighbours, but the member is counted as changed."""
    columns = {"shop": "varchar", "sku": "varchar", "units": "bigint"}
    shop.dataset = replace(
        shop.dataset, source=replace(shop.dataset.source, columns=columns), body={"n": "units"}, large_integers="string"
    )
    for name, units in (("a", 2**60), ("b", 2**60 + 1)):
        (tmp_path / f"{name}.parquet").write_bytes(parquet({"shop": ["x"], "sku": ["a"], "units": [units]}))
    found = compare(shop, tmp_path)
    assert (found.counts.changed, found.members[0].changed, found.members[0].member.kind) == (1, 1, "number")


def test_a_run_an_object_a_prefix_and_a_folder_are_outputs(shop: SmallShop, tmp_path: Path) -> None:
    """The same rows are the same output under any name; the parts in a folder or below a prefix are one output."""
    run = shop.run(ROWS)
    halves = [{name: values[:1] for name, values in ROWS.items()}, {name: values[1:] for name, values in ROWS.items()}]
    for n, half in enumerate(halves):
        shop.s3.put("other", f"copy/stock/part-{n}.parquet", parquet(half))
        (tmp_path / "local" / "day=1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / "day=1" / f"part-{n}.parquet").write_bytes(parquet(half))
    (tmp_path / "local" / "_SUCCESS").write_bytes(b"")
    names = [str(run.run), f"stock/{run.run}", f"s3://{SETTINGS.outputs}/{run.object_key}"]
    names += [f"s3://{SETTINGS.outputs}/stock", "s3://other/copy/stock/", str(tmp_path / "local")]
    for name in names:
        found = diff(shop.services(), "1", name)
        assert (found.counts.same, found.counts.differ) == (3, False), name


def test_a_marker_closes_what_is_compared(shop: SmallShop) -> None:
    """With a marker, an output is named by the marker or its folder; without the marker there is no output."""
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, marker="_DONE"))
    for folder in ("stock/day=2026-01-01/", "stock/day=2026-01-02/"):
        shop.put(f"{folder}0.parquet", parquet(ROWS))
    shop.put("stock/day=2026-01-01/_DONE", b"")
    first = f"s3://{SETTINGS.outputs}/stock/day=2026-01-01"
    assert diff(shop.services(), first, f"{first}/_DONE").counts.same == 3
    with pytest.raises(Failed, match=r"B is .*day=2026-01-02.*: there is no output;.*closed by _DONE"):
        diff(shop.services(), first, f"s3://{SETTINGS.outputs}/stock/day=2026-01-02/")


def put_pair(shop: SmallShop) -> None:
    shop.run(ROWS, day=1)
    shop.run({**ROWS, "units": [1.0, 2.0, 9.0]})


def overwrite(shop: SmallShop) -> None:
    """The bucket keeps no versions, and the run's pinned parts are still known."""
    shop.s3._versioned = set()
    put_pair(shop)
    shop.put(shop.key(1), parquet({**ROWS, "units": [7.0, 7.0, 7.0]}))


def overwrite_and_forget(shop: SmallShop) -> None:
    """The run's pinned parts have expired as well."""
    put_pair(shop)
    for at in [at for at in shop.s3.objects if at[1].startswith(("parts/", "work/"))]:
        del shop.s3.objects[at]
    shop.put(shop.key(1), parquet(ROWS))


NAMES: dict[tuple[str, str], str] = {
    ("99", "1"): r"A is '99': the ledger has no run 99 of stock; `./larder status stock`",
    ("stok/1", "2"): r"A is 'stok/1': no dataset 'stok'; did you mean .?stock",
    ("1", "nowhere.parquet"): r"B is 'nowhere.parquet': there is no such file or folder; expected a run",
    ("1", "s3://outputs/stock/none"): r"B is 's3://outputs/stock/none': there is no output; expected a run",
    ("3", "2"): r"A is '3': run 3 is a withdrawal and served nothing; compare the run that it withdrew, 1",
}


def test_outputs_that_can_not_be_compared_are_refused(shop: SmallShop) -> None:
    """The message names the side, what was found, and what is expected."""
    put_pair(shop)
    run = shop.ledger.get_run("stock", 1)
    assert run is not None
    withdraw(shop.services(), run)
    for names, message in NAMES.items():
        with pytest.raises(Failed, match=message):
            diff(shop.services(), *names)
    with pytest.raises(Failed, match=r"the body has no member 'unit'; did you mean .?units"):
        diff(shop.services(), "1", "2", members=["unit"])


@pytest.mark.parametrize("arrange", [overwrite, overwrite_and_forget])
def test_an_output_that_was_overwritten_is_reported(shop: SmallShop, arrange: Any) -> None:
    """If the bucket keeps no versions, the bytes are gone, whether the pinned parts are known or not."""
    arrange(shop)
    with pytest.raises(Failed, match=r"A is run 1 of stock.*overwritten or deleted.*by its s3:// address"):
        diff(shop.services(), "1", "2")


def test_a_version_that_was_overwritten_is_read_if_the_bucket_keeps_it(shop: SmallShop) -> None:
    """A run is compared with the bytes that it read."""
    put_pair(shop)
    shop.put(shop.key(1), parquet({**ROWS, "units": [7.0, 7.0, 7.0]}))
    assert diff(shop.services(), "1", "2").counts.changed == 1
    assert diff(shop.services(), f"s3://outputs/{shop.key(1)}", "2").counts.changed == 3


def test_outputs_of_two_datasets_are_not_compared(shop: SmallShop, tmp_path: Path) -> None:
    """Except if --dataset names one for both; if nothing names the dataset, the known names are listed."""
    put_pair(shop)
    other = replace(
        shop.dataset,
        served=shop.dataset.served._replace(name="other"),
        source=replace(shop.dataset.source, prefix="o/"),
    )
    services = replace(shop.services(), datasets={"stock": shop.dataset, "other": other})
    shop.put("o/p.parquet", parquet(ROWS))
    url = f"s3://{SETTINGS.outputs}/o/p.parquet"
    with pytest.raises(Failed, match=r"A \(stock/1\) is of stock and B \(.*\) is of other: expected two"):
        diff(services, "stock/1", url)
    assert diff(services, "stock/1", url, dataset="stock").counts.same == 3
    with pytest.raises(Failed, match="A is a run of stock, and --dataset says other"):
        diff(services, "stock/1", url, dataset="other")
    for names in (["1", "2"], [str(tmp_path), "2"]):
        with pytest.raises(Failed, match="names its dataset; add --dataset NAME: other, stock"):
            diff(services, *names)
    with pytest.raises(Failed, match=r"no dataset 'stokc'; did you mean .?stock"):
        diff(services, "1", "2", dataset="stokc")


def test_no_rows_and_all_rejected_are_reported_and_not_equal(shop: SmallShop, tmp_path: Path) -> None:
    """One side without items is a difference with a note; two are an error, so no check can take them for equal."""
    shop.dataset = replace(shop.dataset, tolerated=replace(shop.dataset.tolerated, share=0.4, few=0))
    outputs = {
        "empty": {"shop": [], "sku": [], "units": []},
        "rejected": {**ROWS, "sku": ["q", "q", "q"]},
        "bad": {**ROWS, "sku": ["a", "q", "q"]},
        "good": ROWS,
    }
    for name, rows in outputs.items():
        (tmp_path / f"{name}.parquet").write_bytes(parquet_of(rows))

    def of(a: str, b: str) -> Diff:
        return diff(shop.services(), str(tmp_path / f"{a}.parquet"), str(tmp_path / f"{b}.parquet"))

    found = of("empty", "good")
    assert (found.counts.only_in_b, found.a.notes, found.counts.differ) == (3, ["it has no rows."], True)
    assert "it has no rows" in render_diff(found)
    found = of("good", "rejected")
    assert (found.counts.only_in_a, found.b.reasons) == (3, {"missing-metadata": 3})
    assert found.b.notes == ["all of its 3 rows are rejected: its run publishes nothing."]
    assert "more than the dataset tolerates" in of("good", "bad").b.notes[0]
    for pair in (("empty", "rejected"), ("empty", "empty"), ("rejected", "rejected")):
        with pytest.raises(Failed, match=r"nothing to compare, neither output has an item: A, .*; B, "):
            of(*pair)


def test_a_file_that_a_run_refuses_fails_with_its_side(shop: SmallShop, tmp_path: Path) -> None:
    """A missing column, a damaged file and a failing expression are reported as by a run."""
    put_pair(shop)
    wrong = tmp_path / "wrong.parquet"
    for content, message in (
        (parquet({"shop": ["x"], "sku": ["a"]}), "B is .*wrong.parquet: .*wrong.parquet: column 'units' is missing"),
        (b"no", "B is .*wrong.parquet: .*is not a Parquet file"),
        (b"", "B is .*wrong.parquet: .*is empty"),
    ):
        wrong.write_bytes(content)
        with pytest.raises(Failed, match=message):
            diff(shop.services(), "1", str(wrong))


def test_metadata_is_current_or_each_runs_own(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default only the outputs differ; with their own metadata, two runs of one output show a changed title."""
    shop.run(ROWS)
    monkeypatch.setitem(shop.start.__globals__["PRODUCTS"], "title", ["A", "B!", "C", "D"])
    shop.refresh(full=False)
    assert not diff(shop.services(), "1", "2").counts.differ
    found = diff(shop.services(), "1", "2", own_metadata=True)
    assert (found.counts.changed, {each.member.place for each in found.members if each.changed}) == (1, {"title"})
    for at in [at for at in shop.s3.objects if at[1].startswith("metadata/stock/products/00000001")]:
        del shop.s3.objects[at]
    with pytest.raises(Failed, match=r"A is run 1 .*its metadata products was deleted.*leave --own-metadata out"):
        diff(shop.services(), "1", "2", own_metadata=True)


def test_nothing_is_written_and_a_held_lease_does_not_block(shop: SmallShop) -> None:
    """Ledger, table and objects do not change, except for metadata that is fetched as in a plan."""
    put_pair(shop)
    lease = replace(shop.services(), owner="a run").acquire("stock")
    assert lease is not None
    before = (
        dict(shop.table.items),
        dict(shop.dynamo.rows),
        {at: kept[-1].etag for at, kept in shop.s3.objects.items() if not at[1].startswith("metadata/")},
    )
    diff(shop.services(), "1", "2", show=5, show_data=True)
    assert before == (
        dict(shop.table.items),
        dict(shop.dynamo.rows),
        {at: kept[-1].etag for at, kept in shop.s3.objects.items() if not at[1].startswith("metadata/")},
    )
    assert not list(shop.directory.iterdir())


def test_a_replay_of_rejects_is_compared_as_it_was_read(shop: SmallShop) -> None:
    """A run over rejects has its own rows."""
    shop.run({**ROWS, "sku": ["a", "q", "a"]})
    replay_rejects(shop.services(), "s3://larder/rejects/stock/00000001/")
    found = diff(shop.services(), "1", "2")
    assert (found.a.rows, found.b.rows, found.b.rejected, found.counts.only_in_a) == (3, 1, 1, 2)


def test_a_pandas_step_and_chunks_give_the_same_samples(shop: SmallShop, tmp_path: Path) -> None:
    """Rows of a later chunk are rendered again with their whole chunk before the step."""

    def step(frame: Any) -> Any:
        return frame.assign(place=range(len(frame)))

    shop.dataset = replace(
        shop.dataset, derive=Derive(step, {"place": "bigint"}), body={"units": "units", "p": "place"}
    )
    count = CHUNK_ROWS + 50
    base: dict[str, list[Any]] = {"shop": [f"s{n}" for n in range(count)], "sku": ["a"] * count, "units": [1.0] * count}
    (tmp_path / "a.parquet").write_bytes(parquet(base))
    base["units"][count - 1] = 2.0
    (tmp_path / "b.parquet").write_bytes(parquet(base))
    (sample,) = compare(shop, tmp_path, show=3, show_data=True).samples["changed"]
    assert (sample.before, sample.after) == ({"units": 1.0, "p": 49}, {"units": 2.0, "p": 49})


def test_no_body_or_subject_is_shown_without_show_data(shop: SmallShop, tmp_path: Path) -> None:
    """Neither text, JSON nor page has a subject, an id or a text of a body; with --show-data each has them, escaped."""
    secret = "<img src=x onerror=alert(1)>\x1b[31m"
    shop.dataset = replace(
        shop.dataset,
        body={"who": f"concat(shop, '{secret}')", "units": "units"},
        prediction_id="concat('id-', sku)",
        metadata={},
    )
    for name, units in (("a", 1.0), ("b", 2.0)):
        rows: dict[str, list[Any]] = {"shop": ["both", f"gone-{name}"], "sku": ["a", "b"], "units": [units, 5.0]}
        (tmp_path / f"{name}.parquet").write_bytes(parquet(rows))
    hidden, shown = (compare(shop, tmp_path, show=5, show_data=show_data) for show_data in (False, True))
    for render in (render_diff, render_page, lambda found: json.dumps(describe_diff(found), ensure_ascii=False)):
        assert not re.search("onerror|both|gone-|id-a|id-b", render(hidden)), render
        assert "--show-data" in render(hidden) or render not in (render_diff, render_page)
        for text in ("onerror", "gone-a", "id-b"):
            assert text in render(shown), render
    assert "\x1b" not in render_diff(shown) + render_page(shown)


class Reader(HTMLParser):
    """Notes the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "onerror", "onclick", "style"}]


def test_the_page_is_complete_and_executes_nothing(shop: SmallShop, tmp_path: Path) -> None:
    """It loads nothing, has a policy that forbids it, and markup in the data stays text."""
    hostile = "</title></style><script>alert(1)</script>"
    shop.dataset = replace(shop.dataset, body={hostile: "shop", "units": "units"}, metadata={})
    for name, units in (("a", 1.0), ("b", 2.0)):
        rows: dict[str, list[Any]] = {"shop": [hostile, "x"], "sku": ["a", "b"], "units": [units, None]}
        (tmp_path / f"{name}.parquet").write_bytes(parquet_of(rows))
    page = render_page(compare(shop, tmp_path, show=5, show_data=True))
    reader = Reader()
    reader.feed(page)
    assert {"svg", "table", "style"} <= set(reader.tags)
    assert reader.tags.count("script") == reader.tags.count("img") == reader.tags.count("link") == 0
    assert reader.tags.count("title") == 1 + reader.tags.count("svg")
    assert reader.links == []
    assert "default-src 'none'" in page
    assert 'content="width=device-width, initial-scale=1"' in page
    assert not re.search(r"https?://|@import|url\(", page)


def test_psi_is_the_sum_over_bins() -> None:
    """By hand: shares 0.5, 0.5 and 0.25, 0.75; equal shares: 0; no values: None; with an empty bin it is finite."""
    by_hand = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert find_psi([5, 5], [25, 75]) == pytest.approx(by_hand)
    assert find_psi([1, 2, 0], [10, 20, 0]) == pytest.approx(0.0)
    assert find_psi([0, 0], [1, 2]) is None
    assert (find_psi([10, 0], [0, 10]) or 0) > 10


def test_psi_of_numbers_follows_shape_and_not_scale_of_sampling(shop: SmallShop, tmp_path: Path) -> None:
    """The same distribution in two samples is stable; a shift, a new constant, and new nulls are found."""
    rng = np.random.default_rng(1)
    count = 2_000
    base = rng.normal(0, 1, count)
    cases: dict[str, tuple[Any, Any]] = {
        "same": (base, rng.normal(0, 1, count)),
        "shifted": (base, base + 1),
        "constant-below": (np.full(count, 5.0), np.where(np.arange(count) % 2, 5.0, 4.0)),
        "constant-above": (np.full(count, 5.0), np.where(np.arange(count) % 2, 5.0, 6.0)),
        "mostly-zero": (np.where(base > 0, 0.0, base), np.where(base > 0, 0.01, base)),
        "nulls": (base, [None if n % 2 else value for n, value in enumerate(base)]),
        "constant": (np.full(count, 5.0), np.full(count, 5.0)),
    }
    columns = {"shop": "varchar", "sku": "varchar", **dict.fromkeys(cases, "double")}
    shop.dataset = replace(
        shop.dataset,
        source=replace(shop.dataset.source, columns=columns),
        body={name: f'"{name}"' for name in cases},
        metadata={},
    )
    for n, side in enumerate("ab"):
        values = {name: pa.array(list(pair[n]), pa.float64()) for name, pair in cases.items()}
        rows: dict[str, Any] = {"shop": [str(n) for n in range(count)], "sku": ["a"] * count, **values}
        (tmp_path / f"{side}.parquet").write_bytes(parquet(rows))
    found = compare(shop, tmp_path)
    shown = {line.split()[0]: line for line in render_diff(found).splitlines() if line[:1].isalpha()}
    assert "shifted" in shown["nulls"]
    assert "shifted" not in shown["same"]
    for member in found.members:
        name = member.member.place.strip('"')
        assert member.psi is not None
        assert (member.psi > 0.25) == (name not in {"same", "constant"}), (name, member.psi)
        assert member.histogram is not None
        edges, *counts = member.histogram
        assert len(edges) == len(counts[0]) + 1
        assert [sum(each) for each in counts] == [count, count - member.nulls[1]]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_quantiles_are_numpys_for_any_batches(count: int, batch: int) -> None:
    """Batches of sorted values are read once."""
    values = np.sort(np.random.default_rng(count).normal(size=count))
    batches = [list(values[n : n + batch]) for n in range(0, count, batch)]
    fractions = sorted(QUANTILES.values())
    assert pick_quantiles(batches, count, fractions) == pytest.approx(list(np.quantile(values, fractions)))


def test_a_dataset_of_lines_without_metadata(tmp_path: Path) -> None:
    """Nothing is fetched for a dataset without metadata, of another format and another rule for as_of."""
    dataset = replace(
        DATASET,
        source=Source(prefix="stock/", format="csv", columns=dict(DATASET.source.columns)),
        as_of=LastModified(),
        ttl=timedelta(days=1),
        metadata={},
        body={"units": "units"},
    )
    shop = SmallShop(tmp_path, dataset)
    for name, units in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.parquet").write_text(f"shop,sku,units\nx,a,{units}\ny,b,3\n")
    found = compare(shop, tmp_path)
    assert (found.counts.same, found.counts.changed) == (1, 1)


def test_more_rows_than_duckdbs_memory_spill(shop: SmallShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a memory limit that is too small for the items, counts and quantiles are right."""
    monkeypatch.setattr("enrich.diff.compare.MEMORY_LIMIT", "32MB")
    count = 90_000
    shop.dataset = replace(shop.dataset, body={"units": "units", "who": "shop"}, metadata={})
    for name, first in (("a", 0), ("b", count // 3)):
        numbers = range(first, first + count)
        units = [float(n + (name == "b" and n % 10 == 0)) for n in numbers]
        rows: dict[str, list[Any]] = {"shop": [f"shop {n:07d}" for n in numbers], "sku": ["a"] * count, "units": units}
        (tmp_path / f"{name}.parquet").write_bytes(parquet(rows))
    found = compare(shop, tmp_path)
    third = count // 3
    assert (found.counts.only_in_a, found.counts.only_in_b, found.counts.changed) == (third, third, 6_000)
    numbers_a = found.members[0].numbers
    assert numbers_a is not None
    assert numbers_a[0].quantiles["p50"] == (count - 1) / 2
    assert found.members[1].distinct == (count, count)


def test_metadata_is_pinned_once_for_both(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata without max_age is fetched once, and both sides are joined with the same rows."""
    put_pair(shop)
    started: list[str] = []
    start = shop.start

    def note(sql: str, location: str) -> str:
        started.append(sql)
        return start(sql, location)

    monkeypatch.setattr(shop, "start", note, raising=False)
    assert shop.dataset.metadata["products"] == Metadata("select sku, title from products", on="sku")
    diff(shop.services(), "1", "2", show=3, show_data=True)
    assert len(started) == 1


def test_a_lease_that_is_acquired_meanwhile_stops_the_diff(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view of the ledger can't get the lease if another invocation has just acquired it."""
    put_pair(shop)
    monkeypatch.setattr(Services, "acquire", lambda *_: None)
    with pytest.raises(Stopped, match="its lease was acquired meanwhile; try again"):
        diff(shop.services(), "1", "2")


GUARDS = [
    Guard("rows", change=0.5),
    Guard("changed", most=0.5),
    Guard("nulls", "body.title", most=0.1),
    Guard("mean", "body.units", change=0.2),
    Guard("range", "units", least=0),
    Guard("psi", "units", most=0.25, reference=Shares(edges=[12], shares=[0.3, 0.7])),
]


def test_guards_judge_b_as_a_run_after_a_would_be_judged(tmp_path: Path) -> None:
    """The verdicts are those of two runs, A published and then B, also with duplicates."""
    good: dict[str, list[Any]] = {"shop": ["x"] * 40, "sku": list("ab") * 20, "units": [float(n) for n in range(40)]}
    keyed = replace(DATASET, body=BODY, prediction_id="cast(round(units) as varchar)", guards=GUARDS)
    shifted = {**good, "units": [float(n + 20) for n in range(39)] + [21.0]}  # one key twice
    few = {name: values[:3] for name, values in good.items()}
    for number, (a, b) in enumerate([(good, good), (few, shifted)]):
        (tmp_path / f"{number}").mkdir()
        shop = SmallShop(tmp_path / f"{number}", replace(keyed, tolerated=replace(DATASET.tolerated, share=1.0)))
        for side, rows in ("a", a), ("b", b):
            (tmp_path / f"{number}-{side}.parquet").write_bytes(parquet_of(rows))
        paths = [str(tmp_path / f"{number}-{side}.parquet") for side in "ab"]
        found = diff(shop.services(), *paths)
        shop.run(a)
        first = shop.services().ledger.get_run("stock", 1)
        if first is not None and first.state is RunState.HELD:
            approve(shop.services(), "stock", 1)
            list(run_pending(shop.services(), "stock"))
        shop.run(b, day=1)
        kept = shop.services().ledger.get_statistics("stock", 2)
        assert kept is not None
        expected = json.loads(kept.verdicts.replace("run 1", "A"))
        assert [each.describe() for each in found.verdicts] == expected
        failed = sum(each["passed"] is False for each in expected)
        assert (failed > 0) == (number > 0)
        text = f"the dataset's guards would {'hold B' if failed else 'publish B'}"
        for shown in (render_diff(found), render_page(found)):
            assert text in shown
            assert shown.count("failed") >= failed
        assert describe_diff(found)["guards"] == expected


def test_guards_without_a_reference_or_an_output(tmp_path: Path) -> None:
    """Nothing is compared with an A without items; of a B without items only the rows are judged."""
    shop = SmallShop(tmp_path, replace(DATASET, body=BODY, guards=GUARDS))
    for side, rows in ("a", {name: [] for name in ROWS}), ("b", {**ROWS, "units": [-1.0] * len(ROWS["units"])}):
        (tmp_path / f"{side}.parquet").write_bytes(parquet_of(rows))
    empty, bad = (str(tmp_path / f"{side}.parquet") for side in "ab")
    verdicts = {each.guard: each for each in diff(shop.services(), empty, bad).verdicts}
    assert verdicts["rows"].passed is None
    assert verdicts["rows"].says.endswith("not compared, no earlier output has statistics")
    assert verdicts["changed"].passed is None
    assert verdicts["range of units"].passed is False
    found = {each.guard: each.passed for each in diff(shop.services(), bad, empty).verdicts}
    assert found == {"rows": False, **dict.fromkeys(list(found)[1:])}
    plain = SmallShop(tmp_path, replace(DATASET, body=BODY))
    none = diff(plain.services(), empty, bad)
    assert none.verdicts == []
    assert "uards" not in (render_diff(none) + render_page(none)).replace(str(tmp_path), "")

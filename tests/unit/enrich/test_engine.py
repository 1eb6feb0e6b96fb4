"""The engine over small datasets: joins, policies, reasons, keys, order, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enrich.dataset.definition import Body, Dataset, FromColumn, LastModified, Metadata, Source
from enrich.dataset.mistakes import DatasetMistakes
from enrich.join import engine as engine_module
from enrich.join.engine import Engine, JoinMultiplies, MetadataTooLarge, NullInstant, RenderFailed
from serve.access import build_partition
from serve.datasets import Served
from serve.item import MAX_PK_BYTES, PREDICTION_ID, UNPRINTABLE, build_pk, is_subject
from serve.tokens.jwt import InvalidToken

SHOPS = Dataset(
    served=Served("shop-sales", ("shop",), "shop-sales:read"),
    source=Source(
        prefix="sales/",
        format="parquet",
        columns={"shop": "varchar", "id": "varchar", "region": "varchar", "sales": "double"},
    ),
    as_of=LastModified(),
    ttl=timedelta(days=1),
    metadata={"regions": Metadata("select code, name, rank from lake.regions", on={"region": "code"}, missing="null")},
    subject={"shop": "shop"},
    prediction_id="id",
    body={"id": "id", "region": {"code": "region", "name": "regions.name", "rank": "regions.rank"}, "sales": "sales"},
)
REGIONS = pa.table({"code": ["n", "s"], "name": ["North", 'South "S"'], "rank": pa.array([1.5, None], pa.float64())})


def sales(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    """Build a chunk of SHOPS."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    kinds = [pa.string(), pa.string(), pa.string(), pa.float64()]
    return pa.RecordBatch.from_arrays(
        [pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], list(SHOPS.columns)
    )


def render(
    tmp_path: Path,
    dataset: Dataset,
    chunk: pa.RecordBatch,
    metadata: Mapping[str, pa.Table] | None = None,
    first: int = 0,
) -> list[dict[str, Any]]:
    """Render one chunk with an engine of its own."""
    with Engine(dataset, metadata or {"regions": REGIONS}, directory=tmp_path) as engine:
        rows: list[dict[str, Any]] = engine.render(chunk, first).to_pylist()
    return rows


@pytest.fixture(params=[250_000, 0], ids=["fragments", "inline"], autouse=True)
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here must pass whether metadata is rendered in its own table or per prediction."""
    monkeypatch.setattr(engine_module, "_HOISTED_ROWS", request.param)


def test_a_prediction_becomes_an_item(tmp_path: Path) -> None:
    """Key, body, digest and size are those of the joined row; the body is compact and in the dataset's order."""
    (row,) = render(tmp_path, SHOPS, sales([("a/b", "x1", "n", 2.0)]), first=7)
    assert row["row"] == 7
    assert (row["pk"], row["sk"]) == (build_pk("shop-sales", ["a/b"]), "x1")
    assert row["body"] == '{"id":"x1","region":{"code":"n","name":"North","rank":1.5},"sales":2.0}'
    assert row["bytes"] == len(row["body"].encode())
    assert (row["reason"], row["detail"]) == (None, None)


def test_the_digest_is_md5_and_so_never_changes(tmp_path: Path) -> None:
    """Fingerprints outlive versions of DuckDB: the digest is the last eight bytes of the body's MD5, little-endian."""
    import hashlib

    (row,) = render(tmp_path, SHOPS, sales([("a", "x1", "n", 2.0)]))
    assert row["digest"] == int.from_bytes(hashlib.md5(row["body"].encode()).digest()[8:], "little")


def test_broken_text_of_metadata_is_in_no_body(tmp_path: Path) -> None:
    """If metadata with broken text is rendered with the metadata, the rows that match it are rejected."""
    names = pa.array([b"North", b'\xe2"'], pa.binary()).view(pa.string())
    metadata = {"regions": REGIONS.set_column(1, "name", names)}
    chunk = sales([("a", "x1", "n", 1.0), ("a", "x2", "s", 1.0)])
    if not engine_module._HOISTED_ROWS:
        with pytest.raises(RenderFailed, match=r"'regions'.*unicode"):
            render(tmp_path, SHOPS, chunk, metadata)
        return
    good, bad = render(tmp_path, SHOPS, chunk, metadata)
    assert json.loads(good["body"])["region"]["name"] == "North"
    assert (bad["body"], bad["reason"]) == (None, "bad-value")
    assert bad["detail"] == "body.region.name holds text that is not UTF-8"


def test_missing_metadata_is_null_if_the_dataset_allows_it(tmp_path: Path) -> None:
    """A value that matches nothing, and a null, which never matches, give nulls."""
    rows = render(tmp_path, SHOPS, sales([("a", "x1", "?", 1.0), ("a", "x2", None, 1.0)]))
    assert [json.loads(row["body"])["region"] for row in rows] == [
        {"code": "?", "name": None, "rank": None},
        {"code": None, "name": None, "rank": None},
    ]


@pytest.mark.parametrize(("policy", "reason"), [("reject", "missing-metadata"), ("fail", "missing-metadata-fatal")])
def test_missing_metadata_rejects_or_fails(tmp_path: Path, policy: Any, reason: str) -> None:
    """The reason names the policy, the detail the metadata and the values that were looked up."""
    dataset = replace(SHOPS, metadata={"regions": replace(SHOPS.metadata["regions"], missing=policy)})
    good, bad = render(tmp_path, dataset, sales([("a", "x1", "n", 1.0), ("a", "x2", "?", 1.0)]))
    assert good["reason"] is None
    assert (bad["reason"], bad["body"]) == (reason, None)
    assert "'regions'" in bad["detail"]
    assert "region" in bad["detail"]


REASONS = [
    ((None, "x", "n", 1.0), "null-key", "shop"),
    (("", "x", "n", 1.0), "null-key", "subject"),
    (("a", None, "n", 1.0), "null-key", "id"),
    (("a", "", "n", 1.0), "bad-prediction-id", "prediction_id"),
    (("a", "x y", "n", 1.0), "bad-prediction-id", "prediction_id"),
    (("a", "é", "n", 1.0), "bad-prediction-id", "prediction_id"),
    (("a", "x\n", "n", 1.0), "bad-prediction-id", "prediction_id"),
    (("a", "x" * 129, "n", 1.0), "bad-prediction-id", "prediction_id"),
    (("a", "..", "n", 1.0), "bad-prediction-id", "which clients remove from a path"),
    (("a", "a/b", "n", 1.0), "bad-prediction-id", "encode it: replace(url_encode(id), '%', '=')"),
    (("a", "x" * 200, "n", 1.0), "bad-prediction-id", "longer than 128 characters; hash it: md5(id)"),
    (("漢" * 256, "x", "n", 1.0), "long-key", str(MAX_PK_BYTES)),
    (("x" * 257, "x", "n", 1.0), "long-key", "subject.shop (shop) is longer than 256 characters"),
    (("a\tb", "x", "n", 1.0), "bad-subject", "subject.shop (shop) has an invisible character"),
    (("\u3000", "x", "n", 1.0), "bad-subject", "serve refuses such a claim"),
    (("a", "x", "n", float("nan")), "not-a-number", "body.sales"),
    (("a", "x", "n", float("-inf")), "not-a-number", "body.sales"),
]


@pytest.mark.parametrize(("row", "reason", "named"), REASONS)
def test_a_row_that_can_not_become_an_item_says_why(
    tmp_path: Path, row: tuple[Any, ...], reason: str, named: str
) -> None:
    """One bad row is rejected with its reason and place, and its neighbours become items."""
    before, bad, after = render(tmp_path, SHOPS, sales([("a", "1", "n", 1.0), row, ("a", "2", "s", 1.0)]))
    assert (before["reason"], after["reason"]) == (None, None)
    assert bad["reason"] == reason
    assert named in bad["detail"]
    assert bad["body"] is None


def test_an_expression_that_fails_rejects_its_row_only(tmp_path: Path) -> None:
    """A cast, an overflow or a division that fails for one row does not affect the others."""
    dataset = replace(SHOPS, body={"n": "cast(region as integer)", "d": "100 // cast(region as integer)"}, metadata={})
    chunk = sales([("a", "1", "5", 1.0), ("a", "2", "n", 1.0), ("a", "3", "0", 1.0), ("a", "4", None, 1.0)])
    rows = render(tmp_path, dataset, chunk, {})
    assert [row["reason"] for row in rows] == [None, "bad-value", "bad-value", None]
    assert "body.n" in rows[1]["detail"]
    assert "body.d" in rows[2]["detail"]
    assert rows[3]["body"] == '{"n":null,"d":null}'


def test_metadata_that_has_no_json_rejects_the_rows_that_use_it(tmp_path: Path) -> None:
    """NaN in metadata, or an expression over metadata that fails, is reported at the predictions that join with it."""
    regions = pa.table({"code": ["n", "s", "w"], "name": ["1", "x", "3"], "rank": [float("nan"), 1.0, 2.0]})
    dataset = replace(SHOPS, body={"name": "cast(regions.name as integer)", "rank": "regions.rank"})
    chunk = sales([("a", "1", "n", 1.0), ("a", "2", "s", 1.0), ("a", "3", "w", 1.0), ("a", "4", "?", 1.0)])
    rows = render(tmp_path, dataset, chunk, {"regions": regions})
    assert [row["reason"] for row in rows] == ["not-a-number", "bad-value", None, None]
    assert "body.rank" in rows[0]["detail"]
    assert "body.name" in rows[1]["detail"]


def test_what_missing_metadata_turns_into_is_checked_too(tmp_path: Path) -> None:
    """An expression can give a value for missing metadata; if that has no JSON, the row is rejected."""
    dataset = replace(
        SHOPS, body={"rank": "coalesce(regions.rank, 'nan'::double)", "name": "coalesce(regions.name, 'nowhere')"}
    )
    found, missing = render(tmp_path, dataset, sales([("a", "1", "n", 1.0), ("a", "2", "?", 1.0)]))
    assert found["body"] == '{"rank":1.5,"name":"North"}'
    assert (missing["reason"], missing["body"]) == ("not-a-number", None)
    named = replace(dataset, body={"name": "coalesce(regions.name, 'nowhere')"})
    assert render(tmp_path, named, sales([("a", "2", "?", 1.0)]))[0]["body"] == '{"name":"nowhere"}'


def test_nulls_can_be_left_out(tmp_path: Path) -> None:
    """With `omit` a null member is left out, wherever it comes from; an object of nulls is an empty object."""
    dataset = replace(SHOPS, nulls="omit")
    rows = render(tmp_path, dataset, sales([("a", "1", "s", None), ("a", "2", None, 1.0)]))
    assert [row["body"] for row in rows] == [
        '{"id":"1","region":{"code":"s","name":"South \\"S\\""}}',
        '{"id":"2","region":{},"sales":1.0}',
    ]


def test_member_names_can_be_anything(tmp_path: Path) -> None:
    """Names with quotes, dots, control characters, emoji, and names that differ in case only, are kept in order."""
    body: Body = {
        "a": "1",
        "A": "2",
        "'": "3",
        '"': "4",
        "\n": "5",
        "x.y": {"😀": "6"},
        "x": {"y": "7"},
        "": "8",
        "e": {},
    }
    (row,) = render(tmp_path, replace(SHOPS, body=body), sales([("a", "1", "n", 1.0)]))
    pairs = json.loads(row["body"], object_pairs_hook=list)
    assert [name for name, _ in pairs] == list(body)
    assert json.loads(row["body"]) == {
        "a": 1,
        "A": 2,
        "'": 3,
        '"': 4,
        "\n": 5,
        "x.y": {"😀": 6},
        "x": {"y": 7},
        "": 8,
        "e": {},
    }


def test_an_unqualified_name_is_the_predictions_own(tmp_path: Path) -> None:
    """A metadata column of the same name as a prediction's never hides it, whatever the letter case."""
    regions = pa.table({"code": ["n"], "name": ["North"], "rank": [1.0], "SALES": [9.0], "id": ["no"]})
    dataset = replace(SHOPS, body={"own": "Sales", "id": "ID", "theirs": "Regions.sales"})
    (row,) = render(tmp_path, dataset, sales([("a", "1", "n", 2.0)]), {"regions": regions})
    assert row["body"] == '{"own":2.0,"id":"1","theirs":9.0}'


def test_several_columns_match_together(tmp_path: Path) -> None:
    """A join on expressions and several columns finds the one row that has them all, whatever its timestamps' unit."""
    source = replace(SHOPS.source, columns={"shop": "varchar", "id": "varchar", "moment": "timestamptz"})
    weather = Metadata(
        "select shop, hour, temp from lake.weather",
        on={"shop": "shop", "date_trunc('hour', moment)::timestamp": "hour"},
    )
    dataset = replace(SHOPS, source=source, metadata={"weather": weather}, body={"temp": "weather.temp"})
    at = datetime(2026, 1, 2, 3, 45, tzinfo=UTC)
    chunk = pa.RecordBatch.from_pylist(
        [{"shop": "a", "id": "1", "moment": at}, {"shop": "b", "id": "2", "moment": at}],
        pa.schema([("shop", pa.string()), ("id", pa.string()), ("moment", pa.timestamp("us", "UTC"))]),
    )
    for unit in ("s", "ms", "us", "ns"):
        hours = pa.array([datetime(2026, 1, 2, 3), datetime(2026, 1, 2, 3)], pa.timestamp(unit))
        table = pa.table({"shop": ["a", "c"], "hour": hours, "temp": [1, 2]})
        rows = render(tmp_path, dataset, chunk, {"weather": table})
        assert [row["body"] for row in rows] == ['{"temp":1}', None]


def test_every_row_comes_out_once_and_in_order(tmp_path: Path) -> None:
    """The order is that of the chunk, also if the metadata is larger than it, or empty."""
    many = pa.table({"code": [f"c{n}" for n in range(20_000)], "name": ["x"] * 20_000, "rank": [1.0] * 20_000})
    chunk = sales([("a", str(n), f"c{(n * 7919) % 30_000}", 1.0) for n in range(5_000)])
    for table in (many, many.slice(0, 0)):
        rows = render(tmp_path, SHOPS, chunk, {"regions": table}, first=100)
        assert [row["row"] for row in rows] == list(range(100, 5_100))
        assert [row["sk"] for row in rows] == [str(n) for n in range(5_000)]


def test_metadata_that_would_multiply_rows_is_refused(tmp_path: Path) -> None:
    """Two rows for the same values are an error that names the metadata and the values; nulls match nothing."""
    twice = pa.concat_tables([REGIONS, REGIONS.slice(1, 1)])
    with pytest.raises(JoinMultiplies, match=r"shop-sales metadata\.regions: 2 rows have code = s"):
        Engine(SHOPS, {"regions": twice}, directory=tmp_path)
    nulls = pa.table({"code": pa.array([None, None, "n"]), "name": ["a", "b", "North"], "rank": [1.0, 2.0, 3.0]})
    assert len(render(tmp_path, SHOPS, sales([("a", "1", None, 1.0)]), {"regions": nulls})) == 1


def test_metadata_larger_than_its_share_of_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the largest metadata and the remedy."""
    monkeypatch.setattr(engine_module, "MAX_METADATA_BYTES", 10)
    with pytest.raises(MetadataTooLarge, match=r"'regions' is the largest: filter its query"):
        Engine(SHOPS, {"regions": REGIONS}, directory=tmp_path)


def test_many_metadata_fit_into_memory(tmp_path: Path) -> None:
    """Each join needs some memory, however small its metadata is."""
    names = [f"regions_{n}" for n in range(50)]
    dataset = replace(
        SHOPS,
        metadata=dict.fromkeys(names, SHOPS.metadata["regions"]),
        body={"id": "id", **{name: f"{name}.name" for name in names}},
    )
    codes = [f"c{n}" for n in range(1_000)]
    table = pa.table({"code": codes, "name": codes, "rank": [1.0] * 1_000})
    (row,) = render(tmp_path, dataset, sales([("a", "1", "c7", 1.0)]), dict.fromkeys(names, table))
    assert json.loads(row["body"]) == {"id": "1", **dict.fromkeys(names, "c7")}


def test_an_empty_chunk_gives_nothing(tmp_path: Path) -> None:
    """No rows in, no rows out, with the same columns."""
    with Engine(SHOPS, {"regions": REGIONS}, directory=tmp_path) as engine:
        empty, full = engine.render(sales([]), 0), engine.render(sales([("a", "1", "n", 1.0)]), 0)
    assert empty.num_rows == 0
    assert empty.schema == full.schema
    assert [str(field.type) for field in full.schema] == [
        *("int64", "string", "string", "string", "string", "uint64", "int64", "uint64", "string", "string")
    ]


def test_the_types_of_fetched_metadata_are_checked(tmp_path: Path) -> None:
    """The types that Athena gives, which `check` can't know, are bound before the first prediction."""
    numbers = pa.table({"code": [1, 2], "name": [["x"], ["y"]], "rank": [1.0, 2.0]})
    with pytest.raises(DatasetMistakes, match=r"metadata\.regions\.on: region is VARCHAR and code is BIGINT; cast"):
        Engine(SHOPS, {"regions": numbers}, directory=tmp_path)
    durations = REGIONS.set_column(2, "rank", pa.array([timedelta(1), None], pa.duration("us")))
    with pytest.raises(DatasetMistakes, match=r"body\.region\.rank: type INTERVAL has no JSON"):
        Engine(SHOPS, {"regions": durations}, directory=tmp_path)


def test_the_engine_reaches_nothing_outside(tmp_path: Path) -> None:
    """An expression can't read files, load extensions or change settings."""
    (tmp_path / "secret.txt").write_text("secret")
    spill = tmp_path / "spill"
    for expression in (f"(from read_text('{tmp_path}/secret.txt')).content", "getenv('HOME')"):
        with pytest.raises(DatasetMistakes):
            Engine(replace(SHOPS, body={"x": expression}), {"regions": REGIONS}, directory=spill)
    with Engine(SHOPS, {"regions": REGIONS}, directory=spill) as engine:
        for statement in (f"from read_text('{tmp_path}/secret.txt')", "install httpfs", "set memory_limit='99GB'"):
            with pytest.raises(duckdb.Error):
                engine._con.execute(statement)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=140)


def can_read(served: Served, claims: dict[str, str]) -> bool:
    """Return whether serve accepts the claims of a token."""
    try:
        build_partition(claims, served)
    except InvalidToken:
        return False
    return True


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_partition_key_equals_the_readers(tmp_path: Path, subjects: list[tuple[str, str]]) -> None:
    """Whatever the columns contain, the item key is the one that serve builds from the claims."""
    served = Served("shop-sales", ("shop", "region"), "")
    dataset = replace(SHOPS, served=served, subject={"region": "region", "shop": "shop"}, metadata={}, body={})
    rows = render(tmp_path, dataset, sales([(shop, "1", region, 1.0) for shop, region in subjects]), {})
    for row, subject in zip(rows, subjects, strict=True):
        pk = build_pk("shop-sales", subject)
        assert row["pk"] == pk
        claims = dict(zip(served.subject, subject, strict=True))
        assert (row["reason"] is None) == can_read(served, claims)


@given(st.lists(TEXT | st.from_regex(r"[A-Za-z0-9._~:@,=+-]{1,129}", fullmatch=True), min_size=1))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prediction_ids_are_what_the_reader_takes(tmp_path: Path, names: list[str]) -> None:
    """A row becomes an item if and only if serve would route its prediction_id."""
    dataset = replace(SHOPS, metadata={}, body={})
    rows = render(tmp_path, dataset, sales([("a", name, "n", 1.0) for name in names]), {})
    assert [row["reason"] is None for row in rows] == [
        PREDICTION_ID.match(name) is not None and name not in {".", ".."} for name in names
    ]


def test_the_remedies_for_a_prediction_id_name_any_text(tmp_path: Path) -> None:
    """The expression that a reject's detail proposes gives an id that the reader accepts, different for each text."""
    names = ["a/b", "a=2Fb", "a%2Fb", "é", "漢字 x", "~_.-", "!'()*", "\U0001f6eb", "\n\x00", ".."]
    dataset = replace(SHOPS, metadata={}, prediction_id="replace(url_encode(id), '%', '=')", body={"hash": "md5(id)"})
    rows = render(tmp_path, dataset, sales([("a", name, "n", 1.0) for name in names]), {})
    for name, row in zip(names, rows, strict=True):
        assert row["sk"] == quote(name, safe="").replace("%", "=")
        assert unquote(row["sk"].replace("=", "%")) == name
        assert (row["reason"] is None) == (name != "..")
        if row["reason"] is None:
            assert json.loads(row["body"]) == {"hash": hashlib.md5(name.encode()).hexdigest()}


def test_the_unprintable_are_the_same_for_writer_and_reader(tmp_path: Path) -> None:
    """All code points that any Unicode version lists as such, at both ends of each range, and their neighbours."""
    points = {first + step for each in UNPRINTABLE for first in each for step in (-1, 0, 1)}
    texts = [f"a{chr(point)}" for point in sorted(points) if 0 < point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF]
    dataset = replace(SHOPS, metadata={}, body={})
    rows = render(tmp_path, dataset, sales([(text, "1", "n", 1.0) for text in texts]), {})
    assert [row["reason"] is None for row in rows] == [is_subject(text) for text in texts]
    for point in (*range(0x20000), *range(0xE0000, 0xE0200)):
        kind = unicodedata.category(chr(point))
        if kind != "Cn":
            assert is_subject(chr(point)) == (chr(point) == " " or kind[0] not in "CZ"), hex(point)


def test_nulls_that_concat_would_swallow_reject_the_row(tmp_path: Path) -> None:
    """A null in a column that names the item does not make a shorter name, unless the expression replaces it."""
    chunk = sales([("a", "1", None, 1.0)])
    strict = replace(SHOPS, metadata={}, body={}, prediction_id="concat(id, '.', region)")
    assert render(tmp_path, strict, chunk, {})[0]["reason"] == "null-key"
    for name, text in {
        "coalesce(region, 'none')": "none",
        "case when region = 'n' then 'n' else 'other' end": "other",
        "(region is null)": "true",
        "(region is not null)": "false",
    }.items():
        lenient = replace(strict, prediction_id=f"concat(id, '.', {name})")
        assert render(tmp_path, lenient, chunk, {})[0]["sk"] == f"1.{text}"


def test_as_of_from_a_column(tmp_path: Path) -> None:
    """The lowest and the highest instant of a chunk show whether all rows have one as_of; a null can be refused."""
    source = replace(SHOPS.source, columns={**SHOPS.source.columns, "made": "timestamp"})
    dataset = replace(SHOPS, source=source, as_of=FromColumn("made"))
    instants = pa.array([datetime(2026, 1, 2), None, datetime(2026, 1, 3)], pa.timestamp("us"))
    chunk = sales([("a", "1", "n", 1.0)] * 3).append_column("made", instants)
    with Engine(dataset, {"regions": REGIONS}, directory=tmp_path) as engine:
        assert engine.read_as_of(chunk) == (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
        assert engine.read_as_of(chunk.slice(1, 1)) is None
        with pytest.raises(NullInstant) as found:
            engine.read_as_of(chunk, complete=True)
        assert found.value.row == 1
        assert engine.read_as_of(chunk.slice(0, 0), complete=True) is None


ARROWS = [
    ("region -> '$.a'", '{"b":[1,2]}'),
    ("region -> 'a' -> 'b' -> 1", "2"),
    ("region::json->'a'->>'b'", '"[1,2]"'),
    ("coalesce(region -> '$.none', '0')", "0"),
    ("list_transform([1, 2], lambda n: region -> 'a' -> 'b' -> (n - 1))", "[1,2]"),
    ("list_transform([region], lambda e: e -> '$.a.b')", "[[1,2]]"),
]


@pytest.mark.parametrize(("expression", "text"), ARROWS)
def test_the_arrows_extract_from_json(tmp_path: Path, expression: str, text: str) -> None:
    """`->` gives JSON and `->>` text, alone, chained and inside other expressions."""
    dataset = replace(SHOPS, metadata={}, body={"x": expression})
    (row,) = render(tmp_path, dataset, sales([("a", "1", '{"a":{"b":[1,2]}}', 1.0)]), {})
    assert (row["detail"], row["body"]) == (None, f'{{"x":{text}}}')


def test_pandas_is_imported_only_for_a_step() -> None:
    """A dataset without a step does not import pandas."""
    import subprocess
    import sys

    code = "import sys, enrich.join.engine, enrich.read.chunks, enrich.datasets; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""`./larder new`: a sample of any format becomes the file of a dataset without mistakes, or a message."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from enrich.__main__ import main
from enrich.dataset.as_of import FromKey, LastModified
from enrich.dataset.validation import check_dataset
from enrich.datasets import load_datasets
from enrich.join.engine import Engine
from enrich.new import sample as samples
from enrich.new.draft import find_candidates
from enrich.new.object_keys import guess_as_of
from tests.doubles.moto_aws import moto_aws
from tests.unit.enrich.test_read import hadoop_snappy, read, render

CSV = b"""customer_id,score,Label,order,scored_at,code
c1,0.5,yes,1,2026-01-02T03:00:00Z,007
c1,1,no,2,2026-01-02T03:00:00Z,010
"""
JSONL = (
    b'{"user": "u1", "sku": "a b", "tags": ["x"], "o": {"a": 1}}\n{"user": "u1", "sku": "b", "tags": [], "o": null}\n'
)


def parquet(path: Path, **columns: Any) -> None:
    """Write a Parquet file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in a project without datasets; return its exit code, its output, and the dataset."""
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path / "project"))

    def run(location: Path | str, *words: str, name: str = "my-scores") -> tuple[int, str, Any]:
        code = main(["new", name, "--from", str(location), *words])
        folder = tmp_path / "project" / "datasets"
        return code, "".join(capsys.readouterr()), load_datasets(folder).get(name)

    return run


def test_csv(tmp_path: Path, new: Any) -> None:
    """Types lose nothing of the text; words of SQL are quoted; the dataset gets its own scope."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    code, said, dataset = new(tmp_path / "churn.csv")
    assert code == 0, said
    assert dataset.source.columns == {
        "customer_id": "varchar", "score": "double", "Label": "varchar", "order": "bigint",
        "scored_at": "timestamptz", "code": "varchar",
    }  # fmt: skip
    assert (dataset.subject, dataset.prediction_id) == ({"customer_id": "customer_id"}, "code")
    assert list(dataset.body) == list(dataset.source.columns)
    assert (dataset.body["Label"], dataset.body["order"]) == ('"Label"', '"order"')
    assert (dataset.served.scope, dataset.source.prefix) == ("my-scores:read", "my-scores/")
    text = (tmp_path / "project" / "datasets" / "my_scores.py").read_text()
    assert (dataset.rank, text.count('    # rank="score desc",\n')) == (None, 1), "offered, since an index costs"
    assert check_dataset(replace(dataset, rank="score desc")) == []


class Counted:
    """A connection to DuckDB that keeps the statements."""

    def __init__(self, con: duckdb.DuckDBPyConnection, statements: list[str]) -> None:
        self.con, self.statements = con, statements

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            self.statements.extend(each for each in given if isinstance(each, str))
            return getattr(self.con, name)(*given, **options)

        return call


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_wide_file_takes_few_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Any, kind: str) -> None:
    """DuckDB takes time for each column of a table in each query, so a query per column would be quadratic."""
    values: dict[str, Any] = {"user": "u", "{id}": "a'b", **{f"n{n}": n + 0.5 for n in range(125)}}
    values |= {f"t{n}": f"text {n}" for n in range(125)}
    path = tmp_path / f"wide.{kind}"
    csv = f"{','.join(values)}\n{','.join(map(str, values.values()))}\n"
    path.write_text(csv if kind == "csv" else json.dumps(values) + "\n")
    statements, connect = list[str](), duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda: Counted(connect(), statements))
    sample = samples.read_sample(str(path), open_s3=lambda: None)
    assert find_candidates(sample)[0][0] == "user"
    assert [*sample.columns.values()] == ["varchar"] * 2 + ["double"] * 125 + ["varchar"] * 125
    assert len(statements) < 40


def test_options_decide(tmp_path: Path, new: Any) -> None:
    """What an option gives is not guessed."""
    (tmp_path / "churn.csv").write_bytes(CSV.replace(b",", b";"))
    words = ("--subject", "code", "--claim", "sub", "--prediction-id", "order", "--prefix", "a/b/", "--scope", "s")
    code, said, dataset = new(tmp_path / "churn.csv", *words, "--ttl-days", "2")
    assert code == 0, said
    assert (dataset.served.subject, dataset.served.scope, dataset.ttl.days) == (("sub",), "s", 2)
    assert dataset.subject == {"sub": "code"}
    assert dataset.prediction_id == 'cast("order" as varchar)'
    assert (dataset.source.prefix, dataset.source.delimiter) == ("a/b/", ";")


def test_compressed_json_lines_in_a_folder(tmp_path: Path, new: Any) -> None:
    """A folder's first part with rows is read; its marker and its date are detected; a text with blanks is encoded."""
    folder = tmp_path / "made=2026-01-02"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / "part-0.jsonl").touch()
    (folder / "part-1.jsonl.gz").write_bytes(gzip.compress(JSONL))
    code, said, dataset = new(tmp_path / "made=2026-01-02")
    assert code == 0, said
    assert (dataset.source.format, dataset.source.marker, dataset.as_of.pattern) == ("jsonl", "_SUCCESS", "made={}")
    assert dataset.source.columns["tags"] == "varchar[]"
    assert dataset.subject == {"user": '"user"'}
    assert dataset.prediction_id == "replace(url_encode(sku), '%', '=')"


def test_parquet_with_unusual_types_and_names(tmp_path: Path, new: Any) -> None:
    """Types are those of the footer; hostile names are quoted, in Python and in SQL."""
    path = tmp_path / "p.parquet"
    hostile = 'a "b" \\ {c} \' -- \n'
    parquet(
        path,
        **{"id": ["a", "b"], "half": pa.array([1, 2], pa.float16()), hostile: ["x", "y"], "n": pa.nulls(2)},
        kind=pa.array(["k", "k"]).dictionary_encode(),
        price=pa.array([1, 2], pa.decimal128(9, 2)),
        nested=[{"a": [1]}, {"a": None}],
    )
    code, said, dataset = new(path)
    assert code == 0, said
    assert {**dataset.source.columns, "nested": ""} == {
        "id": "varchar", "half": "float", hostile: "varchar", "n": "varchar", "kind": "varchar",
        "price": "decimal(9,2)", "nested": "",
    }  # fmt: skip
    assert list(dataset.body) == list(dataset.source.columns)


ROWS = b"user,title,score\nu1,Tea,1\nu2,Jam,2\nu3,Oil,3\n"
WRONG: list[tuple[str, Any, str]] = [
    ("none.csv", None, "there is no such file or folder"),
    ("empty.csv", b"", "has no rows"),
    ("header.csv", b"a,b\n", "has no rows"),
    ("rows.parquet", {"a": pa.array([], "string")}, "has no rows"),
    ("array.json", b'[{"a": 1}]', "is a JSON array; write one object per line"),
    ("x.zip", b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaa", "is a zip file"),
    ("latin.csv", b"id,name\na,caf\xe9\n", "line 2 is not UTF-8"),
    ("noname.parquet", {"": ["a"], "b": ["c"]}, "column 1 has no name"),
    ("twice.parquet", {"A": ["a"], "a": ["c"]}, "columns 'A' and 'a' have one name in SQL"),
    ("numbers.csv", b"a,b\n0.5,0.1\n0.5,0.1\n", "no column can be the subject"),
    ("broken.jsonl", b'{"a": "x"}\n{"a": \n', "can't be read as JSON lines"),
    ("cut.gz", gzip.compress(CSV)[:40], "cut.gz: "),
    ("cut.parquet", b"PAR1" + b"\0" * 40, "cut.parquet: "),
    ("blank.jsonl", b"\n \n", "has no rows"),
    ("only_success/_SUCCESS", b"", "there is no file"),
    ("empty_parts/part-0.csv", b"", "has no rows; give an output with at least one"),
    ("twice.csv", b"id,v,v\na,1,2\n", "columns 'v' and 'v' have one name in SQL; rename one"),
    ("twice.jsonl", b'{"v": "a"}\n{"V": "b"}\n', "columns 'V' and 'v' have one name in SQL"),
    ("noname.csv", b",id\n0,a\n", "column 1 has no name; name it (pandas: to_csv(index=False))"),
    ("noname.jsonl", b'{"": "a", "b": "c"}\n', "column 1 has no name; name it\n"),
    ("second.jsonl", b'{"a": "x"}\n{"a": "y",, "b": 2}\n{"a": "z"}\n', "line 2 is not JSON at column 11: Expecting"),
    ("comment.csv", b"# by me\nid,v\na,1\n", "its first lines (1) are neither rows nor a header"),
    ("blank_and_comment.csv", b"\n# by me\nid,v\na,1\n", "its first lines (1) are neither rows nor a header"),
    ("only_blank.csv", b"\n\n", "has no rows"),
    ("comma.csv", ROWS.replace(b"Jam", b"Jam, sweet"), "line 3 has 4 fields, expected 3; quote a field that has ','"),
    ("short.csv", ROWS.replace(b",2", b""), "line 3 has 2 fields, expected 3; add the missing ones, or remove it"),
    ("footer.csv", ROWS + b"Total: 3\n", "line 5 has 1 field, expected 3"),
    ("late.csv", ROWS + b"u,t,1\n" * 50 + b"u,t,1,2\n", "line 55 has 4 fields, expected 3"),
    ("two_bad.csv", b"user,id,v\nu1,a\nu1,b,3,4\n", "line 2 has 2 fields, expected 3"),
    ("semicolons.csv", b"a;b\nu;x\nu;y;z\n", "line 3 has 3 fields, expected 2; quote a field that has ';'"),
    ("tabs.csv", b'a\tb\n"u\nv"\tx\nu\ty\tz\n', "line 4 has 3 fields, expected 2; quote a field that has '\\t'"),
    ("comment_and_comma.csv", b"# by me\n" + ROWS + b"u,t,1,2\n", "its first lines (1) are neither rows nor a header"),
    ("mixed.jsonl", b'{"a": "x"}\n\n["y"]\n', "line 3 is JSON, but no object; write one object per line"),
    ("bytes.csv", b"id,v\na,\0\n", "is binary; expected Parquet, CSV or JSON lines"),
    ("long.jsonl", b'{"id": "' + b"x" * 1000, "its first line is longer"),
    ("wide.parquet", {"id": ["a"], "d": pa.array([1], pa.decimal256(50, 2))}, "'d' is decimal256(50, 2), which DuckDB"),
    (
        "members.parquet",
        {"id": ["a"], "s": pa.array([{"A": 1}], pa.struct([("A", pa.int8()), ("a", pa.int8())]))},
        "column 's' is struct<A: int8, a: int8>, which DuckDB lacks; write it as another type",
    ),
    ("span.parquet", {"id": ["a"], "s": pa.array([[1]], pa.list_(pa.duration("s")))}, "type INTERVAL has no JSON"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG, ids=[name for name, *_ in WRONG])
def test_a_sample_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Any, name: str, content: Any, message: str
) -> None:
    """A message names the file and what to do; no file is written."""
    monkeypatch.setattr(samples, "MOST_TEXT", 500)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, dict):
        parquet(path, **content)
    elif content is not None:
        path.write_bytes(content)
    place = path if path.parent == tmp_path else path.parent
    code, said, dataset = new(place)
    assert (code, dataset) == (1, None)
    assert str(place) in said or "the dataset would have mistakes; nothing was written" in said
    assert not (tmp_path / "project").exists()
    assert message in said


@pytest.mark.parametrize("name", ["a b", "health", "../x", "", "ä", "x" * 65])
def test_a_name_that_cannot_be_served(tmp_path: Path, new: Any, name: str) -> None:
    """A name is used in paths."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    code, said, _ = new(tmp_path / "churn.csv", name=name)
    assert (code, f"the name is {name!r}" in said) == (1, True)


@pytest.mark.parametrize("name", ["class", "2024-churn", "Dataset", "timedelta", "None", "import-x", "x" * 64])
def test_a_name_that_is_a_word_of_python(tmp_path: Path, new: Any, name: str) -> None:
    """The name of the file, and of the variable that it defines, is valid in Python."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    code, said, dataset = new(tmp_path / "churn.csv", name=name)
    assert code == 0, said
    assert dataset.name == name


def test_an_existing_dataset_is_kept(tmp_path: Path, new: Any) -> None:
    """The name, or a prefix, of another dataset is refused."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    assert new(tmp_path / "churn.csv")[0] == 0
    assert "there is already a dataset 'my-scores'" in new(tmp_path / "churn.csv")[1]
    code, said, _ = new(tmp_path / "churn.csv", "--prefix", "m/", name="My_Scores")
    assert (code, "datasets/my_scores.py already exists; choose another name" in said) == (1, True)
    code, said, _ = new(tmp_path / "churn.csv", "--prefix", "my-scores/x/", name="other")
    assert (code, "nothing was written" in said, "also contains the outputs of other" in said) == (1, True, True)


@pytest.mark.parametrize(
    ("object_key", "pattern"),
    [
        ("churn/scored=2026-01-02/p.csv", "scored={}"),
        ("churn/dt=20260102/p.csv", "dt={}"),
        ("churn/dt=2026-01-02/hour=6/p.csv", "dt={}/hour={hour}"),
        ("churn/run=2026-01-02T06%3A15%3A00Z/p.csv", "run={}"),
        ("churn/year=2026/month=1/day=02/p.csv", "year={year}/month={month}/day={day}"),
        ("churn/2026/01/02/p.csv", "{year}/{month}/{day}"),
        ("churn/2026/01/02/06/p.csv", "{year}/{month}/{day}/{hour}"),
        ("churn/2026-01-02/p.csv", "{}"),
        ("churn/2026-01-02.csv", "{}.csv"),
        ("churn/scores-2026-01-02.csv.gz", "*-{}.csv.gz"),
        ("churn/p.csv", None),
        ("churn/part=20269999/p.csv", None),  # not a date
        ("churn/for=2030-01-01/p.csv", None),  # in the future: a run would refuse it
    ],
)
def test_as_of_in_the_object_key(object_key: str, pattern: str | None) -> None:
    """A date in the key is used as as_of; without one, it is the object's LastModified."""
    expected = FromKey(pattern) if pattern else LastModified()
    assert guess_as_of(object_key, datetime(2026, 6, 1, tzinfo=UTC)) == expected


HOSTILE = [
    "select",
    "user",
    "row",
    "Größe",
    "a.b",
    "x y",
    "'",
    '"',
    "{0}",
    "\\n",
    "%s",
    "rowid",
    "items",
    "larder",
    "💥",
    "#",
]
ID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
KEPT = {  # values that look like other types, and are kept as they are
    "id": "a", "n": 123456789012345678901, "x": 1.5, "none": None, "us": "01-02-2026", "u": str(ID).upper(),
    "s": {"d": "2026-01-02 03:04:05", "t": "10:00:00", "u": str(ID).upper()},
    "l": [], "m": [1, "a"], "at": "2026-01-02T03:04:05Z",
}  # fmt: skip
ROUND: list[tuple[str, Any, Any]] = [  # name of the file, content, and the bodies of a run over it
    (
        "types.csv",
        b"id,n,zip,big,d,us,t,ok,x,exp,sum,long\na,1,007,12345678901234567890,2026-01-02,01/02/2026,10:00,true,1.50,1e3,"
        b"0.30000000000000004,12345678901234567890.123456789\n",
        [
            {"id": "a", "n": 1, "zip": "007", "big": 12345678901234567890, "d": "2026-01-02", "us": "01/02/2026"}
            | {"t": "10:00", "ok": True, "x": 1.5, "exp": 1000, "sum": 0.1 + 0.2}
            | {"long": "12345678901234567890.123456789"}
        ],
    ),
    ("quoted.csv", b'id;q\na;"x;\n""y"""\nb;\n', [{"id": "a", "q": 'x;\n"y"'}, {"id": "b", "q": None}]),
    (
        "bare.csv",
        b"a,1,0.5\nb,2,0.25\n",
        [{"column0": f, "column1": n, "column2": x} for f, n, x in (("a", 1, 0.5), ("b", 2, 0.25))],
    ),
    ("numbers.csv", b"id,02,2024,1.0,1e3\na,1,2,3,4\n", [{"id": "a", "02": 1, "2024": 2, "1.0": 3, "1e3": 4}]),
    ("empty.csv", b'"id","d"\n"a","2026-01-02"\n"b",""\n', [{"id": "a", "d": "2026-01-02"}, {"id": "b", "d": ""}]),
    (
        "mixed.jsonl",
        b'{"id": "a", "v": "b", "~/\\n": 1, "o": [1]}\n{"id": "b", "v": {"x": 1}, "~/\\n": "007", "o": {"x": null}}\n',
        [{"id": "a", "v": "b", "~/\n": "1", "o": [1]}, {"id": "b", "v": '{"x":1}', "~/\n": "007", "o": {"x": None}}],
    ),
    ("bom.csv", b"\xef\xbb\xbfid, v\na,1\n", [{"id": "a", " v": 1}]),
    ("zstd.csv.zst", pa.compress(b"id,v\na,1\n", "zstd", asbytes=True), [{"id": "a", "v": 1}]),
    ("hadoop.jsonl.snappy", hadoop_snappy(b'{"id": "a", "v": 1}\n'), [{"id": "a", "v": 1}]),
    (
        "types.jsonl",
        json.dumps(KEPT).encode(),
        [KEPT],
    ),
    (
        "types.parquet",
        {
            "id": ["a"],
            "u": pa.array([ID], pa.uuid()),
            "span": pa.array([90], pa.duration("s")),
            "none": pa.array([[None]], pa.list_(pa.null())),
            "half": pa.array([[1.5]], pa.list_(pa.float16())),
            "kinds": pa.array([["k"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            "view": pa.array(["v"], pa.string_view()),
            "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
            "s": [{"order": 1, "A b": [{"x": None}]}],
        },
        [
            {"id": "a", "u": str(ID), "span": 90, "none": [None], "half": [1.5], "kinds": ["k"], "view": "v"}
            | {"m": {"k": 1}, "s": {"order": 1, "A b": [{"x": None}]}}
        ],
    ),
    *(
        (f"names.{kind}", content, [{"id": "a"} | {name: str(n) for n, name in enumerate(HOSTILE)}])
        for kind, content in (
            ("parquet", {"id": ["a"], **{name: [str(n)] for n, name in enumerate(HOSTILE)}}),
            ("jsonl", json.dumps({"id": "a", **{name: str(n) for n, name in enumerate(HOSTILE)}}).encode()),
        )
    ),
    (
        "names.csv",
        ",".join(["id", *('"' + name.replace('"', '""') + '"' for name in HOSTILE)]).encode()
        + f"\na,{','.join(f'v{n}' for n, _ in enumerate(HOSTILE))}\n".encode(),
        [{"id": "a"} | {name: f"v{n}" for n, name in enumerate(HOSTILE)}],
    ),
    (
        "region=EU/store=7/zip=007/scored=2026-01-02/p.csv",
        b"id,v\na,1\n",
        [{"id": "a", "v": 1, "region": "EU", "store": 7, "zip": "007"}],
    ),
    ("region=a%20b/n=1/p.parquet", {"id": ["a"], "n": [2]}, [{"id": "a", "n": 2, "region": "a b"}]),
]


@pytest.mark.parametrize(("name", "content", "bodies"), ROUND, ids=[name for name, *_ in ROUND])
def test_a_run_over_the_sample_gives_its_values(
    tmp_path: Path, new: Any, name: str, content: Any, bodies: list[dict[str, Any]]
) -> None:
    """Each row of the sample is an item whose body has every column and partition, with the values of the file."""
    path = tmp_path / name
    if isinstance(content, dict):
        parquet(path, **content)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code, said, dataset = new(path, "--subject", "column0" if name == "bare.csv" else "id")
    assert code == 0, said
    (tmp_path / "scratch").mkdir()
    rows = render(tmp_path / "scratch", dataset, (name, path.read_bytes()))
    assert [row["reason"] for row in rows] == [None] * len(bodies)
    assert [json.loads(row["body"]) for row in rows] == bodies


def test_the_example_of_the_readme(tmp_path: Path, new: Any) -> None:
    """Its two files, what it adds to the dataset, and the first item that it shows."""
    section = (Path(__file__).parents[3] / "README.md").read_text().partition("## From two files to a GET")[2]
    section = section.partition("\n## ")[0]
    files, commands, added, _, shown = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    scores, products = (
        "".join(f"{line}\n" for line in column) for column in zip(*map(str.split, files.splitlines()), strict=True)
    )
    assert commands.startswith("./larder new offers --from scores.csv\n")
    (tmp_path / "scores.csv").write_text(scores)
    code, said, dataset = new(tmp_path / "scores.csv", name="offers")
    assert code == 0, said
    path = tmp_path / "project/datasets/offers.py"
    metadata, member = re.findall(r"^    metadata=.*$|(?<=body=\{).*?,", added, re.MULTILINE)
    text = re.sub(r"    metadata=\{.*?\n    \},", metadata, path.read_text(), count=1, flags=re.DOTALL)
    path.write_text(text.replace("    body={\n", f"    body={{\n        {member}\n"))
    assert main(["check", "offers"]) == 1  # only the contract is stale
    dataset = load_datasets(path.parent)["offers"]
    table = pa.csv.read_csv(io.BytesIO(products.encode()))
    (tmp_path / "scratch").mkdir()
    with Engine(dataset, {"products": table}, directory=tmp_path / "scratch") as engine:
        chunks = list(read(dataset, ("scores.csv", scores.encode())))
        rows = [row for first, chunk in chunks for row in engine.render(chunk, first).to_pylist()]
    first = json.loads(re.search(r'"body": (\{.*?\})', shown)[1])  # type: ignore[index]
    assert [json.loads(row["body"])["title"] for row in rows] == ["Tea", "Jam"]
    assert json.loads(rows[0]["body"]) == first


def test_partitions_have_a_type_that_all_parts_share(tmp_path: Path, new: Any) -> None:
    """A column of the key can be the subject; its values in the other parts also determine its type."""
    for n, region in enumerate(["1", "2", "x"]):
        parquet(tmp_path / f"out/region={region}/n={n}/p.parquet", sku=["a", "b"], price=[0.5, 0.5])
    code, said, dataset = new(tmp_path / "out")
    assert code == 0, said
    assert dataset.source.columns == {"sku": "varchar", "price": "double", "region": "varchar", "n": "bigint"}
    assert (dataset.subject, dataset.prediction_id) == ({"region": "region"}, "sku")


@pytest.mark.parametrize("texts", [["a" * 200, "b" * 200], ["ä" * 30, "b"]], ids=["long", "long as bytes"])
def test_ids_that_no_path_can_have_are_hashed(tmp_path: Path, new: Any, texts: list[str]) -> None:
    parquet(tmp_path / "p.parquet", owner=["x", "x"], id=texts)
    assert new(tmp_path / "p.parquet")[2].prediction_id == "md5(id)"


class Counting(io.FileIO):
    """A file that counts the bytes that are read."""

    read_bytes = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        Counting.read_bytes += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size) or b""
        Counting.read_bytes += len(content)
        return content


def test_of_a_large_file_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a third of 8 MB is read in each format; a record that is cut off at the end is ignored."""
    lines = "line,\n" * 300
    text = "".join(f'"c{n}","{lines}"\n' for n in range(1000))
    rows = {"id": [f"c{n}" for n in range(20_000)], "blob": [os.urandom(400) for _ in range(20_000)]}
    pq.write_table(pa.table(rows), tmp_path / "big.parquet", row_group_size=1000)
    (tmp_path / "big.csv").write_text("id,v\n" + text * 4)
    (tmp_path / "big.jsonl").write_text('{"id": "a", "v": "' + "x" * 1000 + '"}\n')
    with (tmp_path / "big.jsonl").open("ab") as file:
        file.write((tmp_path / "big.jsonl").read_bytes() * 8_000)
    monkeypatch.setattr(Path, "open", lambda path, _mode: Counting(path))
    for path in sorted(tmp_path.glob("big.*")):
        Counting.read_bytes = 0
        found = samples.read_sample(str(path), lambda: None)
        assert found.rows.num_rows > 100
        assert Counting.read_bytes < path.stat().st_size / 3, path.name


@pytest.mark.parametrize(
    ("typed", "subject", "prediction_id"),
    [
        ("\n\n", "customer_id", "code"),
        ("code\norder\n", "code", 'cast("order" as varchar)'),
        ("nobody\ncode\ncustomer_id\n", "code", "customer_id"),
        ("\x04\x04", "customer_id", "code"),  # Ctrl-D
    ],
)
def test_questions_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Any, typed: str, subject: str, prediction_id: str
) -> None:
    """Enter takes the first candidate; an unknown column is asked for again; what an option gives is not asked."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        os.write(keyboard, typed.encode())
        code, said, dataset = new(tmp_path / "churn.csv", "--ttl-days", "1")
    os.close(keyboard)
    assert code == 0, said
    assert "subject (whom a prediction belongs to) [customer_id]; or " in said
    assert ("has no column 'nobody'; it has customer_id, score" in said) == ("nobody" in typed)
    assert (list(dataset.subject.values()), dataset.prediction_id) == ([subject], prediction_id)


def test_ctrl_c_at_a_question_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Any) -> None:
    class Interrupted(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    (tmp_path / "churn.csv").write_bytes(CSV)
    monkeypatch.setattr(sys, "stdin", Interrupted())
    code, said, dataset = new(tmp_path / "churn.csv")
    assert (code, said.endswith("nothing was written\n"), dataset) == (130, True, None)


def test_a_sample_on_s3(tmp_path: Path, new: Any) -> None:
    """The prefix is the key's folder above the date; a key is an object or a folder, otherwise it is reported."""
    with moto_aws() as client:
        s3 = client("s3")
        s3.create_bucket(Bucket="outputs")
        s3.put_object(Bucket="outputs", Key="ml/churn/day=2026-01-02/p.csv", Body=CSV)
        for n, key in enumerate(["ml/churn/day=2026-01-02/p.csv", "ml/churn/day=2026-01-02", "ml/"]):
            code, said, dataset = new(f"s3://outputs/{key}", "--prefix", f"p{n}/", name=f"n{n}")
            assert code == 0, said
            assert (dataset.as_of.pattern, "day=2026-01-02/p.csv" in said) == ("day={}", True)
        assert new("s3://outputs/ml/churn/day=2026-01-02/", name="whole")[2].source.prefix == "ml/churn/"
        assert "there is no file" in new("s3://outputs/other/", name="none")[1]
        assert "NoSuchBucket" in new("s3://nothing-here/x", name="none")[1]
        assert "s3://: " in new("s3://", name="none")[1]

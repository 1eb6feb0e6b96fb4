"""`./larder new`: a sample of any format becomes the file of a dataset that has no mistakes, or a message."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.__main__ import main
from enrich.datasets import load_datasets
from enrich.new.draft import guess_as_of
from tests.doubles.moto_aws import moto_aws

CSV = b"""customer_id,score,Label,order,scored_at,code
c1,0.5,yes,1,2026-01-02T03:00:00Z,007
c1,1,no,2,2026-01-02T03:00:00Z,010
"""
JSONL = (
    b'{"user": "u1", "sku": "a b", "tags": ["x"], "o": {"a": 1}}\n{"user": "u1", "sku": "b", "tags": [], "o": null}\n'
)


def parquet(path: Path, **columns: Any) -> None:
    """Write a Parquet file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in a project without datasets; return its exit code, what it said, and the dataset."""
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path / "project"))

    def run(location: Path | str, *words: str, name: str = "my-scores") -> tuple[int, str, Any]:
        code = main(["new", name, "--from", str(location), *words])
        folder = tmp_path / "project" / "datasets"
        return code, "".join(capsys.readouterr()), load_datasets(folder).get(name)

    return run


def test_csv(tmp_path: Path, new: Any) -> None:
    """Types lose nothing of the text; words of SQL are quoted; the dataset needs a scope of its own."""
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
    """A folder's first part with rows is read; its marker and its date are found; a text with blanks is encoded."""
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


WRONG: list[tuple[str, Any, str]] = [
    ("none.csv", None, "there is no such file or folder"),
    ("empty.csv", b"", "has no rows"),
    ("header.csv", b"a,b\n", "has no rows"),
    ("rows.parquet", {"a": pa.array([], "string")}, "has no rows"),
    ("array.json", b'[{"a": 1}]', "is a JSON array; write one object a line"),
    ("x.zip", b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaa", "is a zip file"),
    ("latin.csv", b"id,name\na,caf\xe9\n", "line 2 is not UTF-8"),
    ("noname.parquet", {"": ["a"], "b": ["c"]}, "column 1 has no name"),
    ("twice.parquet", {"A": ["a"], "a": ["c"]}, "columns 'A' and 'a' have one name in SQL"),
    ("numbers.csv", b"a,b\n0.5,0.1\n0.5,0.1\n", "no column can be the subject"),
    ("broken.jsonl", b'{"a": "x"}\n{"a": \n', "can't be read as JSON lines"),
    ("cut.gz", gzip.compress(CSV)[:40], "cut.gz: "),
    ("cut.parquet", b"PAR1" + b"\0" * 40, "cut.parquet: "),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG, ids=[name for name, *_ in WRONG])
def test_a_sample_that_cannot_be_used(tmp_path: Path, new: Any, name: str, content: Any, message: str) -> None:
    """A message names the file and what to do; no file is written."""
    if isinstance(content, dict):
        parquet(tmp_path / name, **content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    code, said, dataset = new(tmp_path / name)
    assert (code, dataset) == (1, None)
    assert f"{tmp_path}/{name}" in said
    assert message in said


@pytest.mark.parametrize("name", ["a b", "health", "../x", "", "ä", "x" * 65])
def test_a_name_that_cannot_be_served(tmp_path: Path, new: Any, name: str) -> None:
    """A name stands in paths."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    code, said, _ = new(tmp_path / "churn.csv", name=name)
    assert (code, f"the name is {name!r}" in said) == (1, True)


def test_a_dataset_that_is_there_is_kept(tmp_path: Path, new: Any) -> None:
    """The name, or a prefix, of another dataset is refused."""
    (tmp_path / "churn.csv").write_bytes(CSV)
    assert new(tmp_path / "churn.csv")[0] == 0
    assert "there is a dataset 'my-scores' already" in new(tmp_path / "churn.csv")[1]
    code, said, _ = new(tmp_path / "churn.csv", "--prefix", "my-scores/x/", name="other")
    assert (code, "nothing was written" in said, "has the outputs of other below it" in said) == (1, True, True)


@pytest.mark.parametrize(
    ("object_key", "rule"),
    [
        ("churn/scored=2026-01-02/p.csv", 'FromKey("scored={}")'),
        ("churn/dt=20260102/p.csv", 'FromKey("dt={}")'),
        ("churn/year=2026/month=1/day=02/p.csv", 'FromKey("year={year}/month={month}/day={day}")'),
        ("churn/2026/01/02/p.csv", 'FromKey("{year}/{month}/{day}")'),
        ("churn/2026-01-02/p.csv", 'FromKey("{}")'),
        ("churn/scores-2026-01-02.csv.gz", 'FromKey("*-{}.csv.gz")'),
        ("churn/p.csv", "LastModified()"),
    ],
)
def test_as_of_in_the_object_key(object_key: str, rule: str) -> None:
    """The date in the key says when an output was made; else the object's LastModified does."""
    assert guess_as_of(object_key) == rule


def test_a_sample_on_s3(tmp_path: Path, new: Any) -> None:
    """The prefix is the key's folder above the date; a key is found as itself or as a folder, and else is named."""
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

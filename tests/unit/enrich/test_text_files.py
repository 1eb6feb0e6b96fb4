"""JSON lines at any depth, empty parts, and files that are not what their dataset says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest

from enrich.dataset.definition import Source
from enrich.dataset.source_sql import LINE, PROBLEM
from enrich.intake import operations
from enrich.intake.worker import run_pending
from enrich.join.engine import Engine
from enrich.ledger.records import Counts
from enrich.read import text as text_module
from enrich.read.chunks import BadOutput
from enrich.read.text import BadText, read_lines
from tests.unit.enrich.small_shop import DATASET, SmallShop
from tests.unit.enrich.test_read import dataset_of, framed_snappy, hadoop_snappy, parquet, read, render, zstd

# column type -> (the member in the file, in the body; None rejects the row)
# JSON of an integer of 64 bits or more, and its text. From 2^53 on, a double can be another number than the file has.
WHOLE: list[tuple[str, str | None]] = [
    ("9007199254740993", "9007199254740993"),
    ("9007199254740991.0", "9007199254740991"),
    ("-9007199254740991.0", "-9007199254740991"),
    ("9007199254740993.0", None),
    ("9007199254740992.0", None),
    ("-9007199254740993.0", None),
    ("9.007199254740993E15", None),
    ("9999999999999999.0", None),
    ("1e16", None),
    ("1e3", "1000"),
    ('"1e3"', None),
    ('"9007199254740993.0"', "9007199254740993"),
    ('"+9007199254740993."', "9007199254740993"),
    ('"9007199254740993.5"', None),
    ("1234567890123456789", "1234567890123456789"),
]
VALUES: dict[str, list[tuple[str, str | None]]] = {
    "struct(t timestamp, z timestamptz)": [
        (
            '{"t":"2026-01-02T03:00:00+02:00","z":"2026-01-02T03:00:00-02:00"}',
            '{"t":"2026-01-02T01:00:00Z","z":"2026-01-02T05:00:00Z"}',
        ),
        ('{"z":"2026-01-02 03:00:00"}', '{"t":null,"z":"2026-01-02T03:00:00Z"}'),
        ('{"t":"2026-01-02T25:00:00Z"}', None),
        ("{}", '{"t":null,"z":null}'),
        ("null", "null"),
        ("[]", None),
        ("5", None),
        ('"{}"', None),
    ],
    "timestamp[]": [
        ('["2026-01-02T03:00:00+02:00",null]', '["2026-01-02T01:00:00Z",null]'),
        ("{}", None),
        ("[1]", None),
    ],
    "map(varchar, timestamp_ms)": [
        ('{"a":"2026-01-02T03:00:00+02:00","b":null}', '{"a":"2026-01-02T01:00:00Z","b":null}'),
        ("{}", "{}"),
        ("[]", None),
        ('{"a":"x"}', None),
    ],
    "timestamp_ns": [('"2026-01-02T03:00:00.123456789+02:00"', '"2026-01-02T01:00:00.123456789Z"'), ('"x"', None)],
    "timestamp_s[2]": [('["2026-01-02T03:00:00+02:00",null]', '["2026-01-02T01:00:00Z",null]'), ("[null]", None)],
    "struct(a struct(b integer, c varchar), d varchar[])[]": [
        (
            '[{"a":{"c":"x"}},{"d":[null,"y"]},null]',
            '[{"a":{"b":null,"c":"x"},"d":null},{"a":null,"d":[null,"y"]},null]',
        ),
        ('[{"a":{"b":3000000000}}]', None),
        ('[{"a":{"b":1.5}}]', None),
        ('[{"a":{"b":2.0}}]', '[{"a":{"b":2,"c":null},"d":null}]'),
        ('[{"a":{"c":{"x":1}}}]', '[{"a":{"b":null,"c":"{\\"x\\":1}"},"d":null}]'),
        ('[{"A":{"b":1}}]', None),
        ('[{"a":"x"}]', None),
        ('[{"d":"x"}]', None),
        ("[1]", None),
    ],
    "date[]": [('["2026-01-02"]', '["2026-01-02"]'), ('["2026-01-02T00:00:00+02:00"]', None)],
    "time": [('"06:15:00.5"', '"06:15:00.5"'), ('"06:15:00+02:00"', None)],
    "blob": [('"AAEC/w=="', '"AAEC/w=="'), ('""', '""'), ('"AAE"', None), ('"a b"', None), ("5", None)],
    "struct(b blob)[]": [('[{"b":"aGVsbG8="}]', '[{"b":"aGVsbG8="}]'), ('[{"b":"hello"}]', None)],
    "map(integer, blob)": [('{"1":"AAEC"}', '{"1":"AAEC"}'), ('{"x":"AAEC"}', None)],
    "decimal(20, 3)": [
        ('"12345678901234567.891"', "12345678901234567.891"),
        ("12345678901234567", "12345678901234567"),
        ("0.125", "0.125"),
        ("12345678901234567.891", None),
    ],
    **{
        kind.format(whole): [(nest.format(member), text and nest.format(text)) for member, text in WHOLE]
        for whole in ("bigint", "hugeint")
        for kind, nest in (
            ("{}", "{}"),
            ("{}[]", "[{}]"),
            ("struct(a {})", '{{"a":{}}}'),
            ("map(date, {})", '{{"2026-01-02":{}}}'),
        )
    },
    "uhugeint": [
        ("9007199254740992.0", None),
        ("9007199254740991.0", "9007199254740991"),
        (f"{2**128 - 1}", f"{2**128 - 1}"),
    ],
    "ubigint": [("9007199254740992.0", None), (f"{2**64 - 1}", f"{2**64 - 1}")],
    "integer": [("12.0", "12"), ("1e3", "1000"), ("9007199254740993.0", None)],
    "decimal(18, 2)[]": [("[1.5,null]", "[1.5,null]"), ("[1234567890123456.78]", None)],
    "boolean[]": [('[true,"no",1]', "[true,false,true]"), ("[2]", None)],
    "struct(j json)": [('{"j":{"a":[1,null]}}', '{"j":{"a":[1,null]}}'), ('{"j":"x"}', '{"j":"x"}')],
    "struct(\"order\" enum('a', 'b'))": [('{"order":"a"}', '{"order":"a"}'), ('{"order":"c"}', None)],
}


def test_json_lines_are_read_at_any_depth_as_at_the_top(tmp_path: Path) -> None:
    """A zone counts, an omitted member is null, base64 is decoded once, and a value of another type rejects its row."""
    columns = {f"c{n}": kind for n, kind in enumerate(VALUES)}
    cases = [(f"c{n}", member, text) for n, kind in enumerate(VALUES) for member, text in VALUES[kind]]
    lines = "\n".join(f'{{"{name}":{member}}}' for name, member, _ in cases)
    rows = render(tmp_path, dataset_of("jsonl", columns), ("a", lines.encode()))
    for (name, member, text), row in zip(cases, rows, strict=True):
        if text is None:
            assert row["reason"] == "bad-value", member
            assert name in row["detail"] or "in the contract" in row["detail"], member
        else:
            members = ",".join(f'"{each}":{text if each == name else "null"}' for each in columns)
            assert row["body"] == f"{{{members}}}", (member, row["detail"])


HINTS = [
    ('{"ID":"a"}', "member 'ID' is 'id' in the contract: case matters"),
    ('{"id":"a","V":{"w":{}}}', "member 'V' is 'v' in the contract: case matters"),
    ('{"id":"a","v":{"W":{}}}', "member 'v.W' is 'v.w' in the contract: case matters"),
    ('{"id":"a","v":{"w":{"xx":1}}}', "member 'v.w.xx' is 'v.w.Xx' in the contract: case matters"),
    ('{"id":"a"}{"id":"b"}', "the line is not JSON: it seems to have several objects; end each with a newline"),
    ("{'id':'a'}", "the line is not JSON"),
    ('{"id":"a","ID":"b","Other":1}', None),
    ('{"id":"a","v":{"w":{"Xx":1,"y":2}}}', None),
    ('{"id":"a","v":{"\u00c4":1}}', "member 'v.Ä' is 'v.ä' in the contract: case matters"),
    (r'{"id":"a","v":{"\u00c4":1}}', "member 'v.Ä' is 'v.ä' in the contract: case matters"),
]


def test_a_name_in_another_case_is_named(tmp_path: Path) -> None:
    """It would be read as null; the reject has the name in the contract."""
    dataset = dataset_of("jsonl", {"id": "varchar", "v": "struct(w struct(Xx integer), ä integer)"})
    rows = render(tmp_path, dataset, ("a", "\n".join(line for line, _ in HINTS).encode()))
    assert [row["detail"] for row in rows] == [hint for _, hint in HINTS]


BINARY = [b"\x00\xff\x80", b"hello", b"AAEC", b"", b'"\\x41', None]


@pytest.mark.parametrize("format_", ["parquet", "jsonl", "csv"])
def test_rejected_blobs_are_replayed_as_they_were(tmp_path: Path, format_: Any) -> None:
    """Rejects of Parquet have bytes as DuckDB casts them to text, since the first release; others have base64."""
    dataset = dataset_of(format_, {"b": "blob"})
    if format_ == "parquet":
        content = parquet(pa.table({"b": pa.array(BINARY, pa.binary())}))
    else:
        texts = ["null" if each is None else f'"{b64encode(each).decode()}"' for each in BINARY]
        lines = [f'{{"b":{text}}}' if format_ == "jsonl" else text.replace("null", "") + "," for text in texts]
        content = "\n".join(["b,x", *lines][format_ == "jsonl" :]).encode()
    with Engine(dataset, {}, directory=tmp_path) as engine:
        ((_, chunk),) = read(dataset, ("a", content))
        expected = [row["body"] for row in engine.render(chunk, 0).to_pylist()]
        kept = [f'{{"prediction":{text}}}' for text in engine.originals(chunk, list(range(chunk.num_rows)))]
    replay = replace(dataset, source=replace(dataset.source, format="rejects", rejects_of=format_))
    assert [row["body"] for row in render(tmp_path, replay, ("r", "\n".join(kept).encode()))] == expected
    assert expected[:3] == ['{"b":"AP+A"}', '{"b":"aGVsbG8="}', '{"b":"QUFFQw=="}']


EMPTY = {
    "a": b"",
    "a.gz": gzip.compress(b""),
    "b.gz": b"",
    "a.zst": zstd(b""),
    "b.zst": b"",
    "a.snappy": b"",
    "b.snappy": hadoop_snappy(b"") + bytes(4),
    "a.sz": framed_snappy(b""),
    "newlines": b"\n\r\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "both": b"\xef\xbb\xbf\n",
    "c.gz": gzip.compress(b"\n"),
}


@pytest.mark.parametrize("format_", ["csv", "jsonl", "rejects"])
def test_an_empty_part_has_no_rows(format_: Any) -> None:
    """Spark writes an empty partition as 0 bytes; the parts around it are read, and rows are numbered across it."""
    dataset = dataset_of("csv" if format_ == "csv" else "jsonl", {"id": "varchar"})
    dataset = replace(dataset, source=replace(dataset.source, format=format_))
    full = b"id\na\nb\n" if format_ == "csv" else b'{"id":"a"}\n{"id":"b"}\n'
    empty = list(EMPTY.items())
    found = [(row, chunk.num_rows) for row, chunk in read(dataset, *empty, ("1", full), *empty, ("2", full))]
    assert [each for each in found if each[1]] == [(0, 2), (2, 2)]
    assert list(read(dataset, *empty)) == []


def archive(kind: str) -> bytes:
    """Build an archive of a CSV file."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("a.csv", "id\n1\n")
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            info = tarfile.TarInfo("a.csv")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"id\n1\n"))
    return file.getvalue()


def written_by(write: Any) -> bytes:
    """Return what pyarrow writes for a table."""
    file = io.BytesIO()
    write(pa.table({"id": ["1"]}), file)
    return file.getvalue()


TEXT = b'{"id":"1"}\n'
OTHERS: dict[str, tuple[bytes, str]] = {
    "utf-16": ("id\n1\n".encode("utf-16"), "is UTF-16; write it as UTF-8"),
    "utf-16-be": ("id\n1\n".encode("utf-16-be"), "is UTF-16; write it as UTF-8"),
    "utf-16-le": ("id\n1\n".encode("utf-16-le"), "is UTF-16; write it as UTF-8"),
    "utf-32": ("id\n1\n".encode("utf-32"), "is UTF-32; write it as UTF-8"),
    "bz2": (bz2.compress(TEXT), "is compressed with bzip2; compress it with gzip or zstd"),
    "empty bz2": (bz2.compress(b""), "bzip2"),
    "xz": (lzma.compress(TEXT), "is compressed with xz; compress it with gzip or zstd"),
    "lzma": (lzma.compress(TEXT, lzma.FORMAT_ALONE), "is compressed with LZMA"),
    "lz4": (
        bytes(pa.Codec("lz4").compress(TEXT, asbytes=True)),
        "is compressed with lz4; compress it with gzip or zstd",
    ),
    "a.lz4": (b"\x00\x00\x00\x0b\x00\x00\x00\x0d\xb0" + TEXT, "its name ends with .lz4"),
    "a.deflate": (zlib.compress(TEXT, 1), "its name ends with .deflate"),
    "zlib": (zlib.compress(TEXT), "is compressed with deflate (zlib)"),
    "zip": (archive("zip"), "is a zip file (or Excel's); take the file out of it"),
    "tar": (archive("tar"), "is a tar file"),
    "tar.gz": (gzip.compress(archive("tar")), "is a tar file"),
    "gzip twice": (gzip.compress(gzip.compress(TEXT)), "is compressed with gzip twice; compress it once"),
    "parquet": (parquet(pa.table({"id": ["1"]})), 'is a Parquet file; set the dataset\'s format to "parquet"'),
    "parquet in gzip": (gzip.compress(parquet(pa.table({"id": ["1"]}))), "is a Parquet file"),
    "orc": (written_by(pyarrow.orc.write_table), "is an ORC file; write CSV"),
    "arrow": (written_by(pyarrow.feather.write_feather), "is an Arrow file"),
    "avro": (b"Obj\x01\x04\x14avro.codec", "is an Avro file"),
    "pickle": (pickle.dumps({"id": ["1"]}), "is a Python pickle"),
    "error page": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "is XML or HTML"),
}
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\x00\x00\x00frame\x5f\x2a\x4d\x18\x00\x00\x00\x00"


def test_a_zstd_file_can_begin_with_skippable_frames() -> None:
    """Before each frame pzstd writes one; after one, lz4 is still recognized as lz4."""
    dataset = dataset_of("jsonl", {"id": "varchar"})
    for content in (SKIPPABLE + zstd(TEXT * 2), zstd(TEXT) + SKIPPABLE + zstd(TEXT), zstd(TEXT * 2) + SKIPPABLE):
        assert sum(chunk.num_rows for _, chunk in read(dataset, ("a.zst", content))) == 2
    assert list(read(dataset, ("a.zst", SKIPPABLE))) == []
    with pytest.raises(BadOutput, match="is compressed with lz4"):
        list(read(dataset, ("a", SKIPPABLE + OTHERS["lz4"][0])))


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_format_is_named(name: str) -> None:
    """The error names the actual format and the remedy, whatever text format is expected; for Parquet the same."""
    content, message = OTHERS[name]
    for format_ in ("csv", "jsonl"):
        with pytest.raises(BadOutput, match=f"s3://bucket/things/{name}: it") as error:
            list(read(dataset_of(format_, {"id": "varchar"}), (name, content)))
        assert message in str(error.value)


def nest(depth: int) -> bytes:
    """Write a file with a column of lists of lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return parquet(pa.table({"id": ["1"], "deep": pa.array([value])}))


PARQUET = [
    (gzip.compress(TEXT, mtime=0), "is not a Parquet file: it is compressed with gzip; do not compress it"),
    (zstd(TEXT), "it is compressed with zstd; do not compress it: Parquet is compressed inside"),
    (archive("zip"), "is not a Parquet file: it is a zip file (or Excel's); take the file out of it"),
    (parquet(pa.table({"id": ["1"]}))[:-9], "is a damaged Parquet file"),
    (parquet(pa.table({"id": ["1"]}))[:-4] + b"PARE", "is an encrypted Parquet file; write it without encryption"),
    (nest(200), "has a column of a type that pyarrow can't read, or is damaged ("),
    (TEXT, "; check the dataset's format"),
    (b"", "is empty (0 bytes)"),
]


@pytest.mark.parametrize(("content", "message"), PARQUET)
def test_a_file_that_is_not_parquet_is_named(content: bytes, message: str) -> None:
    """So are the files that a Parquet dataset gets by mistake; an empty file is none of them."""
    with pytest.raises(BadOutput) as error:
        list(read(dataset_of("parquet", {"id": "varchar"}), ("a", content)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b'[{"id":"1"},{"id":"2"}]',
        b'[\n{"id":"1"},\n{"id":"2"}\n]\n',
        b'{\n  "id": "1"\n}\n',
        b'\n[{"id":"1"},\r\n{"id":"2"}]',
        b'  [ {"id": "1"} ]',
        b"[]\n",
    ],
)
def test_json_over_several_lines_fails_the_output(content: bytes) -> None:
    """Otherwise each of its lines would be a reject."""
    with pytest.raises(BadOutput, match="write one object per line"):
        list(read(dataset_of("jsonl", {"id": "varchar"}), ("a", content)))


# format, declared type of v, content; the bodies of the rows that are read, the details of the others
LINES: list[tuple[Any, str, bytes, list[str], list[str]]] = [
    (
        "csv",
        "varchar",
        b"id,v\na,1\nid,v\nid,w\n\xef\xbb\xbfid,v\n\xef\xbb\xbfb,2\nc,\n",
        ['{"id":"a","v":"1"}', '{"id":"id","v":"w"}', '{"id":"c","v":null}'],
        ["names of the columns", "byte order mark", "byte order mark"],
    ),
    (
        "jsonl",
        "bigint",
        b'{"id":"a","v":1,"v":2}\n{"id":"b","v":1,"x":1,"x":2}\n{"id":"c","id":"d"}\nx\n[1,1]\n{"v":1,"id":"e","i\\u0064":""}\n',
        ['{"id":"b","v":1}'],
        [
            "member of the contract twice",
            "twice (one of 'id', 'v'); write it once",
            "not JSON",
            "not a JSON object",
            "twice",
        ],
    ),
    (
        "jsonl",
        "struct(n integer)[]",
        b'{"id":"a","v":[{"n":1,"n":2}]}\n{"id":"b","v":[{"n":1,"x":2,"x":3}]}\n',
        ['{"id":"b","v":[{"n":1}]}'],
        ["column 'v' is not STRUCT(n INTEGER)[]"],
    ),
]


@pytest.mark.parametrize(("format_", "kind", "content", "bodies", "details"), LINES)
def test_ambiguous_lines_are_rejected(
    tmp_path: Path, format_: Any, kind: str, content: bytes, bodies: list[str], details: list[str]
) -> None:
    """The header of a second file, and duplicate members: which of them is right is unknown."""
    rows = render(tmp_path, dataset_of(format_, {"id": "varchar", "v": kind}), ("a", content))
    assert [row["body"] for row in rows if row["body"]] == bodies
    found = [row["detail"] for row in rows if not row["body"]]
    assert len(found) == len(details)
    assert all(said in detail for said, detail in zip(details, found, strict=True)), found


@pytest.mark.parametrize("line", ['"a"b,1', "a,1,2"], ids=["text after a quote", "too many fields"])
def test_a_malformed_line_keeps_its_place(tmp_path: Path, line: str) -> None:
    """A reject names the row of the file, wherever it is among good rows."""
    lines = [f"{n},{n}" for n in range(10)]
    lines[4] = lines[9] = line
    dataset = dataset_of("csv", {"id": "varchar", "v": "varchar"})
    rows = render(tmp_path, dataset, ("a", "\n".join(["id,v", *lines, ""]).encode()))
    assert [n for n, row in enumerate(rows) if not row["body"]] == [4, 9]


@pytest.mark.parametrize("name", ["a\nb", "a\tb", 'a"b', "a\\b", "a'b", "\U0001f600", "$", "a.b"])
def test_members_of_any_name_are_read(tmp_path: Path, name: str) -> None:
    """At the top and in a struct, with JSON's escapes."""
    quoted = '"' + name.replace('"', '""') + '"'
    dataset = dataset_of("jsonl", {name: "bigint", "t": f"struct({quoted} bigint)"})
    line = json.dumps({name: 1, "t": {name: 2}}).encode()
    (row,) = render(tmp_path, replace(dataset, body={"n": quoted, "t": "t"}), ("a", line))
    assert json.loads(row["body"]) == {"n": 1, "t": {name: 2}}


LOOKALIKES = [
    b"PK,id\n1,2\n",
    b"BZh9,id\n1,2\n",
    b"PAR1,id\n1,2\n",
    b"ORC,id\n1,2\n",
    "xڪ,id\n1,2\n".encode(),
    b"Rar!,id\n1,2\n",
]


@pytest.mark.parametrize("content", LOOKALIKES)
def test_text_that_begins_like_another_format_is_text(content: bytes) -> None:
    """Magic bytes that a text can begin with are not enough."""
    assert sum(chunk.num_rows for _, chunk in read(dataset_of("csv", {"id": "varchar"}), ("a", content))) == 1


def test_an_output_of_spark_is_published(tmp_path: Path) -> None:
    """Empty parts have no rows, escaped quotes are quotes, and a malformed record is one reject."""
    shop = SmallShop(tmp_path)
    columns = {"shop": "varchar", "sku": "varchar", "title": "varchar"}
    source = Source(prefix="stock/", format="csv", columns=columns, marker="_SUCCESS", header=False, escape="\\")
    shop.dataset = replace(DATASET, source=source, metadata={}, body={"title": "title"})
    folder = shop.key().rpartition("/")[0]
    parts = {"0": b"", "1": b'x,a,"19\\" \\\\, black"\nx,b,\n', "2": b"", "3": b'x,c,"a "b"\ny,a,""\n', "_SUCCESS": b""}
    for name, content in parts.items():
        shop.put(f"{folder}/{name}", content)
    run = shop.go(f"{folder}/_SUCCESS")
    assert (run.state, run.error, run.counts) == ("done", None, Counts(written=3, rejected=1))
    assert {f"{pk}/{sk}": item.body for (pk, sk), item in shop.table.items.items()} == {
        "stock#x/a": '{"title":"19\\" \\\\, black"}',
        "stock#x/b": '{"title":null}',
        "stock#y/a": '{"title":""}',
    }


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_rejects_are_replayed_in_the_format_of_their_output(tmp_path: Path, format_: Any) -> None:
    """A consumer gets the bytes of the output, also after a replay of the rejects."""
    shop = SmallShop(tmp_path)
    source = replace(DATASET.source, format=format_, columns={**DATASET.source.columns, "b": "blob"})
    shop.dataset = replace(DATASET, source=source, body={"b": "b"})
    rows: dict[str, list[Any]] = {
        "shop": ["x", "x"],
        "sku": ["a", "new"],
        "units": [1.0, 2.0],
        "b": [b"hello", b"abcd"],
    }
    lines = [
        f'{{"shop":"x","sku":"{sku}","units":1.0,"b":"{b64encode(value).decode()}"}}'
        for sku, value in zip(rows["sku"], rows["b"], strict=True)
    ]
    first = shop.run(rows if format_ == "parquet" else "\n".join(lines).encode())
    assert first.counts == Counts(written=1, rejected=1)
    shop.dataset = replace(shop.dataset, metadata={})
    operations.replay_rejects(shop.services(), f"rejects/stock/{first.run:08d}/")
    assert [run.counts for run in run_pending(shop.services(), "stock")] == [Counts(written=1)]
    bodies = sorted(str(item.body) for item in shop.table.items.values())
    assert bodies == ['{"b":"YWJjZA=="}', '{"b":"aGVsbG8="}']


def test_a_line_of_json_is_bounded() -> None:
    """A file without newlines is refused before it fills the memory; a long line within the bound is read."""
    long = b'{"id":"' + b"x" * (1 << 24) + b'"}'
    assert [batch.num_rows for batch in read_lines("part", io.BytesIO(long))] == [1]
    with pytest.raises(BadText, match="a line is longer than 64 MB; write one object per line"):
        list(read_lines("part", io.BytesIO(long + bytes(50 << 20))))


def test_a_line_has_its_greatest_length_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes as the bound, without the newline; blocks end within it."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 4)
    monkeypatch.setattr(text_module, "_MAX_LINE", 8)
    assert [batch.num_rows for batch in read_lines("part", io.BytesIO(b'{"a":10}\n'))] == [1]
    with pytest.raises(BadText, match="a line is longer than 64 MB"):
        list(read_lines("part", io.BytesIO(b'{"a":10, "b":1}\n')))


@pytest.mark.parametrize("block", [1, 9, 1 << 20])
def test_only_the_first_line_is_checked_for_the_whole_file(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """A later line that is an array is one bad line, also if a block begins with it."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block)
    lines = [line for batch in read_lines("part", io.BytesIO(b'\n{"a":1}\n[{\n{\n[\n')) for line in batch.to_pylist()]
    assert [line[LINE] for line in lines] == ['{"a":1}', "[{", "{", "["]


def test_a_line_that_is_not_utf_8_is_a_bad_line() -> None:
    """Whatever its bytes; the others are read, and its text has a replacement."""
    (batch,) = read_lines("part", io.BytesIO(b'"\x80"\n"\xff"\n"\xc3\xa9"\n'))
    assert batch.to_pydict() == {
        LINE: ['"\ufffd"', '"\ufffd"', '"\u00e9"'],
        PROBLEM: ["the line is not UTF-8; write the file as UTF-8"] * 2 + [None],
    }

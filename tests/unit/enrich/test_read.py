"""Reading outputs: formats, compression, contract, row numbers, and bad lines, values and files."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.dataset.definition import Dataset, LastModified, Source
from enrich.join.engine import Engine
from enrich.read import row_groups
from enrich.read import text as text_module
from enrich.read.chunks import BadOutput, read_chunks
from enrich.read.partitions import parse_partitions
from enrich.read.s3_object import Part
from serve.datasets import Served

COLUMNS = {"id": "varchar", "n": "bigint", "x": "double", "at": "timestamptz", "day": "date", "ok": "boolean"}
ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "n": 9007199254740993,
        "x": 0.1,
        "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "ok": True,
    },
    {"id": "b", "n": None, "x": None, "at": None, "day": None, "ok": None},
    {
        "id": 'c"\n,é😀\u2028',
        "n": -1,
        "x": -0.0,
        "at": datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        "day": date(1, 1, 1),
        "ok": False,
    },
]
BODIES = [
    '{"id":"a","n":9007199254740993,"x":0.1,"at":"2026-01-02T03:00:00Z","day":"2026-01-02","ok":true}',
    '{"id":"b","n":null,"x":null,"at":null,"day":null,"ok":null}',
    '{"id":"c\\"\\n,é😀\u2028","n":-1,"x":-0.0,"at":"2026-01-02T03:04:05.000006Z","day":"0001-01-01","ok":false}',
]
CSV = (
    "id,n,x,at,day,ok\na,9007199254740993,0.1,2026-01-02 03:00:00Z,2026-01-02,true\nb,,,,,\n"
    '"c""\n,é😀\u2028",-1,-0.0,2026-01-02T03:04:05.000006,0001-01-01,f\n'
)
JSONL = (
    '{"id":"a","n":9007199254740993,"x":0.1,"at":"2026-01-02T04:00:00+01:00","day":"2026-01-02","ok":true}\n'
    '\n{"id":"b","n":null}\r\n'
    '{"ok":false,"day":"0001-01-01","id":"c\\"\\n,\\u00e9\\ud83d\\ude00\\u2028","n":-1,"x":-0.0,'
    '"at":"2026-01-02 03:04:05.000006"}'
)


def dataset_of(format_: Any, columns: dict[str, str] | None = None, **source: Any) -> Dataset:
    """Build a dataset whose body is its columns."""
    columns = columns or COLUMNS
    return Dataset(
        served=Served("things", ("id",), "things:read"),
        source=Source(prefix="things/", format=format_, columns=columns, **source),
        as_of=LastModified(),
        ttl=timedelta(days=1),
        subject={"id": "'s'"},
        prediction_id="'p'",
        body={name: f'"{name}"' for name in columns},
    )


def read(
    dataset: Dataset, *files: tuple[str, bytes], start_row: int = 0, chunk_rows: int = 50_000
) -> Iterator[tuple[int, Any]]:
    """Read files with these names."""
    contents = {f"things/{name}": content for name, content in files}
    parts = [Part("bucket", name, None, "etag", len(content)) for name, content in contents.items()]
    return read_chunks(
        parts,
        dataset.source,
        open_part=lambda p: io.BytesIO(contents[p.object_key]),
        start_row=start_row,
        chunk_rows=chunk_rows,
    )


def render(tmp_path: Path, dataset: Dataset, *files: tuple[str, bytes]) -> list[dict[str, Any]]:
    """Read and render files."""
    with Engine(dataset, {}, directory=tmp_path) as engine:
        return [row for first, chunk in read(dataset, *files) for row in engine.render(chunk, first).to_pylist()]


def parquet(table: pa.Table, **options: Any) -> bytes:
    """Write a table as Parquet."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def hadoop_snappy(content: bytes) -> bytes:
    """Compress as Hadoop's codec does: blocks of pieces, each with its lengths."""
    out = b""
    for start in range(0, len(content), 100):
        block = content[start : start + 100]
        out += len(block).to_bytes(4, "big")
        for piece in (block[:60], block[60:]):
            if piece:
                packed = pa.Codec("snappy").compress(piece, asbytes=True)
                out += len(packed).to_bytes(4, "big") + packed
    return out


def framed_snappy(content: bytes) -> bytes:
    """Compress in Google's framing format, with an uncompressed chunk and padding among the chunks."""
    out = b"\xff\x06\x00\x00sNaPpY\xfe\x02\x00\x00\x00\x00"
    for n, start in enumerate(range(0, len(content), 100)):
        block = content[start : start + 100]
        kind, packed = (b"\x01", block) if n == 1 else (b"\x00", pa.Codec("snappy").compress(block, asbytes=True))
        out += kind + (len(packed) + 4).to_bytes(3, "little") + b"crc_" + packed
    return out


def zstd(content: bytes) -> bytes:
    """Compress as two frames."""
    half = len(content) // 2
    return bytes(b"".join(pa.Codec("zstd").compress(each, asbytes=True) for each in (content[:half], content[half:])))


TABLE = pa.table({name: [row[name] for row in ROWS] for name in COLUMNS})
FILES = [
    ("parquet", "a.parquet", parquet(TABLE)),
    ("parquet", "a.snappy.parquet", parquet(TABLE, compression="snappy", row_group_size=1)),
    ("parquet", "no-suffix", parquet(TABLE, compression="zstd", use_dictionary=False)),
    ("csv", "a.csv", CSV.encode()),
    ("csv", "a.csv", b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").replace('""\r\n', '""\n').encode()),
    ("csv", "a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
    ("jsonl", "a.jsonl", JSONL.encode()),
    ("jsonl", "a.jsonl", b"\xef\xbb\xbf" + JSONL.encode()),
    ("jsonl", "a.jsonl.gz", gzip.compress(JSONL.encode()[:99], mtime=0) + gzip.compress(JSONL.encode()[99:], mtime=0)),
    ("jsonl", "gzip-without-a-suffix", gzip.compress(JSONL.encode(), mtime=0)),
    ("jsonl", "a.jsonl.zst", zstd(JSONL.encode())),
    ("jsonl", "a.json.snappy", hadoop_snappy(JSONL.encode())),
    ("jsonl", "a.json.sz", framed_snappy(JSONL.encode())),
]


@pytest.mark.parametrize(("format_", "name", "content"), FILES, ids=[f"{n}-{f[1]}" for n, f in enumerate(FILES)])
def test_every_format_gives_the_same_bodies(tmp_path: Path, format_: str, name: str, content: bytes) -> None:
    """Format and compression do not change what a consumer gets."""
    rows = render(tmp_path, dataset_of(format_), (name, content))
    assert [row["detail"] for row in rows] == [None] * 3
    assert [row["body"] for row in rows] == BODIES


@pytest.mark.parametrize(("format_", "name", "content"), FILES, ids=[f"{n}-{f[1]}" for n, f in enumerate(FILES)])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_can_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, name: str, content: bytes, block: int
) -> None:
    """Where a block of bytes ends, e.g. within a character or a field, makes no difference."""
    if format_ == "csv":
        block += 64  # a row must fit in a block of pyarrow's reader
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block)
    rows = render(tmp_path, dataset_of(format_), (name, content))
    assert [row["body"] for row in rows] == BODIES
    assert [row["row"] for row in rows] == [0, 1, 2]


def numbered(rows: int) -> pa.Table:
    """Build rows that contain their number."""
    return pa.table({"id": [str(n) for n in range(rows)]})


def many(format_: str, rows: int, first: int = 0) -> bytes:
    """Write rows that contain their number."""
    if format_ == "parquet":
        return parquet(numbered(first + rows).slice(first), row_group_size=70)
    if format_ == "csv":
        return ("id\n" + "".join(f"{n}\n" for n in range(first, first + rows))).encode()
    return "".join(f'{{"id":"{n}"}}\n' for n in range(first, first + rows)).encode()


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("start", [0, 1, 69, 70, 99, 100, 250, 299, 300, 301, 420, 499, 500, 9999])
def test_reading_continues_from_any_row_with_the_same_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, start: int
) -> None:
    """Rows are numbered over all parts, and a chunk ends at the same row wherever reading began."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 1000)
    files = [("0", many(format_, 300)), ("1", many(format_, 0)), ("2", many(format_, 200, 300))]
    files = files if format_ != "jsonl" else [files[0], ("1", b"\n"), files[2]]
    dataset = dataset_of(format_, {"id": "varchar"})
    whole = {first + chunk.num_rows for first, chunk in read(dataset, *files, chunk_rows=100)}
    with Engine(dataset, {}, directory=tmp_path) as engine:
        got = [
            (row["row"], json.loads(row["body"])["id"], first + chunk.num_rows)
            for first, chunk in read(dataset, *files, start_row=start, chunk_rows=100)
            for row in engine.render(chunk, first).to_pylist()
        ]
    assert [(row, name) for row, name, _ in got] == [(n, str(n)) for n in range(start, 500)]
    assert {end for _, _, end in got} <= whole


class Counting(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    fetched = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read."""
        found = super().read(size)
        self.fetched += len(found)
        return found

    def readinto(self, target: Any) -> int:
        """Read into a buffer."""
        count = super().readinto(target)
        self.fetched += count
        return count


def test_row_groups_before_the_start_are_not_read() -> None:
    """A restart near the end of a large file reads only its footer and the last row groups."""
    content = parquet(
        pa.table({"id": [f"{n:09d}" * 20 for n in range(20_000)]}), row_group_size=1_000, compression="none"
    )
    file = Counting(content)
    source = dataset_of("parquet", {"id": "varchar"}).source
    part = Part("b", "things/a", None, "e", len(content))
    rows = [row for row, _ in read_chunks([part], source, open_part=lambda _: file, start_row=19_500)]
    assert rows == [19_500]
    assert file.fetched < len(content) / 5


@pytest.mark.parametrize("width", [20, 3_000])  # of the other column: small, and so wide that rows are measured first
def test_columns_that_the_contract_does_not_name_are_not_fetched(width: int) -> None:
    """Damaged pages of another column do not matter, and its bytes are not read."""
    others = [f"{n:09d}".rjust(width, "x") for n in range(20_000)]
    content = parquet(pa.table({"id": ["a"] * 20_000, "other": others}), compression="none", use_dictionary=["id"])
    source = dataset_of("parquet", {"id": "varchar"}).source
    broken = content.replace(b"x" * (width - 9), b"\xff" * (width - 9))
    for each in (content, broken):
        file = Counting(each)
        part = Part("b", "things/a", None, "e", len(each))
        chunks = read_chunks([part], source, open_part={part: file}.__getitem__)
        assert sum(chunk.num_rows for _, chunk in chunks) == 20_000
        assert file.fetched < len(content) / 2


def test_wide_rows_make_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of wide rows has fewer of them, so that memory does not grow with their size."""
    monkeypatch.setattr(row_groups, "CHUNK_BYTES", 1_000_000)
    content = parquet(pa.table({"id": [chr(65 + n % 26) * 100_000 + str(n) for n in range(40)]}), use_dictionary=False)
    chunks = [chunk for _, chunk in read(dataset_of("parquet", {"id": "varchar"}), ("a", content))]
    assert max(chunk.num_rows for chunk in chunks) <= 10
    assert sum(chunk.num_rows for chunk in chunks) == 40


@pytest.mark.parametrize("start", [0, 777, 25_000])
def test_long_texts_that_are_stored_once_make_smaller_chunks(start: int) -> None:
    """A small file can have tens of thousands of rows of 100 KB; only a chunk of them is in memory at a time."""
    texts = [letter * 100_000 for letter in "abc"]
    rows, wide = 30_000, range(500, 1_500)
    values = [texts[n % 3] if n in wide else "short" for n in range(rows)]
    content = parquet(pa.table({"id": pa.array(values), "n": range(rows)}), row_group_size=700)
    dataset = dataset_of("parquet", {"id": "varchar", "n": "bigint"})
    whole = {first + chunk.num_rows for first, chunk in read(dataset, ("a", content))}
    before = pa.total_allocated_bytes()
    next_row = start
    for first, chunk in read(dataset, ("a", content), start_row=start):
        assert first == next_row
        next_row += chunk.num_rows
        assert next_row in whole
        found = chunk.column("id").to_pylist()
        assert sum(map(len, found)) <= 8 * 1024 * 1024
        assert (found[0], chunk.column("n")[0].as_py()) == (values[first], first)
        assert pa.total_allocated_bytes() - before < 64 * 1024 * 1024
    assert next_row == rows
    assert len(whole) > 10


LONG = "x" * 4_000
ENTRY = [("k", LONG)]
LISTS = pa.list_(pa.int64())
# how rows that take much memory are stored in few bytes: values of 1,000 rows, the declared type, options of the writer
SMALL_FILES: dict[str, tuple[pa.Array, str, dict[str, Any]]] = {
    "a text in lists": (pa.array([[LONG, "a"]] * 1000), "varchar[]", {}),
    "in structs": (pa.array([{"t": LONG, "n": 1}] * 1000), "struct(t varchar)", {}),
    "in maps": (pa.array([ENTRY] * 1000, pa.map_(pa.string(), pa.string())), "map(varchar, varchar)", {}),
    "deep": (pa.array([[{"t": [[LONG]]}]] * 1000), "struct(t varchar[][])[]", {}),
    "after nulls": (pa.array([None, []] * 100 + [[LONG]] * 800), "varchar[]", {}),
    "bytes": (pa.array([[LONG.encode()]] * 1000), "blob[]", {}),
    "as JSON": (pa.ExtensionArray.from_storage(pa.json_(), pa.array([f'"{LONG}"'] * 1000)), "json", {}),
    "dictionary of the frame": (pa.array([LONG] * 1000).dictionary_encode(), "varchar", {}),
    "beside plain texts": (
        pa.array([LONG] * 800 + [f"{n:04000d}" for n in range(200)]),
        "varchar",
        {"dictionary_pagesize_limit": 8_000},
    ),
    "numbers in lists": (pa.array([[7] * 600] * 1000, LISTS), "bigint[]", {}),
    "wide among narrow": (pa.array([[1]] * 900 + [[7] * 6_000] * 100, LISTS), "bigint[]", {}),
    "texts among narrow": (pa.array(["a"] * 400 + [LONG] * 600), "varchar", {"use_dictionary": False}),
}


@pytest.mark.parametrize("name", SMALL_FILES)
def test_small_files_of_wide_rows_are_read_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """However values are nested and stored, a chunk's size is bounded, and its rows are those of the file."""
    for limit in ("CHUNK_BYTES", "MAX_UNMEASURED", "MAX_ROW"):
        monkeypatch.setattr(row_groups, limit, getattr(row_groups, limit) // 16)
    values, kind, options = SMALL_FILES[name]
    table = pa.table({"id": [str(n) for n in range(1000)], "v": values})
    content = parquet(table, compression="zstd", **options)
    dataset = dataset_of("parquet", {"id": "varchar", "v": kind})
    before, seen = pa.total_allocated_bytes(), 0
    for _, chunk in read(dataset, ("a", content)):
        assert chunk.nbytes <= row_groups.MAX_UNMEASURED
        assert pa.total_allocated_bytes() - before < 16 * 1024 * 1024
        assert chunk.column("id").to_pylist() == [str(seen + n) for n in range(chunk.num_rows)]
        seen += chunk.num_rows
    assert seen == 1000


def test_a_row_that_takes_too_much_memory_fails_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, the row, its size and the remedy; nothing of it is decoded."""
    for limit in ("CHUNK_BYTES", "MAX_UNMEASURED", "MAX_ROW"):
        monkeypatch.setattr(row_groups, limit, 1 << 20)
    wide = pa.array([["a"], [LONG] * 1000])
    content = parquet(pa.table({"id": ["a", "b"], "v": wide}))
    dataset = dataset_of("parquet", {"id": "varchar", "v": "varchar[]"})
    with pytest.raises(BadOutput, match=r"things/a: row 1 of row group 0 takes 3 MB, expected at most 1 MB; write"):
        list(read(dataset, ("a", content)))


BAD_VALUES = [
    ("csv", "integer", b"id,v\na,1\nb,%s\nc,3\n", ["x", "1.5", "1e3", "2147483648", "0x10", "1_000"]),
    ("csv", "double", b"id,v\na,1\nb,%s\nc,3\n", ["x", "1,5".replace(",", ";")]),
    ("csv", "date", b"id,v\na,2026-01-02\nb,%s\nc,2026-01-02\n", ["2026-13-01", "2026-01-02 03:00:00", "02.01.2026"]),
    ("csv", "timestamptz", b"id,v\na,2026-01-02\nb,%s\nc,2026-01-02\n", ["yesterday", "2026-01-02 25:00:00"]),
    ("csv", "boolean", b"id,v\na,yes\nb,%s\nc,0\n", ["maybe", "2"]),
    ("csv", "decimal(4,2)", b"id,v\na,1\nb,%s\nc,3\n", ["100", "x"]),
    ("csv", "uuid", b"id,v\na,\nb,%s\nc,\n", ["x"]),
    (
        "jsonl",
        "integer",
        b'{"id":"a","v":1}\n{"id":"b","v":%s}\n{"id":"c","v":3}\n',
        ['"x"', "1.5", "[1]", "{}", "true", "1e30"],
    ),
    (
        "jsonl",
        "integer[]",
        b'{"id":"a","v":[1]}\n{"id":"b","v":%s}\n{"id":"c","v":[]}\n',
        ['"x"', '["x"]', "5"],
    ),
    (
        "jsonl",
        "struct(a integer)",
        b'{"id":"a","v":{"a":1}}\n{"id":"b","v":%s}\n{"id":"c","v":null}\n',
        ['{"a":"x"}', "[1]"],
    ),
]


@pytest.mark.parametrize(
    ("format_", "kind", "template", "value"),
    [(format_, kind, template, value) for format_, kind, template, values in BAD_VALUES for value in values],
)
def test_a_value_that_is_not_of_its_type_rejects_its_row_only(
    tmp_path: Path, format_: str, kind: str, template: bytes, value: str
) -> None:
    """The reject names the column; the rows around it become items."""
    content = template.replace(b"%s", value.encode())
    rows = render(tmp_path, dataset_of(format_, {"id": "varchar", "v": kind}), ("a", content))
    assert [row["reason"] for row in rows] == [None, "bad-value", None]
    assert "'v'" in rows[1]["detail"]


def test_malformed_lines_are_rejects_in_their_places(tmp_path: Path) -> None:
    """A line with too few or too many fields, or that is not a JSON object, keeps its number and its text."""
    content = b"id,n\na,1\nb\n\nc,3\nd,4,5\ne,x\nf,6\ng\n"
    dataset = dataset_of("csv", {"id": "varchar", "n": "bigint"})
    rows = render(tmp_path, dataset, ("a", content))
    assert [(row["row"], row["reason"] is None) for row in rows] == list(
        enumerate([True, False, True, False, False, True, False])
    )
    lines = b'{"id":"a"}\nnope\n[1]\n"x"\n{"id":"b"\n  {"id":"c"} \n{"id":"\xff"}\nnull\n'
    dataset = dataset_of("jsonl", {"id": "varchar"})
    rows = render(tmp_path, dataset, ("a", lines))
    assert [row["reason"] for row in rows] == [None, *["bad-value"] * 4, None, "bad-value", "bad-value"]
    assert [row["detail"] for row in rows][1:3] == ["the line is not JSON", "the line is not a JSON object"]
    assert rows[6]["detail"] == "the line is not UTF-8; write the file as UTF-8"


def test_malformed_lines_keep_their_places_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lines are bad, and wherever blocks end, every line has its number."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 300)
    lines = [f"{n},{n}" if n % 7 and n % 11 != 3 and not 200 < n < 290 else f"{n}" for n in range(700)]
    dataset = dataset_of("csv", {"id": "varchar", "n": "bigint"})
    rows = render(tmp_path, dataset, ("a", ("id,n\n" + "\n".join(lines) + "\n").encode()))
    assert [row["row"] for row in rows] == list(range(700))
    assert [row["reason"] is None for row in rows] == ["," in line for line in lines]
    assert all(json.loads(row["body"])["n"] == row["row"] for row in rows if row["body"])


@pytest.mark.parametrize("block", [17, 64, 1 << 20])
def test_text_that_is_not_utf_8_rejects_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """A bad byte in a CSV rejects its row, even if it also has too many fields; the others are read."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block)
    lines = [
        "é😀,1".encode(),
        b"\xff\xfe,2",
        b"",
        b"b\xff,2,3",
        "\ufdd0\ufffd,3".encode()[3:],
        b"c,\xe2\x82",
        b"\xff",
        b"d,4",
    ]
    dataset = dataset_of("csv", {"id": "varchar", "n": "varchar"})
    rows = render(tmp_path, dataset, ("a", b"id,n\n" + b"\n".join(lines)))
    good = [json.loads(row["body"]) if row["body"] else row["reason"] for row in rows]
    bad = "bad-value"
    assert good == [{"id": "é😀", "n": "1"}, bad, bad, {"id": "\ufffd", "n": "3"}, bad, bad, {"id": "d", "n": "4"}]
    assert {row["detail"] for row in rows if row["reason"]} == {
        "the line is not UTF-8; write the file as UTF-8",
        "the line has 3 fields, expected 2",
        "the line has 1 fields, expected 2",
    }


def test_bytes_that_are_not_utf_8_in_an_ignored_column_are_ignored(tmp_path: Path) -> None:
    """The column is not read; and in a file without such bytes, U+FFFD is a character like any other."""
    dataset = dataset_of("csv", {"id": "varchar"})
    assert [row["reason"] for row in render(tmp_path, dataset, ("a", b"id,x\na,\xff\nb,2\n"))] == [None, None]
    (row,) = render(tmp_path, dataset, ("a", "id\n\ufdd0\n".encode()))
    assert json.loads(row["body"]) == {"id": "\ufdd0"}


def test_a_header_that_is_not_utf_8_is_shown_with_the_replacement_character(tmp_path: Path) -> None:
    """An error lists the columns that the file has."""
    with pytest.raises(BadOutput, match="n\ufffdm"):
        render(tmp_path, dataset_of("csv", {"id": "varchar", "n": "varchar"}), ("a", b"id,n\xffm\na,1\n"))


@pytest.mark.parametrize(
    ("format_", "name", "content", "message"),
    [
        ("parquet", "a.parquet", b"", "is empty"),
        ("parquet", "a.parquet", b"id,n\n1,2\n", "is not a Parquet file"),
        ("parquet", "a.parquet", parquet(TABLE)[:-9], "is a damaged Parquet file"),
        ("parquet", "a.parquet", parquet(TABLE.drop_columns(["n"])), "column 'n' is missing"),
        ("parquet", "a.parquet", parquet(TABLE.rename_columns(["ID", *list(COLUMNS)[1:]])), "'id' is missing"),
        ("parquet", "a.parquet", parquet(TABLE.set_column(1, "n", pa.array(["x", "y", "z"]))), "column 'n' is VARCHAR"),
        ("parquet", "a.parquet", parquet(TABLE.append_column("n", TABLE["n"])), "column 'n' occurs 2 times"),
        ("csv", "a.csv", b"id,n\na,1\n", "column 'x' is missing"),
        ("csv", "a.csv", CSV.encode() + b'"open,1,2,3,4,5\nb,1,2,,,\n', "quote"),
        ("csv", "a.csv.gz", CSV.encode(), "it is not compressed"),
        ("jsonl", "a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)[:-20], "a.jsonl.gz"),
        ("jsonl", "a.jsonl.zst", zstd(JSONL.encode())[:-20], "a.jsonl.zst"),
        ("jsonl", "a.snappy", hadoop_snappy(JSONL.encode())[:-5], "ends in the middle of a block; write it again"),
        ("jsonl", "a.snappy", bytes(pa.Codec("snappy").compress(JSONL.encode() * 9, asbytes=True)), "bare snappy"),
        ("jsonl", "a.sz", framed_snappy(JSONL.encode())[:-5], "ends in the middle of a block; write it again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_what_it_should_be_fails_the_output(
    tmp_path: Path, format_: str, name: str, content: bytes, message: str
) -> None:
    """The error names the object, what is wrong and what to do."""
    with pytest.raises(BadOutput, match=f"s3://bucket/things/{name}.*") as error:
        render(tmp_path, dataset_of(format_), (name, content))
    assert message in str(error.value)


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_file_without_rows_is_fine(tmp_path: Path, format_: str) -> None:
    """An output can have no predictions; a file of zero bytes is refused."""
    content = parquet(TABLE.slice(0, 0)) if format_ == "parquet" else b"id,n,x,at,day,ok\n"
    assert render(tmp_path, dataset_of(format_), ("a", content)) == []


def test_unknown_columns_are_ignored_or_refused(tmp_path: Path) -> None:
    """A column that the contract does not name is ignored, or fails the file; in JSON lines, it rejects its row."""
    columns = {name: kind for name, kind in COLUMNS.items() if name != "ok"}
    files = {"parquet": parquet(TABLE), "csv": CSV.encode(), "jsonl": JSONL.encode()}
    for format_, content in files.items():
        assert len(render(tmp_path, dataset_of(format_, columns), ("a", content))) == 3
        refusing = dataset_of(format_, columns, unknown_columns="refuse")
        if format_ == "jsonl":
            rows = render(tmp_path, refusing, ("a", content))
            assert [row["reason"] for row in rows] == ["bad-value", None, "bad-value"]
            assert "'ok'" in rows[0]["detail"]
        else:
            with pytest.raises(BadOutput, match="'ok' is not in the contract"):
                render(tmp_path, refusing, ("a", content))


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_partitions_in_the_object_key_are_columns(tmp_path: Path, format_: str) -> None:
    """A column that the files lack can be in the key, in Hive's form, and gets its declared type."""
    dataset = dataset_of(format_, {"id": "varchar", "day": "date", "shop": "varchar", "n": "integer"})
    name = "day=2026-01-02/shop=a%2Fb/n=__HIVE_DEFAULT_PARTITION__/part-0"
    (row,) = render(tmp_path, dataset, (name, many(format_, 1)))
    assert row["body"] == '{"id":"0","day":"2026-01-02","shop":"a/b","n":null}'
    (bad,) = render(tmp_path, dataset, (name.replace("01-02", "01-99"), many(format_, 1)))
    assert (bad["reason"], "'day'" in bad["detail"]) == ("bad-value", True)


def test_partitions_are_folders_only() -> None:
    """A file name is not a partition, and a value ends at the slash."""
    assert parse_partitions("a/dt=2026-01-01/x=/h=1=2/part-0=1.parquet") == {"dt": "2026-01-01", "x": "", "h": "1=2"}


COERCIONS = [
    (pa.array([1, 2], pa.int8()), "bigint", ["1", "2"]),
    (pa.array([1, 300], pa.int64()), "tinyint", ["1", None]),
    (pa.array([1.0, 2.5]), "integer", ["1", None]),
    (pa.array([1.0, float("nan")]), "integer", ["1", None]),
    (pa.array([1, 2], pa.int32()), "double", ["1.0", "2.0"]),
    (pa.array([0.1, 1e300]), "float", ["0.1", None]),
    (pa.array([0.5], pa.float32()), "double", ["0.5"]),
    (pa.array([Decimal("1.50"), Decimal("999.99")]), "decimal(4,2)", ["1.5", None]),
    (pa.array([Decimal("1.50")]), "double", ["1.5"]),
    (pa.array([datetime(2026, 1, 2, 3)], pa.timestamp("ns")), "timestamptz", ['"2026-01-02T03:00:00Z"']),
    (pa.array([datetime(2026, 1, 2, 3)], pa.timestamp("ms", "Europe/Berlin")), "timestamp", ['"2026-01-02T03:00:00Z"']),
    (pa.array(["a", None]).dictionary_encode(), "varchar", ['"a"', "null"]),
    (pa.array(["a"], pa.large_string()), "varchar", ['"a"']),
    (pa.array(["a"], pa.string_view()), "varchar", ['"a"']),
    (pa.array(['{"a": 1}', "{"]), "json", ['{"a":1}', None]),
    (pa.array(["a", "z"]), "enum('a', 'b')", ['"a"', None]),
    (pa.array([[1, 2]], pa.list_(pa.int32())), "bigint[]", ["[1,2]"]),
    (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), "integer[]", ["[1,2]"]),
    (pa.array([{"a": 1, "b": "x"}]), "struct(a bigint, b varchar)", ['{"a":1,"b":"x"}']),
    (pa.array([None, None], pa.null()), "double", ["null", "null"]),
]


@pytest.mark.parametrize(("array", "kind", "texts"), COERCIONS, ids=[f"{c[0].type}-{c[1]}" for c in COERCIONS])
def test_typed_columns_become_the_declared_type(tmp_path: Path, array: Any, kind: str, texts: list[str | None]) -> None:
    """A value that the declared type can represent is converted; any other value rejects its row."""
    rows = render(tmp_path, dataset_of("parquet", {"v": kind}), ("a", parquet(pa.table({"v": array}))))
    assert [row["body"] for row in rows] == [text and f'{{"v":{text}}}' for text in texts]
    assert [row["reason"] for row in rows] == [None if text else "bad-value" for text in texts]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array(["1"]), "integer"),
        (pa.array([1]), "varchar"),
        (pa.array([date(2026, 1, 2)]), "timestamp"),
        (pa.array([datetime(2026, 1, 2)]), "date"),
        (pa.array([True]), "integer"),
        (pa.array([b"a"]), "varchar"),
        (pa.array([[1]]), "integer"),
        (pa.array([{"a": 1}]), "integer[]"),
    ],
)
def test_a_column_of_another_kind_fails_the_output(tmp_path: Path, array: Any, kind: str) -> None:
    """Types that could only be converted by a guess are refused before the first row."""
    with pytest.raises(BadOutput, match=r"column 'v' is .* and the contract declares"):
        render(tmp_path, dataset_of("parquet", {"v": kind}), ("a", parquet(pa.table({"v": array}))))


REPLAYED = [
    ("parquet", parquet(TABLE)),
    ("parquet", parquet(TABLE.set_column(2, "x", pa.array([float("nan"), float("inf"), 1.0])))),
    ("csv", CSV.encode()),
    ("jsonl", JSONL.encode()),
    ("csv", b"id,n,x,at,day,ok\na,x,,,,\nb\n"),
    ("jsonl", b'{"id":"a","n":1,"x":NaN}\nnope\n{"id":"b","n":"x"}\n'),
]


@pytest.mark.parametrize(("format_", "content"), REPLAYED, ids=range(len(REPLAYED)))
def test_originals_can_be_read_again(tmp_path: Path, format_: str, content: bytes) -> None:
    """What the rejects save of a row is strict JSON, and renders to the same item or the same reason."""
    dataset = dataset_of(format_)
    expected, lines = [], []
    with Engine(dataset, {}, directory=tmp_path) as engine:
        for first, chunk in read(dataset, ("a", content)):
            expected += engine.render(chunk, first).to_pylist()
            indexes = list(range(chunk.num_rows))
            lines += [f'{{"row":{n},"prediction":{text}}}' for n, text in enumerate(engine.originals(chunk, indexes))]
    for line in lines:
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    replay = replace(dataset, source=replace(dataset.source, format="rejects"))
    got = render(tmp_path, replay, ("r.jsonl", "\n".join(lines).encode()))
    same = ("row", "body", "reason")
    assert [[row[name] for name in same] for row in got] == [[row[name] for name in same] for row in expected]
    with Engine(replay, {}, directory=tmp_path) as engine:  # a reject of a replay is the same row, and not a nested one
        ((_, chunk),) = read(replay, ("r.jsonl", "\n".join(lines).encode()))
        again = engine.originals(chunk, list(range(chunk.num_rows)))
    assert [json.loads(text) for text in again] == [json.loads(line)["prediction"] for line in lines]


def test_originals_are_those_asked_for(tmp_path: Path) -> None:
    """Rows are selected by their index in the chunk, and look as in the file."""
    dataset = dataset_of("parquet", {"id": "varchar", "n": "bigint", "x": "double"})
    with Engine(dataset, {}, directory=tmp_path) as engine:
        ((_, chunk),) = read(dataset, ("a", parquet(TABLE)))
        assert engine.originals(chunk, [1, 0]) == [
            '{"id":"b","n":null,"x":null}',
            '{"id":"a","n":9007199254740993,"x":0.1}',
        ]
        assert engine.originals(chunk, []) == []

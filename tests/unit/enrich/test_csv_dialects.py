"""CSV as real writers write it: either the correct text, or a rejected row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from enrich.dataset.source_sql import PROBLEM
from enrich.join.engine import Engine
from enrich.read import text as text_module
from enrich.read.chunks import BadOutput
from tests.unit.enrich.test_read import dataset_of
from tests.unit.enrich.test_read import read as read_chunks

COLUMNS = {"id": "varchar", "v": "varchar", "n": "integer"}
SPARK = {"escape": "\\", "header": False}  # DataFrameWriter.csv
MYSQL = {"delimiter": "\t", "quote": None, "escape": "\\", "header": False, "null_words": ["\\N"]}  # INTO OUTFILE
HIVE = {"delimiter": "\x01", "quote": None, "header": False, "null_words": ["\\N"]}  # STORED AS TEXTFILE
DIALECTS: dict[str, tuple[dict[str, Any], bytes, list[tuple[str | None, str | None, int | None]]]] = {
    # Spark escapes only in quoted fields; null is empty, and an empty text is quoted
    "spark": (
        SPARK,
        b'a,"quote \\" end",1\nb,back\\slash,2\nc,"a\\\\, b\nc\\\\\\"d",3\nd,"",\ne,,\n"",c:\\new,4\n',
        [
            ("a", 'quote " end', 1),
            ("b", "back\\slash", 2),
            ("c", 'a\\, b\nc\\"d', 3),
            ("d", "", None),
            ("e", None, None),
            ("", "c:\\new", 4),
        ],
    ),
    "spark, header and tabs": (
        {"escape": "\\", "delimiter": "\t"},
        b'n\tid\tv\n1\ta\t"x\\"\\\\\t"\n',
        [("a", 'x"\\\t', 1)],
    ),
    "spark, quoteAll and nullValue": (
        {**SPARK, "null_words": ["NULL"]},
        b'"a","NULL","1"\n"b",NULL,NULL\nc,,2\n',
        [("a", "NULL", 1), ("b", None, None), ("c", "", 2)],
    ),
    "sagemaker .out": (
        {"header": False},
        b'a,"[0.1, 0.9]",1\nb,0.25,2',
        [("a", "[0.1, 0.9]", 1), ("b", "0.25", 2)],
    ),
    "hive": (
        HIVE,
        b'a\x01say "hi", ok\x011\nb\x01"\x01\\N\n\\N\x01\x013\nd\x01a\\b\rc\x014\n',
        [("a", 'say "hi", ok', 1), ("b", '"', None), (None, "", 3), ("d", "a\\b\rc", 4)],
    ),
    "hive, escaped by": (
        {**HIVE, "delimiter": ",", "escape": "\\"},
        b"a,x\\, y\\\\,1\nb,l\\nm\\r,2\nc,\\N,\\N\n",
        [("a", "x, y\\", 1), ("b", "l\nm\r", 2), ("c", None, None)],
    ),
    "mysql": (
        MYSQL,
        b'a\tx\\\ty\\\\\\\nz\\0"\t1\n"b\t\t\\N\nc\t\\N\t3\nd\tcr\r\\\nlf\t4\ne\t\\\\N\t5\nf\t\\b\\t\\Z\t6\n',
        [
            ("a", 'x\ty\\\nz\0"', 1),
            ('"b', "", None),
            ("c", None, 3),
            ("d", "cr\r\nlf", 4),
            ("e", "\\N", 5),
            ("f", "\b\t\x1a", 6),
        ],
    ),
    "mysql, enclosed": (
        {"escape": "\\", "header": False, "null_words": ["\\N"]},
        b'"a","x\\"y\\\\\\\nz, w",1\n"b",\\N,\\N\n"c","\\\\N",3\n"d","",4\n',
        [("a", 'x"y\\\nz, w', 1), ("b", None, None), ("c", "\\N", 3), ("d", "", 4)],
    ),
    "mysql, no escape": (
        {"header": False, "null_words": ["NULL"]},
        b'"a","x""y\\",1\r\n"b",NULL,NULL\r\n"c","NULL",3\r\n',
        [("a", 'x"y\\', 1), ("b", None, None), ("c", "NULL", 3)],
    ),
    "postgres, text": (MYSQL, b'a\tl\\nm\\t"\\\\\t1\nb\t\\N\t2\n', [("a", 'l\nm\t"\\', 1), ("b", None, 2)]),
    "redshift, escape": (
        {"delimiter": "|", "quote": None, "escape": "\\", "header": False},
        b'a|x\\|\\"\\\\\\\ny|1\nb||\n',
        [("a", 'x|"\\\ny', 1), ("b", None, None)],
    ),
    "opencsv in hive": (
        {"quote": "'", "escape": "\\", "delimiter": ";", "header": False},
        b"'a';'it\\'s; \"q\"';'1'\nb;'it''s';2\n",
        [("a", 'it\'s; "q"', 1), ("b", "it's", 2)],
    ),
    "classic mac": ({}, b'id,v,n\ra,"x\ry",1\rb,,\r', [("a", "x\ry", 1), ("b", None, None)]),
}


def read(source: dict[str, Any], content: bytes, name: str = "part") -> list[Any]:
    """Return each row's values, or what is wrong with it."""
    chunks = list(read_chunks(dataset_of("csv", COLUMNS, **source), (name, content)))
    rows = [row for _, chunk in chunks for row in chunk.to_pylist()]
    return [row[PROBLEM] or (row["id"], row["v"], row["n"] and int(row["n"])) for row in rows]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_each_writer_is_read_as_it_writes(monkeypatch: pytest.MonkeyPatch, dialect: str, block: int) -> None:
    """Escapes, quotes, null words, delimiters and newlines, wherever a block of bytes ends."""
    source, content, expected = DIALECTS[dialect]
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block)
    assert read(source, content) == expected


@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_other_characters_are_plain(dialect: str) -> None:
    """A field can have each printable character of ASCII that the dialect has no use for."""
    source = {**DIALECTS[dialect][0], "header": False}
    syntax = {source.get("delimiter", ","), source.get("quote", '"'), source.get("escape"), '"', "\\"}
    plain = "".join(character for character in map(chr, range(33, 127)) if character not in syntax)
    delimiter = source.get("delimiter", ",")
    assert read(source, f"{plain}{delimiter}{plain}{delimiter}1\n".encode()) == [(plain, plain, 1)]


AFTER, WITHIN, ESCAPE = "text after a closing quote", "a quote in a field that does not begin", "the escape '\\\\' is"
LAST = f"{ESCAPE} before a letter or digit, or last; double it"
MALFORMED: list[tuple[dict[str, Any], bytes, str]] = [
    ({}, b'"quote \\" end",5,1', AFTER),
    ({}, b'"a" ,5,1', AFTER),
    ({}, b'"a"b,5,1', AFTER),
    ({}, b'a,"b"""c,1', AFTER),
    ({}, b'a,"b" "c",1', AFTER),
    ({}, b'a,5" pipe,1', WITHIN),
    ({}, b'a, "b",1', WITHIN),
    ({}, b'"a \\" x\nz,1,2\ny",1,2', AFTER),  # as its writer intended, one record of three lines
    ({}, b'"a\\"b\\d\nz,1,2\ny",1,2', AFTER),
    ({}, b'a,"\\", \\"",1', "set quote=None, or set escape='\\\\'"),
    ({"quote": "'"}, b"'a'b,5,1", AFTER),
    ({"quote": "'"}, b"it's,5,1", WITHIN),
    ({"escape": "\\"}, b'"a\\d\nz,1,2\nb",5,1', ESCAPE),
    ({"escape": "\\"}, b'"a" x,5,1', AFTER),
    ({"escape": "\\"}, b'a,"\\N",1', LAST),
    ({"quote": None, "escape": "\\"}, b"a,c:\\dir,1", LAST),
    ({"quote": None, "escape": "\\"}, b"a,\\N,1", f"{LAST}, or add its word to null_words, such as '\\N'"),
    ({"quote": None, "escape": "\\"}, b"a,\\d\\\nz,1,2,1", ESCAPE),
    ({}, b"a,5", "the line has 2 fields, expected 3"),
    ({}, b"a,5,1,", "the line has 4 fields, expected 3"),
    ({}, b'"a ""x"" \\",5', "the line has 2 fields, expected 3"),
    ({}, b"a,\xff,1", "not UTF-8"),
    ({}, b'a,"\xff"x,1', AFTER),
]


@pytest.mark.parametrize(("source", "line", "problem"), MALFORMED)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_invalid_csv_is_a_reject_in_its_place(
    monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], line: bytes, problem: str, block: int
) -> None:
    """The reject says what is wrong; no part of it becomes a row, and the rows around it are read."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block)
    good = [("g", "x", 1), ("h", None, None)]
    rows = read(source, b"id,v,n\ng,x,1\n" + line + b"\n\nh,,\n" + line + b"\n" + line)
    assert [row for row in rows if isinstance(row, tuple)] == good
    assert [problem in row for row in rows if isinstance(row, str)] == [True] * 3
    assert isinstance(rows[1], str)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("quote", ['"', "'"])
def test_a_malformed_record_is_a_reject_of_any_number_of_columns(columns: int, quote: str) -> None:
    """Also with one column, where a record has no delimiter."""
    content = "\n".join(
        [",".join("abX"[-columns:]), ",".join("x" * columns), f"{quote}y{quote}z", ",".join("z" * columns)]
    )
    dataset = dataset_of("csv", dict.fromkeys("abX"[-columns:], "varchar"), quote=quote)
    rows = [row for _, chunk in read_chunks(dataset, ("part", content.encode())) for row in chunk.to_pylist()]
    assert [row["X"] for row in rows] == ["x", None, "z"]
    assert AFTER in rows[1][PROBLEM]


def test_a_malformed_record_keeps_its_text(tmp_path: Path) -> None:
    """The reject has the record's text as it is in the file."""
    dataset = dataset_of("csv", {"id": "varchar"})
    with Engine(dataset, {}, directory=tmp_path) as engine:
        ((_, chunk),) = read_chunks(dataset, ("a", b'id\n"a" b\r\n"c \\" d\ne"\nx,\xffy\n\xffz\n"last"X'))
        kept = [json.loads(text) for text in engine.originals(chunk, [0, 1, 2, 3, 4])]
    assert kept == ['"a" b', '"c \\" d\ne"', "x,\ufffdy", {"id": "\ufffdz"}, '"last"X']


def test_each_malformed_record_has_its_own_problem() -> None:
    """In its place, whatever comes before and after it, and whatever its first character."""
    lines = ["g,x,1", "a,5", "\U0001f600,5,1,", '"a"b,5,1', "h,,"]
    counts = [f"the line has {count} fields, expected 3" for count in (2, 4)]
    rows = read({}, "\n".join(["id,v,n", *lines]).encode())
    assert (rows[0], rows[1:3], rows[4]) == (("g", "x", 1), counts, ("h", None, None))
    assert AFTER in rows[3]
    assert read({}, "id,v,n\n\ufdd0\n".encode()) == ["the line has 1 fields, expected 3"]
    for blank in (b"", b"\n", b"\r\n\n"):
        first, *others = read({"header": False}, blank + b'"a"b,5,1\ng,x,1\n"a"b,5,1\n')
        assert (AFTER in first, others[0], AFTER in others[1]) == (True, ("g", "x", 1), True)
        first, *others = read({"header": False}, blank + b'"a"b,5,1\n')
        assert (AFTER in first, others) == (True, [])


def test_a_row_of_nulls_is_a_row() -> None:
    """It is neither a header nor the beginning of a file, also beside one that is."""
    assert read({}, b"id,v,n\n,,\n") == [(None, None, None)]
    row, problem = read({}, b"id,v,n\n,y,2\n\xef\xbb\xbfa,x,1\n")
    assert ("byte order mark" in problem, row) == (True, (None, "y", 2))


@pytest.mark.parametrize("columns", [["007"], ["id", "007"], ["true", "id", "1e3"], ["2026-11-20", "id", "v", "00"]])
def test_a_header_is_text(columns: list[str]) -> None:
    """Also a name that could be a number, a boolean or a date; so are its values."""
    dataset = dataset_of("csv", dict.fromkeys(columns, "varchar"))
    content = "\n".join([",".join(columns), ",".join("X" for _ in columns), ""]).encode()
    ((_, chunk),) = read_chunks(dataset, ("a", content))
    assert [row[name] for row in chunk.to_pylist() for name in columns] == ["X"] * len(columns)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5])
def test_a_byte_order_mark_can_be_cut_by_a_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """It is no part of the first name."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block)
    assert read({}, b"\xef\xbb\xbfid,v,n\na,x,1\n") == [("a", "x", 1)]


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ({}, b'id,v,n\na,x,1\nb,"open,1\nc,y,2\n', "row 1: it has a quoted field that is never closed"),
        (SPARK, b'a,"open\\",1\n', "row 0: it has a quoted field that is never closed"),
        (
            {},
            b'"id" x,v,n\na,x,1\n',
            "row 0: its header is not CSV with the delimiter ',': there is text after a closing quote",
        ),
        ({}, b"a,x,1\n", "names no column, expected id, v, n; write a header, or set header=False"),
        ({}, b"id;v;n\na;x;1\n", "its header is not separated by ','; set delimiter=';'"),
        ({"delimiter": ";"}, b'"id","v","n"\n', "its header is not CSV with the delimiter ';'"),
        ({}, b'{"id": "a", "v": "x", "n": 1}\n', 'it seems to be JSON lines; set the dataset\'s format to "jsonl"'),
        ({}, b"{}\n", 'it seems to be JSON lines; set the dataset\'s format to "jsonl"'),
        ({"header": False}, b'{"id": "a"}\n', 'it seems to be JSON lines; set the dataset\'s format to "jsonl"'),
        ({}, b"ID,V,N\na,x,1\n", "column 'id' is missing; did you mean 'ID'?"),
        ({"header": False}, b"id,v,n\na,x,1\n", "its first line has the names of the columns; set header=True"),
    ],
)
def test_a_file_of_another_dialect_fails_with_the_setting(source: dict[str, Any], content: bytes, message: str) -> None:
    """A mistake that affects the whole file fails its output, with the place and the remedy."""
    with pytest.raises(BadOutput, match="s3://bucket/things/part: ") as error:
        read(source, content)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"id,v,n\na,x,1\n", b'\n"x";"n";"v"\n"a";1;"b"\n', b"v\tn\nx\t1\n"])
def test_csv_in_a_dataset_of_json_lines_fails_with_the_setting(content: bytes) -> None:
    """A first line that names a column is a header: each row would be a reject, without the remedy."""
    with pytest.raises(BadOutput, match='part: it seems to be CSV; set the dataset\'s format to "csv"'):
        list(read_chunks(dataset_of("jsonl", COLUMNS), ("part", content)))


@pytest.mark.parametrize(
    ("kind", "source", "first"),
    [
        *(
            ("jsonl", {}, line)
            for line in (b"id,v,n", b"v", b'"v"', b"# id, v", b"id,", b"id, other", b"id: a, v: x", b"v|n")
        ),
        *(("csv", {"header": False}, line) for line in (b'{"a,x,1', b'{"id":1},x,1', b'{"id": "a"', b'{"id": "a"}')),
        ("csv", {"header": False, "delimiter": "\t"}, b'{"id":1}\tx\t1'),
    ],
)
def test_one_odd_first_line_is_one_reject(kind: Any, source: dict[str, Any], first: bytes) -> None:
    """A guess at another format must not fail an output whose other lines are good."""
    dataset = dataset_of(kind, COLUMNS, **source)
    good = b'{"id":"a","v":"x","n":1}\n' if kind == "jsonl" else dataset.source.delimiter.join("ax1").encode() + b"\n"
    rows = [row for _, chunk in read_chunks(dataset, ("part", first + b"\n" + good)) for row in chunk.to_pylist()]
    assert len(rows) == 2
    assert rows[1]["larder.problem"] is None
    assert kind == "jsonl" or rows[0]["larder.problem"] is not None


def test_a_long_quoted_field_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row can span blocks up to a limit; a malformed line does not hide the rows after it, however many they are."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(text_module, "_MAX_ROW", 1000)
    head = b"id,v,n\n"
    assert read({}, head + b'a,"' + b"x\n" * 450 + b'",1\n') == [("a", "x\n" * 450, 1)]
    with pytest.raises(BadOutput, match="row 1: it is longer than 16 MB"):
        read({}, head + b'g,x,1\na,"' + b"x\n" * 900)
    for source, start in (({}, b'"a"b'), ({"quote": None}, b"a")):
        with pytest.raises(BadOutput, match="row 1: it is longer than 16 MB"):
            read(source, head + b"g,x,1\n" + start + b"x" * 2000)
    rows = read({}, head + b'a,"\\"x \\",1\n' + b"g,x,1\n" * 900)
    assert rows[1:] == [("g", "x", 1)] * 900
    assert AFTER in rows[0]


def test_a_row_has_its_greatest_length_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes as the bound, without the newline; blocks end within it."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 4)
    monkeypatch.setattr(text_module, "_MAX_ROW", 8)
    dataset = dataset_of("csv", {"ids": "varchar"})
    rows = [row["ids"] for _, chunk in read_chunks(dataset, ("a", b"ids\nabcdefgh\n")) for row in chunk.to_pylist()]
    assert rows == ["abcdefgh"]
    with pytest.raises(BadOutput, match="it is longer than 16 MB"):
        list(read_chunks(dataset, ("a", b"ids\nabcdefghijkl\n")))


def test_columns_of_the_object_key_are_not_in_the_file() -> None:
    """Without a header, the file's fields are the contract's columns that the object key does not contain."""
    found = read({"header": False}, b"a,1\nb,2,3\n", "v=x/part")
    assert found == [("a", "x", 1), "the line has 3 fields, expected 2"]


WRITERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"quote": "'", "delimiter": ";"}, {"quotechar": "'", "delimiter": ";", "quoting": csv.QUOTE_ALL}),
    ({"escape": "\\"}, {"escapechar": "\\", "doublequote": False, "quoting": csv.QUOTE_ALL}),
    ({"escape": "\\"}, {"escapechar": "\\", "quoting": csv.QUOTE_ALL}),
    ({"quote": None, "escape": "\\"}, {"escapechar": "\\", "quoting": csv.QUOTE_NONE}),
    (
        {"quote": None, "escape": "^", "delimiter": "|"},
        {"escapechar": "^", "quoting": csv.QUOTE_NONE, "delimiter": "|"},
    ),
]


@pytest.mark.parametrize(("source", "writer"), WRITERS)
def test_whatever_python_writes_is_read_as_it_was(
    monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], writer: dict[str, Any]
) -> None:
    """Random texts of quotes, escapes, delimiters, newlines and characters of several bytes."""
    random = Random(7)
    texts = ["".join(random.choices("ab,;'\"\\\n\r^| \té😀N0", k=random.randrange(1, 9))) for _ in range(600)]
    if not writer:  # it does not quote a single carriage return, which ends a row
        texts = [text.replace("\r", "") for text in texts]
    rows = [(f"r{n}", text, n) for n, text in enumerate(texts)]
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n", **writer).writerows(rows)
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 500)
    assert read({"header": False, "null_words": [], **source}, file.getvalue().encode()) == rows

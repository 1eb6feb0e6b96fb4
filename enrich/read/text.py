"""Read CSV and JSON lines as chunks of text; a malformed line becomes a row with a problem.

Chunks are blocks of a fixed number of bytes from the start of the file, each up to the last row that ends in it. So a
restart reads the same chunks.
"""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from enrich.dataset.source_sql import LINE, PROBLEM
from enrich.read.csv_syntax import CsvSyntax, Malformed
from enrich.read.decompress import unpack
from enrich.read.magic import refuse_other

BLOCK_BYTES = 1024 * 1024
_MAX_ROW = 16 * 1024 * 1024  # of CSV; limits the memory for a quote that is never closed
_MAX_LINE = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_MARK = "\ufdd0"  # replaces a byte that is not UTF-8; a noncharacter, which Unicode reserves for internal use
_NOT_UTF_8 = "the line is not UTF-8; write the file as UTF-8"
JSON_LINES = 'it seems to be JSON lines; set the dataset\'s format to "jsonl"'
_JOINED = "the line {}, as if files were concatenated; remove it"
codecs.register_error("larder.mark", lambda error: (_MARK, error.end))  # type: ignore[attr-defined]

Choose = Callable[[list[str]], tuple[list[str], list[str]]]


class BadText(ValueError):
    """The whole file can't be read in the expected format; the message has the remedy."""


def read_lines(name: str, file: Any, columns: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a file that are not blank, as columns `larder.line` and `larder.problem`.

    Args:
        name: the object key.
        file: a seekable binary file.
        columns: of the contract, if any; they identify the header of a CSV file.

    Raises:
        BadText: it is JSON, but not one object per line, or it is CSV; or a line is longer than 64 MB.
        Damaged: the compressed stream is damaged.
        OtherFormat: it is not text.
    """
    rest, begun = b"", False
    for block in itertools.chain(_read_blocks(name, file), [b""]):
        # At the end of the file, the rest is a line too.
        whole, found, rest = (rest + block).rpartition(b"\n") if block else (rest, rest, b"")
        if found:
            if not begun and (first := whole.lstrip().partition(b"\n")[0].rstrip()):
                begun = True
                _check_first(first, columns, whole)
            yield _build_lines(whole)
        if len(rest) > _MAX_LINE:
            raise BadText("a line is longer than 64 MB; write one object per line")


def _check_first(line: bytes, columns: Collection[str], block: bytes) -> None:
    """Refuse JSON that spans several lines, and CSV, since each line would be a reject.

    A first line that only resembles a header is one reject. So is a header before objects: an output that was published
    like that must stay readable for a restore.
    """
    if line == b"{" or re.match(rb"\[\s*([\[{\]]|$)", line):
        raise BadText(
            "it is a JSON array, or an object over several lines; write one object per line (pandas: "
            "to_json(..., orient='records', lines=True))"
        )
    fields = [field.strip(b' "') for field in re.split(rb"[,;\t]", line)]
    known = {column.encode() for column in columns}
    is_header = len(fields) > 1 and known and len(known.intersection(fields)) >= min(2, len(known))
    if is_header and not re.search(rb"^\s*\{", block, re.MULTILINE):
        raise BadText('it seems to be CSV; set the dataset\'s format to "csv"')


def read_csv(
    name: str, file: Any, syntax: CsvSyntax, null_words: Sequence[str], choose: Choose, *, header: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a CSV file, as text, with the columns `larder.line` and `larder.problem`.

    A record that is not CSV, or has another number of fields than there are columns, becomes a row with a problem. A
    file with only blank lines has no rows.

    Args:
        name: the object key.
        file: a seekable binary file.
        syntax: the dialect.
        null_words: fields that are null unless they are quoted.
        choose: takes the fields of the first record (none if it is malformed); returns the names of all columns, and
            of the columns to read.
        header: the first record is not a row.

    Raises:
        BadText: the header is not CSV, a quote is never closed, or a row is longer than 16 MB.
        Damaged: the compressed stream is damaged.
        OtherFormat: it is not text.
    """
    row, columns = 0, None
    try:
        for pieces in _cut_records(_read_blocks(name, file), syntax):
            if columns is None:
                while pieces and isinstance(pieces[0], bytes):
                    pieces[0] = pieces[0].lstrip(b"\r\n")  # blank lines
                    if pieces[0]:
                        break
                    pieces.pop(0)
                if not pieces:
                    continue
                columns = choose(_take_first(pieces, syntax, remove=header))
            chunk = _parse_records(pieces, syntax, null_words, *columns)
            row += chunk.num_rows
            yield chunk
    except BadText as error:
        raise BadText(f"row {row}: {error}") from error


def _read_blocks(name: str, file: Any) -> Iterator[bytes]:
    """Yield the decompressed content without a byte order mark."""
    head = b""
    blocks = unpack(name, file, BLOCK_BYTES)
    for block in blocks:
        head += block
        if len(head) >= len(_BOM) + 1:
            break
    refuse_other(head)
    if head := head.removeprefix(_BOM):
        yield head
    yield from blocks


def _cut_records(blocks: Iterator[bytes], syntax: CsvSyntax) -> Iterator[list[bytes | Malformed]]:
    """Cut blocks into records.

    Raises:
        BadText: a quote is never closed.
    """
    rest = b""
    for block in blocks:
        pieces, rest = syntax.cut(rest + block, final=False)
        if len(rest) > _MAX_ROW:
            more, rest = syntax.cut(rest, final=False, patient=False)
            pieces += more
        if pieces:
            yield pieces
        if len(rest) > _MAX_ROW:
            raise BadText("it is longer than 16 MB; close its quote if one is open, or write long texts as Parquet")
    pieces, rest = syntax.cut(rest if rest.endswith(b"\n") or not rest else rest + b"\n", final=True)
    if pieces:
        yield pieces
    if rest:
        raise BadText(
            "it has a quoted field that is never closed; close it, or set quote and escape to those of the writer"
        )


def _take_first(pieces: list[bytes | Malformed], syntax: CsvSyntax, *, remove: bool) -> list[str]:
    """Return the fields of the first record, and remove it from the pieces; none if it is malformed.

    Raises:
        BadText: it is a header to remove, but malformed; or the pieces are JSON lines.
    """
    if isinstance(pieces[0], Malformed):
        if pieces[0].text.lstrip().startswith(b"{") if remove else _are_objects(pieces):
            raise BadText(JSON_LINES)
        if remove:
            raise BadText(f"its header is not CSV with the delimiter {syntax.delimiter!r}: {pieces[0].problem}")
        return []
    first = syntax.first_record(pieces[0])
    if remove:
        pieces[0] = pieces[0][len(first) :]
    text, marked = _to_utf_8(first)
    table = pyarrow.csv.read_csv(
        io.BytesIO(text.rstrip(b"\r\n") + b"\n"),
        read_options=pyarrow.csv.ReadOptions(
            autogenerate_column_names=True, use_threads=False, block_size=len(text) + 2
        ),
        parse_options=_parse_options(syntax),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={f"f{n}": pa.string() for n in range(text.count(syntax.delimiter.encode()) + 1)},
            null_values=[],
            true_values=[],
            false_values=[],
            strings_can_be_null=False,
        ),
    )
    fields = [str(column[0].as_py()) for column in table.columns]
    return [field.replace(_MARK, "\ufffd") for field in fields] if marked else fields


def _are_objects(pieces: list[bytes | Malformed]) -> bool:
    """Return whether no piece is a row of CSV, and the first is an object; its quotes make it malformed as CSV.

    With a row among them, the object is one reject: an output that was published like that must stay readable for a
    restore.
    """
    if not all(isinstance(piece, Malformed) and piece.text.lstrip().startswith(b"{") for piece in pieces):
        return False
    try:
        return isinstance(pieces[0], Malformed) and isinstance(json.loads(pieces[0].text), dict)
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        return False


def _parse_records(
    pieces: list[bytes | Malformed], syntax: CsvSyntax, null_words: Sequence[str], names: list[str], wanted: list[str]
) -> pa.RecordBatch:
    """Parse records; malformed ones become rows in their places."""
    mark = _MARK.encode()
    stand_in = mark if len(names) > 1 else mark + syntax.delimiter.encode() + mark  # has another number of fields
    malformed = deque(piece for piece in pieces if isinstance(piece, Malformed))
    text, marked = _to_utf_8(b"".join(piece if isinstance(piece, bytes) else stand_in + b"\n" for piece in pieces))
    bad: list[tuple[int, str, str]] = []  # index, text, problem

    def note(row: Any) -> str:
        if malformed and row.text == stand_in.decode():
            found = malformed.popleft()
            bad.append((row.number - 1, found.text.decode("utf-8", "replace").rstrip("\r\n"), found.problem))
        else:
            problem = f"the line has {row.actual_columns} fields, expected {row.expected_columns}"
            bad.append((row.number - 1, row.text.replace(_MARK, "\ufffd"), problem))
        return "skip"

    schema = pa.schema([(name, pa.string()) for name in wanted])
    if not text.strip(b"\r\n"):
        return _build_rows(pa.RecordBatch.from_pylist([], schema), marked=False)
    table = pyarrow.csv.read_csv(
        io.BytesIO(text),
        read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
        parse_options=_parse_options(syntax, note),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=wanted,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=list(null_words),
        ),
    )
    batches = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema)]
    return _insert(_build_rows(batches[0], marked=marked, first=names[0]), bad)


def _parse_options(syntax: CsvSyntax, note: Any = None) -> Any:
    return pyarrow.csv.ParseOptions(
        delimiter=syntax.delimiter, quote_char=syntax.quote, newlines_in_values=True, invalid_row_handler=note
    )


def _to_utf_8(text: bytes) -> tuple[bytes, bool]:
    """Return the text as UTF-8, and whether bytes were replaced: bad bytes would fail the file instead of the row."""
    if text.isascii():
        return text, False
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("utf-8", "larder.mark").encode(), True
    return text, False


def _build_lines(block: bytes) -> pa.RecordBatch:
    lines, problems = _decode(pa.array(block.split(b"\n"), pa.binary()))
    batch = pa.RecordBatch.from_arrays([lines, problems], names=[LINE, PROBLEM])
    return batch.filter(pc.greater(pc.binary_length(pc.ascii_trim_whitespace(lines)), 0))


def _build_rows(batch: pa.RecordBatch, *, marked: bool, first: str = "") -> pa.RecordBatch:
    """Add the columns `larder.line` and `larder.problem`; `first` is the name of the file's first column."""
    columns = batch.columns
    problem = pa.nulls(batch.num_rows, pa.string())
    if (header := _find_header(batch)) is not None:
        problem = pc.if_else(header, _JOINED.format("has the names of the columns"), problem)
    if first in batch.schema.names and pc.any(starts := pc.starts_with(batch.column(first), "\ufeff")).as_py():
        problem = pc.if_else(pc.coalesce(starts, False), _JOINED.format("begins with a byte order mark"), problem)
    if marked:
        bad = [pc.coalesce(pc.match_substring(column, _MARK), False) for column in columns]
        problem = pc.if_else(functools.reduce(pc.or_, bad), _NOT_UTF_8, problem)
        columns = [pc.replace_substring(column, _MARK, "\ufffd") for column in columns]
    names = [*batch.schema.names, LINE, PROBLEM]
    return pa.RecordBatch.from_arrays([*columns, pa.nulls(batch.num_rows, pa.string()), problem], names=names)


def _find_header(batch: pa.RecordBatch) -> pa.BooleanArray | None:
    """Return which rows have the name of each column as its value; None if no row does."""
    found = None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        same = pc.coalesce(pc.equal(column, name), False)
        found = same if found is None else pc.and_(found, same)
        if not pc.any(found).as_py():
            return None
    return found


def _decode(lines: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the lines as text, and the problems of those that are not UTF-8."""
    try:
        return lines.cast(pa.string()), pa.nulls(len(lines), pa.string())
    except pa.ArrowInvalid:
        texts, problems = [], []
        for value in lines.to_pylist():
            text = value.decode("utf-8", "replace")
            texts.append(text)
            problems.append(_NOT_UTF_8 if text.encode() != value else None)
        return pa.array(texts, pa.string()), pa.array(problems, pa.string())


def _insert(rows: pa.RecordBatch, bad: list[tuple[int, str, str]]) -> pa.RecordBatch:
    """Insert malformed rows at their indexes among all rows."""
    if not bad:
        return rows
    places, texts, problems = zip(*bad, strict=True)
    known = {LINE: texts, PROBLEM: problems}
    arrays = [pa.array(known.get(name, [None] * len(bad)), pa.string()) for name in rows.schema.names]
    order = list(range(rows.num_rows))
    for n, place in enumerate(places):
        order.insert(place, rows.num_rows + n)
    both = pa.Table.from_batches([rows, pa.RecordBatch.from_arrays(arrays, schema=rows.schema)])
    return both.take(order).combine_chunks().to_batches()[0]

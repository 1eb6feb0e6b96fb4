"""Read CSV and JSON lines as chunks of text; a line that is no row becomes a row that says so. Edge: files.

Chunks are blocks of a fixed number of bytes from the start of the file, so that a restart meets the same ones.
"""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from enrich.dataset.source_sql import LINE, PROBLEM
from enrich.read.decompress import unpack

BLOCK_BYTES = 1024 * 1024  # pyarrow's CSV reader takes many times as much memory; no row may be longer
_AHEAD = 2  # blocks that pyarrow's CSV reader may have read while we are busy; it would read 32
_MAX_LINE = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_MARK = "\ufdd0"  # stands for a byte that is not UTF-8; Unicode leaves it to such uses within a program
_NOT_UTF_8 = "the line is not UTF-8"
codecs.register_error("larder.mark", lambda error: (_MARK, error.end))  # type: ignore[attr-defined]


class BadText(ValueError):
    """The file as a whole can't be read as what it should be."""


def read_lines(name: str, file: Any) -> Iterator[pa.RecordBatch]:
    """Give the lines of a file that are not blank, as columns `larder.line` and `larder.problem`.

    Raises:
        BadText: a line is longer than 64 MB.
        Damaged: the compressed stream is.
    """
    rest, first = b"", True
    for block in unpack(name, file, BLOCK_BYTES):
        whole, found, tail = block.rpartition(b"\n")
        if found:
            lines = rest + whole
            yield _build_lines(lines.removeprefix(_BOM) if first else lines)
            rest, first = tail, False
        else:
            rest += block
        if len(rest) > _MAX_LINE:
            raise BadText("a line is longer than 64 MB; write one object a line")
    if rest:
        yield _build_lines(rest.removeprefix(_BOM) if first else rest)


def read_csv(
    name: str, file: Any, delimiter: str, check_header: Callable[[list[str]], list[str]]
) -> Iterator[pa.RecordBatch]:
    """Give the rows of a CSV file, as text, with the columns `larder.line` and `larder.problem`.

    Args:
        name: the object key.
        file: a seekable binary file.
        delimiter: between fields.
        check_header: gets the column names and returns those to read.

    Raises:
        BadText: it has no header, a quote is never closed, or a row is longer than 1 MB.
        Damaged: the compressed stream is.
    """
    bad: list[tuple[int, str]] = []  # rows with too few or too many fields, with their index among all

    def note(row: Any) -> str:
        # The header is number 1; blank lines are not counted.
        bad.append((row.number - 2, row.text.replace(_MARK, "\ufffd")))
        return "skip"

    stream = _Stream(unpack(name, file, BLOCK_BYTES))
    try:
        names = check_header(_read_header(stream, delimiter))
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=names,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        row = 0
        for batch in stream.serve(reader):
            chunk = _insert(_build_rows(batch, marked=stream.marked), bad, row)
            row += chunk.num_rows
            yield chunk
        if bad:
            yield _insert(_build_rows(pa.RecordBatch.from_pylist([], reader.schema), marked=False), bad, row, last=True)
    except pa.ArrowInvalid as error:
        if "straddl" in str(error):
            said = "a row is longer than 1 MB, or a quote is never closed; write long texts as Parquet"
            raise BadText(said) from error
        raise BadText(f"{str(error).splitlines()[0]}; write it as RFC 4180 says") from error
    finally:
        stream.close()


class _Stream(io.RawIOBase):
    """Blocks as a file for pyarrow's CSV reader, whose thread is kept from reading far ahead of us.

    They are made UTF-8, since what is not would fail the whole file instead of its row; `marked` tells that some was.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._turn = threading.Condition()
        self._awaited = True  # somebody waits for a batch, however many blocks that takes
        self._ahead = 0
        self.marked = False
        self._blocks = self._encode(blocks)
        self.head = self._held = next(self._blocks, b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._turn:
            self._turn.wait_for(lambda: self._awaited or self._ahead < _AHEAD)
            self._ahead += 1
        # All blocks but the last are full: pyarrow takes a short one for a row that is too long.
        while len(self._held) < size and not self.closed and (block := next(self._blocks, b"")):
            self._held += block
        block, self._held = self._held[:size], self._held[size:]
        return block

    def serve(self, reader: Any) -> Iterator[pa.RecordBatch]:
        """Give the batches of the reader that reads from here."""
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            self._await(False)
            yield batch
            self._await(True)

    def close(self) -> None:
        super().close()
        self._await(True)

    def _encode(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in itertools.chain(blocks, [b""]):
            state = decoder.getstate()
            if not state[0] and block.isascii():
                encoded = block
            else:
                try:
                    encoded = decoder.decode(block, final=not block).encode()
                except UnicodeDecodeError:
                    self.marked = True
                    decoder.setstate(state)
                    decoder.errors = "larder.mark"
                    encoded = decoder.decode(block, final=not block).encode()
                    decoder.errors = "strict"
            if encoded:
                yield encoded

    def _await(self, awaited: bool) -> None:
        with self._turn:
            self._awaited, self._ahead = awaited, 0
            self._turn.notify_all()


def _read_header(stream: _Stream, delimiter: str) -> list[str]:
    """Read the column names; pyarrow would guess types of columns before it tells them."""
    head = stream.head.removeprefix(_BOM).lstrip(b"\r\n")
    line = head.partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise BadText("it has no header line; begin it with the column names")
    options = pyarrow.csv.ParseOptions(delimiter=delimiter)
    read = pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False)
    table = pyarrow.csv.read_csv(
        io.BytesIO(line + b"\n"),
        read_options=read,
        parse_options=options,
        convert_options=pyarrow.csv.ConvertOptions(null_values=[], strings_can_be_null=False),
    )
    return [str(column[0].as_py()) for column in table.columns]


def _build_lines(block: bytes) -> pa.RecordBatch:
    lines, problems = _decode(pa.array(block.split(b"\n"), pa.binary()))
    batch = pa.RecordBatch.from_arrays([lines, problems], names=[LINE, PROBLEM])
    return batch.filter(pc.greater(pc.binary_length(pc.ascii_trim_whitespace(lines)), 0))


def _build_rows(batch: pa.RecordBatch, *, marked: bool) -> pa.RecordBatch:
    columns = batch.columns
    problem = pa.nulls(batch.num_rows, pa.string())
    if marked:
        bad = [pc.coalesce(pc.match_substring(column, _MARK), False) for column in columns]
        problem = pc.if_else(functools.reduce(pc.or_, bad), _NOT_UTF_8, problem)
        columns = [pc.replace_substring(column, _MARK, "\ufffd") for column in columns]
    names = [*batch.schema.names, LINE, PROBLEM]
    return pa.RecordBatch.from_arrays([*columns, pa.nulls(batch.num_rows, pa.string()), problem], names=names)


def _decode(lines: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the lines as text and, for what is not UTF-8, what is wrong."""
    try:
        return lines.cast(pa.string()), pa.nulls(len(lines), pa.string())
    except pa.ArrowInvalid:
        texts, problems = [], []
        for value in lines.to_pylist():
            text = value.decode("utf-8", "replace")
            texts.append(text)
            problems.append(_NOT_UTF_8 if text.encode() != value else None)
        return pa.array(texts, pa.string()), pa.array(problems, pa.string())


def _insert(batch: pa.RecordBatch, bad: list[tuple[int, str]], row: int, *, last: bool = False) -> pa.RecordBatch:
    """Put malformed rows in their places; `row` is the index of the batch's first row among all."""
    pieces: list[pa.RecordBatch] = []
    taken = 0
    while bad and (last or bad[0][0] - row - len(pieces) // 2 < batch.num_rows):
        index, text = bad.pop(0)
        if "\n" in text.rstrip("\r\n"):
            raise BadText(f"row {index} is malformed and spans lines: a quote is never closed, perhaps")
        good = 0 if last else index - row - len(pieces) // 2 - taken
        pieces += [batch.slice(taken, good), _build_malformed(batch.schema, text)]
        taken += good
    pieces.append(batch.slice(taken))
    if len(pieces) == 1:
        return batch
    table = pa.Table.from_batches(pieces).combine_chunks()
    return table.to_batches()[0] if table.num_rows else batch


def _build_malformed(schema: pa.Schema, text: str) -> pa.RecordBatch:
    row = {LINE: text, PROBLEM: "the line has not as many fields as the header"}
    return pa.RecordBatch.from_arrays([pa.array([row.get(name)], pa.string()) for name in schema.names], schema=schema)

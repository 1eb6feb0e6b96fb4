"""Join chunks of predictions with metadata, check them, and render item keys and bodies, in embedded DuckDB.

Each chunk is one SELECT: a reader streamed through a single query lost its order and exceeded its memory limit. So any
number of rows needs the memory of one chunk and of the metadata.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from enrich.dataset.arrow_types import NotTaken, choose_type, convert_column
from enrich.dataset.as_of import FromColumn, set_zone
from enrich.dataset.binding import KEY_KINDS, Node, bind_dataset, find_constant_id
from enrich.dataset.compiler import Compiled, compile_dataset
from enrich.dataset.definition import Dataset, Derive
from enrich.dataset.inputs import build_basis
from enrich.dataset.json_sql import BAD_VALUE, SqlType, identifier
from enrich.dataset.source_sql import PROBLEM, build_read, read_columns, render_read
from enrich.errors import first_line
from enrich.join.derive import DeriveFailed, derive_columns
from enrich.join.original_rows import find_partitions, render_original, render_row, strict_json
from enrich.release import RELEASE

MAX_METADATA_BYTES = 192 * 1024 * 1024  # of all metadata of a dataset, as Arrow
MEMORY_MB = 256  # of DuckDB; an expression that needs more fails the run
JOIN_MB = 12  # of DuckDB, for each metadata: a hash join holds 32 blocks of 256 KB from its first row
_OF_VALUES = (duckdb.DataError, duckdb.InvalidInputException, duckdb.OutOfMemoryException)  # caused by single rows
_RENDERED = pa.schema(
    [
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("pk", "sk", "body", "rank")),
        ("digest", pa.uint64()),
        ("bytes", pa.int64()),
        ("inputs", pa.uint64()),
        *((name, pa.string()) for name in ("reason", "detail")),
    ]
)
_ROW = "larder.row"  # column of a chunk: the numbers of its rows
# Rows of a result in one buffer. glibc returns a buffer of 32 MB to the kernel, and a chunk of 500 B per row took one:
# its fresh pages cost a tenth of rendering.
_BATCH_ROWS = 8_192
_WIDE_ROW = 1 << 20  # bytes; if a smaller row exceeds the memory limit, the expression is the cause
_HOISTED_ROWS = 250_000  # larger metadata is rendered per prediction: most of its rows match none


class JoinMultiplies(ValueError):
    """A prediction would match several metadata rows; the message names the metadata and an example of the values."""


class BadInstant(ValueError):
    """The as_of column has a value that is not an instant; the message names the column and the remedy."""


class NullInstant(ValueError):
    """A row has no value in the as_of column.

    Attributes:
        row: its index in the chunk.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} of a chunk has no as_of")
        self.row = row


class RenderFailed(ValueError):
    """DuckDB can't execute a dataset's SQL; the message names the expression, the rows and the remedy."""


class MetadataTooLarge(ValueError):
    """The metadata exceeds the memory limit of a run."""


def connect_duckdb(directory: Path, *, memory_limit: str, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """Open an embedded DuckDB in UTC, without extensions and without access to files except its temporary ones."""
    con = duckdb.connect(
        config={
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": str(directory),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    con.execute("set TimeZone='UTC'")
    # This optimizer moves a shared subexpression out of the TRYs around it: an error would fail the query, not the row.
    con.execute("set disabled_optimizers='common_subexpressions'")
    con.execute("set enable_external_access=false")
    con.execute("set lock_configuration=true")
    return con


class Engine:
    """Renders the chunks of one run; a context manager."""

    def __init__(
        self,
        dataset: Dataset,
        metadata: Mapping[str, pa.Table],
        *,
        directory: Path,
        memory_limit: str | None = None,
        threads: int = 1,
        gathered: Collection[str] = (),
    ) -> None:
        """Load the metadata and compile the dataset.

        Args:
            dataset: the dataset.
            metadata: its tables by name.
            directory: for DuckDB's temporary files.
            memory_limit: of DuckDB, e.g. "256MB"; by default `MEMORY_MB`, or more for many metadata.
            threads: of DuckDB.
            gathered: names of metadata of which only some rows are here. They are compiled as if all were.

        Raises:
            DatasetMistakes: the dataset does not match the metadata's columns or types, or an expression is wrong.
            JoinMultiplies: the columns that metadata is matched by are not unique.
            MetadataTooLarge: all metadata together is larger than `MAX_METADATA_BYTES`.
            RenderFailed: DuckDB can't load metadata, or can't compute an expression that depends only on it.
        """
        _check_size(dataset, metadata)
        self._dataset = dataset
        memory = memory_limit or f"{max(MEMORY_MB, JOIN_MB * len(dataset.metadata))}MB"
        self._con = connect_duckdb(directory, memory_limit=memory, threads=threads)
        self._reads: dict[pa.Schema, str] = {}
        self._relations: dict[tuple[pa.Schema, str], duckdb.DuckDBPyRelation] = {}
        self._numbers = itertools.count()  # of views
        try:
            kinds = {name: self._register(name, metadata[name]) for name in dataset.metadata}
            bound = bind_dataset(self._con, dataset, kinds)
            self._bound, self._kinds, self._metadata_kinds = bound, bound.kinds, kinds
            self.constant_id = find_constant_id(bound)  # a mistake as soon as a subject has two predictions
            for name, keys in bound.keys.items():
                self._check_unique(name, keys, identifier(f"larder.raw.{name}"))
            hoisted = frozenset(
                name
                for name, one in dataset.metadata.items()
                if one.each is None and name not in gathered and metadata[name].num_rows <= _HOISTED_ROWS
            )
            self._compiled, texts = self._compile(bound, hoisted)
            plain = self._compiled.select(texts, digest=False)
            self.basis = basis = self._build_basis(plain, kinds)  # differs if rows are rendered another way
            self._selects = {True: self._compiled.select(texts, digest=True, basis=basis), False: plain}
            self._select_inputs = self._compiled.select_inputs(basis)
            for name, sql in self._compiled.tables.items():
                self._load(name, sql)
        except duckdb.Error as error:
            self._con.close()
            raise RenderFailed(
                f"{dataset.name} metadata: can't be loaded: {first_line(error)}; filter the queries to the rows and "
                "columns in use"
            ) from error
        except BaseException:
            self._con.close()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._relations.clear()  # each keeps the database open
        self._con.close()

    @property
    def body(self) -> Mapping[str, Node]:
        """The body's members: expressions with their types, at any depth."""
        return self._bound.body

    @property
    def has_inputs(self) -> bool:
        """Whether the inputs of rows have a digest: expressions use only values of types that have one."""
        return self._compiled.inputs is not None

    def _build_basis(self, select: str, metadata: Mapping[str, Mapping[str, SqlType]]) -> str:
        """Return the SQL of a text that identifies how rows are rendered; the compiled SQL has the definition."""
        used = [[metadata[name][key] for key in keys] for name, keys in self._bound.keys.items()]
        kinds = str([self._kinds, self._bound.fields, used])
        return build_basis(
            {
                "definition": [select, self._compiled.tables, kinds],
                "renderer": RELEASE,
                "duckdb": duckdb.__version__,
            }
        )

    def read_inputs(self, chunk: pa.RecordBatch | pa.Table, first_row: int) -> pa.Table | None:
        """Compute what is known of the rows of a chunk before they are rendered, which costs a fifth of it.

        Two rows with the same inputs have the same item key, body and rank, or are both rejected.

        Returns:
            row, pk, sk, k1 and k2 (uint64: the digest of the item key), inputs (uint64), and the numbers that guards
            measure. None if a value fails the whole query.

        Raises:
            JoinMultiplies: as in `render`.
        """
        rows = pa.arange(first_row, first_row + chunk.num_rows)
        try:
            found = self._select(self._select_inputs, chunk, rows)
        except duckdb.Error:
            return None
        return self._in_order(found, rows)

    def render_rows(
        self, chunk: pa.RecordBatch | pa.Table, first_row: int, rows: pa.Array, *, digest: bool
    ) -> pa.Table:
        """Render some rows of a chunk, by their ascending numbers, as `render` does all of them."""
        if self._dataset.derive:  # the step gets whole chunks, since it can look at all rows of one
            rendered = self.render(chunk, first_row, digest=digest)
            return rendered.take(pc.subtract(rows, first_row))
        if len(rows) == chunk.num_rows:
            return self.render(chunk, first_row, digest=digest)
        return self.render_picked(self.pick_rows(chunk, first_row, rows), digest=digest)

    def pick_rows(self, chunk: pa.RecordBatch | pa.Table, first_row: int, rows: pa.Array) -> pa.Table:
        """Return some rows of a chunk, by their ascending numbers, for `render_picked`."""
        return _number(_to_table(chunk).take(pc.subtract(rows, first_row)), rows)

    def render_picked(self, picked: pa.Table, *, digest: bool) -> pa.Table:
        """Render picked rows, of one chunk or several, as `render` does; not for a dataset with a `derive` step."""
        if not picked.num_rows:
            return self._schema(digest=digest).empty_table()
        return self._render(picked.drop_columns(_ROW), picked[_ROW].combine_chunks(), digest=digest)

    def render(self, chunk: pa.RecordBatch | pa.Table, first_row: int, *, digest: bool = True) -> pa.Table:
        """Render a chunk from `read_chunks`. `digest`: also compute the bodies' digests, which is a third of the work.

        Returns:
            One row per row of the chunk, in its order: row int64, pk string, sk string, body and rank string (null for
            a reject), digest uint64 (null unless requested), bytes int64, reason and detail string (null for an item).
            With `digest` also inputs, uint64, a digest of all that the item depends on (null if a value has none), and
            a double for each value that guards measure (`name_measured`).

        Raises:
            JoinMultiplies: a prediction matched several metadata rows.
            RenderFailed: DuckDB can't execute an expression at all. If it fails for the values of a row, the row is
                rejected.
        """
        return self._render(chunk, pa.arange(first_row, first_row + chunk.num_rows), digest=digest)

    def _render(self, chunk: pa.RecordBatch | pa.Table, rows: pa.Array, *, digest: bool) -> pa.Table:
        try:
            rendered = self._select(self._selects[digest], chunk, rows)
        except duckdb.Error as error:
            if not _is_of_values(error, chunk):
                place = f"rows {rows[0]} to {rows[-1]}"
                with_read = self._read_chunk(chunk, rows)
                raise self._describe_failure(error, place, with_read, self._compiled.plain) from error
            if chunk.num_rows == 1:
                return self._reject(rows[0].as_py(), first_line(error), digest=digest)
            # A value that DuckDB can't process fails the whole query, and so do wide rows that exceed the memory limit.
            half = chunk.num_rows // 2
            parts = (chunk.slice(0, half), rows[:half]), (chunk.slice(half), rows[half:])
            return pa.concat_tables([self._render(part, among, digest=digest) for part, among in parts])
        return self._explain(self._in_order(rendered, rows))

    def _select(self, select: str, chunk: pa.RecordBatch | pa.Table, rows: pa.Array) -> pa.Table:
        """Execute a SELECT over a chunk.

        DuckDB takes as long to parse and bind a SELECT as for 1,500 rows. So it is parsed once, as a view, and the
        relation is kept: each execution reads the chunk that is registered then.
        """
        sql = f"{self._read_chunk(chunk, rows)} {select}"
        relation = self._relations.pop((chunk.schema, sql), None)
        if relation is None:
            view = identifier(f"larder.select.{next(self._numbers)}")
            self._con.execute(f"create temp view {view} as {sql}")
            relation = self._con.sql(f"from {view}")
        found = relation.to_arrow_table(_BATCH_ROWS)
        self._relations[chunk.schema, sql] = relation  # not after an error
        return found

    def _read_chunk(self, chunk: pa.RecordBatch | pa.Table, rows: pa.Array) -> str:
        """Register a chunk, and return the SQL that defines `larder.read`: its columns, and derived ones."""
        self._con.register("larder.chunk", _number(chunk, rows))
        read = self._read(chunk.schema)
        if self._dataset.derive:
            read = self._derive(read, self._dataset.derive)
        return f'with "larder.read" as ({read})'

    def _reject(self, row: int, detail: str, *, digest: bool) -> pa.Table:
        """Return the rendered form of a row that DuckDB can't process."""
        found = {"row": row, "reason": BAD_VALUE, "detail": detail}
        return pa.Table.from_pylist([found], self._schema(digest=digest))

    def _schema(self, *, digest: bool) -> pa.Schema:
        before, of_check, after = [*_RENDERED][:-3], _RENDERED.field("inputs"), [*_RENDERED][-2:]
        measured = [of_check, *(pa.field(name, pa.float64()) for name in self._compiled.measured)] if digest else []
        return pa.schema([*before, *measured, *after])

    def originals(self, chunk: pa.RecordBatch | pa.Table, rows: list[int]) -> list[str]:
        """Return rows of a chunk, by their index, as JSON text that the source format `rejects` can read.

        Each is an object of the columns, or the text of a malformed line. A value without JSON is a string.
        """
        return self._originals(_to_table(chunk).take(pa.array(rows, pa.int64())))

    def problems(self, chunk: pa.RecordBatch | pa.Table, rows: list[int]) -> list[str | None]:
        """Return why rows of a chunk, by their index, could not be read; None for one that could."""
        if PROBLEM not in chunk.schema.names:
            return [None] * len(rows)
        problems: list[str | None] = chunk[PROBLEM].take(pa.array(rows, pa.int64())).to_pylist()
        return problems

    def partitions(self, chunk: pa.RecordBatch | pa.Table) -> dict[str, str | None]:
        """Return the values from the object key of a chunk, which its original rows lack (`find_partitions`)."""
        names = find_partitions(chunk.schema, self._dataset.source, self._kinds) if chunk.num_rows else []
        return {name: chunk[name][0].as_py() for name in names}

    def _originals(self, table: pa.Table) -> list[str]:
        self._con.register("larder.chunk", table)
        relation = self._con.sql('select * from "larder.chunk"')
        kinds = dict(zip(relation.columns, relation.types, strict=True))
        select = render_original(kinds, self._kinds, of_rejects=self._dataset.source.format == "rejects")
        try:
            found = self._con.execute(f'{select} from "larder.chunk"').fetchall()
        except _OF_VALUES:
            if table.num_rows > 1:
                half = table.num_rows // 2
                return self._originals(table.slice(0, half)) + self._originals(table.slice(half))
            return [render_row(table)]
        return [strict_json(text, line) for text, line in found]

    def read_as_of(
        self, chunk: pa.RecordBatch | pa.Table, *, complete: bool = False
    ) -> tuple[datetime, datetime] | None:
        """Return the lowest and the highest instant in a chunk's `as_of` column; None if all are null.

        Raises:
            BadInstant: a value is not an instant.
            NullInstant: `complete` is set, and a row has no value, although all values of the row can be read.
        """
        rule = self._dataset.as_of
        assert isinstance(rule, FromColumn)  # noqa: S101 - only such a dataset has the column
        column = identifier(rule.column)
        self._con.register("larder.chunk", _number(chunk, pa.arange(0, chunk.num_rows)))
        bounds = f"epoch_us(min({column}::timestamptz)), epoch_us(max({column}::timestamptz))"
        empty = f'min("{_ROW}") filter (where {column} is null and "larder.bad" is null)'
        try:
            (found,) = self._con.execute(f"select {bounds}, {empty} from ({self._read(chunk.schema)})").fetchall()
            if complete and found[2] is not None:
                raise NullInstant(found[2])
            if found[0] is None:
                return None
            low, high = (datetime.fromtimestamp(value / 1e6, UTC) for value in found[:2])
            if self._kinds[rule.column].id != "timestamp with time zone":
                low, high = (set_zone(instant.replace(tzinfo=None), rule.zone) for instant in (low, high))
        except NullInstant:
            raise
        except (*_OF_VALUES, ValueError, OverflowError, OSError) as error:
            raise BadInstant(
                f"{self._dataset.name}: column {rule.column!r} is the output's as_of, but one of its values is not an "
                f"instant of the years 1 to 9999 ({first_line(error)}); write the same instant in every row"
            ) from error
        return low, high

    # -- metadata that fits into no memory: rows that match have the same hash on both sides, and a few others too

    def can_hash(self, name: str) -> bool:
        """Return whether rows that match have the same hash: 1 and 1.0 are equal, and have different texts."""
        columns = [self._metadata_kinds[name][key] for key in self._bound.keys[name]]
        kinds = {kind.id for kind in (*columns, *(leaf.kind for leaf in self._bound.on[name]))}
        return kinds <= KEY_KINDS | {"null"}

    def hash_predictions(self, name: str, chunk: pa.RecordBatch | pa.Table, first_row: int) -> pa.Array:
        """Return the hashes (uint64) of the values by which the rows of a chunk are matched, each once.

        A row whose values DuckDB can't compute has none: rendering says what is wrong with it.
        """
        relation, values = self._compiled.on[name]
        columns = [f"v{n}" for n in range(len(values))]
        chosen = ", ".join(f"{value} as {column}" for value, column in zip(values, columns, strict=True))
        rows = pa.arange(first_row, first_row + chunk.num_rows)
        select = f"select distinct {_hash(columns)} as hash from (select {chosen} from {relation})"
        try:
            return self._select(select, chunk, rows)["hash"].drop_null().combine_chunks()
        except _OF_VALUES:
            if chunk.num_rows == 1:
                return pa.array([], pa.uint64())
            half = chunk.num_rows // 2
            parts = (chunk.slice(0, half), first_row), (chunk.slice(half), first_row + half)
            return pc.unique(pa.chunked_array([self.hash_predictions(name, *part) for part in parts]))

    def hash_metadata(self, name: str, rows: pa.RecordBatch | pa.Table) -> pa.Array:
        """Return the hash (uint64) of each row of a metadata; null for a row with a null, which matches nothing."""
        self._con.register("larder.hashed", _without_dictionaries(_to_table(rows)))
        keys = [identifier(key) for key in self._bound.keys[name]]
        sql = f'select {_hash(keys)} as hash from "larder.hashed"'
        found = self._con.sql(sql).to_arrow_table()["hash"].combine_chunks()
        self._con.unregister("larder.hashed")
        return found

    def check_unique(self, name: str, rows: pa.Table) -> None:
        """Check that some rows of a metadata differ in the columns that it is matched by.

        Raises:
            JoinMultiplies: they do not.
        """
        self._con.register("larder.hashed", _without_dictionaries(rows))
        self._check_unique(name, self._bound.keys[name], '"larder.hashed"')
        self._con.unregister("larder.hashed")

    def _register(self, name: str, table: pa.Table) -> dict[str, SqlType]:
        self._con.register(f"larder.raw.{name}", _without_dictionaries(table))
        relation = self._con.sql(f"select * from {identifier(f'larder.raw.{name}')}")
        return dict(zip(relation.columns, relation.types, strict=True))

    def _load(self, name: str, sql: str) -> None:
        """Create the table of a metadata, and release the rows that it was made from."""
        raw = identifier(f"larder.raw.{name}")
        try:
            self._con.execute(f"create table {identifier(f'larder.m.{name}')} as {sql}")
        except duckdb.Error as error:
            rows = f"all rows of metadata {name!r}"
            whole = (
                f"(select {identifier('larder.row')} as {identifier(name)} from {raw} as {identifier('larder.row')})"
            )
            raise self._describe_failure(error, rows, "", whole) from error
        self._con.unregister(f"larder.raw.{name}")

    def _describe_failure(self, error: duckdb.Error, rows: str, with_: str, relation: str) -> RenderFailed:
        """Find an expression that fails by itself on a relation, and describe the failure with place and remedy."""
        blamed = "its expressions together"
        for leaf in self._bound.leaves():
            try:
                self._con.execute(f"{with_} select count(cast(({leaf.expression.sql}\n) as varchar)) from {relation}")
            except type(error):
                blamed = f"{leaf.expression.place}, {leaf.expression.sql!r},"
                break
            except duckdb.Error:
                continue  # it uses names that this relation does not have
        remedy = "fix the expression"
        if isinstance(error, duckdb.OutOfMemoryException):
            remedy = "make it shorter: keep fewer or smaller values per item, or compute it in the model or in Athena"
        what = f"{blamed} can't be computed for {rows}: {first_line(error)}"
        return RenderFailed(f"{self._dataset.name}: {what}; {remedy}")

    def _check_unique(self, name: str, keys: list[str], relation: str) -> None:
        columns = ", ".join(identifier(key) for key in keys)
        some = " and ".join(f"{identifier(key)} is not null" for key in keys)
        found = self._con.execute(
            f"select {columns}, count(*) from {relation} where {some} group by all "
            "having count(*) > 1 order by all limit 1"
        ).fetchall()
        for *values, count in found:
            example = ", ".join(f"{key} = {value}" for key, value in zip(keys, values, strict=True))
            raise JoinMultiplies(
                f"{self._dataset.name} metadata.{name}: {count} rows have {example}, expected one; change the query to "
                "return one row for these values"
            )

    def _compile(self, bound: Any, hoisted: frozenset[str]) -> tuple[Compiled, dict[str, str]]:
        compiled = compile_dataset(bound, hoisted)
        texts: dict[str, str] = {}
        for name, sql in compiled.defaults.items():
            code, *found = self._con.execute(sql).fetchall()[0]
            if code is not None:  # rendering nulls fails: render per prediction, so that only rows without match fail
                return self._compile(bound, hoisted - {name})
            texts |= {f"larder.{name}.f{n}": text for n, text in enumerate(found)}
        return compiled, texts

    def _read(self, schema: pa.Schema) -> str:
        """Return the SELECT of the declared columns of the registered chunk."""
        if schema not in self._reads:
            source = self._dataset.source
            declared = {name: self._kinds[name] for name in source.columns}
            self._reads[schema] = build_read(self._con, source, declared, self._compiled.columns)
        return self._reads[schema]

    def _derive(self, read: str, step: Derive) -> str:
        """Run the dataset's pandas step over the rows read; return the SELECT of its result."""
        derived = derive_columns(self._con.sql(read).to_arrow_table(), step, self._dataset.name)
        for n, name in enumerate(derived.column_names):
            if name in self._kinds:
                derived = derived.set_column(n, name, self._choose(name, derived[name]))
        self._con.register("larder.derived", derived)
        relation = self._con.sql('select * from "larder.derived"')
        try:
            coerced = read_columns(dict(zip(relation.columns, relation.types, strict=True)), self._kinds)
        except TypeError as error:
            raise DeriveFailed(
                f"{self._dataset.name} derive: {error}; return that type, or declare the other"
            ) from error
        return render_read('"larder.derived"', coerced, self._compiled.columns, identifier(PROBLEM), '"larder.bad"')

    def _choose(self, name: str, column: pa.ChunkedArray) -> pa.Array:
        """Convert a column that a step returned to a type that DuckDB takes."""
        whole = column.combine_chunks()
        try:
            return convert_column(whole, choose_type(whole.type, self._kinds[name]))
        except (NotTaken, pa.ArrowException) as error:
            raise DeriveFailed(f"{self._dataset.name} derive: column {name!r} is {error}") from error

    def _explain(self, rendered: pa.Table) -> pa.Table:
        """Replace reason codes with reason and detail."""
        code = rendered["code"]
        reasons, details = zip(*self._compiled.reasons.all, strict=True)
        detail = pc.coalesce(rendered["problem"], pa.array(details, pa.string()).take(code))
        found = rendered.drop_columns(["code", "problem"])
        return found.append_column("reason", pa.array(reasons, pa.string()).take(code)).append_column("detail", detail)

    def _in_order(self, rendered: pa.Table, expected: pa.Array) -> pa.Table:
        """Restore the order of rows, which a join can change, and check that each row occurs exactly once."""
        count = len(expected)
        if not rendered["row"].equals(pa.chunked_array([expected])):
            rendered = rendered.sort_by("row")
            if not rendered["row"].combine_chunks().equals(expected):
                raise JoinMultiplies(
                    f"{self._dataset.name}: the join made {rendered.num_rows} rows of {count} predictions, expected "
                    f"{count}; the values by which {', '.join(self._dataset.metadata)} is matched are not unique"
                )
        return rendered


def _hash(values: Sequence[str]) -> str:
    """Return the SQL of the hash of values: of their texts, as those of integers of any type are equal if they are."""
    nulls = " or ".join(f"{value} is null" for value in values)
    return f"case when {nulls} then null else hash({', '.join(f'cast({value} as varchar)' for value in values)}) end"


def _check_size(dataset: Dataset, metadata: Mapping[str, pa.Table]) -> None:
    total = sum(metadata[name].nbytes for name in dataset.metadata)
    if total > MAX_METADATA_BYTES:
        largest = max(dataset.metadata, key=lambda name: metadata[name].nbytes)
        raise MetadataTooLarge(
            f"{dataset.name} metadata: takes {total >> 20} MB, expected at most {MAX_METADATA_BYTES >> 20} MB; "
            f"{largest!r} is the largest: filter its query to the rows and columns that are used, or join "
            "in Athena and feed the result as the output"
        )


def _to_table(chunk: pa.RecordBatch | pa.Table) -> pa.Table:
    return pa.Table.from_batches([chunk]) if isinstance(chunk, pa.RecordBatch) else chunk


def _number(chunk: pa.RecordBatch | pa.Table, rows: pa.Array) -> pa.Table:
    return _to_table(chunk).append_column(_ROW, rows)


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """Decode dictionaries: DuckDB would read them as enums, whose types list every value."""
    for n, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(n, column.name, table.column(n).cast(column.type.value_type))
    return table


def _is_of_values(error: duckdb.Error, chunk: pa.RecordBatch | pa.Table) -> bool:
    """Return whether an error can be caused by the values of some rows, instead of by an expression for any row."""
    if isinstance(error, duckdb.OutOfMemoryException) and chunk.num_rows == 1:
        return bool(chunk.nbytes > _WIDE_ROW)
    return isinstance(error, _OF_VALUES)

"""Bring to each piece those rows of a large metadata that its predictions can match, by an exchange of hashes.

A metadata that takes too much memory is never read as a whole. Tasks over its files divide its rows into buckets, by
the hash of the columns that they are matched by. Tasks over pieces divide the hashes of their predictions in the same
way. A task over a bucket then checks that the rows are unique, and writes a section for each piece. The engine of a
piece gets its rows, and a few that have an equal hash: it matches by values, as if it had all rows.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.buckets import KEY_BITS, count_bits, divide
from enrich.delta.store import Store
from enrich.read.metadata import list_metadata, open_metadata, read_batches
from enrich.read.pieces import Range, read_piece
from enrich.run.pieces.exchange import Section, get_section, put_sections
from enrich.s3 import split_location

if TYPE_CHECKING:
    from enrich.run.context import RunContext
    from enrich.run.pieces.tasks import Task

# Of Parquet, of all metadata that each worker has in memory; as Arrow it can be several times larger.
MOST_BYTES = 32 * 1024 * 1024
HASH = "larder.hash"
ROWS = 64 * 1024  # of a metadata, read at a time
BYTES_PER_ROW = 128  # in a bucket: with wider rows there are more buckets
RunTasks = Callable[[str, str, Mapping[str, Mapping[str, Any]]], Mapping[str, Any]]


@dataclass(frozen=True)
class Gathered:
    """Rows of large metadata.

    Attributes:
        work: the run's work folder.
        of: metadata -> `schema`, and `sections` with some of its rows.
    """

    work: Store
    of: Mapping[str, Mapping[str, Any]]

    def without_rows(self) -> Gathered:
        """Return no rows of the same metadata."""
        return Gathered(self.work, {name: {**each, "sections": []} for name, each in self.of.items()})

    def read(self) -> dict[str, pa.Table]:
        """Read the rows."""
        return {name: self._read(each["schema"], each["sections"]) for name, each in self.of.items()}

    def _read(self, schema: str, sections: list[list[Any]]) -> pa.Table:
        tables = [get_section(self.work, Section(*each)) for each in sections]
        return pa.concat_tables([_load_schema(schema).empty_table(), *(each for each in tables if each is not None)])


def find_large(context: RunContext) -> dict[str, dict[str, int]]:
    """Return the files of the largest metadata, with their bytes: of as many as do not fit beside the others.

    What is matched by the elements of lists is never exchanged.
    """
    s3 = context.services.s3
    files = {name: list_metadata(s3, name, location) for name, location in context.run.metadata.items()}
    left, large = dict(files), dict[str, dict[str, int]]()
    while sum(sum(each.values()) for each in left.values()) > MOST_BYTES:
        candidates = [name for name in left if context.dataset.metadata[name].each is None]
        if not candidates:
            break
        name = max(candidates, key=lambda name: sum(left[name].values()))
        large[name] = left.pop(name)
    return large


class Exchange(NamedTuple):
    """The metadata that is exchanged.

    Attributes:
        files: metadata -> its files, with their bytes.
        bits: metadata -> number of bits of its buckets.
        of: as in `Gathered`, without rows.
        basis: identifies what hashes are computed with.
    """

    files: Mapping[str, Mapping[str, int]]
    bits: Mapping[str, int]
    of: Mapping[str, Mapping[str, Any]]
    basis: str


def find_exchange(context: RunContext) -> Exchange:
    """Find the metadata that is exchanged; from here on the context's engine has no rows of it.

    Metadata that is matched by values without a hash is not exchanged: each worker reads all of it.
    """
    large = find_large(context)
    if not large:
        return Exchange({}, {}, {}, "")
    measured = {name: _measure(context, name, files) for name, files in large.items()}
    empty = {name: {"schema": schema, "sections": []} for name, (schema, _) in measured.items()}
    context.gathered = Gathered(context.work, empty)
    with context.compile(context.scratch) as engine:
        empty = {name: each for name, each in empty.items() if engine.can_hash(name)}
        basis = engine.basis
    context.gathered = Gathered(context.work, empty)
    return Exchange(large, {name: measured[name][1] for name in empty}, empty, basis)


def gather_metadata(
    context: RunContext, identity: str, pieces: Mapping[str, list[list[Any]]], run_tasks: RunTasks
) -> dict[str, dict[str, Any]]:
    """Return for each piece, by its name, what `Gathered.of` needs; nothing if all metadata fit into memory.

    Args:
        context: the run's context; from here on its engine has no rows of the metadata that is exchanged.
        identity: of the pieces.
        pieces: their ranges.
        run_tasks: takes the kind of tasks, a folder for their results, and their data; returns their results.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in pieces}
    files, bits, empty, basis = find_exchange(context)
    if not empty:
        return found
    # A driver of another release can compute other hashes, so it does not use those of this one.
    identity = hashlib.sha256(f"{identity} {basis} {bits}".encode()).hexdigest()[:16]
    hashed = run_tasks(
        "hash_predictions",
        f"pieces/hashed/{identity}/",
        {name: {"ranges": ranges, "bits": bits, "metadata": empty} for name, ranges in pieces.items()},
    )
    for name in empty:
        data = {
            f"{name}-{n:06d}": {"name": name, "file": file, "bits": bits[name], "metadata": empty}
            for n, file in enumerate(files[name])
        }
        rows = run_tasks("hash_metadata", f"pieces/metadata/{identity}/", data).values()
        buckets = {f"{name}-{bucket.name}": bucket.prefix for bucket in divide(bits[name])}
        gathered = run_tasks(
            "gather",
            f"pieces/gathered/{identity}/",
            {
                bucket: {
                    "name": name,
                    "metadata": empty,
                    "rows": [_section(each, at) for each in rows],
                    "pieces": [_section(hashed[piece][name], at) for piece in pieces],
                }
                for bucket, at in buckets.items()
            },
        )
        for n, piece in enumerate(pieces):
            sections = [_section(each, n) for each in gathered.values()]
            wanted = [list(section) for section in sections if section.end > section.first]
            found[piece][name] = {**empty[name], "sections": wanted}
    return found


def _section(file: Mapping[str, Any], n: int) -> Section:
    return Section(file["file"], *file["offsets"][n : n + 2])


def _measure(context: RunContext, name: str, files: Mapping[str, int]) -> tuple[str, int]:
    """Return the schema of a metadata, and the number of bits of its buckets, from its largest file."""
    bucket, _ = split_location(context.run.metadata[name])
    largest = max(files, key=lambda file: files[file])
    with open_metadata(context.services.s3, bucket, largest) as parquet:
        groups = [parquet.metadata.row_group(n) for n in range(parquet.metadata.num_row_groups)]
        units = max(2 * parquet.metadata.num_rows, sum(group.total_byte_size for group in groups) // BYTES_PER_ROW)
        bits = max(1, count_bits(units * sum(files.values()) // max(1, files[largest])))
        return base64.b64encode(parquet.schema_arrow.serialize().to_pybytes()).decode(), bits


def _load_schema(schema: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema)))


def hash_metadata(context: RunContext, task: Task) -> dict[str, Any]:
    """Divide the rows of a file of a metadata into buckets by their hash; write a section for each."""
    name, bits = task.data["name"], task.data["bits"]
    bucket, _ = split_location(context.run.metadata[name])
    schema = _load_schema(task.data["metadata"][name]["schema"]).append(pa.field(HASH, pa.uint64()))
    paths = [context.scratch / f"{each.name}.arrow" for each in divide(bits)]
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(path), "wb")), schema, options=options)
            )
            for path in paths
        ]
        parquet = stack.enter_context(open_metadata(context.services.s3, bucket, task.data["file"]))
        for batch in read_batches(name, parquet, ROWS):
            rows = pa.table(batch).append_column(HASH, context.engine.hash_metadata(name, batch))
            for at, part in _divide(rows.filter(pc.is_valid(rows[HASH])), bits):
                writers[at].write_table(part.cast(schema))
            context.step()
    file = f"pieces/rows/{task.name}-{context.services.owner}"
    return {"file": file, "offsets": put_sections(context.work, file, paths, context.scratch / "sections")}


def hash_predictions(context: RunContext, task: Task) -> dict[str, Any]:
    """Divide the hashes of a piece's predictions into buckets, for each large metadata; write a section for each."""
    hashes = {name: pa.array([], pa.uint64()) for name in task.data["bits"]}
    piece, row = [Range(*each) for each in task.data["ranges"]], 0
    for _, _, chunk in read_piece(task.parts, context.dataset.source, piece, open_part=context.open_part):
        for name, so_far in hashes.items():
            new = context.engine.hash_predictions(name, chunk, row)
            hashes[name] = pc.unique(pa.chunked_array([so_far, new]))
        row += chunk.num_rows
        context.step()
    found: dict[str, Any] = {}
    for name, bits in task.data["bits"].items():
        divided = dict(_divide(pa.table({HASH: hashes[name]}), bits))
        empty = pa.table({HASH: pa.array([], pa.uint64())})
        file = f"pieces/hashes/{name}-{task.name}-{context.services.owner}"
        sections = (divided.get(bucket.prefix, empty) for bucket in divide(bits))
        offsets = put_sections(context.work, file, sections, context.scratch / "sections")
        found[name] = {"file": file, "offsets": offsets}
    return found


def _divide(rows: pa.Table, bits: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield the rows of each bucket, by their hash, that has some."""
    bucket = pc.shift_right(rows[HASH], pa.scalar(KEY_BITS - bits, pa.uint64())).combine_chunks()
    order = pc.sort_indices(bucket)
    ordered, first = rows.take(order), 0
    runs = pc.run_end_encode(bucket.take(order))
    for prefix, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield prefix, ordered.slice(first, end - first)
        first = end


def gather(context: RunContext, task: Task) -> dict[str, Any]:
    """Check that the rows of a bucket of a metadata are unique; write those that each piece can match, by section.

    Raises:
        JoinMultiplies: they are not.
    """
    name = task.data["name"]
    tables = [_load_schema(task.data["metadata"][name]["schema"]).append(pa.field(HASH, pa.uint64())).empty_table()]
    tables += [table for each in task.data["rows"] if (table := get_section(context.work, Section(*each))) is not None]
    rows = pa.concat_tables(tables).sort_by(HASH)
    context.engine.check_unique(name, rows.drop_columns([HASH]))

    def choose() -> Iterator[pa.Table]:
        for section in task.data["pieces"]:
            hashes = get_section(context.work, Section(*section))
            yield _choose(rows, hashes[HASH].combine_chunks() if hashes is not None else pa.array([], pa.uint64()))
            context.step()

    file = f"pieces/matched/{task.name}-{context.services.owner}"
    return {"file": file, "offsets": put_sections(context.work, file, choose(), context.scratch / "sections")}


def _choose(rows: pa.Table, hashes: pa.Array) -> pa.Table:
    """Return the rows, which are in the order of their hashes, that have one of these hashes."""
    of_rows = rows[HASH].combine_chunks()
    first, end = (pc.search_sorted(of_rows, hashes, side=side) for side in ("left", "right"))
    many = pc.max(pc.subtract(end, first)).as_py() or 0
    if many > 1:  # different values have one hash
        return rows.filter(pc.is_in(rows[HASH], hashes)).drop_columns([HASH])
    return rows.take(first.filter(pc.less(first, end))).drop_columns([HASH])

"""Compute what an output changes: its keys and body digests against the fingerprints of the live items.

A body that did not change is not written, but the order in its fingerprint advances. So an older run that comes late is
superseded, although the item in the table has an even older order. The key space is processed bucket by bucket, so that
memory and scratch disk stay the same for any number of rows. With more than one bucket, each result is a file in the
run's work folder (for a merge: among the fingerprints), whose name identifies its inputs: an invocation that continues
the run uses the file.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.dataset.compiler import KEY_SQL, MD5_SQL, PREDICTION_ID_SQL
from enrich.dataset.empty_database import open_empty
from enrich.delta.buckets import EVERYTHING, Bucket, count_bits, divide
from enrich.delta.fingerprints import Fingerprints, FingerprintTrust, Known, Part, Target
from enrich.delta.memory import Memory
from enrich.delta.notes import LAST_ROW, Log, Piece
from enrich.delta.outcomes import Outcomes
from enrich.delta.store import Store
from enrich.errors import Stopped
from serve.item import MAX_PK_BYTES

WRITE, UNCHANGED, SUPERSEDED, REJECTED = 0, 1, 2, 3
WHY = ("new", "in doubt", "changed", "rewritten", "expiring")  # why a row is written, by the number in `why`
MEMORY_LIMIT = "128MB"  # above it, DuckDB spills to scratch disk
LOCAL_BYTES = 2 * 1024**3  # of notes by bucket that stay on scratch disk; the others are read from S3 again
BATCH_ROWS = 64 * 1024  # fetched from DuckDB at once
_BIT = 4  # above all outcomes
# Of the body and the rank: an item is also written again if only its rank has changed.
_DIGEST = "if(rank is null, digest, (md5_number(concat(digest, ' ', rank)) >> 64)::ubigint)"
# A reason in `why`: the item may be stored already, and the rank that it has there is not known.
_REPLACES = tuple(WHY.index(why) for why in ("in doubt", "changed"))
_REMOVALS = pa.schema(
    [
        ("row", pa.int64()),  # within its bucket
        ("k1", pa.uint64()),
        ("k2", pa.uint64()),
        ("pk", pa.string()),
        ("sk", pa.string()),
        ("expires_at", pa.int64()),
    ]
)
_NOTED = "row bigint, k1 ubigint, k2 ubigint, digest ubigint, kept boolean, pk varchar, sk varchar, inputs ubigint"

Step = Callable[[], None]


def compute_key(pk: str, sk: str) -> tuple[int, int]:
    """Compute the digest of an item key as it is noted: k1 and k2."""
    with open_empty() as con:
        select = f"select {KEY_SQL} from (select {MD5_SQL} as md5 from (select $pk as pk, $sk as sk))"
        k1, k2 = con.execute(select, {"pk": pk, "sk": sk}).fetchall()[0]
    return int(k1), int(k2)


class Withdrawn(NamedTuple):
    """A withdrawn output: the texts of its runs' orders, and when the last of its items expires (epoch seconds)."""

    orders: Sequence[str]
    expires_at: int


class _Removals(NamedTuple):
    """The removals of a bucket: the number of the first one among all removals of the run, and their count."""

    bucket: Bucket
    first: int
    rows: int


def _go_on() -> None:
    """Do nothing between two buckets."""


class Delta:
    """Keys and digests of one run's output, and the decisions that follow from them; a context manager.

    A method calls its argument `step` after each bucket except the last. `step` can raise to end the invocation:
    finished buckets stay finished. Only dividing the notes into buckets starts from the beginning.
    """

    def __init__(
        self,
        directory: Path,
        work: Store,
        *,
        rests_on: str,
        keep_keys: bool = False,
        once: bool = False,
        memory_limit: str = MEMORY_LIMIT,
    ) -> None:
        """Begin without notes.

        Args:
            directory: a folder on scratch disk for this run only.
            work: the run's work folder.
            rests_on: text that identifies the inputs of the noted rows: order and metadata of the run.
            keep_keys: also keep the item keys, which a snapshot needs to remove the items that it no longer names.
            once: rows with the same key and the same body count once; otherwise all of them are rejected.
            memory_limit: of DuckDB, e.g. "128MB".
        """
        self._folder = tempfile.TemporaryDirectory(dir=directory)
        self._directory = directory = Path(self._folder.name)
        self._work = work
        self._notes_id = _identify(rests_on, keep_keys, *(["once"] if once else []))
        self._keep_keys = keep_keys
        self._once = once
        self._log = Log(directory / "log")
        self._bits = 0  # of the buckets of the notes, once they are complete
        self._only: Bucket | None = None  # whose share of the work this process does; None: it does all
        self._in_table: Bucket | None = None  # whose notes are in the table `noted`
        self._local: dict[Bucket, Path] = {}
        self._local_bytes = 0
        self._complete = False  # whether all rows are noted, and the duplicates among them known
        self._duplicates: Sequence[int] = ()
        self._known = Known(work, directory, Fingerprints(FingerprintTrust.ALL))
        self._buckets: list[Bucket] = [EVERYTHING]  # as decided
        self._decided: tuple[Bucket, pa.Table] | None = None
        self._decided_id = ""
        self._outcomes = Outcomes(directory / "outcomes")
        self._why = Counter[str]()
        self._removals: list[_Removals] = []
        self._removals_id = ""
        self._removals_expire_at = 0
        self._removals_in_file: Bucket | None = None
        self._db = duckdb.connect(
            ":memory:",  # what does not fit goes to `spill`
            config={"memory_limit": memory_limit, "temp_directory": str(directory / "spill"), "threads": 2},
        )
        self._db.execute("set enable_progress_bar = false")
        self._db.execute(f"create table noted({_NOTED})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._db.close()
        self._folder.cleanup()

    # -- notes

    def note(self, rendered: pa.Table) -> None:
        """Note the keys and digests of rendered rows: columns row, pk, sk, digest, rank, reason, inputs."""
        keys = "pk, sk" if self._keep_keys else "null::varchar as pk, null::varchar as sk"
        with _Registered(self._db, chunk=rendered.select(["row", "pk", "sk", "digest", "rank", "reason", "inputs"])):
            self._log.add(
                self._db.sql(
                    f"select row, {KEY_SQL}, {_DIGEST} as digest, reason is null as kept, {keys}, inputs "
                    f"from (select *, {MD5_SQL} as md5 from chunk where pk is not null and sk is not null)"
                ).to_arrow_table()
            )

    def note_unrendered(self, found: pa.Table, memory: Memory) -> pa.Array:
        """Note those rows whose item has the inputs that the memory has of it, with the digest that it has.

        Args:
            found: columns row, pk, sk, k1, k2, inputs.
            memory: of live items.

        Returns:
            The numbers of the other rows, which must be rendered.
        """
        digest = memory.find(found["k1"].combine_chunks(), found["inputs"].combine_chunks())
        noted = found.select(["row", "k1", "k2"]).append_column("digest", digest)
        noted = noted.append_column("kept", pa.repeat(pa.scalar(True), len(digest)))
        for name in ("pk", "sk"):
            noted = noted.append_column(name, found[name] if self._keep_keys else pa.nulls(len(digest), pa.string()))
        noted = noted.append_column("inputs", found["inputs"])
        self._log.add(noted.filter(pc.is_valid(digest)))
        return found["row"].combine_chunks().filter(pc.is_null(digest))

    def build_memory(self, known: Known, *, now: float, enough: float, expires_at: int) -> Memory:
        """Return the memory of the items that `decide` would not write again, if their bodies are the same."""
        return Memory(
            self._db.sql(
                f"""
                select k1, inputs, digest from {known.sql(EVERYTHING)}
                where not removed and digest is not null and inputs is not null
                    and expires_at - $now >= $enough and expires_at <= $expires_at
                order by k1
                """,
                params={"now": now, "enough": enough, "expires_at": expires_at},
            ).to_arrow_table()
        )

    def export_noted(self) -> Path:
        """Return a Parquet file of the rows noted since the last export, for a restart. The caller must not move it."""
        return self._log.export()

    def import_noted(self, path: Path, first_row: int, last_row: int) -> None:
        """Note a range of the rows that an earlier invocation exported; the file is moved."""
        self._log.import_file(path, first_row, last_row)

    def restore(self) -> bool:
        """Load the complete notes of an earlier invocation; return whether there are any.

        Only notes of more than one bucket are stored.
        """
        path = self._directory / "duplicates.parquet"
        if not self._work.get(self._notes_name("duplicates.parquet"), path):
            return False
        table = pq.read_table(path)
        self._bits = int(table.schema.metadata[b"bits"])
        self._duplicates = _rows_of(table)
        self._complete = True
        return True

    def duplicates(self, step: Step = _go_on) -> Sequence[int]:
        """Return the rows that share their item key with another row, in order, and note them as rejected.

        This completes the notes: no row can be noted afterwards.
        """
        self.complete_notes(step)
        return self._duplicates

    def complete_notes(self, step: Step = _go_on) -> None:
        """Divide the notes into buckets, if there are many, and find the duplicates; only the first call does so."""
        if self._complete:
            return
        self._log.close_piece()
        self._bits = count_bits(self._log.rows)
        self._duplicates = self._divide(self._bits, step) if self._bits else self._load_all()
        self._complete = True

    def _load_all(self) -> Sequence[int]:
        """Load the notes of the only bucket; return the duplicates."""
        if self._log.pieces:
            self._db.execute(f"insert into noted {' union all '.join(piece.sql for piece in self._log.pieces)}")
        self._in_table = EVERYTHING
        return self._reject_duplicates()

    def _divide(self, bits: int, step: Step) -> Sequence[int]:
        """Divide the log into buckets and store these on S3; return all duplicates."""
        paths, found = self._log.distribute(bits, self._directory, step), array("q")
        for bucket in divide(bits):
            with pa.OSFile(str(paths[bucket.prefix]), "rb") as file:
                found.extend(self._store_bucket(bucket, pa.ipc.open_stream(file)))
            paths[bucket.prefix].unlink()
            step()
        self._in_table = divide(bits)[-1]
        return self._store_duplicates(bits, found)

    def _store_bucket(self, bucket: Bucket, rows: pa.RecordBatchReader | pa.Table) -> list[int]:
        """Load the notes of a bucket, find the duplicates among them, and store both; return the duplicates."""
        with _Registered(self._db, rows=rows):
            self._db.execute("create or replace table noted as from rows")
        found = self._reject_duplicates()
        path = self._directory / f"{bucket.name}.noted.parquet"
        self._db.execute(f"copy noted to '{path}' (format parquet, compression zstd)")
        self._work.put(self._notes_name(f"{bucket.name}.parquet"), path)
        self._keep_local(bucket, path)
        return found

    def _store_duplicates(self, bits: int, found: Sequence[int]) -> Sequence[int]:
        """Store the duplicates of all buckets, which marks the notes as complete; return them in order."""
        rows = pc.sort_indices(values := pa.array(found, pa.int64()))
        table = pa.table({"row": values.take(rows)}).replace_schema_metadata({"bits": str(bits)})
        path = self._directory / "duplicates.parquet"
        pq.write_table(table, path)
        self._work.put(self._notes_name("duplicates.parquet"), path)
        return _rows_of(table)

    def _reject_duplicates(self) -> list[int]:
        """Note rows of the loaded bucket that share their key as rejected, or as repeated; return the rejected ones."""
        if self._once:
            self._db.execute("""
                update noted set kept = null where kept and row not in (
                    select min(row) from noted where kept group by k1, k2, digest)
            """)
        found = self._db.execute(
            "select row from noted join (select k1, k2 from noted where kept group by all having count(*) > 1) "
            "using (k1, k2) where kept is distinct from false order by row"
        ).fetchall()
        rows = [row for (row,) in found]
        if rows:
            with _Registered(self._db, rejected=_rows(rows)):
                self._db.execute("update noted set kept = false where row in (select row from rejected)")
        return rows

    def _keep_local(self, bucket: Bucket, path: Path) -> None:
        self._local_bytes += path.stat().st_size
        if self._local_bytes <= LOCAL_BYTES:
            self._local[bucket] = path
        else:
            path.unlink()

    def _noted(self, bucket: Bucket) -> str:
        """Load the notes of a bucket, and return the SQL relation of them."""
        mine = bucket.widen(self._bits)
        if self._in_table != mine:
            path = self._local.get(mine)
            if path is None:
                path = self._directory / "noted.parquet"
                name = self._notes_name(f"{mine.name}.parquet")
                if not self._work.get(name, path):
                    raise Stopped(f"s3://{self._work.bucket}/{self._work.prefix}{name}, notes of this run, is gone")
            self._db.execute(f"create or replace table noted as {Piece(path, 0, LAST_ROW).sql}")
            self._in_table = mine
        return "noted" if mine == bucket else f"(from noted where {bucket.condition})"

    def _notes_name(self, name: str) -> str:
        return f"noted-buckets/{self._notes_id}/{name}"

    # -- shares: the work on one bucket, done by another process; its results are the files that this class looks for

    @property
    def notes_id(self) -> str:
        """A text that identifies the inputs of the notes."""
        return self._notes_id

    def distribute(self, bits: int, step: Step = _go_on) -> list[Path]:
        """Distribute what was noted to buckets; return a file for each, an Arrow stream. Then nothing can be noted."""
        self._log.close_piece()
        return [path for _, path in sorted(self._log.distribute(bits, self._directory, step).items())]

    def take_share(self, bits: int, bucket: Bucket) -> None:
        """Work only on one bucket from now on. `bits`: those of the buckets of the notes; one of them contains it."""
        self._bits, self._only, self._complete = bits, bucket, True

    def store_notes(self, rows: pa.Table) -> list[int]:
        """Store the notes of the bucket of this share; return the rows that share their item key with another row."""
        if self._only is None:
            raise RuntimeError("take_share comes first")
        return self._store_bucket(self._only, rows)

    def adopt_notes(self, bits: int, duplicates: Sequence[int]) -> None:
        """Complete the notes with the duplicates of all buckets, which are stored already."""
        self._bits, self._complete = bits, True
        self._duplicates = self._store_duplicates(bits, duplicates)

    def adopt_decisions(self, why: Mapping[str, int], **rules: Any) -> None:
        """Use the decisions that shares have made by these rules (arguments of `decide`); `why`: as in `explain`."""
        self._divide_keys(_go_on)
        self._decided_id = self._identify_decisions(**rules)
        self._why = Counter(why)

    def adopt_removals(
        self, rows: Mapping[Bucket, int], expire_at: int, *, order: str, now: float, withdrawn: Withdrawn | None
    ) -> int:
        """Use the removals that shares have chosen, given their number by bucket; return how many there are."""
        self._removals_id = self._identify_removals(order, now, withdrawn)
        first = 0
        for bucket in divide(self._buckets[0].bits):
            self._removals.append(_Removals(bucket, first, rows[bucket]))
            first += rows[bucket]
        self._removals_expire_at = expire_at
        return first

    @property
    def buckets(self) -> Sequence[Bucket]:
        """The buckets in which decisions are made."""
        self._divide_keys(_go_on)
        return self._buckets

    @property
    def noted_bits(self) -> int:
        """The number of bits of the buckets of the notes."""
        return self._bits

    @property
    def decided_id(self) -> str:
        """A text that identifies the inputs of the decisions."""
        return self._decided_id

    @property
    def removals_id(self) -> str:
        """A text that identifies the inputs of the chosen removals."""
        return self._removals_id

    @property
    def _several(self) -> bool:
        return self._buckets[0].bits > 0

    # -- decisions

    def load_known(self, known: Known) -> None:
        """Set the fingerprints to compare with."""
        self._known = known

    @property
    def known(self) -> Fingerprints:
        """The fingerprints that the output is compared with."""
        return self._known.fingerprints

    def decide(
        self,
        *,
        order: str,
        expires_at: int,
        now: float,
        enough: float,
        full: bool,
        snapshot: str = "",
        step: Step = _go_on,
    ) -> None:
        """Decide for each noted row whether it is written, unchanged, superseded or rejected.

        Args:
            order: text of this run's order.
            expires_at: when the items that it writes expire, in epoch seconds. An unchanged item that would live longer
                is written again: the dataset's ttl has become shorter, or a withdrawn output had extended its life.
            now: epoch seconds; the same in each invocation of a run, so that all make the same decisions.
            enough: minimum remaining TTL, in seconds, for skipping a rewrite of an unchanged item.
            full: write every row that is not superseded.
            snapshot: text of the order of a closed snapshot; rows of an older run are superseded, whether the snapshot
                names their items or not.
            step: called between two buckets.
        """
        self._divide_keys(step)
        bits = self._buckets[0].bits
        self._decided_id = self._identify_decisions(
            order=order, expires_at=expires_at, now=now, enough=enough, full=full, snapshot=snapshot
        )
        lives = {"now": now, "enough": enough, "expires_at": expires_at}
        values = {"order": order, "full": full, "snapshot": snapshot, **lives}
        done = self._work.list(self._decided_name("")) if bits else set[str]()
        for bucket in self._buckets:
            decided = self._read_decided(bucket) if self._decided_name(bucket.name) in done else None
            is_new = decided is None
            if decided is None:
                decided = self._decide_bucket(bucket, values)
                if bits:
                    self._save_decided(bucket, decided)
            self._decided = bucket, decided
            self._outcomes.add(decided["row"].combine_chunks(), _pack(decided))
            for each in pc.value_counts(decided["why"].drop_null()).to_pylist():
                self._why[WHY[each["values"]]] += each["counts"]
            if is_new and bucket != self._buckets[-1]:
                step()

    def decided(self, bucket: Bucket) -> pa.Table:
        """Return the decisions for a bucket: row, and what `unpack` reads of each, in order."""
        decided = self._read_decided(bucket)
        return pa.table({"row": decided["row"], "packed": _pack(decided)})

    def _identify_decisions(
        self, *, order: str, expires_at: int, now: float, enough: float, full: bool, snapshot: str
    ) -> str:
        del enough  # of the dataset; a run keeps its decisions if the dataset changes
        base, bits = self._known.fingerprints, self._buckets[0].bits
        return _identify(
            self._notes_id, self._bits, bits, base.object_key, base.trust.name, order, expires_at, now, full, snapshot
        )

    def _identify_removals(self, order: str, now: float, withdrawn: Withdrawn | None) -> str:
        return _identify(self._decided_id, order, now, withdrawn and list(withdrawn))

    def count_changed(self, now: float) -> tuple[int, int]:
        """Return, of the live items that the output names, how many would get another body, and how many there are.

        Items whose stored body is not known are left out. If there are many keys, only the first bucket is counted:
        keys are divided by their digests, so a bucket is a random sample of up to `buckets.ROWS` of them.
        """
        self._divide_keys(_go_on)
        bucket = self._buckets[0]
        found = self._db.execute(
            f"""
            select count(*) filter (k.digest <> n.digest), count(*)
            from {self._noted(bucket)} n join {self._known.sql(bucket)} k using (k1, k2)
            where n.kept and not k.removed and k.digest is not null and k.expires_at > $now
            """,
            {"now": now},
        ).fetchall()
        return found[0]

    def _divide_keys(self, step: Step) -> None:
        """Divide the key space so that no bucket has too many noted or known rows."""
        self.complete_notes(step)
        bits = max(self._bits, count_bits(self._known.fingerprints.rows))
        self._buckets = divide(bits) if self._only is None else [self._only]

    def _decide_bucket(self, bucket: Bucket, values: dict[str, object]) -> pa.Table:
        return self._db.sql(
            f"""
            select row, outcome, if(outcome = {WRITE}, why, null) as why from (
                select n.row, case when not n.kept then {REJECTED}
                    when k."order" > $order or $order < $snapshot then {SUPERSEDED}
                    when n.kept is null then {UNCHANGED}
                    when not $full and k.digest = n.digest and k.expires_at - $now >= $enough
                        and k.expires_at <= $expires_at then {UNCHANGED}
                    else {WRITE} end::utinyint as outcome,
                    case when k.k1 is null or k.removed or k.expires_at <= $now then 0
                    when k.digest is null then 1 when k.digest <> n.digest then 2
                    when $full or k.expires_at - $now >= $enough then 3 else 4 end::utinyint as why
                from {self._noted(bucket)} n left join {self._known.sql(bucket)} k using (k1, k2)
            ) order by row
            """,
            params=values,
        ).to_arrow_table()

    def _decided_name(self, name: str) -> str:
        return f"decided/{self._decided_id}/{name}"

    def _save_decided(self, bucket: Bucket, decided: pa.Table) -> None:
        path = self._directory / "decided.parquet"
        encoding = {"row": "DELTA_BINARY_PACKED"}
        pq.write_table(decided, path, compression="zstd", column_encoding=encoding, use_dictionary=["outcome", "why"])
        self._work.put(self._decided_name(bucket.name), path)

    def _read_decided(self, bucket: Bucket) -> pa.Table:
        """Read the decisions for a bucket, made here or in an earlier invocation.

        Raises:
            Stopped: the file no longer exists.
        """
        if self._decided is not None and self._decided[0] == bucket:
            return self._decided[1]
        return pq.read_table(self._fetch(self._decided_name(bucket.name), "decided.parquet"))

    def _fetch(self, name: str, local: str) -> Path:
        path = self._directory / local
        if not self._work.get(name, path):
            raise Stopped(f"s3://{self._work.bucket}/{self._work.prefix}{name}, a checkpoint of this run, is gone")
        return path

    def outcomes(self, first_row: int, last_row: int) -> pa.Table:
        """Return columns row, outcome and replaces of the noted rows of a range, in order.

        `replaces`: a write can replace an item that has another rank.
        """
        packed = self._outcomes.read(first_row, last_row)
        return unpack(packed["row"], packed["outcome"])

    def explain(self) -> dict[str, int]:
        """Return the number of rows to be written by reason: new, changed, expiring, in doubt or rewritten.

        Expiring: unchanged, with too little TTL left. In doubt: the stored body is not known. Rewritten: unchanged, but
        written because every item is written, or because the stored item would live too long.
        """
        return dict(sorted(self._why.items()))

    # -- removals

    def choose_removals(
        self, *, order: str, now: float, withdrawn: Withdrawn | None = None, step: Step = _go_on
    ) -> int:
        """Choose the live items that this run removes, and return how many there are.

        A snapshot removes the items that it does not name and that no newer run confirmed; a rejected row also names
        its item. Items whose keys are not known stay until they expire: those of outputs from before the dataset was
        one of snapshots. With `withdrawn`: the items that the withdrawn output names, if it was the last to confirm
        them, or if it is unknown which run was the last. Removals are numbered in the order of their keys' digests, for
        any number of buckets.
        """
        self._removals_id = self._identify_removals(order, now, withdrawn)
        several = self._several
        done = self._work.list(self._removals_name("")) if several else set[str]()
        path, first = self._directory / "removals.parquet", 0
        for bucket in self._buckets:
            name = self._removals_name(bucket.name)
            if name in done:
                self._fetch(name, path.name)
            else:
                _write(path, _REMOVALS, self._choose_in_bucket(bucket, order, now, withdrawn))
                if several:
                    self._work.put(name, path)
                if bucket != self._buckets[-1]:
                    step()
            file = pq.ParquetFile(path)
            self._removals.append(_Removals(bucket, first, file.metadata.num_rows))
            first += file.metadata.num_rows
            for batch in file.iter_batches(columns=["expires_at"]):
                self._removals_expire_at = max(self._removals_expire_at, pc.max(batch["expires_at"]).as_py() or 0)
            self._removals_in_file = bucket
        return first

    def _choose_in_bucket(
        self, bucket: Bucket, order: str, now: float, withdrawn: Withdrawn | None
    ) -> Iterable[pa.RecordBatch]:
        named = f"(select distinct k1, k2, pk, sk from {self._noted(bucket)}) n"
        known = self._known.sql(bucket)
        chosen, more, values = "n.k1 is null", "", dict[str, object]()
        if withdrawn is not None:
            chosen = """n.k1 is not null and (k."order" = '' or list_contains($by, k."order"))"""
            values = {"by": list(withdrawn.orders)}
        if withdrawn is not None and withdrawn.expires_at > now:
            # Lost fingerprints can have had these items. A row can have been rejected for a key that no item can have.
            more = f"""
                union all select k1, k2, pk, sk, $expires_at from {named} anti join {known} using (k1, k2)
                where regexp_full_match(sk, $prediction_id) and strlen(pk) <= $most
                """
            values |= {
                "expires_at": withdrawn.expires_at,
                "prediction_id": PREDICTION_ID_SQL,
                "most": MAX_PK_BYTES,
            }
        return self._stream(
            f"""
            select row_number() over (order by k1, k2) - 1 as row, * from (
                select k1, k2, coalesce(k.pk, n.pk) as pk, coalesce(k.sk, n.sk) as sk, k.expires_at
                from {known} k left join {named} using (k1, k2)
                where k."order" < $order and not k.removed and k.expires_at > $now and {chosen}
                    and coalesce(k.pk, n.pk) is not null
                {more}
            ) order by row
            """,
            {"order": order, "now": now, **values},
        )

    def count_named(self, now: float, withdrawn: Withdrawn, step: Step = _go_on) -> tuple[int, int]:
        """Return how many live items a withdrawn output was the last to confirm: those that it names, and the others.

        It did name the others when it ran. So its rows get other keys now, or none.
        """
        named = unnamed = 0
        for bucket in self._buckets:
            found = self._db.execute(
                f"""
                select count(*) filter (n.k1 is not null), count(*) filter (n.k1 is null)
                from {self._known.sql(bucket)} k left join (select distinct k1, k2 from {self._noted(bucket)}) n
                    using (k1, k2)
                where list_contains($by, k."order") and not k.removed and k.expires_at > $now
                """,
                {"by": list(withdrawn.orders), "now": now},
            ).fetchall()[0]
            named, unnamed = named + found[0], unnamed + found[1]
            if bucket != self._buckets[-1]:
                step()
        return named, unnamed

    def removals(self, first: int, last: int) -> pa.Table:
        """Return columns row, pk and sk of a range of the chosen removals, in order."""
        among = [each for each in self._removals if each.first <= last and each.first + each.rows > first]
        empty = _REMOVALS.empty_table().select(["row", "pk", "sk"])
        return pa.concat_tables([empty, *(self._read_removals(each, first, last) for each in among)])

    def _read_removals(self, of: _Removals, first: int, last: int) -> pa.Table:
        return self._db.sql(
            f"select row + $before as row, pk, sk from {self._chosen(of)} where row + $before between $first and $last "
            "order by row",
            params={"before": of.first, "first": first, "last": last},
        ).to_arrow_table()

    def removals_expire_at(self) -> int:
        """Return when the last item to be removed expires (epoch seconds): tombstones must not expire before."""
        return self._removals_expire_at

    def _chosen(self, removals: _Removals) -> str:
        """Fetch the removals of a bucket, and return their SQL relation, with the columns of `_REMOVALS`."""
        if self._removals_in_file != removals.bucket:
            self._fetch(self._removals_name(removals.bucket.name), "removals.parquet")
            self._removals_in_file = removals.bucket
        return f"read_parquet('{self._directory / 'removals.parquet'}')"

    def _removals_name(self, name: str) -> str:
        return f"removals/{self._removals_id}/{name}"

    # -- the fingerprints that the run leaves

    def merge(
        self,
        target: Target,
        *,
        order: str,
        expires_at: int,
        removed_until: int,
        now: float,
        superseded: Sequence[int],
        nothing_written: bool,
        outlived: Sequence[int] = (),
        step: Step = _go_on,
    ) -> Fingerprints:
        """Write the dataset's fingerprints after this run, without those of items that have expired, and return them.

        Args:
            target: where to write them.
            order: text of this run's order.
            expires_at: when the items that it wrote expire, in epoch seconds.
            removed_until: when the tombstones of the chosen removals expire, in epoch seconds.
            now: epoch seconds.
            superseded: rows for which the table turned out to have a newer item.
            nothing_written: this run only removed items, or its items were born expired.
            outlived: removals for which the table had a newer item, whose fingerprints are kept.
            step: called between two buckets.
        """
        removals = {each.bucket: each for each in self._removals if each.rows}
        rests_on = (self._decided_id, self._removals_id if removals else "", order, expires_at, removed_until)
        identity = _identify("merge", *rests_on, nothing_written, list(superseded), list(outlived))

        def change(bucket: Bucket) -> tuple[str, dict[str, object]] | None:
            changes, values = [], dict[str, object]()
            # A join of keys takes a third longer, even if all are null.
            keys, pk, sk = (
                (", pk, sk", "c.pk", "c.sk") if self._keep_keys or bucket in removals else ("", "null", "null")
            )
            if not nothing_written and self._names_any(bucket):
                self._register_decided(bucket, superseded)
                values |= {"order": order, "expires_at": expires_at}
                changes.append(f"""
                    select k1, k2, digest, if(w.row is null, null, $expires_at) as expires_at, false as removed,
                        inputs{keys}
                    from {self._noted(bucket)} n left join written w using (row) anti join dropped using (row)
                    where kept
                    """)
            if bucket in removals:
                values |= {"order": order, "removed_until": removed_until, "before": removals[bucket].first}
                changes.append(f"""
                    select k1, k2, null as digest, $removed_until as expires_at, true as removed, null as inputs{keys}
                    from {self._chosen(removals[bucket])} where row + $before not in (select row from stays)
                    """)
            if not changes:
                return None
            return (
                f"""
                select k1, k2, if(c.removed is null, k.digest, c.digest) as digest,
                    if(c.removed is null, k."order", $order) as "order",
                    coalesce(c.expires_at, k.expires_at) as expires_at,
                    coalesce(c.removed, k.removed) as removed, if(c.removed is null, k.pk, {pk}) as pk,
                    if(c.removed is null, k.sk, {sk}) as sk, if(c.removed is null, k.inputs, c.inputs) as inputs
                from ({" union all ".join(changes)}) c full join {self._known.sql(bucket)} k using (k1, k2)
                """,
                values,
            )

        with _Registered(self._db, stays=_rows(outlived)):
            return self._save(target, identity, change, now, step)

    def _register_decided(self, bucket: Bucket, superseded: Sequence[int]) -> None:
        """Register the rows of a bucket that were written, and those that leave the fingerprints as they are.

        Only of a new output is each of these tables as long as that of all rows.
        """
        decided = self._read_decided(bucket)
        is_kept = pc.is_in(decided["outcome"], pa.array([WRITE, UNCHANGED], pa.uint8()))
        dropped = decided.filter(pc.invert(is_kept)).select(["row"])
        self._db.register("dropped", pa.concat_tables([dropped, _rows(superseded)]))
        self._db.register("written", decided.filter(pc.equal(decided["outcome"], WRITE)).select(["row"]))

    def merge_unknown(
        self, target: Target, *, expires_at: int, now: float, removing: str = "", step: Step = _go_on
    ) -> Fingerprints:
        """Write the fingerprints after a run that began to write and will never close: its bodies may be in the table.

        Each item that this run names is written by the next run that names it, or removed by the next snapshot that
        does not name it, even if there was a tombstone before. Nothing was confirmed, so orders do not change.

        Args:
            target: where to write them.
            expires_at: when the items that it wrote expire, in epoch seconds.
            now: epoch seconds.
            removing: text of the run's order if it had begun to remove items: each older item can be a tombstone now.
            step: called between two buckets.
        """
        self._divide_keys(step)
        base = self._known.fingerprints
        rests_on = (self._notes_id, self._bits, len(self._buckets), base.object_key, base.trust.name, removing)

        def change(bucket: Bucket) -> tuple[str, dict[str, object]] | None:
            if not removing and not self._names_any(bucket):
                return None
            return (
                f"""
                select k1, k2, if(n.row is null and not k."order" < $removing, k.digest, null) as digest,
                    coalesce(k."order", '') as "order",
                    if(n.row is null, k.expires_at, greatest(k.expires_at, $expires_at)) as expires_at,
                    n.row is null and k.removed as removed, if(n.row is null, k.pk, n.pk) as pk,
                    if(n.row is null, k.sk, n.sk) as sk,
                    if(n.row is null and not k."order" < $removing, k.inputs, null) as inputs
                from (from {self._noted(bucket)} where kept) n full join {self._known.sql(bucket)} k using (k1, k2)
                """,
                {"expires_at": expires_at, "removing": removing},
            )

        return self._save(target, _identify("unknown", *rests_on, expires_at), change, now, step)

    def _names_any(self, bucket: Bucket) -> bool:
        """Return whether the output names keys of a bucket; if it has several buckets, all are assumed to have keys."""
        return bool(self._bits) or bool(self._db.execute(f"select 1 from {self._noted(bucket)} limit 1").fetchall())

    def _save(
        self,
        target: Target,
        identity: str,
        change: Callable[[Bucket], tuple[str, dict[str, object]] | None],
        now: float,
        step: Step,
    ) -> Fingerprints:
        """Write the fingerprints of all buckets; `change` returns a bucket's new rows as SQL with values, or None."""
        path, several = self._directory / "fingerprints.parquet", self._several
        done, parts = target.find_parts(identity) if several else {}, list[Part]()
        for bucket in self._buckets:
            if bucket in done:
                parts.append(done[bucket])
                continue
            changed = change(bucket)
            if changed is None and (carried := self._carry(bucket, now)) and several:
                parts.append(carried)
                continue
            sql, values = changed or (self._known.sql(bucket), {})
            rows = self._stream(f"select * from ({sql}) where expires_at > $now", {**values, "now": now})
            if not several:
                return target.write_only(rows, path)
            parts.append(target.write_part(rows, path, bucket, identity))
            if bucket != self._buckets[-1]:
                step()
        if self._only is not None:
            return Fingerprints(FingerprintTrust.ALL, None, parts)
        return target.write_manifest(parts, path)

    def _carry(self, bucket: Bucket, now: float) -> Part | None:
        """Return the file of a bucket if it can be kept: none of its items has expired, and its digests are trusted."""
        known, parts = self._known.fingerprints, self._known.parts(bucket)
        if known.trust is not FingerprintTrust.ALL or len(parts) != 1 or parts[0].bucket != bucket:
            return None
        return parts[0] if parts[0].least_expires_at > now else None

    def _stream(self, sql: str, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        yield from self._db.sql(sql, params=values).to_arrow_reader(BATCH_ROWS)


class _Registered:
    """Registers Arrow tables under names that SQL can use, within a `with` block."""

    def __init__(self, db: duckdb.DuckDBPyConnection, **tables: Any) -> None:
        self._db = db
        self._tables = tables

    def __enter__(self) -> None:
        for name, table in self._tables.items():
            self._db.register(name, table)

    def __exit__(self, *_: object) -> None:
        for name in self._tables:
            self._db.unregister(name)


def _pack(decided: pa.Table) -> pa.Array:
    """Return the outcomes of decided rows, with a bit for those that can replace an item of another rank."""
    replaces = pc.is_in(decided["why"], pa.array(_REPLACES, pa.uint8()))
    return pc.if_else(
        replaces, pc.bit_wise_or(decided["outcome"], pa.scalar(_BIT, pa.uint8())), decided["outcome"]
    ).combine_chunks()


def unpack(rows: pa.ChunkedArray, packed: pa.ChunkedArray) -> pa.Table:
    """Return columns row, outcome and replaces of decided rows, from the bytes in which they are stored."""
    outcome = pc.bit_wise_and(packed, pa.scalar(_BIT - 1, pa.uint8()))
    replaces = pc.greater_equal(packed, pa.scalar(_BIT, pa.uint8()))
    return pa.table({"row": rows, "outcome": outcome, "replaces": replaces})


def _write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.table(batch).cast(schema))


def _rows(rows: Sequence[int]) -> pa.Table:
    return pa.table({"row": pa.array(rows, pa.int64())})


def _rows_of(table: pa.Table) -> Sequence[int]:
    """Return row numbers as a sequence of 8 bytes each, since there can be many."""
    found = array("q")
    for chunk in table["row"].chunks:
        if len(chunk):
            found.frombytes(memoryview(chunk.buffers()[1])[chunk.offset * 8 : (chunk.offset + len(chunk)) * 8])
    return found


def _identify(*inputs: object) -> str:
    """Return a text for file names that identifies the inputs."""
    return hashlib.sha256(orjson.dumps(inputs)).hexdigest()[:16]

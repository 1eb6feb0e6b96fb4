"""Tell what an output changes: its keys and body digests against the fingerprints of the live items. Embedded DuckDB.

Fingerprints are one Parquet file per dataset: of each live item its key's digest (128 bits), its body's digest, the
order of the newest run that confirmed that body, and when the stored item expires. A body that did not change is not
written, but its order advances; so an older run that comes late finds that it is superseded, though the table holds an
even older order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import duckdb
import pyarrow as pa

from enrich.dataset.compiler import PREDICTION_ID_SQL
from serve.item import MAX_PK_BYTES

FORMAT = "1"  # of the fingerprints; another one is as good as none

WRITE, UNCHANGED, SUPERSEDED, REJECTED = 0, 1, 2, 3
_WINDOW = 500_000  # rows decided or merged at once: what bounds the memory of the joins
MEMORY_LIMIT = "128MB"  # then it spills; so the key index costs disk and not memory
# A key's digest as two numbers, since Parquet has none of 128 bits: the same as md5_number_lower and md5_number_upper,
# which would work it out twice.
_KEY = "(md5 >> 64)::ubigint, (md5 & 18446744073709551615)::ubigint"
_FINGERPRINT = """(
    k1 ubigint, k2 ubigint, digest ubigint, "order" varchar, expires_at bigint, removed boolean, pk varchar, sk varchar
)"""


class Withdrawn(NamedTuple):
    """A withdrawn output: the texts of its runs' orders, and until when items of it may live, in epoch seconds."""

    orders: Sequence[str]
    expires_at: int


class Delta:
    """Keys and digests of one run's output, in DuckDB tables that spill; a context manager.

    `keep_keys` also keeps the item keys themselves, which a snapshot needs to remove what it no longer names.
    """

    def __init__(self, directory: Path, *, keep_keys: bool = False, memory_limit: str = MEMORY_LIMIT) -> None:
        self._directory = directory
        self._keep_keys = keep_keys
        self._duplicates: list[int] | None = None
        self._full = False
        self._db = duckdb.connect(
            ":memory:",  # what does not fit goes to `spill`
            config={"memory_limit": memory_limit, "temp_directory": str(directory / "spill"), "threads": 2},
        )
        self._db.execute("set enable_progress_bar = false")
        # `kept` is false for a row that was rejected; its item, if there is one, is left to its expiry
        self._db.execute(
            "create table noted("
            "row bigint, k1 ubigint, k2 ubigint, digest ubigint, kept boolean, pk varchar, sk varchar)"
        )
        self._db.execute("create table outcome(row bigint, outcome utinyint, expires_at bigint)")
        self._db.execute(f"create table known{_FINGERPRINT}")
        self._db.execute(f"create table merged{_FINGERPRINT}")
        self._db.execute(
            "create table removal(row bigint, k1 ubigint, k2 ubigint, pk varchar, sk varchar, expires_at bigint)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def note(self, rendered: pa.Table) -> None:
        """Note the keys and digests of a rendered chunk: columns row, pk, sk, digest, reason."""
        keys = "pk, sk" if self._keep_keys else "null, null"
        self._insert(
            f"insert into noted select row, {_KEY}, digest, reason is null, {keys} "
            "from (select *, md5_number(pk || chr(0) || sk) as md5 from chunk where pk is not null and sk is not null)",
            rendered.select(["row", "pk", "sk", "digest", "reason"]),
        )

    def export_noted(self, first_row: int) -> Path:
        """Write what was noted from a row on to a Parquet file, for a restart."""
        path = self._directory / "noted.parquet"
        self._db.execute(
            f"copy (from noted where row >= {first_row:d} order by row) to '{path}' (format parquet, compression zstd)"
        )
        return path

    def import_noted(self, path: Path, first_row: int, last_row: int) -> None:
        """Note a range of the rows that an earlier invocation had noted."""
        self._db.execute(
            "insert into noted from read_parquet(?) where row between ? and ?", [str(path), first_row, last_row]
        )

    def duplicates(self) -> list[int]:
        """Return the rows that share their item key with another row, in order, and note them as rejected."""
        if self._duplicates is None:
            found = self._db.execute(
                "select row from noted join (select k1, k2 from noted where kept group by all having count(*) > 1) "
                "using (k1, k2) where kept order by row"
            ).fetchall()
            self._duplicates = [row for (row,) in found]
            self._reject(self._duplicates)
        return self._duplicates

    def _reject(self, rows: Sequence[int]) -> None:
        """Note rows as rejected."""
        if rows:
            self._insert("update noted set kept = false where row in (select row from chunk)", _rows(rows))

    def load_known(self, path: Path) -> str | None:
        """Load the dataset's fingerprints; return the id of the table that they tell of, None for another format."""
        marks = dict(
            self._db.execute("select decode(key), decode(value) from parquet_kv_metadata(?)", [str(path)]).fetchall()
        )
        if marks.get("format") != FORMAT:
            return None
        self._db.execute("insert into known from read_parquet(?)", [str(path)])
        return str(marks["table"])

    def forget_bodies(self) -> None:
        """Keep only the orders of what is known: every body is written again."""
        self._db.execute("update known set digest = null")

    def decide(self, *, order: str, now: float, enough: float, full: bool, snapshot: str = "") -> None:
        """Decide for each noted row whether it is written, unchanged, superseded or rejected.

        Args:
            order: text of this run's order.
            now: epoch seconds; the same in each invocation of a run, so that each decides alike.
            enough: seconds of life that an unchanged item must have left to be let be.
            full: write whatever is not superseded.
            snapshot: text of a closed snapshot's order; a row older than that is superseded, named by it or not.
        """
        self.duplicates()
        self._full = full
        self._db.execute("delete from outcome")
        for first, last in self._windows():
            self._db.execute(
                f"""
                insert into outcome
                select n.row, case when not n.kept then {REJECTED}
                    when k."order" > $order or $order < $snapshot then {SUPERSEDED}
                    when not $full and k.digest = n.digest and k.expires_at - $now >= $enough then {UNCHANGED}
                    else {WRITE} end, k.expires_at
                from (from noted where row between $first and $last) n left join known k using (k1, k2)
                order by n.row
                """,
                {
                    "order": order,
                    "full": full,
                    "snapshot": snapshot,
                    "now": now,
                    "enough": enough,
                    "first": first,
                    "last": last,
                },
            )

    def outcomes(self, first_row: int, last_row: int) -> pa.Table:
        """Return columns row and outcome of the noted rows of a range, in order."""
        return self._db.sql(
            "select row, outcome from outcome where row between ? and ? order by row", params=[first_row, last_row]
        ).to_arrow_table()

    def tally(self) -> dict[int, int]:
        """Return how many rows were decided which way."""
        return dict(self._db.execute("select outcome, count(*) from outcome group by outcome").fetchall())

    def explain(self, *, now: float) -> dict[str, int]:
        """Return of the rows to be written how many are new, changed, expiring, in doubt or rewritten.

        Expiring: unchanged, with too little life left. In doubt: nobody knows the stored body. Rewritten: unchanged,
        and written since all is.
        """
        found: dict[str, int] = {}
        for first, last in self._windows():
            counted = self._db.execute(
                """
                select case when k.k1 is null or k.removed or k.expires_at <= $now then 'new'
                    when k.digest is null then 'in doubt' when k.digest <> n.digest then 'changed'
                    when $full then 'rewritten' else 'expiring' end, count(*)
                from (from outcome where row between $first and $last and outcome = $write) o
                join (from noted where row between $first and $last) n using (row)
                left join known k using (k1, k2) group by all
                """,
                {"now": now, "full": self._full, "first": first, "last": last, "write": WRITE},
            ).fetchall()
            for why, count in counted:
                found[why] = found.get(why, 0) + count
        return dict(sorted(found.items()))

    def choose_removals(self, *, order: str, now: float, withdrawn: Withdrawn | None = None) -> int:
        """Choose the live items that this run removes, and return how many there are.

        A snapshot removes those that it does not name and that no newer run confirmed; a rejected row names its item.
        With `withdrawn`: those that it names, and that it confirmed last, or nobody ever did, or nobody knows.
        """
        chosen, values = "n.k1 is null", dict[str, object]()
        if withdrawn is not None:
            chosen = """n.k1 is not null and (k."order" = '' or list_contains($by, k."order"))"""
            values = {"by": list(withdrawn.orders)}
        self._db.execute(
            "create or replace temp table found(k1 ubigint, k2 ubigint, pk varchar, sk varchar, expires_at bigint)"
        )
        for mine in self._slices("known", "noted"):
            named = f"(select distinct k1, k2, pk, sk from noted where {mine}) n"
            self._db.execute(
                f"""
                insert into found
                select k1, k2, coalesce(k.pk, n.pk), coalesce(k.sk, n.sk), k.expires_at
                from (from known where {mine}) k left join {named} using (k1, k2)
                where k."order" < $order and not k.removed and k.expires_at > $now and {chosen}
                """,
                {"order": order, "now": now, **values},
            )
            if withdrawn is not None and withdrawn.expires_at > now:
                # Fingerprints that were lost may have told of them. A row may be rejected for a key that no item has.
                self._db.execute(
                    f"insert into found select k1, k2, pk, sk, $expires_at from {named} "
                    f"anti join (from known where {mine}) using (k1, k2) "
                    "where regexp_full_match(sk, $prediction_id) and strlen(pk) <= $most",
                    {
                        "expires_at": withdrawn.expires_at,
                        "prediction_id": PREDICTION_ID_SQL,
                        "most": MAX_PK_BYTES,
                    },
                )
        self._db.execute(
            "create or replace table removal as select row_number() over (order by k1, k2) - 1 as row, * from found"
        )
        return self._value("select count(*) from removal")

    def removals(self, first: int, last: int) -> pa.Table:
        """Return columns row, pk and sk of a range of the chosen removals, in order."""
        return self._db.sql(
            "select row, pk, sk from removal where row between ? and ? order by row", params=[first, last]
        ).to_arrow_table()

    def removals_expire_at(self) -> int:
        """Return when the last of the items to be removed expires; their tombstones must last as long."""
        return self._value("select coalesce(max(expires_at), 0) from removal")

    def merge(
        self,
        *,
        order: str,
        expires_at: int,
        removed_until: int,
        now: float,
        superseded: Sequence[int],
        nothing_written: bool,
        outlived: Sequence[int] = (),
    ) -> None:
        """Build the dataset's fingerprints after this run, without those of items that have expired.

        Args:
            order: text of this run's order.
            expires_at: of the items that it wrote.
            removed_until: when the tombstones of the chosen removals expire.
            now: epoch seconds.
            superseded: rows for which the table itself turned out to hold a newer item.
            nothing_written: this run only removed, or its items were born expired.
            outlived: removals for which the table held a newer item: what was known of it stands.
        """
        self._note_lost(superseded)
        self._db.execute("delete from merged")
        for first, last in [] if nothing_written else self._windows():
            self._db.execute(
                f"""
                insert into merged
                select n.k1, n.k2, n.digest, $order, if(o.outcome = {UNCHANGED}, o.expires_at, $expires_at), false,
                    n.pk, n.sk
                from (from noted where row between $first and $last) n
                join (from outcome where row between $first and $last) o using (row)
                where o.outcome in ({WRITE}, {UNCHANGED}) and n.row not in (from lost)
                """,
                {"order": order, "expires_at": expires_at, "first": first, "last": last},
            )
        self._note_lost(outlived)
        self._db.execute(
            "insert into merged select k1, k2, null, $order, $removed_until, true, pk, sk from removal "
            "where row not in (from lost)",
            {"order": order, "removed_until": removed_until},
        )
        self._merge_others(now)

    def merge_unknown(self, *, expires_at: int, now: float) -> None:
        """Build the fingerprints after a run that began to write and will not close: its bodies may be in the table.

        Each item that it names is written by whoever names it next, and removed by a snapshot that does not, also where
        a tombstone was before. Nothing was confirmed, so orders stay.
        """
        self.duplicates()
        self._db.execute("delete from merged")
        for first, last in self._windows():
            self._db.execute(
                """
                insert into merged
                select n.k1, n.k2, null, coalesce(k."order", ''), greatest(k.expires_at, $expires_at), false, n.pk, n.sk
                from (from noted where kept and row between $first and $last) n left join known k using (k1, k2)
                """,
                {"expires_at": expires_at, "first": first, "last": last},
            )
        self._merge_others(now)

    def export_merged(self, table_id: str) -> Path:
        """Write the merged fingerprints to a Parquet file."""
        path = self._directory / "fingerprints.parquet"
        self._db.execute(
            f"copy merged to '{path}' (format parquet, compression zstd, "
            f"kv_metadata {{'format': '{FORMAT}', 'table': '{table_id}'}})"
        )
        return path

    def _note_lost(self, rows: Sequence[int]) -> None:
        """Note rows for which the table held a newer item."""
        self._db.execute("create or replace temp table lost(row bigint)")
        if rows:
            self._insert("insert into lost select row from chunk", _rows(rows))

    def _merge_others(self, now: float) -> None:
        """Add what is known of items that are not in `merged` yet, and forget those that have expired."""
        for mine in self._slices("known", "merged"):
            self._db.execute(
                f"insert into merged from (from known where {mine}) "
                f"anti join (select k1, k2 from merged where {mine}) using (k1, k2)"
            )
        self._db.execute("delete from merged where expires_at <= ?", [now])

    def _windows(self) -> Iterator[tuple[int, int]]:
        """Give the first and last rows of what is worked on at once."""
        for first in range(0, self._value("select coalesce(max(row), -1) from noted") + 1, _WINDOW):
            yield first, first + _WINDOW - 1

    def _slices(self, *tables: str) -> Iterator[str]:
        """Give conditions on keys that part what is in tables into slices to be worked on at once."""
        count = 1 + max(self._value(f"select count(*) from {table}") for table in tables) // _WINDOW
        for part in range(count):  # k1 is as good as random; numbers of another type would cost ten times the CPU
            yield f"k1 % {count}::ubigint = {part}::ubigint"

    def _insert(self, sql: str, chunk: pa.Table) -> None:
        self._db.register("chunk", chunk)
        self._db.execute(sql)
        self._db.unregister("chunk")

    def _value(self, sql: str) -> int:
        return int(self._db.execute(sql).fetchall()[0][0])  # an unfinished result would block the connection


def _rows(rows: Sequence[int]) -> pa.Table:
    return pa.table({"row": pa.array(rows, pa.int64())})

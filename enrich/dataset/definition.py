"""Dataset definition types: source, metadata, as_of, policies. Pure values, standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from enrich.dataset.as_of import AsOf, FromColumn, FromKey, LastModified
from serve.datasets import Places, Served

__all__ = [
    "Body",
    "Dataset",
    "Derive",
    "FromColumn",
    "FromKey",
    "LastModified",
    "Member",
    "Metadata",
    "Source",
    "Tolerated",
    "name_place",
]

Body = Mapping[str, "str | Body"]  # the JSON one wants to serve, with a DuckDB SQL expression at each leaf


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset's outputs are, and what a row of them has.

    Attributes:
        prefix: object keys of outputs begin with it.
        format: `parquet`; `csv` (RFC 4180 in UTF-8 with one header line, unless the attributes below say otherwise);
            `jsonl` (one object a line, UTF-8; a missing member is null); `rejects` (what Larder itself wrote, to
            replay it). Text can be compressed: gzip, zstd, snappy in Google's framing or Hadoop's blocks. A part of 0
            bytes is one without rows.
        columns: the contract: column name to DuckDB type. A name that is not in the files can be in the object
            key as `name=value`, Hive's way.
        output: `snapshot` says that an output names every live item; `partial` removes nothing.
        empty_snapshot: a snapshot without rows fails (`refuse`), or it says that no item is alive (`remove-all`).
        snapshot_files: without a marker, each object is a snapshot of its own. Where several are of the same as_of, as
            the parts of one job, they fail (`refuse`), or the last one wins (`each`).
        marker: name of the object that closes an output of several objects, such as `_SUCCESS`.
        unknown_columns: `ignore` or `refuse` columns that the contract does not name.
        delimiter: between the fields of a CSV line.
        quote: around a CSV field that has delimiters, newlines or quotes in it; None if the writer quotes nothing.
        escape: makes the character after it text; in quoted fields only, if there is a quote. None: RFC 4180's
            doubled quote alone. README.md has what Spark, Hive, MySQL and others write.
        header: the first line of each CSV file has the names of its columns; else their order is that of `columns`.
        null_words: CSV fields that are null unless they are quoted.
        rejects_of: set by a replay: the format of the output whose rejects these are.
    """

    prefix: str
    format: Literal["parquet", "csv", "jsonl", "rejects"]
    columns: Mapping[str, str]
    output: Literal["partial", "snapshot"] = "partial"
    empty_snapshot: Literal["refuse", "remove-all"] = "refuse"
    snapshot_files: Literal["refuse", "each"] = "refuse"
    marker: str | None = None
    unknown_columns: Literal["ignore", "refuse"] = "ignore"
    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    header: bool = True
    null_words: Sequence[str] = ("",)
    rejects_of: str | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """Rows from Athena that predictions are joined with.

    Attributes:
        sql: an Athena query; its column names are what expressions use, as `name.column`.
        on: the metadata columns that a prediction is matched by: one name or several when the columns are called the
            same on both sides, else a mapping from an expression over the prediction's columns to a metadata column.
            As in SQL, null matches nothing. Each combination of values can occur once in the metadata.
        missing: a prediction that finds none is rejected (`reject`), sees nulls (`null`) or fails its output (`fail`).
            With `each`, one element that finds none does that, and `drop` removes it from its list.
        max_age: rows fetched less than this ago are used again.
        each: a column that is a list: each of its elements is matched instead of the prediction. In `on` the column's
            name is then one element: `{"items.sku": "sku"}` for a list of structs, `{"skus": "sku"}` for one of keys.
            In all other expressions the metadata is a list with one struct per element, in the same places; null where
            none was found: `[{'sku': item.sku, 'title': products[i].title} for item, i in items]`.
    """

    sql: str
    on: str | Sequence[str] | Mapping[str, str]
    missing: Literal["reject", "null", "fail", "drop"] = "reject"
    max_age: timedelta = timedelta(0)
    each: str | None = None

    @property
    def matches(self) -> dict[str, str]:
        """Return `on` as a mapping from an expression over the prediction's columns to a metadata column."""
        if isinstance(self.on, Mapping):
            return dict(self.on)
        names = [self.on] if isinstance(self.on, str) else self.on
        return {name: name for name in names}


@dataclass(frozen=True, slots=True)
class Derive:
    """A step in pandas between reading and joining.

    Attributes:
        function: gets a chunk's columns as a DataFrame and returns it with more columns or other values, and with as
            many rows in the same order. A value that could not be read is null in it; its row is rejected later. A
            column that it does not change comes out exactly as in the file.
        columns: names and DuckDB types of the columns that it adds.
    """

    function: Callable[[Any], Any]  # DataFrame -> DataFrame; unnamed here, since pandas is imported only if a step runs
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tolerated:
    """How many rejects an output can have: with more, its run fails before anything is published.

    Attributes:
        share: of the output's predictions.
        number: a limit that does not depend on the share; None for none.
        few: so many are tolerated whatever their share, in an output that has good predictions as well.
    """

    share: float = 0.01
    number: int | None = None
    few: int = 10


@dataclass(frozen=True, slots=True)
class Member:
    """What a member of the body means, for the contract that consumers read (openapi.yaml).

    Attributes:
        description: what it is, with its unit.
        example: a value as it is in the JSON. It also gives the type of a member whose type depends on metadata, which
            only a run knows.
    """

    description: str = ""
    example: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One stream of predictions with one item shape.

    Attributes:
        served: who may read it, from `serve.datasets`.
        source: where its outputs are, and the columns of a row.
        as_of: where the instant is read at which an output was made: `FromKey`, `FromColumn` or `LastModified`.
        ttl: an item expires this long after `as_of`.
        metadata: name of a table in expressions -> the query that gives its rows.
        subject: claim name -> the expression whose text equals the claim's value. Its claims are those of
            `served.subject`, which alone gives their order in the partition key.
        prediction_id: an expression. Its text has 1 to 128 letters, digits and `. _ ~ - : @ , = +`: write
            `replace(url_encode(x), '%', '=')` for any other text, `md5(x)` for a long one, and
            `strftime(x, '%Y-%m-%dT%H:%M:%SZ')` for an instant. A column that it or the subject names outside
            `coalesce` and `case` must not be null: `concat` would swallow the null and make two rows one.
        body: the JSON that a consumer gets, with a DuckDB SQL expression at each leaf.
        derive: a step in pandas before the join.
        tolerated: how many rejects an output can have.
        equal_rows: rows of an output with the same subject, prediction_id and body, such as those of a retried task's
            part: all are rejected as duplicates (`reject`), or they count once (`once`): the first is the prediction,
            and the others are unchanged. Rows that differ in the body are duplicates either way.
        start: the sweep leaves outputs that arrived earlier alone.
        unchanged_life: an item whose body did not change is not written again while it has this share of the ttl left.
        nulls: members that are null are kept, or left out (`omit`), also within structs.
        large_integers: what becomes of BIGINT, UBIGINT, HUGEINT and UHUGEINT, which can pass 2^53, the largest
            integer that every JSON reader keeps: exact digits (`number`); always a string, so that a member never
            changes its type (`string`); or the row is rejected if the value does pass it (`reject`).
        about: what the items are, in a sentence without a full stop, for the contract.
        members: what the members of the body mean, by place: `origin`, `origin.name`; the place `""` is the body.
    """

    served: Served
    source: Source
    as_of: AsOf
    ttl: timedelta
    metadata: Mapping[str, Metadata] = field(default_factory=dict)
    subject: Mapping[str, str]
    prediction_id: str
    body: Body
    derive: Derive | None = None
    tolerated: Tolerated = Tolerated()
    equal_rows: Literal["reject", "once"] = "reject"
    start: datetime | None = None
    unchanged_life: float = 0.5
    nulls: Literal["keep", "omit"] = "keep"
    large_integers: Literal["number", "string", "reject"] = "number"
    about: str = ""
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name, as in paths and item keys; a wrong `served` is for `check` to report, not to raise."""
        return self.served.name if isinstance(self.served, Served) else repr(self.served)

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that expressions may use and their DuckDB types: the contract's and derived ones."""
        return {**self.source.columns, **(self.derive.columns if self.derive else {})}

    def leaves(self) -> dict[str, str]:
        """Return every leaf of the body: its place, such as `body.origin.name`, and its expression."""
        return dict(_leaves("body", self.body))

    def places(self) -> Places:
        """Return the names that lead to each leaf of the body, for the reader; none if the body is no mapping."""
        return tuple(_places(self.body, ())) if isinstance(self.body, Mapping) else ()


def name_place(place: str, name: str) -> str:
    """Name the place of a member; quoted where a dot or a blank in the name could mislead."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return f"{place}.{name}"
    return f"{place}.{json.dumps(name, ensure_ascii=not name.isprintable())}"


def _places(body: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(body, Mapping) or not body:
        yield place
        return
    for name, member in body.items():
        yield from _places(member, (*place, str(name)))


def _leaves(place: str, body: Any) -> list[tuple[str, str]]:
    if isinstance(body, str):
        return [(place, body)]
    return [leaf for name, member in body.items() for leaf in _leaves(name_place(place, name), member)]

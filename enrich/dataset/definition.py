"""Dataset definition types: source, metadata, as_of, policies. Pure values, standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from enrich.dataset.as_of import AsOf, FromColumn, FromKey, LastModified
from enrich.dataset.guards import Guard, Shares
from serve.datasets import Place, Places, Served, list_names
from serve.item import build_rank_tag

__all__ = [
    "Body",
    "Changes",
    "Dataset",
    "Derive",
    "FromColumn",
    "FromKey",
    "Guard",
    "LastModified",
    "Member",
    "Metadata",
    "Shares",
    "Source",
    "Tolerated",
    "name_place",
]

Body = Mapping[str, "str | Body"]  # the JSON to serve, with a DuckDB SQL expression at each leaf


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset's outputs are, and their format and columns.

    Attributes:
        prefix: prefix of the outputs' object keys.
        format: `parquet`; `csv` (RFC 4180 in UTF-8 with one header line, unless the attributes below differ); `jsonl`
            (one object per line, UTF-8; a missing member is null); `rejects` (files that Larder wrote, to replay
            them). Text can be compressed: gzip, zstd, snappy in Google's framing or Hadoop's blocks. A part of 0 bytes
            has no rows.
        columns: the contract: column name -> DuckDB type. A name that is not in the files can be in the object key as
            `name=value` (Hive partition).
        output: `snapshot`: an output names every live item, and other items are removed; `partial` removes nothing.
        empty_snapshot: a snapshot without rows fails (`refuse`), or removes every item (`remove-all`).
        snapshot_files: without a marker, each object is a snapshot of its own. If several have the same as_of, as the
            parts of one job do, they fail (`refuse`), or the last one wins (`each`).
        marker: name of the object that closes an output of several objects, e.g. `_SUCCESS`.
        unknown_columns: `ignore` or `refuse` columns that the contract does not name.
        delimiter: separates the fields of a CSV line.
        quote: encloses a CSV field that contains delimiters, newlines or quotes; None if the writer never quotes.
        escape: makes the next character plain text; if there is a quote, in quoted fields only. None: a quote within a
            quoted field is doubled (RFC 4180). README.md lists what Spark, Hive, MySQL and others write.
        header: the first line of each CSV file has the names of its columns; without it, the columns are in the order
            of `columns`.
        null_words: CSV fields that are null unless they are quoted.
        rejects_of: set by a replay: the format of the output that the rejects come from.
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
        sql: an Athena query; expressions use its columns as `name.column`.
        on: the metadata columns that a prediction is matched by: one name or several if the columns have the same names
            on both sides, otherwise a mapping from an expression over the prediction's columns to a metadata column. As
            in SQL, null matches nothing. Each combination of values can occur only once in the metadata.
        missing: a prediction without a match is rejected (`reject`), gets nulls (`null`) or fails its output (`fail`).
            With `each`, this applies to an element without a match, and `drop` removes the element from its list.
        max_age: rows fetched less than this ago are used again.
        each: a column that is a list: each of its elements is matched instead of the prediction. In `on` the column's
            name is then one element: `{"items.sku": "sku"}` for a list of structs, `{"skus": "sku"}` for a list of
            keys. In all other expressions the metadata is a list with one struct per element, in the same order; null
            for an element without a match: `[{'sku': item.sku, 'title': products[i].title} for item, i in items]`.
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
    """A pandas step between reading and joining.

    Attributes:
        function: takes the columns of a chunk as a DataFrame, and returns a DataFrame with the same rows in the same
            order, with more columns or other values. A value that could not be read is null; its row is rejected
            later. A column that the function does not change keeps exactly the values of the file.
        columns: names and DuckDB types of the columns that the function adds.
    """

    function: Callable[[Any], Any]  # DataFrame -> DataFrame; pandas is imported only when a step runs
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tolerated:
    """How many rejects an output can have: with more, its run fails before anything is published.

    Attributes:
        share: greatest share of the output's predictions, 0 to 1.
        number: greatest number of rejects, whatever their share; None: no such limit.
        few: this many rejects are tolerated whatever their share, if the output has good predictions too.
    """

    share: float = 0.01
    number: int | None = None
    few: int = 10


@dataclass(frozen=True, slots=True)
class Changes:
    """An event for each item that a reader finds changed (docs/events.md), where the environment has `ItemEvents`.

    Attributes:
        bodies: an event has the item's new body, so every reader of the bus sees it; else a consumer must get the item
            with its token.
        renewals: an event also for an item that was only written again to extend its life: for consumers that keep a
            copy and discard expired items.
    """

    bodies: bool = False
    renewals: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """Documentation of a member of the body, for the contract that consumers read (openapi.yaml).

    Attributes:
        description: what the member means, with its unit.
        example: a value as in the JSON. It also defines the type of a member whose type depends on metadata, which is
            known only in a run.
    """

    description: str = ""
    example: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One stream of predictions with one item shape.

    Attributes:
        served: who can read it, from `serve.datasets`.
        source: where its outputs are, and their format and columns.
        as_of: where to read when an output was made: `FromKey`, `FromColumn` or `LastModified`.
        ttl: an item expires this long after `as_of`.
        metadata: name of a table in expressions -> the query that returns its rows.
        subject: claim name -> the expression whose text equals the claim's value. The claims are those of
            `served.subject`, which also defines their order in the partition key.
        prediction_id: an expression. Its text has 1 to 128 letters, digits and `. _ ~ - : @ , = +`: write
            `replace(url_encode(x), '%', '=')` for any other text, `md5(x)` for a long one, and
            `strftime(x, '%Y-%m-%dT%H:%M:%SZ')` for an instant. A column that prediction_id or subject names outside
            `coalesce` and `case` must not be null: `concat` ignores nulls, so two rows could get the same text.
        body: the JSON that a consumer gets, with a DuckDB SQL expression at each leaf.
        rank: the order of a subject's ranked list (`?top=10`), as after ORDER BY: `score desc, distance`. Its
            expressions are numbers, booleans, dates or instants: ascending unless `desc` follows, nulls last unless
            `nulls first` does. Items of equal rank are in order of prediction_id. An item with a rank costs two to
            three times the write units. None: the dataset has no ranked list.
        model_version: the member of the body that is the version of the model, as `fields` names it: `model.version`.
            It is a text or an integer, and is also sent in the header `Larder-Model-Version` and in each entry of a
            list. None: they have no version.
        derive: a pandas step before the join.
        tolerated: how many rejects an output can have.
        guards: what an output must look like before it is published. If a guard fails, the run is held: nothing is
            published until an operator approves it.
        equal_rows: for rows of an output with the same subject, prediction_id and body, as a retried task can write
            them: all are rejected as duplicates (`reject`), or the first is the prediction and the others count as
            unchanged (`once`). Rows with different bodies or ranks are always duplicates.
        start: the sweep ignores outputs that arrived before this.
        unchanged_life: an item whose body did not change is not written again while it has this share of the ttl left.
        nulls: members that are null are kept (`keep`) or left out (`omit`), also within structs.
        large_integers: how to render BIGINT, UBIGINT, HUGEINT and UHUGEINT, whose values can exceed 2^53, the largest
            integer that every JSON reader keeps exactly: all digits (`number`); always a string, so that a member never
            changes its type (`string`); or all digits, and a row with a larger value is rejected (`reject`).
        changes: events for consumers, one per changed item; None: there are none.
        about: what the items are, in a sentence without a full stop, for the contract.
        members: documentation of the body's members, by place: `origin`, `origin.name`; the place `""` is the body.
    """

    served: Served
    source: Source
    as_of: AsOf
    ttl: timedelta
    metadata: Mapping[str, Metadata] = field(default_factory=dict)
    subject: Mapping[str, str]
    prediction_id: str
    body: Body
    rank: str | None = None
    model_version: str | None = None
    derive: Derive | None = None
    tolerated: Tolerated = Tolerated()
    guards: Sequence[Guard] = ()
    equal_rows: Literal["reject", "once"] = "reject"
    start: datetime | None = None
    unchanged_life: float = 0.5
    nulls: Literal["keep", "omit"] = "keep"
    large_integers: Literal["number", "string", "reject"] = "number"
    changes: Changes | None = None
    about: str = ""
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name, as in paths and item keys. A wrong `served` raises nothing here: `check` reports it."""
        return self.served.name if isinstance(self.served, Served) else repr(self.served)

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that expressions can use, with their DuckDB types: of the contract, and derived."""
        return {**self.source.columns, **(self.derive.columns if self.derive else {})}

    @property
    def rank_tag(self) -> str:
        """Return the tag of the rank in stored items; empty without one."""
        return build_rank_tag(self.rank) if self.rank is not None else ""

    @property
    def version_place(self) -> Place:
        """Return the place of the model's version in the body; empty without one, or if the name is not of one leaf."""
        places = self.places()
        found = list_names(places).get(self.model_version, []) if isinstance(self.model_version, str) else []
        return found[0] if len(found) == 1 and found[0] in places else ()

    def leaves(self) -> dict[str, str]:
        """Return the expression of every leaf of the body, by its place, e.g. `body.origin.name`."""
        return dict(_leaves("body", self.body))

    def places(self) -> Places:
        """Return the path of names of each leaf of the body, for the reader; empty if the body is not a mapping."""
        return tuple(_places(self.body, ())) if isinstance(self.body, Mapping) else ()


def name_place(place: str, name: str) -> str:
    """Return the place of a member within a place. Names other than letters, digits, _ and - are quoted."""
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

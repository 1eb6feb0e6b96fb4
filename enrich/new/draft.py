"""Choose what a sample leaves open (subject, prediction_id, as_of, prefix), and render the file of the dataset."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from enrich.dataset.json_sql import identifier, literal
from enrich.new.sample import BadSample, Sample

_KEYS = re.compile(r"varchar|uuid|u?(tiny|small|big|huge)?int(eger)?")
# DuckDB takes these without parentheses for functions.
_FUNCTIONS = {"user", "current_user", "session_user", "current_date", "current_time", "current_timestamp", "localtime"}
_SAFE = r"[A-Za-z0-9._~:@,=+-]{1,128}"
_OWNERS = re.compile(
    r"user|customer|client|account|tenant|member|subject|owner|carrier|store|region|merchant|patient", re.IGNORECASE
)
_DATE = r"(?:\d{4}-\d\d-\d\d(?:T[\d:]+Z)?|\d{8})"


@dataclass(frozen=True)
class Draft:
    """The open choices of a dataset; `subject` and `prediction_id` are columns."""

    name: str
    prefix: str
    subject: str
    claim: str
    prediction_id: str
    scope: str | None
    days: int


def find_candidates(sample: Sample) -> tuple[list[str], list[str]]:
    """Find the columns that can be the subject, and those that can be the prediction_id, the best first.

    A prediction_id has another value in each row, or in each row of a subject; a subject has few values, or the name
    of an owner.

    Raises:
        BadSample: no column can be either.
    """
    names = [name for name, kind in sample.columns.items() if _KEYS.fullmatch(kind.lower())]
    rows = sample.rows.num_rows
    with duckdb.connect() as con:
        con.register("sample_rows", sample.rows)

        def count(*columns: str) -> int:
            chosen = ", ".join(map(identifier, columns))
            given = " and ".join(f"{identifier(column)} is not null" for column in columns)
            sql = f"select count(*) from (select distinct {chosen} from sample_rows where {given})"
            return int(con.execute(sql).fetchall()[0][0])

        def is_full(column: str) -> bool:
            sql = f"select count({identifier(column)}) from sample_rows"
            return bool(con.execute(sql).fetchall()[0][0] == rows)

        names = [name for name in names if is_full(name)]
        distinct = {name: count(name) for name in names}
        subjects = sorted(
            names, key=lambda name: (not _OWNERS.search(name), distinct[name] == rows > 1, names.index(name))
        )
        unique = [name for name in names if distinct[name] == rows]
        if subjects:
            unique += [name for name in names if name not in unique and count(subjects[0], name) == rows]
    if not names:
        raise BadSample(
            f"{sample.location}: no column can be the subject: expected text or whole numbers, never null; "
            "the model must write whom a prediction belongs to"
        )
    ids = sorted(
        unique, key=lambda name: (not re.search(r"id$|key$|sku|name|code", name, re.IGNORECASE), name == subjects[0])
    )
    return subjects, ids


def guess_prefix(sample: Sample, name: str) -> str:
    """Guess the prefix of the object keys from the sample's: its folders up to the first that has a date."""
    if not sample.location.startswith("s3://"):
        return f"{name}/"
    steps = sample.object_key.split("/")[:-1]
    first = next((n for n, step in enumerate(steps) if "=" in step or re.search(rf"^{_DATE}$|^20\d\d$", step)), None)
    chosen = steps[:first] if first is not None else steps[:1]
    return "/".join(chosen) + "/" if chosen else f"{name}/"


def guess_as_of(object_key: str) -> str:
    """Guess the rule that says when an output was made, as Python."""
    if found := re.search(rf"(?:^|/)([^/=]+=){_DATE}(?:/|$)", object_key):
        return f"FromKey({_text(found[1] + '{}')})"
    if re.search(r"(?:^|/)year=\d{4}/month=\d\d?/day=\d\d?/", object_key):
        return 'FromKey("year={year}/month={month}/day={day}")'
    if re.search(r"(?:^|/)20\d\d/\d\d/\d\d/", object_key):
        return 'FromKey("{year}/{month}/{day}")'
    if re.search(rf"(?:^|/){_DATE}/", object_key):
        return 'FromKey("{}")'
    if found := re.search(rf"(?:^|/)[^/]*?([-_]){_DATE}((?:\.[A-Za-z0-9]+)+)$", object_key):
        return f"FromKey({_text('*' + found[1] + '{}' + found[2])})"
    return "LastModified()"


def render_dataset(sample: Sample, draft: Draft) -> str:
    """Render the file of a dataset that has every column in its body."""
    as_of = guess_as_of(sample.object_key)
    source = [f"prefix={_text(draft.prefix)}", f"format={_text(sample.format)}"]
    columns = "".join(f"            {_text(name)}: {_text(kind)},\n" for name, kind in sample.columns.items())
    options = {**sample.options, **({"marker": sample.marker} if sample.marker else {})}
    source += [f"{name}={_python(value)}" for name, value in options.items()]
    body = "".join(f"        {_text(name)}: {_text(_quote(name))},\n" for name in sample.columns)
    served = f"Served(name={_text(draft.name)}, subject=({_text(draft.claim)},), scope={_python(draft.scope)})"
    kinds = as_of.partition("(")[0]
    return f'''"""The dataset {draft.name}. `./larder check {draft.name}` finds mistakes."""

from datetime import timedelta

from enrich.datasets import {", ".join(sorted(["Dataset", "Served", "Source", kinds]))}

{to_module_name(draft.name)} = Dataset(
    # Who can read: a token with the scope, items whose subject equals its claim.
    served={served},
    source=Source(
{"".join(f"        {one},{chr(10)}" for one in source)}        columns={{
{columns}        }},
    ),
    as_of={as_of},  # when an output was made
    ttl=timedelta(days={draft.days}),
    subject={{{_text(draft.claim)}: {_text(_as_text(sample, draft.subject))}}},
    prediction_id={_text(_as_id(sample, draft.prediction_id))},
    # The JSON that a consumer receives: a DuckDB SQL expression at each leaf.
    body={{
{body}    }},
)
'''


def to_module_name(name: str) -> str:
    """Return the name of a dataset as that of a Python module."""
    module = name.replace("-", "_").lower()
    return module if module.isidentifier() and not keyword.iskeyword(module) else f"dataset_{module}"


def _as_text(sample: Sample, column: str) -> str:
    kind = sample.columns[column].lower()
    return _quote(column) if kind == "varchar" else f"cast({_quote(column)} as varchar)"


def _as_id(sample: Sample, column: str) -> str:
    """Return an expression whose text is valid in a path."""
    text = _as_text(sample, column)
    if sample.columns[column].lower() != "varchar":
        return text
    with duckdb.connect() as con:
        con.register("sample_rows", pa.table({"c": sample.rows.column(column)}))
        sql = f"select coalesce(bool_and(regexp_full_match(c, {literal(_SAFE)})), false) from sample_rows"
        is_safe = con.execute(sql).fetchall()[0][0]
    return text if is_safe else f"replace(url_encode({text}), '%', '=')"


def _quote(name: str) -> str:
    """Return a column's name in SQL, without quotes where it needs none."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return identifier(name)
    with duckdb.connect() as con:
        known = con.execute("select 1 from duckdb_keywords() where keyword_name = ?", [name]).fetchall()
    return identifier(name) if known or name in _FUNCTIONS else name


def _python(value: Any) -> str:
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """Render a text as Python, in double quotes."""
    return json.dumps(value, ensure_ascii=not value.isprintable())


def describe(sample: Sample, draft: Mapping[str, Any]) -> str:
    """Describe what was found and chosen."""
    lines = [f"{sample.location}: {sample.format}, {len(sample.columns)} columns"]
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in draft.items())])

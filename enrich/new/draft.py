"""Find the columns of a sample that can be subject and prediction_id, and render the file of the dataset."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from enrich.dataset.json_sql import identifier, literal
from enrich.new.object_keys import render_as_of
from enrich.new.sample import BadSample, Sample
from enrich.new.sql_names import quote
from enrich.new.text_table import batched

_SAFE = r"[A-Za-z0-9._~:@,=+-]{1,128}"
_OWNERS = re.compile(
    r"user|customer|client|account|tenant|member|subject|owner|carrier|store|region|merchant|patient", re.IGNORECASE
)
_SCORES = re.compile(r"score|prob|rank|relevance|confidence|likelihood|propensity", re.IGNORECASE)
_RANKABLE = {"double", "float", "decimal", "integer", "bigint", "smallint", "tinyint"}
_LONGEST = 128  # characters of a prediction_id


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

    A prediction_id has a different value in each row, or in each row of a subject. A subject has few values, or a name
    such as user or customer.

    Raises:
        BadSample: no column can be either.
    """
    names: list[str] = sample.rows.column_names
    rows = sample.rows.num_rows
    nothing = BadSample(
        f"{sample.location}: no column can be the subject: expected text or whole numbers, never null; "
        "the model must write whom a prediction belongs to"
    )
    if not rows:  # the sample has no column of a suitable type
        raise nothing
    with duckdb.connect() as con:
        con.register("sample_rows", sample.rows)

        def measure(columns: Sequence[str], sql: Callable[[str], str]) -> dict[str, int]:
            found = dict[str, int]()
            for some in batched(columns):
                chosen = ", ".join(sql(identifier(column)) for column in some)
                found |= zip(some, con.execute(f"select {chosen} from sample_rows").fetchall()[0], strict=True)
            return found

        full = measure(names, lambda column: f"count(nullif(cast({column} as varchar), ''))")
        names = [name for name in names if full[name] == rows]
        if not names:
            raise nothing
        distinct = measure(names, lambda column: f"count(distinct {column})")
        subjects = sorted(
            names, key=lambda name: (not _OWNERS.search(name), distinct[name] == rows > 1, names.index(name))
        )
        subject = identifier(subjects[0])
        unique = [name for name in names if distinct[name] == rows]
        others = [name for name in names if distinct[name] != rows]
        of_subject = measure(others, lambda column: f"count(distinct ({subject}, {column}))")
        unique += [name for name in others if of_subject[name] == rows]
    ids = sorted(
        unique, key=lambda name: (not re.search(r"id$|key$|sku|name|code", name, re.IGNORECASE), name == subjects[0])
    )
    return subjects, ids


def render_dataset(sample: Sample, draft: Draft) -> str:
    """Render the file of a dataset that has every column in its body."""
    as_of = render_as_of(sample.as_of)
    source = [f"prefix={_text(draft.prefix)}", f"format={_text(sample.format)}"]
    columns = "".join(f"            {_text(name)}: {_text(kind)},\n" for name, kind in sample.columns.items())
    options = {**sample.options, **({"marker": sample.marker} if sample.marker else {})}
    source += [f"{name}={_python(value)}" for name, value in options.items()]
    body = "".join(f"        {_text(name)}: {_text(_leaf(name, kind))},\n" for name, kind in sample.columns.items())
    served = f"Served(name={_text(draft.name)}, subject=({_text(draft.claim)},), scope={_python(draft.scope)})"
    kinds = as_of.partition("(")[0]
    on = f"{{{_text(quote(draft.prediction_id))}: {_text('sku')}}}"
    example = f'"products": Metadata("select sku, title from shop.products", on={on}, missing="null"),'
    return f'''"""The dataset {draft.name}. `./larder check {draft.name}` finds mistakes."""

from datetime import timedelta

from enrich.datasets import {", ".join(sorted(["Dataset", "Metadata", "Served", "Source", kinds]))}

{to_module_name(draft.name)} = Dataset(
    # Who can read: a token with the scope, items whose subject equals its claim.
    served={served},
    source=Source(
{"".join(f"        {one},{chr(10)}" for one in source)}        columns={{
{columns}        }},
    ),
    as_of={as_of},  # when an output was made
    ttl=timedelta(days={draft.days}),
    # Tables to join with, by name; then body can have e.g. "title": "products.title".
    metadata={{
        # {example}
    }},
    subject={{{_text(draft.claim)}: {_text(_as_text(sample, draft.subject))}}},
    prediction_id={_text(_as_id(sample, draft.prediction_id))},
{_render_rank(sample)}    # The JSON that a consumer receives: a DuckDB SQL expression at each leaf.
    body={{
{body}    }},
)
'''


def _render_rank(sample: Sample) -> str:
    """Render a rank by the first column that looks like a score, as a comment: an index costs write units."""
    for name, kind in sample.columns.items():
        if _SCORES.search(name) and kind.partition("(")[0] in _RANKABLE:
            rank = _text(f"{quote(name)} desc")
            return f"    # The order of ?top=10; it takes two to three times the write units.\n    # rank={rank},\n"
    return ""


def to_module_name(name: str) -> str:
    """Return the name of a dataset as that of a Python module."""
    module = name.replace("-", "_").lower()
    return module if module.isidentifier() and not keyword.iskeyword(module) else f"dataset_{module}"


def _leaf(name: str, kind: str) -> str:
    """Return the expression of a column in the body; JSON has no durations."""
    return f"epoch({quote(name)})" if kind == "interval" else quote(name)


def _as_text(sample: Sample, column: str) -> str:
    return quote(column) if sample.columns[column] == "varchar" else f"cast({quote(column)} as varchar)"


def _as_id(sample: Sample, column: str) -> str:
    """Return an expression whose text is valid in a path."""
    text = _as_text(sample, column)
    if sample.columns[column] != "varchar":
        return text
    with duckdb.connect() as con:
        con.register("sample_rows", pa.table({"c": sample.rows.column(column)}))
        encoded = "replace(url_encode(c), '%', '=')"
        sql = f"select bool_and(regexp_full_match(c, {literal(_SAFE)})), max(len({encoded})) from sample_rows"
        ((is_safe, longest),) = con.execute(sql).fetchall()
    if is_safe:
        return text
    return f"replace(url_encode({text}), '%', '=')" if (longest or 0) <= _LONGEST else f"md5({text})"


def _python(value: Any) -> str:
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """Render a text as Python, in double quotes."""
    return json.dumps(value, ensure_ascii=not value.isprintable())


def describe(sample: Sample, draft: Mapping[str, Any]) -> str:
    """Describe what was found and chosen."""
    lines = [f"{sample.location}: {sample.format}, {len(sample.columns)} columns"]
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in draft.items())])

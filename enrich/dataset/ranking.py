"""Parse a dataset's rank, and generate the SQL of an item's place in the ranked list: a text that sorts as the rank.

| type of a term | digits of its value, in ascending order |
|---|---|
| numbers, BOOLEAN | the 64 bits of the nearest double |
| integers from 64 bits on, decimals of more than 15 digits | the same, and the exact value after it |
| DATE, TIMESTAMP, TIMESTAMPTZ | microseconds since 1970 |
| the same in nanoseconds | the same, and the nanoseconds within it |

So a column that becomes `double` after `integer` sorts as before. Numbers are hexadecimal, of fixed width, without a
sign: negative ones are complemented, as is every digit of a descending term. A digit before the value says whether it
is null. DuckDB's own `create_sort_key` is not stored, as it may change between versions; a test compares the orders.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from enrich.dataset.expressions import Expression, Names, parse_tree_of, walk_tree
from enrich.dataset.json_sql import (
    BAD_VALUE,
    NOT_A_NUMBER,
    SMALL_INTEGERS,
    TIMESTAMPS,
    SqlType,
    ValueCheck,
    find_bad_instant,
)
from enrich.dataset.mistakes import DatasetMistakes, Mistake

MAX_TERMS = 8  # of 50 digits each at most: DynamoDB takes 1,024 bytes for an index's sort key
PLACE = "rank"  # in messages of mistakes and rejects
_REMEDY = "name numbers, booleans, dates or instants; cast text that holds one: cast(x as double) desc"
_DIGITS = "0123456789ABCDEF"
_NULLS_FIRST, _VALUE, _NULLS_LAST = "0", "1", "2"
_WIDE_INTEGERS = {"bigint", "ubigint", "hugeint", "uhugeint"}
_EXACT_DIGITS = 15  # decimal digits that a double keeps
_SIGN_64, _SIGN_128 = "9223372036854775808::ubigint", "170141183460469231731687303715884105728::uhugeint"


class Unrankable(TypeError):
    """Values of this type have no order in a ranked list; the message has the type and the remedy."""


@dataclass(frozen=True, slots=True)
class Term:
    """One expression of a rank, with its direction and the place of its nulls."""

    expression: Expression
    descending: bool
    nulls_first: bool


def parse_rank(names: Names, rank: str) -> list[Term]:
    """Parse a rank: expressions with their directions, as after ORDER BY.

    Raises:
        DatasetMistakes: it is not a rank, has an unknown name, or uses something that the body can't use either.
    """
    answer = parse_tree_of(names.con, PLACE, rank, before="SELECT 1 ORDER BY ", after="\n")
    (statement, *others) = answer["statements"]
    node = statement["node"]
    kinds = [one["type"] for one in node.get("modifiers", [])]
    if others or node["type"] != "SELECT_NODE" or kinds != ["ORDER_MODIFIER"] or rank.rstrip().endswith(";"):
        raise DatasetMistakes([Mistake(PLACE, f"{rank!r} is more than an order", "write it as 'score desc, distance'")])
    mistakes: list[Mistake] = []
    terms = []
    for order in node["modifiers"][0]["orders"]:
        alone = {**statement, "node": {**node, "modifiers": [], "select_list": [order["expression"]]}}
        sql = _deserialize(names, {**answer, "statements": [alone]})
        try:
            expression = walk_tree(names, PLACE, sql, order["expression"])
        except DatasetMistakes as error:
            mistakes += error.mistakes
            continue
        if not expression.columns | expression.metadata:
            message = f"{sql} names no column: all items would have the same rank"
            mistakes.append(Mistake(PLACE, message, "name the column that they are ranked by, as in 'score desc'"))
        descending = order["type"] == "DESCENDING"
        terms.append(Term(expression, descending, order["null_order"] == "NULLS FIRST"))
    if len(terms) > MAX_TERMS:
        mistakes.append(Mistake(PLACE, f"has {len(terms)} terms", f"leave out all but {MAX_TERMS}"))
    if mistakes:
        raise DatasetMistakes(mistakes)
    return terms


def _deserialize(names: Names, tree: Any) -> str:
    ((sql,),) = names.con.execute("select json_deserialize_sql(?::json)", [json.dumps(tree)]).fetchall()
    return str(sql).removeprefix("SELECT ")


def check_rankable(kind: SqlType) -> None:
    """Check that values of a type can be ranked.

    Raises:
        Unrankable: they can't.
    """
    _render_digits("x", kind)


def render_rank(value: str, kind: SqlType, term: Term) -> str:
    """Generate the SQL of one term's part of an item's place.

    Args:
        value: SQL that is cheap to repeat.
        kind: its type.
        term: the term of the rank.
    """
    null = _NULLS_FIRST if term.nulls_first else _NULLS_LAST
    digits = _render_digits(value, kind)
    if term.descending:
        digits = f"translate({digits}, '{_DIGITS}', '{_DIGITS[::-1]}')"
    return f"case when {value} is null then '{null}' else '{_VALUE}' || {digits} end"


def list_checks(value: str, kind: SqlType) -> list[ValueCheck]:
    """List the checks of a value that is to be ranked: NaN has no order, and JSON has no infinity."""
    if kind.id in {"float", "double"}:
        return [ValueCheck(NOT_A_NUMBER, "", f"not isfinite({value})", "is NaN or infinite")]
    if kind.id in TIMESTAMPS | {"date"}:
        return [ValueCheck(BAD_VALUE, "", find_bad_instant(value, kind.id), "is outside the years 1 to 9999")]
    return []


def _render_digits(value: str, kind: SqlType) -> str:
    name = kind.id
    if name == "null":
        return "''"
    if name in SMALL_INTEGERS | {"float", "double", "boolean"}:
        return _of_double(f"cast({value} as double)")
    if name in _WIDE_INTEGERS:
        exact = f"cast({value} as uhugeint)" if name == "uhugeint" else _of_signed(value)
        return f"{_of_double(_nearest(value))} || {_hex(exact, 32)}"
    if name == "decimal":
        double = _of_double(_nearest(value))
        if dict(kind.children)["precision"] <= _EXACT_DIGITS:
            return double
        unscaled = f"replace(cast({value} as varchar), '.', '')"
        return f"{double} || {_hex(_of_signed(unscaled), 32)}"
    if name in {"timestamp_ns", "timestamptz_ns"}:
        ns = f"epoch_ns(cast({value} as timestamp_ns))"
        rest = f"(({ns} % 1000 + 1000) % 1000)"
        return f"{_of_microseconds(f'(({ns} - {rest}) // 1000)')} || {_hex(f'cast({rest} as ubigint)', 3)}"
    if name in TIMESTAMPS | {"date"}:
        return _of_microseconds(f"epoch_us({value})")
    raise Unrankable(f"is {kind}, which has no order in a ranked list; {_REMEDY}")


def _nearest(value: str) -> str:
    """Return the SQL of the nearest double: of the digits, since DuckDB's own casts do not always round right."""
    return f"cast(cast({value} as varchar) as double)"


def _of_double(value: str) -> str:
    """Return the SQL of a double's digits; 0.0 is added since -0.0 is equal to 0.0 and has other bits."""
    bits = f"cast(cast({value} + 0.0::double as bit) as ubigint)"
    return _hex(f"(case when {value} < 0 then ~{bits} else xor({bits}, {_SIGN_64}) end)", 16)


def _of_microseconds(value: str) -> str:
    return _hex(f"xor(cast(cast(cast({value} as bigint) as bit) as ubigint), {_SIGN_64})", 16)


def _of_signed(value: str) -> str:
    return f"xor(cast(cast(cast({value} as hugeint) as bit) as uhugeint), {_SIGN_128})"


def _hex(value: str, width: int) -> str:
    return f"lpad(hex({value}), {width}, '0')"

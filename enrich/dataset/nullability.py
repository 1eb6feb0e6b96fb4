"""Find expressions that are never null in an item, by simple rules: an expression in doubt counts as nullable."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from enrich.dataset.binding import Bound

# Functions that return null only if an argument is null.
_STRICT = {"+", "-", "*", "||", "abs", "ceil", "floor", "round", "lower", "upper", "trim", "date_trunc", "strftime"}


def find_never_null(bound: Bound) -> set[tuple[str, ...]]:
    """Return the names (paths, in lower case) that are never null in a row that becomes an item."""
    keys = [leaf.expression for leaf in (*bound.subject, bound.prediction_id)]
    found: set[tuple[str, ...]] = {(column,) for expression in keys for column in expression.required}
    for name, matched in bound.on.items():
        if bound.dataset.metadata[name].each is not None:
            continue  # it is matched by elements, and their list can be empty
        if bound.dataset.metadata[name].missing != "null":  # null matches nothing, so the row is rejected
            found |= {tuple(each.expression.columns) for each in matched if each.expression.plain}
            found |= {(name, column) for column in bound.keys[name]}
    return {tuple(map(str.lower, path)) for path in found}


def is_never_null(node: Any, never_null: Collection[tuple[str, ...]]) -> bool:
    """Return whether a node of a parsed expression is never null, given the names that are never null."""

    def safe(inner: Any) -> bool:
        return is_never_null(inner, never_null)

    match node["class"]:
        case "CONSTANT":
            return bool(node["literal"]["kind"] != "NULL_LITERAL")
        case "COLUMN_REF":
            return tuple(map(str.lower, node["column_names"])) in never_null
        case "CAST":
            return not node["try_cast"] and safe(node["child"])
        case "FUNCTION":
            arguments = [safe(each["expression"]) for each in node["arguments"]]
            return node["function_name"] == "concat" or (node["function_name"] in _STRICT and all(arguments))
        case "OPERATOR" if node["type"] == "OPERATOR_COALESCE":
            return any(map(safe, node["children"]))
    return node["type"] in {"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"}

"""Evaluate CloudWatch Logs filter patterns for JSON log lines: the subset that the template uses.

Source: "Filter pattern syntax for metric filters", Amazon CloudWatch Logs user guide.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

TERM = re.compile(r"\$\.(\w+)\s*(=|!=|<|<=|>|>=)\s*(\"[^\"]*\"|-?\d+(?:\.\d+)?)")
GROUP = rf"\(\s*{TERM.pattern}\s*\)"
PATTERN = re.compile(rf"\{{\s*(?:{TERM.pattern}|{GROUP}(?:\s*(?:&&|\|\|)\s*{GROUP})*)\s*\}}")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def matches(pattern: str, line: Mapping[str, Any]) -> bool:
    """Return whether a filter pattern matches a JSON log line.

    A text is compared only with `=` and `!=`, and `*` in it matches any characters. A missing member, or one whose type
    is not that of the literal, matches no term.

    Raises:
        ValueError: the pattern is not of the form `{ $.a = "x*" }` or `{ ($.a = "x*") && ($.b < 1) }`, with `&&` or
            `||` throughout. CloudWatch accepts more; an unsupported pattern must not be evaluated as if it matched.
    """
    terms = [(name, sign, json.loads(literal)) for name, sign, literal in TERM.findall(pattern)]
    is_ordered_text = any(isinstance(literal, str) and sign not in ("=", "!=") for _, sign, literal in terms)
    if not PATTERN.fullmatch(pattern) or ("&&" in pattern and "||" in pattern) or is_ordered_text:
        raise ValueError(f"{pattern!r} is not a filter pattern that is supported here")
    found = (_matches_term(line.get(name), sign, literal) for name, sign, literal in terms)
    return any(found) if "||" in pattern else all(found)


def _matches_term(value: Any, sign: str, literal: str | float) -> bool:
    if isinstance(literal, str):
        wildcard = ".*".join(map(re.escape, literal.split("*")))
        return isinstance(value, str) and bool(re.fullmatch(wildcard, value, re.DOTALL)) is (sign == "=")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and COMPARE[sign](value, literal)

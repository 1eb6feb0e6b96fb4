"""Metric filter patterns are evaluated as CloudWatch Logs documents it; unsupported patterns are refused."""

from __future__ import annotations

from typing import Any

import pytest

from infra.dashboards.filters import matches

BOTH = '{ ($.dataset = "*") && ($.status < 400) }'
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ('{ $.code = "*" }', {"code": "not_found"}, True),
    ('{ $.code = "*" }', {"status": 404}, False),
    ('{ $.code = "*" }', {"code": 404}, False),  # a quoted literal is compared with texts only
    ('{ $.code = "*" }', {"code": True}, False),
    ('{ $.code = "not_*" }', {"code": "not_found"}, True),
    ('{ $.code = "not_*" }', {"code": "token_required"}, False),
    ('{ $.code = "*_fo*" }', {"code": "not_found"}, True),
    ('{ $.code = "[n]ot" }', {"code": "not"}, False),  # `*` is the only wildcard
    ('{ $.code = "n?t" }', {"code": "not"}, False),
    ('{ $.code = "n.t" }', {"code": "not"}, False),
    ('{ $.code != "not_*" }', {"code": "token_required"}, True),
    ('{ $.code != "not_*" }', {"code": "not_found"}, False),
    ('{ $.code != "not_found" }', {}, False),
    (BOTH, {"dataset": "d", "status": 200}, True),
    (BOTH, {"dataset": "d", "status": 404}, False),
    (BOTH, {"dataset": "d", "status": "200"}, False),
    (BOTH, {"status": 200}, False),
    ("{ ($.a = 1) || ($.b >= 2) }", {"a": 3, "b": 2}, True),
    ("{ ($.a = 1) || ($.b >= 2) }", {"a": 1}, True),
    ("{ ($.a = 1) || ($.b >= 2) }", {"a": 3, "b": 1}, False),
    ("{ $.a = 1 }", {"a": True}, False),
    ("{ $.a = 1.5 }", {"a": 1.5}, True),
]


@pytest.mark.parametrize(("pattern", "line", "matched"), CASES)
def test_pattern_is_evaluated(pattern: str, line: dict[str, Any], matched: bool) -> None:
    """Texts with wildcards, numbers, missing members, and both operators."""
    assert matches(pattern, line) is matched


@pytest.mark.parametrize(
    "pattern",
    [
        "{ $.code = * ",
        "",
        "ERROR",
        "{ }",
        '{ $.a < "b" }',
        '{ $.a = "b" && $.c = 1 }',
        '{ ($.a = "b" }',
        "{ ($.a = 1) && ($.b = 2) || ($.c = 3) }",
        "{ $.a.b = 1 }",
        "{ $.a IS NULL }",
    ],
)
def test_unsupported_pattern_is_refused(pattern: str) -> None:
    """A pattern that is malformed or not supported raises an error; it never matches everything or nothing."""
    with pytest.raises(ValueError, match="not a filter pattern"):
        matches(pattern, {"a": "b", "c": 1})

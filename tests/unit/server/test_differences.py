"""The page of doors shows every answer that differs from the handler's, and each difference is of a request."""

from __future__ import annotations

from pathlib import Path

from tests.doors.raw import DIFFERENCES, REQUESTS, render_differences

PAGE = Path(__file__).parents[3] / "docs/front-doors.md"


def test_the_page_shows_the_differences() -> None:
    """`python -c "from tests.doors.raw import render_differences; print(render_differences())"` prints the table."""
    assert render_differences() in PAGE.read_text()


def test_differences_are_of_requests() -> None:
    """There are 60 requests or more; each difference names some of them once, doors, and a reason."""
    names = {name for requests in REQUESTS.values() for name in requests}
    assert len(names) >= 60
    listed = [name for one in DIFFERENCES.values() for name in one["requests"]]
    assert {name for name in listed if not name.startswith("token ")} <= names  # tests/doors knows the tokens
    assert len(listed) == len(set(listed))
    doors = {door for one in DIFFERENCES.values() for answers in one["requests"].values() for door in answers}
    assert doors <= {"server", "envoy", "nginx", "api-gateway", "load-balancer"}
    assert all(one["reason"] for one in DIFFERENCES.values())

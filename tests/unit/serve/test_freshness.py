"""How fresh an item is: headers and members, caching, and what a consumer can refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.item import Item, Order
from serve.web.freshness import describe_freshness, render_http_date
from tests.unit.serve.kit import FORMS, NOW, App, item, sign

TOKEN = sign()
LIST, ONE = "/v1/flight-delays", "/v1/flight-delays/a"
WRITTEN = "Tue, 14 Nov 2023 22:13:20 GMT"  # of the kit's items


def _item(
    name: str, as_of: float = NOW, *, run: int = 1, generation: int = 1, body: str = "{}", life: int = 3600
) -> Item:
    stored = item(name, body, expires_at=int(NOW) + life)
    return stored._replace(order=Order(generation, round(as_of * 1000), run).text)


@pytest.mark.parametrize("form", FORMS)
def test_an_item_says_how_fresh_it_is(form: str) -> None:
    """as_of, expiry and run as headers, also of a 304, which updates a cache; the same as members of an entry."""
    app = App(_item("a", NOW - 60.5, run=12))
    full = app.call(ONE, TOKEN, form=form)
    expected = {
        "last-modified": "Tue, 14 Nov 2023 22:12:19 GMT", "larder-as-of": "2023-11-14T22:12:19.500Z",
        "larder-expires-at": "2023-11-14T23:13:20Z", "larder-run": "12",
    }  # fmt: skip
    again = app.call(ONE, TOKEN, form=form, if_none_match=full.headers["etag"])
    assert again.status == 304
    for answer in (full, again):
        assert {name: answer.headers.get(name) for name in expected} == expected
        assert not {"expires", "age"} & answer.headers.keys()
    for query in ({}, *([{"id": ["a"]}] if form != "alb" else [])):
        page = app.call(LIST, TOKEN, form=form, query=query)
        assert not set(expected) & page.headers.keys()
        (entry,) = page.json["items"]
        assert {name: entry[name] for name in ("as_of", "expires_at", "run")} == {
            "as_of": expected["larder-as-of"], "expires_at": expected["larder-expires-at"], "run": 12,
        }  # fmt: skip


def test_nothing_was_modified_in_the_future() -> None:
    """RFC 9110 section 8.8.2.1: if an output's clock is ahead, the date is the response's."""
    answer = App(_item("a", NOW + 200)).call(ONE, TOKEN)
    assert (answer.headers["last-modified"], answer.headers["larder-as-of"]) == (WRITTEN, "2023-11-14T22:16:40Z")


TAG = App(_item("a")).call(ONE, TOKEN).headers["etag"]
CONDITIONS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"if_modified_since": WRITTEN}, 304),
    ({"if_modified_since": f" {WRITTEN} "}, 304),
    ({"if_modified_since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200),
    ({"if_modified_since": "Tue, 14 Nov 2023 22:13:21 GMT"}, 200),
    ({"if_modified_since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
    ({"if_modified_since": "Tue Nov 14 22:13:20 2023"}, 200),  # asctime, an obsolete form: a 200 is always correct
    ({"if_modified_since": "Tue, 14 Nov 2123 22:13:20 GMT"}, 200),
    ({"if_modified_since": "yesterday"}, 200), ({"if_modified_since": ""}, 200), ({"if_modified_since": "*"}, 200),
    ({"if_modified_since": f"{WRITTEN}, {WRITTEN}"}, 200),
    ({"if_none_match": TAG, "if_modified_since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 304),
    ({"if_none_match": '"other"', "if_modified_since": WRITTEN}, 200),
    ({"if_none_match": "malformed", "if_modified_since": WRITTEN}, 200),
    ({"if_none_match": "", "if_modified_since": WRITTEN}, 200),
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("sent", "status"), CONDITIONS)
def test_a_date_counts_where_there_is_no_tag(sent: dict[str, Any], status: int, method: str) -> None:
    """RFC 9110 section 13.2.2; the date is compared with the one that was sent."""
    assert App(_item("a")).call(ONE, TOKEN, method=method, **sent).status == status


def test_an_older_output_is_a_change() -> None:
    """If the as_of of a late or restored output is before the date that the caller has, there is no 304."""
    app = App(_item("a", NOW - 60, run=2, body='{"n":2}'))
    date = app.call(ONE, TOKEN).headers["last-modified"]
    app.table.items["flight-delays#B6", "a"] = _item("a", NOW - 600, run=3, generation=2, body='{"n":1}')
    answer = app.call(ONE, TOKEN, if_modified_since=date)
    assert (answer.status, answer.json) == (200, {"n": 1})
    assert app.call(ONE, TOKEN, if_modified_since=render_http_date(int(NOW))).status == 200, "the Date of a response"


@pytest.mark.parametrize("order", ["", "0001", "0001.x.1", "1.2.3.4"])
def test_an_item_with_a_damaged_order_counts_as_old(order: str) -> None:
    """It is read as before, but refused with any `max_age`."""
    app = App(item("a")._replace(order=order))
    answer = app.call(ONE, TOKEN)
    assert (answer.status, answer.headers["larder-as-of"]) == (200, "1970-01-01T00:00:00Z")
    assert app.call(ONE, TOKEN, query={"max_age": "999999999"}).status == 404


# --- max_age ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("age", "max_age", "status"),
    [(60, "60", 200), (60, "61", 200), (60.001, "60", 404), (61, "60", 404), (0, "0", 200), (0.5, "0", 404),
     (-200, "0", 200), (1e9, "999999999", 404), (86400, "999999999", 200)],
)  # fmt: skip
def test_an_item_that_is_too_old_is_refused(age: float, max_age: str, status: int, form: str) -> None:
    """404 `too_old` that has its age, and is not stored; a condition does not change this."""
    app = App(_item("a", NOW - age))
    for sent in ({}, {"if_none_match": "*"}):
        answer = app.call(ONE, TOKEN, query={"max_age": max_age}, form=form, **sent)
        assert answer.status == (304 if sent and status == 200 else status)
    if status == 404:
        as_of = app.call(ONE, TOKEN).headers["larder-as-of"]
        assert {name: answer.json[name] for name in ("code", "age", "as_of")} == {
            "code": "too_old", "age": int(age), "as_of": as_of,
        }  # fmt: skip
        assert answer.json["detail"] == f"the item is {int(age)} s old (as_of {as_of}), which is more than max_age"
        assert answer.headers["cache-control"] == "no-store"
        app.call(ONE, TOKEN, query={"max_age": max_age})
        assert app.line["code"] == "too_old"


@pytest.mark.parametrize(
    "value", ["", "-1", "1.5", "1e3", "01", "abc", "9" * 10, "9" * 30, " 1", "+1", "1_0", "0x1", "١", "null"]
)
@pytest.mark.parametrize("path", [ONE, LIST])
def test_a_max_age_is_whole_seconds(path: str, value: str) -> None:
    """400, and the table is not read."""
    app = App(item("a"))
    answer = app.call(path, TOKEN, query={"max_age": value})
    assert (answer.status, app.table.asked) == (400, [])
    assert "max_age must be a whole number of seconds" in answer.json["detail"]


def test_items_that_are_too_old_are_listed() -> None:
    """In a list and in a request for several ids: without body, and never silently omitted."""
    app = App(_item("a", NOW - 10), _item("b", NOW - 100, run=7), _item("c", NOW - 20), _item("d", NOW - 100))
    old = {"as_of": "2023-11-14T22:11:40Z", "expires_at": "2023-11-14T23:13:20Z"}
    named = app.call(LIST, TOKEN, query={"id": ["d", "c", "none", "b", "a"], "max_age": "60"}).json
    assert [entry["prediction_id"] for entry in named["items"]] == ["c", "a"]
    rest = {"d": {"run": 1, "model_version": None}, "b": {"run": 7, "model_version": None}}
    assert named["too_old"] == [{"prediction_id": one, **old, **rest[one]} for one in "db"]
    assert (named["missing"], named["remaining"]) == (["none"], [])
    assert (app.line["asked"], app.line["found"]) == (5, 2)
    first = app.call(LIST, TOKEN, query={"limit": "2", "max_age": "60"})
    assert ([e["prediction_id"] for e in first.json["items"]], [e["prediction_id"] for e in first.json["too_old"]]) == (
        ["a"], ["b"],
    )  # fmt: skip
    assert first.headers["link"] == '<?limit=2&after=b&max_age=60>; rel="next"'
    assert app.call(LIST, TOKEN, query={"max_age": "200"}).json["too_old"] == []
    assert "too_old" not in app.call(LIST, TOKEN).json


@pytest.mark.parametrize(("path", "query"), [(ONE, {}), (LIST, {}), (LIST, {"id": ["b", "a"]})])
@pytest.mark.parametrize(("max_age", "kept"), [("100", 60), ("60", 30), ("30", 0), ("30000", 60)])
def test_an_answer_is_not_cached_past_its_max_age(path: str, query: dict[str, Any], max_age: str, kept: int) -> None:
    """A cached response is never older than what was requested."""
    app = App(_item("a", NOW - 30), _item("b", NOW))
    headers = app.call(path, TOKEN, query={**query, "max_age": max_age}).headers
    assert headers["cache-control"] == f"private, max-age={kept}"


@pytest.mark.parametrize("value", ["max-age=0", "max-age=1", "no-cache", "max-age=10, no-store"])
def test_the_cache_control_of_a_request_is_for_caches(value: str) -> None:
    """It bounds the age of a response, which is 0 here; browsers send max-age=0 when a page is reloaded."""
    assert App(_item("a", NOW - 600)).call(ONE, TOKEN, cache_control=value).status == 200


@given(st.integers(0, 250_000_000_000))
def test_a_date_is_that_of_the_standard_library(seconds: int) -> None:
    """RFC 9110 section 5.6.7, in whatever locale."""
    assert render_http_date(seconds) == format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@given(st.integers(0, 9_999_999_999_999), st.integers(0, 4_000_000_000))
def test_an_instant_is_that_of_the_standard_library(as_of_ms: int, expires_at: int) -> None:
    """RFC 3339, to the millisecond."""
    found = describe_freshness(Order(1, as_of_ms, 3).text, expires_at)
    assert datetime.fromisoformat(found.as_of_text).timestamp() == pytest.approx(as_of_ms / 1000, abs=1e-4)
    assert found.headers["Larder-Expires-At"] == datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

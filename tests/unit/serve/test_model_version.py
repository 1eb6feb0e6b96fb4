"""The version of the model that predicted an item: a member of the body, as a header and in each entry of a list."""

from __future__ import annotations

import json
import zlib
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.datasets import Served, parse_served, render_served
from serve.handler import build_handler
from serve.item import MAX_BODY_BYTES
from serve.web.fields import find_member
from serve.web.version import MAX_VERSION, NO_VERSION, find_version
from tests.unit.serve.kit import FLIGHT_DELAYS, FORMS, NOW, Answered, App, event, item, sign

TOKEN = sign()
LIST, ONE = "/v1/flight-delays", "/v1/flight-delays/a"
BODY = '{"flight":"B6","prediction":{"delay_minutes":1.50,"model":"09-2013.f63e4f75"}}'
OTHER = BODY.replace("09-2013.f63e4f75", "candidate β 100%")
HEADER = "larder-model-version"
PLACE = ("prediction", "model")


def _zip(text: str) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(text.encode()) + packer.flush()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("query", [{}, {"fields": "flight"}, {"fields": "prediction.model"}])
def test_an_item_says_which_model_predicted_it(query: dict[str, str], form: str) -> None:
    """As a header, also of a 304 and of HEAD, whatever members of the body are asked for; a stored gzip has it too."""
    app = App(item("a", BODY), item("zip", _zip(OTHER)))
    full = app.call(ONE, TOKEN, query=query, form=form)
    again = app.call(ONE, TOKEN, query=query, form=form, if_none_match=full.headers["etag"])
    head = app.call(ONE, TOKEN, query=query, form=form, method="HEAD")
    assert (full.status, again.status, head.status) == (200, 304, 200)
    assert {one.headers[HEADER] for one in (full, again, head)} == {"09-2013.f63e4f75"}
    assert full.body.decode() == (BODY if not query else app.call(ONE, TOKEN, query=query).body.decode())
    zipped = app.call(f"{LIST}/zip", TOKEN, query=query, form=form, accept_encoding="gzip")
    assert zipped.headers[HEADER] == "candidate%20%CE%B2%20100%25"
    assert query or zipped.body == _zip(OTHER), "the stored bytes"


@pytest.mark.parametrize("form", FORMS)
def test_each_entry_says_which_model_predicted_it(form: str) -> None:
    """Items of one page can have different ones; those that are too old have theirs; a page has no header."""
    old = item("c", BODY, place="13")._replace(order="0001.1690000000000.00000007")
    app = App(item("a", BODY, place="11"), item("b", _zip(OTHER), place="12"), old, item("d", place="14"))
    expected = {"a": "09-2013.f63e4f75", "b": "candidate β 100%", "c": "09-2013.f63e4f75", "d": None}
    queries: list[dict[str, Any]] = [{}, {"fields": "flight"}, {"max_age": "5"}, {"top": "9"}]
    for query in queries + ([{"id": ["a", "d", "c", "b", "x"], "max_age": "5"}] if form != "alb" else []):
        page = app.call(LIST, TOKEN, query=query, form=form)
        entries = page.json["items"] + page.json.get("too_old", [])
        assert {entry["prediction_id"]: entry["model_version"] for entry in entries} == expected
        assert HEADER not in page.headers
        assert ("max_age" in query) == ("too_old" in page.json)
        if "fields" in query:
            assert [entry["body"] for entry in entries] == [{"flight": "B6"}] * 3 + [{}]


def test_a_dataset_that_names_none_has_none() -> None:
    """Neither a header nor a member, though the bodies have such a member."""
    app = App(item("a", BODY))
    served = {FLIGHT_DELAYS.name: FLIGHT_DELAYS._replace(version_place=())}
    handler = build_handler(app.parts._replace(served=served))
    for path in (ONE, LIST):
        answer = Answered(handler(event("rest", "GET", path, {}, {"Authorization": f"Bearer {TOKEN}"}), None))
        assert answer.status == 200
        assert HEADER not in answer.headers
        assert b"model_version" not in answer.body


@pytest.mark.parametrize(
    ("body", "header", "member"),
    [
        ("{}", "", "null"),
        ('{"prediction":null}', "", "null"),
        ('{"prediction":"09"}', "", "null"),
        ('{"prediction":[{"model":"09"}]}', "", "null"),
        ('{"prediction":{"model":null}}', "", "null"),
        ('{"prediction":{"model":true}}', "", "null"),
        ('{"prediction":{"model":{"name":"09"}}}', "", "null"),
        ('{"prediction":{"model":["09"]}}', "", "null"),
        ('{"model":"09"}', "", "null"),
        ('{"prediction":{"model":""}}', "", '""'),
        ('{"prediction":{"model":17}}', "17", "17"),
        ('{"prediction":{"model":-1.50}}', "-1.50", "-1.50"),
        ('{"prediction":{"model":12345678901234567890}}', "12345678901234567890", "12345678901234567890"),
        (' {\n"x":[{"model":1}], "prediction" : { "a":{"model":2},\t"model" : "1.0" } }\n', "1.0", '"1.0"'),
        (r'{"prediction":{"model":"a\r\nX: \u00e9\ud800"}}', "a%0D%0AX:%20%C3%A9?", r'"a\r\nX: \u00e9\ud800"'),
        ('{"prediction":{"model":"!~ %\\u007f"}}', "!~%20%25%7F", r'"!~ %\u007f"'),
        (f'{{"prediction":{{"model":"{"x" * (MAX_VERSION - 2)}"}}}}', "x" * 254, f'"{"x" * 254}"'),
        (f'{{"prediction":{{"model":"{"x" * (MAX_VERSION - 1)}"}}}}', "", "null"),
    ],
)
def test_what_a_body_can_have_there(body: str, header: str, member: str) -> None:
    """A text or a number; of any other value, or of a body from before the dataset had it, there is none."""
    assert find_version(body, PLACE) == (header, member)
    answer = App(item("a", body)).call(ONE, TOKEN)
    assert (answer.status, answer.headers.get(HEADER, "")) == (200, header)


@pytest.mark.parametrize(
    "body",
    [
        '{"model"',
        '{"prediction":{"a":"\\"',
        '{"x":tru,"model":1}',
        '{"prediction":{"model":',
        '{"prediction":{"model"}}',
    ],
)
def test_a_damaged_body_is_an_error(body: str) -> None:
    """As where members of it are asked for; but a body that has no member of the name is sent as it is stored."""
    with pytest.raises(ValueError, match=r"."):
        find_version(body, PLACE)
    assert App(item("a", body)).call(ONE, TOKEN).status == 500


def test_a_body_that_is_too_large_is_sent_without_it() -> None:
    """If an earlier release wrote a larger body: its bytes can be sent, but not be looked into."""
    stored = _zip(json.dumps({"prediction": {"model": "09"}, "x": "x" * MAX_BODY_BYTES}))
    answer = App(item("a", stored)).call(ONE, TOKEN, accept_encoding="gzip")
    assert (answer.status, answer.body) == (200, stored)
    assert HEADER not in answer.headers


def test_the_bundle_has_the_place() -> None:
    """The file that serve reads in its bundle keeps it."""
    served = {"a": Served("a", ("s",), None, version_place=PLACE), "b": Served("b", ("s",), None)}
    assert parse_served(render_served(served)) == served


def test_it_is_as_fresh_as_the_item() -> None:
    """An item that expires or is too old has no version either."""
    app = App(item("a", BODY, expires_at=int(NOW)), item("b", BODY))
    assert HEADER not in app.call(ONE, TOKEN).headers
    app.now = NOW + 60
    assert HEADER not in app.call(f"{LIST}/b", TOKEN, query={"max_age": "59"}).headers


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda one: st.dictionaries(st.text(max_size=2), one),
)


def test_a_name_that_ends_like_the_member_is_another() -> None:
    """A quote after a backslash does not begin a name."""
    body = '{"a":"' + "x" * 40 + '","\\"model":"7"%s}'
    assert find_version(body % "", ("model",)) == NO_VERSION
    assert find_version(body % ',"model":"8"', ("model",)).header == "8"


@given(st.dictionaries(st.text(max_size=2), VALUES), st.lists(st.text(max_size=2), min_size=1, max_size=3))
def test_a_member_is_what_python_would_find(body: dict[str, Any], place: list[str]) -> None:
    """At any place of any body; and a header has visible ASCII only, from which the text can be restored."""
    expected: Any = body
    for name in place:
        expected = expected.get(name, ...) if isinstance(expected, dict) else ...
    found = find_member(json.dumps(body), tuple(place))
    assert (json.loads(found) if found is not None else ...) == expected
    version = find_version(json.dumps(body), tuple(place))
    assert version.header.isascii()
    assert all("!" <= one <= "~" for one in version.header)
    if isinstance(expected, str) and version != NO_VERSION:
        assert unquote(version.header) == expected

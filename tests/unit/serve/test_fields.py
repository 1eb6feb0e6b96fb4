"""`fields`: members of a body, cut out of its text byte for byte, in each way to read items."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.datasets import list_names
from serve.handler import build_handler
from serve.item import MAX_BODY_BYTES
from serve.web.fields import cut, find_member, select
from tests.unit.serve.kit import FORMS, MEMBERS, Answered, App, event, item, sign

TOKEN = sign()
LIST, ONE = "/v1/flight-delays", "/v1/flight-delays/a"
# Numbers, escapes and spaces that a round trip through Python would change.
BODY = (
    '{"flight":"B6\\u00e9\\/","carrier": {"code" :"B6","name":"JetBlue, \\"B6\\"}"},"note":null,'
    '"prediction":{"delay_minutes":12.40000000000000000001,"spread":[1e2,{"note":1}]},"large":12345678901234567890}'
)
CUT: tuple[tuple[str, str], ...] = (
    ("flight", '{"flight":"B6\\u00e9\\/"}'),
    ("note", '{"note":null}'),
    ("prediction.delay_minutes", '{"prediction":{"delay_minutes":12.40000000000000000001}}'),
    ("note,flight", '{"flight":"B6\\u00e9\\/","note":null}'),
    ("carrier", '{"carrier":{"code" :"B6","name":"JetBlue, \\"B6\\"}"}}'),
    ("carrier,carrier.code", '{"carrier":{"code" :"B6","name":"JetBlue, \\"B6\\"}"}}'),
    ("carrier.code,carrier", '{"carrier":{"code" :"B6","name":"JetBlue, \\"B6\\"}"}}'),
    ("carrier.name,flight,carrier.name", '{"flight":"B6\\u00e9\\/","carrier":{"name":"JetBlue, \\"B6\\"}"}}'),
)


def _zip(text: str) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(text.encode()) + packer.flush()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("fields", "expected"), CUT)
def test_a_part_has_the_stored_bytes(fields: str, expected: str, form: str) -> None:
    """In an item, a list and a request for several ids; a stored gzip is also cut; the tag is of the part."""
    app = App(item("a", BODY), item("zip", _zip(BODY)))
    parts = [app.call(f"{LIST}/{name}", TOKEN, query={"fields": fields}, form=form) for name in ("a", "zip")]
    assert [part.body.decode() for part in parts] == [expected, expected]
    assert parts[0].headers["etag"] == parts[1].headers["etag"] != app.call(ONE, TOKEN, form=form).headers["etag"]
    tag = parts[0].headers["etag"]
    assert app.call(ONE, TOKEN, query={"fields": fields}, form=form, if_none_match=tag).status == 304
    several = [app.call(LIST, TOKEN, query={"fields": fields}, form=form)]
    if form != "alb":
        several.append(app.call(LIST, TOKEN, query={"fields": fields, "id": ["a", "zip"]}, form=form))
    for answer in several:
        assert answer.body.decode().count(f'"body":{expected}}}') == 2


UNKNOWN: tuple[tuple[str, str], ...] = (
    ("delay", "fields has the unknown member 'delay'; known are flight, note, carrier, carrier.code, carrier.name,"),
    ("flight,secret.x,b,b", "fields has the unknown member 'b', 'secret.x'; known are flight"),
    ("flight.code", "fields has the unknown member 'flight.code';"),  # a path into a text
    ("carrier.", "fields has the unknown member 'carrier.';"),
    ("carrier.Code", "fields has the unknown member 'carrier.Code';"),
    ("flight,", "fields has the unknown member '';"),
    (" flight", "fields has the unknown member '%20flight';"),
    ("/flight", "fields has the unknown member '%2Fflight';"),
    *(
        (odd, "fields has the unknown member '")
        for odd in ("carrier~1code", "carrier..code", "carrier.code.x", "$.flight")
    ),
    ("code", "fields has the unknown member 'code';"),
    ("<b>é", "fields has the unknown member '%3Cb%3E%C3%A9';"),
    ("a,b,c,d,e", "fields has the unknown member 'a', 'b', 'c', 'd', 'e';"),
    ("a,b,c,d,e,f", "fields has the unknown member 'a', 'b', 'c', 'd', 'e', ...;"),
    ("", "fields must be names of members with commas between them, e.g. a,b.c, given once"),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("fields", "detail"), UNKNOWN)
def test_unknown_members_are_refused_by_name(fields: str, detail: str, form: str) -> None:
    """400 with the known members, on every path; the table is not read."""
    app = App(item("a", BODY))
    for path, more in ((ONE, {}), (LIST, {}), *([(LIST, {"id": "a"})] if form != "alb" else [])):
        answer = app.call(path, TOKEN, query={"fields": fields, **more}, form=form)
        assert (answer.status, answer.json["code"]) == (400, "invalid_request")
        assert answer.json["detail"].startswith(detail)
        assert not answer.json["detail"].endswith("...")  # it lists all known members: there are fewer than 50
    assert app.table.asked == []
    assert app.call(ONE, query={"fields": fields}, form=form).status == 401, "the token is checked first"


@pytest.mark.parametrize("form", [form for form in FORMS if form != "alb"])
def test_fields_are_given_once(form: str) -> None:
    """Two lists are refused."""
    for path in (LIST, ONE):
        assert App(item("a")).call(path, TOKEN, query={"fields": ["flight", "note"]}, form=form).status == 400


@pytest.mark.parametrize("form", [form for form in FORMS if form != "alb"])
def test_a_dataset_without_a_version_has_the_same_parts(form: str) -> None:
    """In each way to read items; without fields no body of it is read, so that a damaged one is sent as it is."""
    app = App(item("a", BODY), item("b", _zip(BODY)), item("c", b"damaged"))
    served = {name: one._replace(version_place=()) for name, one in app.parts.served.items()}
    handler = build_handler(app.parts._replace(served=served))

    def ask(path: str, **query: str) -> Answered:
        sent = {"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "gzip"}
        return Answered(handler(event(form, "GET", path, query, sent), None))

    assert [ask(f"{LIST}/{name}").body for name in "abc"] == [BODY.encode(), _zip(BODY), b"damaged"]
    assert ask(f"{LIST}/c", fields="flight").status == 500
    for fields, expected in CUT:
        assert [ask(f"{LIST}/{name}", fields=fields).body.decode() for name in "ab"] == [expected] * 2
    for query in ({"limit": "1"}, {"id": "b"}):
        for body, more in ((BODY, {}), (CUT[0][1], {"fields": CUT[0][0]})):
            answer = ask(LIST, max_age="900", **query, **more)
            text = zlib.decompress(answer.body, 31) if "content-encoding" in answer.headers else answer.body
            assert text.decode().count(f',"body":{body}}}') == 1


@pytest.mark.parametrize(("count", "more"), [(1, False), (49, False), (50, False), (51, True), (60, True)])
def test_so_many_known_members_are_listed(count: int, more: bool) -> None:
    """The first fifty."""
    app = App(item("a"))
    places = tuple((f"m{number:02d}",) for number in range(count))
    served = {name: one._replace(places=places) for name, one in app.parts.served.items()}
    sent = event("rest", "GET", ONE, {"fields": "x"}, {"Authorization": f"Bearer {TOKEN}"})
    answer = Answered(build_handler(app.parts._replace(served=served))(sent, None))
    known = ", ".join(f"m{number:02d}" for number in range(min(count, 50))) + (", ..." if more else "")
    assert answer.json["detail"] == f"fields has the unknown member 'x'; known are {known}"


def test_a_dataset_that_names_no_member_has_none() -> None:
    """E.g. a dataset of which serve knows only who can read it."""
    app = App(item("a"))
    served = {name: one._replace(places=()) for name, one in app.parts.served.items()}
    sent = event("rest", "GET", ONE, {"fields": "flight"}, {"Authorization": f"Bearer {TOKEN}"})
    answer = Answered(build_handler(app.parts._replace(served=served))(sent, None))
    assert answer.json["detail"] == "fields has the unknown member 'flight'; none is known"


@pytest.mark.parametrize(
    ("body", "expected"),
    [("{}", "{}"), ('{"carrier":null}', '{"carrier":null}'), ('{"carrier":"B6"}', '{"carrier":"B6"}'),
     ('{"carrier":[{"code":1}]}', '{"carrier":[{"code":1}]}'), ('{"carrier":{}}', '{"carrier":{}}'),
     ('{"x":{"carrier":{"code":1}}}', "{}"), ("[1]", "[1]"), ("null", "null"), ("", ""),
     (' {\n"code":1, "carrier" : { "name":1,\t"code":2 } }\n', '{"carrier":{"code":2}}')],
)  # fmt: skip
def test_a_missing_member_or_one_that_is_not_an_object(body: str, expected: str) -> None:
    """Omitted, or sent unchanged: for an item from before a change of the dataset there is no better response."""
    assert cut(body, {"carrier": {"code": None}}) == expected


@pytest.mark.parametrize("body", ["{", "{ ", '{"b":1', '{"b":1,', '{"b":{"a":'])
def test_a_damaged_body_has_no_member(body: str) -> None:
    """A text that ends within an object says so, whichever member is looked for."""
    with pytest.raises(ValueError, match=r"^(stored body is not JSON$|Expecting value)"):
        find_member(body, ("b", "a") if body.count("{") == 2 else ("a",))


@pytest.mark.parametrize("body", ["{", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"b":tru}', '{"b":1 "a":}'])
def test_a_damaged_body_is_an_error(body: str) -> None:
    """Never a part of what is left of it; the caller gets a 500."""
    with pytest.raises(ValueError, match=r"."):
        cut(body, {"a": None, "c": None})


def test_a_body_that_is_too_large_to_cut_asks_for_gzip() -> None:
    """If an earlier release wrote a larger body: 406, with a link to its own path."""
    app = App(item("a", _zip(json.dumps({"flight": "x" * MAX_BODY_BYTES}))))
    answer = app.call(ONE, TOKEN, query={"fields": "flight"}, accept_encoding="gzip")
    assert (answer.status, app.line["reason"]) == (406, "body-too-large")
    assert answer.json["detail"] == "the body is too large for fields: get all of it, with Accept-Encoding: gzip"


def test_names_stand_for_all_members_that_they_can_mean() -> None:
    """Names of members can contain dots and slashes; one with a comma can't be selected."""
    places = (("a.b",), ("a", "b"), ("a", "c,d"), ("e/f", "~0"), ("x", "y", "z"))
    names = list_names(places)
    assert names["a.b"] == [("a.b",), ("a", "b")]
    assert set(names) == {"a.b", "a", "e/f", "e/f.~0", "x", "x.y", "x.y.z"}
    assert select(names["a.b"]) == {"a.b": None, "a": {"b": None}}
    assert select([*names["x.y.z"], *names["x"]]) == {"x": None}
    assert list(list_names(MEMBERS))[:3] == ["flight", "note", "carrier"]


NAMES = st.sampled_from(["a", "b", "c", "é", 'q"', "d.e", "\\"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
SELECTIONS = st.recursive(st.none(), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=5)


def _pick(value: Any, selection: Any) -> Any:
    if selection is None or not isinstance(value, dict):
        return value
    return {name: _pick(member, selection[name]) for name, member in value.items() if name in selection}


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=5),
    SELECTIONS.filter(lambda one: one is not None),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_a_part_is_what_python_would_pick(
    body: dict[str, Any], selection: Any, indent: int | None, ascii_: bool
) -> None:
    """For any JSON, however it is written."""
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_)
    assert json.loads(cut(text, selection)) == _pick(body, selection)

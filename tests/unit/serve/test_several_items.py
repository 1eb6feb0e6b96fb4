"""Several items in one request: each requested id is sent, or listed with what became of it."""

from __future__ import annotations

import json
import time
import zlib
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.handler import build_handler
from serve.item import MAX_BODY_BYTES
from serve.storage import Storage, StorageUnavailable
from serve.web.page import MAX_PAGE_BYTES
from serve.web.respond import MAX_SENT
from serve.web.route import MAX_IDS, MAX_LINK
from tests.unit.serve.kit import FORMS, NOW, REPEATING, Answered, App, check_refused, claims, event, item, sign
from wire.errors import Throttled

TOKEN = sign()
LIST = "/v1/flight-delays"


def _ask(app: App, *ids: str, **arguments: Any) -> Answered:
    query = {"id": list(ids), **arguments.pop("query", {})}
    return app.call(LIST, arguments.pop("token", TOKEN), query=query, **arguments)


def _ids(answer: Answered) -> list[str]:
    return [entry["prediction_id"] for entry in answer.json["items"]]


@pytest.mark.parametrize("form", REPEATING)
def test_items_come_in_the_order_asked_and_missing_ones_are_named(form: str) -> None:
    """One BatchGetItem, eventually consistent; expired, removed and unknown ids are missing."""
    app = App(
        item("a", '{"n":1}'), item("b", '{"n":2}'), item("c,d=e", '{"n":3}'),
        item("old", expires_at=int(NOW)), item("gone", None), item("theirs", pk="flight-delays#AA"),
    )  # fmt: skip
    answer = _ask(app, "c,d=e", "old", "a", "theirs", "gone", "none", "b", form=form)
    assert answer.status == 200
    assert [(entry["prediction_id"], entry["body"]["n"]) for entry in answer.json["items"]] == [
        ("c,d=e", 3), ("a", 1), ("b", 2),
    ]  # fmt: skip
    assert answer.json["missing"] == ["old", "theirs", "gone", "none"]
    assert answer.json["remaining"] == []
    assert "too_old" not in answer.json
    assert "link" not in answer.headers
    ((operation, request),) = app.table.asked
    keys = [{"pk": {"S": "flight-delays#B6"}, "sk": {"S": name}} for name in
            ("c,d=e", "old", "a", "theirs", "gone", "none", "b")]  # fmt: skip
    assert (operation, request) == ("BatchGetItem", {"RequestItems": {"table": {"Keys": keys}}})
    assert (app.line["use_case"], app.line["asked"], app.line["found"]) == ("get_items", 7, 3)
    assert _ask(app, "a", form=form, method="HEAD").body == b""


def test_an_entry_is_as_in_a_list() -> None:
    """The same members, and a stored gzip as text."""
    packer = zlib.compressobj(wbits=31)
    app = App(item("a", packer.compress(b'{"n":1}') + packer.flush()))
    assert _ask(app, "a").json["items"] == app.call(LIST, TOKEN).json["items"]


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"id": [f"a{n}" for n in range(101)]}, "there are 101 ids: ask for at most 100 at a time"),
    ({"id": [f"a{n}" for n in range(149)], "max_age": "1"}, "there are 149 ids"),
    ({"id": ["a", "b", "a"]}, "id number 3 is the same as number 1: ask for it once"),
    ({"id": ["a", ""]}, "id number 2 must be a prediction_id"),
    ({"id": [""]}, "id number 1 must be a prediction_id"),
    ({"id": ["a", "secret b"]}, "id number 2 must be a prediction_id"),
    ({"id": ["a" * 129]}, "id number 1 must be a prediction_id"),
    *(({"id": ["a", odd]}, "id number 2 must be a prediction_id") for odd in ("b\0", "b/c", "b%2Fc", "b\r\nX: c", "ü")),
    ({"id": ["a"], "limit": "1"}, "id names the items: it can't be combined with limit"),
    ({"id": ["a"], "after": "a", "prefix": "a"}, "id names the items: it can't be combined with after, prefix"),
    ({"id": ["a"], "ids": "a"}, "unknown query parameter 'ids'; known are id, limit, after, prefix, top, after_"),
    ({"id": ["a"], "fields": ["flight", "note"]}, "fields must be names of members with commas between them"),
    ({"id": ["a"], "max_age": ["1", "2"]}, "max_age must be a whole number of seconds, up to 999999999, given once"),
)


@pytest.mark.parametrize("form", REPEATING)
@pytest.mark.parametrize(("query", "detail"), WRONG, ids=[detail for _, detail in WRONG])
def test_invalid_ids_are_explained(query: dict[str, Any], detail: str, form: str) -> None:
    """400 with the number of the id, and without its text; the table is not read."""
    check_refused(LIST, query, form, detail)


@pytest.mark.parametrize("form", REPEATING)
def test_thousands_of_ids_are_refused(form: str) -> None:
    """Before they are parsed, if the query is one string; in any case with the remedy."""
    answer = _ask(App(), *[f"a{number}" for number in range(1500)], form=form)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert "ask for at most 100" in answer.json["detail"]


def test_a_load_balancer_that_drops_ids_is_refused() -> None:
    """It passes on only the last value: the response would lack the others, if there are any."""
    for ids in (["a"], ["a", "b"]):
        app = App(item("a"), item("b"))
        answer = _ask(app, *ids, form="alb")
        assert (answer.status, app.table.asked) == (400, [])
        assert "passes one id only" in answer.json["detail"]
        assert app.line["reason"] == "no-multi-value-headers"


def test_the_largest_request_is_answered() -> None:
    """100 ids of 128 characters, in one batch."""
    names = [f"{number:0128d}" for number in range(MAX_IDS)]
    app = App(*(item(name) for name in names))
    answer = _ask(app, *reversed(names))
    assert _ids(answer) == names[::-1]
    assert len(app.table.asked) == 1


def test_the_tag_is_of_the_whole_page() -> None:
    """It changes with any item, with a removed item, and with the order; a date alone does not give a 304."""
    app = App(item("a"), item("b"))
    tag = _ask(app, "a", "b").headers["etag"]
    assert _ask(app, "a", "b", if_none_match=tag).status == 304
    assert _ask(app, "b", "a", if_none_match=tag).status == 200
    app.table.items["flight-delays#B6", "b"] = item("b", '{"n":2}')
    assert _ask(app, "a", "b", if_none_match=tag).status == 200
    answer = _ask(app, "a", "b", if_modified_since="Tue, 14 Nov 2023 22:13:20 GMT")
    assert (answer.status, "last-modified" in answer.headers) == (200, False)


# --- unprocessed keys ---


@pytest.mark.parametrize("most", [1, 7, 99])
def test_unprocessed_keys_are_requested_again(most: int) -> None:
    """Until each has its result: none of them counts as missing."""
    names = [f"a{number:02d}" for number in range(100)]
    app = App(*(item(name) for name in names[:50]))
    app.table.most = most
    answer = _ask(app, *names)
    assert (_ids(answer), answer.json["missing"]) == (names[:50], names[50:])
    assert len(app.table.asked) == -(-100 // most)
    assert [len(request["RequestItems"]["table"]["Keys"]) for _, request in app.table.asked][1:2] == [100 - most]


def test_pauses_between_batches_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 25 ms, twice as long each time, as between the attempts of a call."""
    monkeypatch.setattr("serve.storage.draw", lambda: 1.0)
    app, pauses = App(), list[float]()
    app.table.most = 20
    storage = Storage(app.table.send, "table", sleep=pauses.append)
    asked = [f"a{number}" for number in range(100)]
    assert next(storage.get_items("flight-delays#B6", asked)) == (asked, {})
    assert pauses == [0.025, 0.05, 0.1, 0.2]


def test_keys_that_stay_unprocessed_end_without_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """After four seconds, whatever the clock shows at the start."""
    now = [1000.0]
    monkeypatch.setattr("serve.storage.draw", lambda: 1.0)
    monkeypatch.setattr("serve.storage.time", SimpleNamespace(monotonic=lambda: now[0]))

    def throttle(_: str, payload: bytes) -> bytes:
        return json.dumps({"Responses": {"table": []}, "UnprocessedKeys": json.loads(payload)["RequestItems"]}).encode()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(StorageUnavailable, match="UnprocessedKeys"):
        next(Storage(throttle, "table", sleep=sleep).get_items("flight-delays#B6", ["a", "b"]))
    assert 1003 <= now[0] < 1004


def test_keys_that_stay_unprocessed_are_a_503() -> None:
    """Within the time of the request, with Retry-After: a response without them would silently be incomplete."""
    app = App(item("a"), item("b"))

    def throttle(target: str, payload: bytes) -> bytes:
        app.table.send(target, payload)
        return json.dumps({"Responses": {"table": []}, "UnprocessedKeys": json.loads(payload)["RequestItems"]}).encode()

    handler = build_handler(app.parts._replace(storage=Storage(throttle, "table")))
    sent = event("rest", "GET", LIST, {"id": ["a", "b"]}, {"Authorization": f"Bearer {TOKEN}"})
    begin = time.monotonic()
    answer = Answered(handler(sent, _Brief()))
    assert time.monotonic() - begin < 4, "the time of the request, and not longer"
    assert (answer.status, answer.headers["retry-after"], app.line["reason"]) == (503, "1", "storage: UnprocessedKeys")
    assert len(app.table.asked) > 1, "they are asked for again"


class _Brief:
    """An invocation that has 0.2 s left for waiting."""

    def get_remaining_time_in_millis(self) -> float:
        """Return it, plus the margin."""
        return 1200.0


@pytest.mark.parametrize("left_out", [0, 2])
def test_a_fault_after_a_part_is_a_fault(left_out: int) -> None:
    """Whatever was read before: if the rest stays throttled, there is no partial response."""
    app = App(item("a"), item("b"), item("c"))
    app.table.most = left_out or 100

    def fail(target: str, payload: bytes) -> bytes:
        if len(app.table.asked) == bool(left_out):
            raise Throttled("slow down")
        return app.table.send(target, payload)

    storage = Storage(fail, "table", sleep=lambda seconds: None)
    with pytest.raises(StorageUnavailable):
        list(storage.get_items("flight-delays#B6", ["a", "b", "c"]))


# --- size ---


def _walk(app: App, ids: list[str], **arguments: Any) -> list[list[str]]:
    """Follow the links; each response accounts for all requested ids."""
    pages, query = [], {"id": ids, **arguments}
    while True:
        answer = app.call(LIST, TOKEN, query=query)
        assert answer.status == 200
        named = _ids(answer) + answer.json["missing"] + answer.json["remaining"]
        named += [entry["prediction_id"] for entry in answer.json.get("too_old", [])]
        assert sorted(named) == sorted(query["id"])
        assert len(answer.body) <= MAX_PAGE_BYTES + 13_200 or len(_ids(answer)) == 1
        pages.append(_ids(answer))
        if not answer.json["remaining"]:
            assert "link" not in answer.headers
            return pages
        assert answer.headers["link"].endswith('>; rel="next"')
        target = urlsplit(answer.headers["link"].partition(">")[0][1:])
        query = dict(parse_qs(target.query, strict_parsing=True))
        assert query["id"] == answer.json["remaining"]
        query |= {name: values[0] for name, values in query.items() if name != "id"}
        assert {name: value for name, value in query.items() if name != "id"} == arguments


def test_what_does_not_fit_remains_and_is_linked() -> None:
    """The bound of a page holds; the ids after it are listed, and the link requests them with the same parameters."""
    body = json.dumps({"flight": "x" * 300_000, "note": "y"})
    app = App(*(item(f"a{number}", body) for number in range(5)), item("b", json.dumps({"flight": "z" * 900_000})))
    assert _walk(app, ["a0", "none", "a1", "a2", "b", "a3", "+1@x"]) == [["a0", "a1"], ["a2"], ["b"], ["a3"]]
    assert _walk(app, ["a0", "a1", "a2", "b"], fields="note") == [["a0", "a1", "a2", "b"]], "what is sent counts"
    for max_age in ("0", "60"):
        pages = _walk(app, ["a0", "a1", "a2"], fields="flight", max_age=max_age)
        assert pages == [["a0", "a1"], ["a2"]], "the link has the other parameters"


def test_a_link_that_is_too_long_is_left_out() -> None:
    """API Gateway accepts 10 KB of headers: the remaining ids are in the body in any case."""
    names = [f"{number:0128d}" for number in range(MAX_IDS)]
    app = App(*(item(name, json.dumps("x" * 300_000)) for name in names))
    answer = _ask(app, *names)
    assert (len(answer.json["remaining"]), "link" in answer.headers) == (98, False)
    few = _ask(app, *names[:50])
    assert 6000 < len(few.headers["link"]) <= MAX_LINK


def test_the_largest_page_fits_everywhere() -> None:
    """Items up to the bound, and the longest ids in the rest."""
    assert min(MAX_SENT.values()) > MAX_PAGE_BYTES + MAX_IDS * (128 + 4) + 200


def test_items_that_are_too_large_for_one_response_are_read_in_parts() -> None:
    """A batch of 16 MB is not kept in memory: halves are requested, and only as many as the page takes."""
    body = json.dumps("x" * 300_000)
    app = App(*(item(f"a{number:02d}", body) for number in range(100)))
    app.table.largest = 13
    answer = _ask(app, *[f"a{number:02d}" for number in range(100)])
    assert _ids(answer) == ["a00", "a01"]
    assert len(answer.json["remaining"]) == 98
    assert [len(request["RequestItems"]["table"]["Keys"]) for _, request in app.table.asked] == [100, 50, 25, 12]
    small = App(*(item(f"a{number:02d}") for number in range(100)))
    small.table.largest = 13
    assert len(_ids(_ask(small, *[f"a{number:02d}" for number in range(100)]))) == 100
    app.table.largest = 0
    assert _ask(app, "a00", "a01").status == 503


def test_a_body_that_is_too_large_for_any_page_does_not_hide_the_others() -> None:
    """A 406 that names it once it is the first, with a link to the others."""
    packer = zlib.compressobj(wbits=31)
    huge = packer.compress(b'"' + b"x" * MAX_BODY_BYTES + b'"') + packer.flush()
    app = App(item("a"), item("b", huge), item("c"))
    first = _ask(app, "a", "b", "c")
    assert (_ids(first), first.json["remaining"]) == (["a"], ["b", "c"])
    answer = _ask(app, "b", "c")
    assert (answer.status, answer.headers["link"]) == (406, '<?id=c>; rel="next"')
    assert "the body of item b is too large" in answer.json["detail"]
    assert "link" not in _ask(app, "b").headers
    assert _ask(app, "none", "b").json == {"items": [], "missing": ["none"], "remaining": ["b"]}


# --- isolation ---


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(st.sampled_from(["one", "two", "AA", "flight-delays", "B6"]), min_size=1, max_size=4, unique=True),
    form=st.sampled_from(FORMS),
    carrier=st.sampled_from(["AA", "B6", "a#b", "%41A"]),
)
def test_every_key_of_a_batch_is_of_the_tokens_subject(ids: list[str], form: str, carrier: str) -> None:
    """H6: whatever the ids and earlier requests; no response has an item of another subject."""
    canaries = {one: f"canary-of-{one}" for one in ("AA", "B6")}
    app = App(
        *(item(name, json.dumps({"flight": text}), pk=f"flight-delays#{one}")
          for one, text in canaries.items() for name in ("one", "two"))
    )  # fmt: skip
    for subject in ("AA", "B6", carrier):
        answer = _ask(app, *ids, token=sign(claims(carrier=subject), algorithm="ES256"), form=form)
        for one, text in canaries.items():
            assert text not in json.dumps(answer.result) or one == subject
            assert text not in app.lines[-1]
    partitions = {"flight-delays#AA", "flight-delays#B6", "flight-delays#a%23b", "flight-delays#%2541A"}
    for _, request in app.table.asked:
        (asked,) = request["RequestItems"].values()
        assert len({key["pk"]["S"] for key in asked["Keys"]}) == 1
        assert {key["pk"]["S"] for key in asked["Keys"]} <= partitions


def test_another_subjects_ids_are_missing_like_unknown_ones() -> None:
    """H6: the responses differ only in the id."""
    app = App(item("them", '{"n":1}', pk="flight-delays#AA"))
    theirs, unknown = (_ask(app, name) for name in ("them", "none"))
    assert theirs.body == unknown.body.replace(b"none", b"them")
    assert {**theirs.headers, "etag": ""} == {**unknown.headers, "etag": ""}

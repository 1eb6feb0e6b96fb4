"""The ranked list of a subject: its first live items in order, and the errors of bad requests."""

from __future__ import annotations

import json
import zlib
from typing import Any
from urllib.parse import parse_qs

import pytest

from serve.datasets import Served
from serve.handler import build_handler
from serve.item import MAX_BODY_BYTES, Item
from serve.web.page import MAX_PAGE_BYTES
from tests.unit.serve.kit import (
    FLIGHT_DELAYS,
    FORMS,
    NOW,
    RANK_TAG,
    Answered,
    App,
    check_refused,
    claims,
    event,
    item,
    sign,
)
from wire.errors import Refused

TOKEN = sign()
LIST = "/v1/flight-delays"
LIVE = [item("d", '{"flight":"D"}', place="11"), item("b", '{"flight":"B"}', place="12"),
        item("c", '{"flight":"C"}', place="12"), item("a", '{"flight":"A"}', place="2")]  # fmt: skip


def ask(app: App, top: int | str = 100, **arguments: Any) -> Answered:
    query = {"top": str(top), **arguments.pop("query", {})}
    return app.call(LIST, arguments.pop("token", TOKEN), query=query, **arguments)


def ids(answer: Answered) -> list[str]:
    return [entry["prediction_id"] for entry in answer.json["items"]]


def follow(app: App, answer: Answered) -> Answered:
    """Follow the link to the next page."""
    query = answer.headers["link"].partition("<?")[2].partition(">")[0]
    return app.call(LIST, TOKEN, query=parse_qs(query, strict_parsing=True))


@pytest.mark.parametrize("form", FORMS)
def test_items_come_in_order_of_rank(form: str) -> None:
    """Equal ranks by prediction_id; one query of the index, in the token's partition, with the rank's tag."""
    app = App(*LIVE)
    answer = ask(app, 3, form=form)
    assert (answer.status, ids(answer)) == (200, ["d", "b", "c"])
    assert "link" not in answer.headers
    assert answer.json["items"] == [
        entry for one in "dbc" for entry in app.call(LIST, TOKEN, query={"id": [one]}, form="rest").json["items"]
    ], "an entry is as in other lists"
    (operation, request), *_ = app.table.asked
    assert (operation, request["IndexName"]) == ("Query", "ranked")
    assert request["KeyConditionExpression"] == "pk = :p and begins_with(r, :prefix)"
    assert request["ExpressionAttributeValues"][":p"] == {"S": "flight-delays#B6"}
    assert request["ExpressionAttributeValues"][":prefix"] == {"S": f"{RANK_TAG}:"}
    assert json.loads(app.lines[0])["use_case"] == "top_items"
    assert ask(app, 3, form=form, method="HEAD").body == b""


def test_items_that_are_not_live_are_in_no_list() -> None:
    """Expired (deleted or not); removed; of another subject; without a rank; with a former rank."""
    app = App(
        *LIVE,
        item("old", place="10", expires_at=int(NOW)),
        item("gone", None)._replace(rank=f"{RANK_TAG}:10:gone"),  # no release writes such a tombstone
        item("theirs", place="10", pk="flight-delays#AA"),
        item("unranked"),
        item("former")._replace(rank="00000000:10:former"),
        item("later")._replace(rank="ffffffff:10:later"),
    )
    assert ids(ask(app)) == ["d", "b", "c", "a"]
    assert ids(app.call(LIST, TOKEN))[-1] == "unranked", "the other lists have them"
    assert ids(ask(App(), 5)) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("top", [1, 2, 3, 4, 5])
def test_pages_have_the_first_items_once(top: int, limit: int) -> None:
    """For each size of a page; the links end with the last of the first items, and keep the other parameters."""
    app = App(*LIVE, item("old", place="115", expires_at=1), item("aold", place="10", expires_at=1))
    answer = ask(app, top, query={"limit": str(limit), "fields": "flight", "max_age": "900"})
    pages = [answer]
    assert app.table.asked[0][1]["Limit"] == min(limit, top) + 1
    while "link" in answer.headers:
        answer = follow(app, answer)
        pages.append(answer)
    assert [len(ids(page)) for page in pages[:-1]] == [min(limit, top)] * (len(pages) - 1)
    assert [one for page in pages for one in ids(page)] == ["d", "b", "c", "a"][:top]
    assert {tuple(entry["body"]) for page in pages for entry in page.json["items"]} == {("flight",)}
    assert len(app.table.asked) <= 2 * len(pages)


def test_nothing_is_read_after_the_first_items() -> None:
    """After ten live items, another query would only return items that were not requested."""
    items = [item(f"a{n:04d}", place=f"1{n:04d}", expires_at=1 if n == 3 else None) for n in range(3000)]
    app = App(*items)
    assert len(ids(ask(app, 10))) == 10
    assert [request["Limit"] for _, request in app.table.asked] == [11]


@pytest.mark.parametrize(("top", "link"), [(1, None), (3, '<?top=2&limit=3&after_rank=1%3Aa>; rel="next"')])
def test_a_list_continues_after_a_body_that_is_too_large(top: int, link: str | None) -> None:
    """The 406 links to the items that are left of the first ones, if there are any."""
    body = zlib.compress(b'"' + b"x" * MAX_BODY_BYTES + b'"', wbits=31)
    answer = ask(App(item("a", body, place="1"), item("b", place="2")), top)
    assert (answer.status, answer.json["code"], answer.headers.get("link")) == (406, "not_acceptable", link)


def test_a_page_ends_at_its_bytes() -> None:
    """The link requests the rest of the first items; each is returned once."""
    body = json.dumps({"flight": "x" * (MAX_PAGE_BYTES // 3)})
    app = App(*(item(f"a{n}", body, place=f"1{9 - n}") for n in range(7)))
    answer, found = ask(app, 6), list[str]()
    assert len(ids(answer)) == 2
    found += ids(answer)
    while "link" in answer.headers:
        answer = follow(app, answer)
        found += ids(answer)
    assert found == [f"a{n}" for n in range(6, 0, -1)]


def test_an_item_that_moves_between_pages_is_not_an_error() -> None:
    """A page continues after a place, even if no item has it any more."""
    app = App(*LIVE)
    first = ask(app, 4, query={"limit": "2"})
    app.table.items["flight-delays#B6", "b"] = item("b", place="3")
    assert ids(follow(app, first)) == ["c", "a"]


def test_an_item_in_two_places_is_sent_once() -> None:
    """The index is updated after the table: for a moment it can have an item of both ranks."""
    app = App(*LIVE)
    app.table.items["", "other"] = item("c", place="3")
    assert ids(ask(app)) == ["d", "b", "c", "a"]


def test_an_item_that_is_too_old_keeps_its_place() -> None:
    """It counts as one of the first items, and is listed without its body, as in other lists."""
    old = item("old", place="10")._replace(order="0001.1690000000000.00000007")
    answer = ask(App(old, *LIVE), 3, query={"max_age": "900"})
    assert (ids(answer), [entry["prediction_id"] for entry in answer.json["too_old"]]) == (["d", "b"], ["old"])


def test_the_tag_of_the_answer_changes_with_the_order() -> None:
    """If only a rank changed, the answer is another one; the same answer is a 304."""
    app = App(*LIVE)
    tag = ask(app).headers["etag"]
    assert ask(app, if_none_match=tag).status == 304
    app.table.items["flight-delays#B6", "a"] = LIVE[3]._replace(rank=f"{RANK_TAG}:10:a")
    changed = ask(app, if_none_match=tag)
    assert (changed.status, ids(changed)) == (200, ["a", "d", "b", "c"])


NUMBER = "top must be a whole number from 1 to 100"
WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    *(({"top": value}, NUMBER) for value in ("0", "-1", "101", "1.5", "010", "", "ten", "1e1", " 1", "٣")),
    ({"top": ["1", "2"]}, NUMBER),
    ({"top": ["2", "2"]}, NUMBER),
    ({"top": "1", "limit": "0"}, "limit must be a whole number from 1 to 100"),
    ({"top": "1", "limit": "101"}, "limit must be a whole number from 1 to 100"),
    ({"top": "1", "id": ["a"]}, "id names the items: it can't be combined with top"),
    ({"top": "1", "prefix": "a"}, "top lists items by rank: send it without prefix"),
    ({"top": "1", "after": "a"}, "top lists items by rank: send it without after "),
    ({"top": "1", "after_rank": "secret"}, "after_rank must be the value in the link to the next page"),
    ({"top": "1", "after_rank": "1f:a"}, "after_rank must be the value"),
    ({"top": "1", "after_rank": "1F:"}, "after_rank must be the value"),
    ({"top": "1", "after_rank": f"{RANK_TAG}:1F:a"}, "after_rank must be the value"),
    ({"top": "1", "after_rank": ["1F:a", "1F:b"]}, "after_rank must be the value"),
    ({"after_rank": "1F:a"}, "after_rank continues a ranked list: send it with top"),
    ({"top": "1", "max_age": "x"}, "max_age must be a whole number of seconds"),
    ({"top": "1", "fields": "secret"}, "fields has the unknown member"),
    (
        {"top": "1", "sort": "a"},
        "unknown query parameter 'sort'; known are id, limit, after, prefix, top, after_rank, fields, max_age",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("query", "detail"), WRONG, ids=[str(query) for query, _ in WRONG])
def test_a_bad_request_is_refused_with_the_reason(query: dict[str, Any], detail: str) -> None:
    """It is a 400, and the table is not read."""
    if "secret" in str(query.get("fields")):  # the name of a member is repeated, see test_fields
        query = {**query, "fields": "nosuch"}
    check_refused(LIST, query, "rest", detail)


def test_top_is_only_for_lists() -> None:
    """One item has no rank among others."""
    detail = App(LIVE[0]).call(f"{LIST}/d", TOKEN, query={"top": "1"}).json["detail"]
    assert detail.startswith("unknown query parameter 'top'")


@pytest.mark.parametrize("query", [{"top": "1"}, {"top": "x"}, {"top": "1", "id": ["a"]}, {"after_rank": "1F:a"}])
def test_a_dataset_without_a_rank_has_no_ranked_list(query: dict[str, Any]) -> None:
    """It is a 400 with the reason; its other lists do not know the parameter."""
    app = App(item("a"))
    handler = build_handler(app.parts._replace(served={FLIGHT_DELAYS.name: FLIGHT_DELAYS._replace(rank_tag="")}))

    def call(query: dict[str, Any]) -> Answered:
        return Answered(handler(event("rest", "GET", LIST, query, {"Authorization": f"Bearer {TOKEN}"}), None))

    answer = call(query)
    assert (answer.status, answer.json["code"], app.table.asked) == (400, "invalid_request", [])
    assert answer.json["detail"].startswith(
        "this dataset has no rank, so there is no ranked list of its items: leave out"
    )
    assert call({"sort": "a"}).json["detail"].endswith("known are id, limit, after, prefix, fields, max_age")


def test_two_datasets_of_one_table_have_a_list_each() -> None:
    """The index has the items of all datasets: partitions separate them, and each dataset's scope is required."""
    other = Served("seats", ("carrier",), "seats:read", rank_tag=FLIGHT_DELAYS.rank_tag)
    app = App(*LIVE, *(one._replace(pk="seats#B6", sk=f"s{one.sk}") for one in LIVE))
    handler = build_handler(app.parts._replace(served={one.name: one for one in (FLIGHT_DELAYS, other)}))
    token = sign(claims(scope="seats:read"))
    found = [
        Answered(handler(event("rest", "GET", path, {"top": "1"}, {"Authorization": f"Bearer {token}"}), None))
        for path in (LIST, "/v1/seats")
    ]
    assert (found[0].status, ids(found[1])) == (403, ["sd"])


def test_a_table_without_the_index_is_unavailable() -> None:
    """While the stack of an older release is deployed: a 503 with the code in the log, never an empty list."""
    app = App(*LIVE)
    app.table.error = Refused(400, "ValidationException", "The table does not have the specified index: ranked")
    assert ask(app).status == 503
    assert "ValidationException" in app.line["reason"]


def test_a_stored_rank_is_read_by_any_release() -> None:
    """An item of a release without ranks has no rank; an item with a rank is served by its path as before."""
    app = App(*LIVE)
    assert app.call(f"{LIST}/d", TOKEN).json == {"flight": "D"}
    assert Item("p", "s", "{}", "o", 1).rank is None

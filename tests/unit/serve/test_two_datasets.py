"""With more than one dataset, each has its own items, scope and subject; names do not interfere."""

from __future__ import annotations

from typing import Any

import pytest

from serve.datasets import Served
from serve.handler import build_handler
from serve.item import Item, build_pk
from tests.unit.serve.kit import FLIGHT_DELAYS, Answered, App, claims, event, item, sign

# The name of the second begins that of the first; the last has two claims, which are not in alphabetical order.
SERVED = {
    one.name: one
    for one in (
        FLIGHT_DELAYS,
        Served("flight", ("carrier",), "flight:read"),
        Served("seats", ("tenant", "carrier"), "seats:read"),
    )
}
EVERY_SCOPE = " ".join(str(one.scope) for one in SERVED.values())
PARTITIONS = {"flight-delays": "flight-delays#B6", "flight": "flight#B6", "seats": "seats#acme#B6"}


def _ask(path: str, *items: Item, form: str = "rest", **changes: Any) -> tuple[Answered, App]:
    app = App(*items)
    handler = build_handler(app.parts._replace(served=SERVED))
    token = sign(claims(**{"tenant": "acme", "scope": EVERY_SCOPE, **changes}))
    return Answered(handler(event(form, "GET", path, {}, {"Authorization": f"Bearer {token}"}), None)), app


def _items() -> list[Item]:
    return [item("a", f'{{"of":"{name}"}}', pk=pk) for name, pk in PARTITIONS.items()]


@pytest.mark.parametrize("name", SERVED)
def test_each_dataset_has_its_own_items(name: str) -> None:
    """The same subject and prediction_id in three datasets: each path reads one partition and returns its own item."""
    answer, app = _ask(f"/v1/{name}/a", *_items())
    assert (answer.status, answer.json) == (200, {"of": name})
    assert [request["Key"]["pk"]["S"] for _, request in app.table.asked] == [PARTITIONS[name]]
    assert app.line["dataset"] == name
    answer, app = _ask(f"/v1/{name}", *_items())
    assert [entry["body"] for entry in answer.json["items"]] == [{"of": name}]
    assert [request["ExpressionAttributeValues"][":p"]["S"] for _, request in app.table.asked] == [PARTITIONS[name]]
    assert app.line["dataset"] == name


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("scope", [one.scope for one in SERVED.values()])
def test_each_dataset_has_its_own_scope(name: str, scope: str) -> None:
    """The scope of another dataset grants nothing; the challenge names the required one."""
    answer, _ = _ask(f"/v1/{name}/a", *_items(), scope=scope)
    assert answer.status == (200 if scope == SERVED[name].scope else 403)
    if answer.status == 403:
        assert answer.headers["www-authenticate"].endswith(f'scope="{SERVED[name].scope}"')


def test_a_cached_token_has_the_access_of_each_dataset() -> None:
    """What was found out for one dataset is not used for another, and nothing is kept of a refusal."""
    app = App(*_items())
    handler = build_handler(app.parts._replace(served=SERVED))
    scope = f"{SERVED['seats'].scope} {SERVED['flight'].scope}"
    headers = {"Authorization": f"Bearer {sign(claims(tenant='acme', scope=scope))}"}
    for name in [*SERVED, *SERVED]:
        answer = Answered(handler(event("rest", "GET", f"/v1/{name}/a", {}, headers), None))
        expected = (403, None) if name == "flight-delays" else (200, name)
        assert (answer.status, answer.json.get("of")) == expected


def test_each_dataset_has_its_own_subject() -> None:
    """Every claim of it is required, in its order; a claim that only another dataset needs is not."""
    assert _ask("/v1/seats/a", *_items(), tenant=None)[0].status == 401
    assert _ask("/v1/flight/a", *_items(), tenant=None)[0].status == 200
    assert _ask("/v1/seats/a", *_items(), tenant="B6", carrier="acme")[0].status == 404


@pytest.mark.parametrize("name", ["fligh", "flight-", "flight-delays2", "seats ", "SEATS", "__class__", "0"])
def test_other_names_are_not_datasets(name: str) -> None:
    """A name is compared as a whole."""
    assert _ask(f"/v1/{name}/a", *_items())[0].status == 404


def test_the_hash_of_a_subject_is_that_of_its_partition() -> None:
    """In the log, the same claims of two datasets are two subjects."""
    found = {_ask(f"/v1/{name}/a", *_items())[1].line["subject"] for name in SERVED}
    assert len(found) == len(SERVED)


# Pairs that a reader could confuse: case, blanks, normal forms, digits, similar characters, percent signs.
ALIKE = (
    ("B6", "b6"), ("B6", " B6"), ("B6", "B6 "), ("B6", "B 6"), ("a  b", "a b"), ("\u00c9", "E\u0301"), ("\ufb01", "fi"),
    ("\uff22\uff16", "B6"), ("stra\u00dfe", "strasse"), ("\u0130", "i\u0307"), ("06", "6"), ("6.0", "6"), ("+6", "6"),
    ("\u0412", "B"), ("%42", "B"), ("a+b", "a b"), ("a%20b", "a b"), ("a#b", "a%23b"), ("a/b", "a%2Fb"), ("a/", "a"),
    ("a.", "a"), ("a@x", "a"), ("-", "_"), ("'a'", "a"), ('"a"', "a"), ("a,b", "a"), ("a:b", "b"),
    ("x" * 255, "x" * 256),
)  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_a_subject_is_used_unchanged(one: str, other: str) -> None:
    """The token of each reads its own item, and neither reads the other's."""
    pks = {build_pk("flight", [one]), build_pk("flight", [other])}
    assert len(pks) == 2
    for mine, theirs in ((one, other), (other, one)):
        answer, app = _ask("/v1/flight/a", item("a", pk=build_pk("flight", [theirs])), carrier=mine)
        assert answer.status == 404
        assert app.table.asked[0][1]["Key"]["pk"]["S"] == build_pk("flight", [mine])
        answer, _ = _ask("/v1/flight/a", item("a", pk=build_pk("flight", [mine])), carrier=mine)
        assert answer.status == 200


@pytest.mark.parametrize("name", ["a", "A", "a.", "~a", "a-", "_a", "00", "0"])
def test_a_prediction_id_is_used_unchanged(name: str) -> None:
    """Likewise an item's name."""
    others = [item(other, pk="flight#B6") for other in ("a", "A", "a.", "~a", "a-", "_a", "00", "0") if other != name]
    assert _ask(f"/v1/flight/{name}", *others)[0].status == 404
    assert _ask(f"/v1/flight/{name}", *others, item(name, pk="flight#B6"))[0].status == 200

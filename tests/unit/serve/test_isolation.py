"""H6, V11: one subject never reads what belongs to another, whatever its token or request says."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.access import build_partition
from serve.datasets import Served
from serve.item import MAX_PK_BYTES, is_subject
from serve.tokens.jwt import InvalidToken
from serve.tokens.key_cache import FRESHNESS
from tests.unit.serve.attacks import HOSTILE_SUBJECTS, UNUSUAL_SUBJECTS
from tests.unit.serve.kit import FLIGHT_DELAYS, FORMS, NOW, App, claims, item, jwks, public_jwk, sign

LIST = "/v1/flight-delays"
TWO = Served("two", ("tenant", "user"), "two:read")


@pytest.mark.parametrize("value", HOSTILE_SUBJECTS)
def test_a_hostile_claim_makes_no_key(value: Any) -> None:
    """V11: a subject claim that is not a text, or is empty, invisible or too long, is a 401; the table is not read."""
    app = App(item("a"))
    for path in (LIST, f"{LIST}/a"):
        answer = app.call(path, sign(claims(carrier=value)))
        assert (answer.status, answer.json["code"]) == (401, "invalid_token")
        assert app.line["reason"] == "bad-subject"
    assert app.table.asked == []


@pytest.mark.parametrize("value", UNUSUAL_SUBJECTS)
def test_an_unusual_claim_has_its_own_partition(value: str) -> None:
    """V11: what a user can have typed is percent-encoded into one partition, which is its own."""
    app = App(item("a", '{"secret":1}', pk="flight-delays#AA"))
    assert app.call(f"{LIST}/a", sign(claims(carrier=value))).status == 404
    assert app.table.asked[0][1]["Key"]["pk"]["S"] == f"flight-delays#{quote(value, safe='')}"


def test_a_partition_key_is_bounded_in_bytes() -> None:
    """DynamoDB accepts 2,048 bytes of UTF-8, also if the name of a dataset is not ASCII."""
    dataset = Served("é" * 10, ("user",), "any:read")
    user = "漢" * 225  # nine bytes each, percent-encoded
    for spare, is_good in (("ab", True), ("abc", False)):
        try:
            size = len(build_partition({"user": user + spare}, dataset).encode())
        except InvalidToken:
            size = None
        assert size == (MAX_PK_BYTES if is_good else None)


texts = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["a", "a#", "#a", "a#b", "b", "%", "%23", "a%23b", "flight-delays"]
)


@settings(max_examples=400, deadline=None)
@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_no_two_subjects_share_a_partition(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Different claims have different keys, equal claims the same key."""
    keys = []
    for tenant, user in (one, other):
        try:
            keys.append(build_partition({"tenant": tenant, "user": user}, TWO))
        except InvalidToken:
            return
    assert (keys[0] == keys[1]) == (one == other)
    assert keys[0].count("#") == 2


hostile = st.dictionaries(
    st.sampled_from(
        [
            "carrier",
            "subject",
            "pk",
            "sub",
            "after",
            "prefix",
            "limit",
            "id",
            "fields",
            "max_age",
            "access_token",
            "x-carrier",
        ]
    ),
    st.sampled_from(["AA", "flight-delays#AA", "a", "1", "*", ""]) | st.text(max_size=8),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(
    carrier=st.text(min_size=1, max_size=10).filter(is_subject),
    query=hostile,
    path=st.sampled_from([LIST, f"{LIST}/a", f"{LIST}/AA", "/v1/flight-delays%23AA/a", f"{LIST}/..%2fAA"]),
    form=st.sampled_from(FORMS),
    extra=hostile,
)
def test_every_requested_key_is_built_from_claims(
    carrier: str, query: dict[str, str], path: str, form: str, extra: dict[str, str]
) -> None:
    """H6: each requested partition depends only on the claims, whatever the rest of the request says."""
    app = App()
    token = sign({**extra, **claims(carrier=carrier)}, algorithm="ES256")
    headers = {"carrier": "AA", "x_carrier": "AA", "x_amzn_oidc_identity": "AA", "cookie": "carrier=AA"}
    app.call(path, token, form=form, query=query, **headers)
    expected = build_partition({"carrier": carrier}, FLIGHT_DELAYS)
    assert expected == f"flight-delays#{quote(carrier, safe='')}"
    for operation, request in app.table.asked:
        if operation == "GetItem":
            assert request["Key"]["pk"] == {"S": expected}
        elif operation == "BatchGetItem":
            assert [key["pk"] for key in request["RequestItems"]["table"]["Keys"]] == [{"S": expected}]
        else:
            assert request["ExpressionAttributeValues"][":p"] == {"S": expected}
            assert request["KeyConditionExpression"].startswith("pk = :p")
            assert request.get("ExclusiveStartKey", {"pk": {"S": expected}})["pk"] == {"S": expected}


def test_another_subjects_id_looks_unknown() -> None:
    """H6: the whole response is the same."""
    app = App(item("theirs", '{"x":1}', pk="flight-delays#AA"))
    theirs, unknown = (app.call(f"{LIST}/{name}", sign()) for name in ("theirs", "unknown"))
    assert theirs.result == unknown.result
    assert theirs.status == 404


def _subjects() -> tuple[App, dict[str, tuple[str, str]]]:
    """Two airlines with the same prediction_ids, each with its own canary."""
    canaries = {"AA": "canary-of-aa-1d8f", "B6": "canary-of-b6-77c2"}
    items = [
        item(name, json.dumps({"canary": canary}), pk=f"flight-delays#{carrier}")
        for carrier, canary in canaries.items()
        for name in ("one", "two", "three")
    ]
    app = App(*items, document=jwks(public_jwk("ES256", kid="old")))
    return app, {carrier: (canary, canaries[{"AA": "B6", "B6": "AA"}[carrier]]) for carrier, canary in canaries.items()}


def test_interleaved_subjects_never_see_each_other() -> None:
    """No response has the other's canary and no log line has any, in all event forms, with tokens cached or not."""
    app, canaries = _subjects()
    tokens = {carrier: sign(claims(carrier=carrier), algorithm="ES256", kid="old") for carrier in canaries}
    for turn in range(12):
        app.now += 7
        for carrier, (own, other) in canaries.items():
            for path, query in (
                (f"{LIST}/one", {}),
                (LIST, {}),
                (LIST, {"limit": "1", "after": "one"}),
                (LIST, {"prefix": "t"}),
            ):
                answer = app.call(path, tokens[carrier], form=FORMS[turn % len(FORMS)], query=query)
                assert answer.status == 200
                assert own.encode() in answer.body
                assert other.encode() not in answer.body
                assert other not in json.dumps(answer.result)
    assert "canary" not in "".join(app.lines)


def test_key_rotation_does_not_mix_subjects() -> None:
    """While keys are added, changed and removed, each token still reads its own items or none."""
    app, canaries = _subjects()
    documents = [
        jwks(public_jwk("ES256", kid="old")),
        jwks(public_jwk("ES256", kid="old"), public_jwk("ES256", kid="new", which=1)),
        jwks(public_jwk("ES256", kid="new", which=1)),
        jwks(public_jwk("ES256", kid="old", which=1)),
    ]
    statuses = []
    for document in documents:
        app.documents = dict.fromkeys(app.documents, document)
        app.now += FRESHNESS.max_age
        for carrier, (own, other) in canaries.items():
            for kid, which in (("old", 0), ("new", 1)):
                good = claims(carrier=carrier, exp=int(NOW) + 86400)
                answer = app.call(f"{LIST}/one", sign(good, algorithm="ES256", which=which, kid=kid))
                statuses.append(answer.status)
                assert answer.status in (200, 401)
                assert (own.encode() in answer.body) == (answer.status == 200)
                assert other.encode() not in answer.body
    assert statuses == [200, 401] * 2 + [200, 200] * 2 + [401, 200] * 2 + [401, 401] * 2


def test_no_line_holds_a_token_a_claim_or_a_path() -> None:
    """V11, H4: whatever a caller sent, valid or not, is not in the log; the subject is there as a hash."""
    app = App(item("secret-prediction"))
    secret = claims(carrier="secret-carrier", sub="secret-sub", jti="secret-jti")
    tokens = [
        sign(secret),
        sign(secret, kid="secret-kid"),
        sign(secret | {"exp": 1}),
        sign(secret, typ="secret-typ"),
        "secret",
    ]
    for token in tokens:
        for path, query in (
            (f"{LIST}/secret-prediction", {}),
            (LIST, {"after": "secret-after"}),
            (LIST, {"limit": "secret"}),
            ("/v1/secret", {}),
        ):
            for form in FORMS:
                app.call(path, token, form=form, query=query, user_agent="secret-agent", x_amzn_trace_id="secret")
    text = "".join(app.lines)
    assert "secret" not in text
    for token in tokens[:-1]:
        for part in token.split("."):
            assert part not in text
    assert len({json.loads(line)["subject"] for line in app.lines if "subject" in json.loads(line)}) == 1


def test_the_first_request_of_a_token_names_no_subject_for_the_next() -> None:
    """The partition that is kept with a cached token is that of its claims, whatever its first request has."""
    for first in ({"query": {"carrier": "AA"}}, {"x_carrier": "AA", "carrier": "AA"}):
        app = App(item("a", pk="flight-delays#B6"), item("a", '{"of":"AA"}', pk="flight-delays#AA"))
        token = sign(claims(carrier="B6"), algorithm="ES256")
        for request in (first, {}):
            answer = app.call(f"{LIST}/a", token, **request)
            assert answer.json != {"of": "AA"}
            assert all(asked["Key"]["pk"]["S"] == "flight-delays#B6" for _, asked in app.table.asked)
        assert answer.status == 200

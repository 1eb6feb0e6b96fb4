"""No input crashes it: hostile tokens, headers, JSON, whole events. A few thousand here; `tox -e fuzz` tries a million.

`LARDER_FUZZ` sets how many inputs each property tries; `fuzz_tokens` goes through tokens faster than properties do.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serve.tokens.jwks import BadKeySet, parse_jwks
from serve.tokens.jwt import InvalidToken, peek_claims, split_token, verify
from serve.tokens.strict import parse_base64url, parse_json
from serve.web.negotiate import accepts_json, choose_coding, is_fresh
from tests.unit.serve.fuzz_tokens import fuzz
from tests.unit.serve.kit import (
    ALGORITHMS,
    AUDIENCE,
    FORMS,
    ISSUER,
    NOW,
    POLICY,
    SIGNERS,
    App,
    all_jwks,
    all_keys,
    b64,
    claims,
    event,
    item,
    private_key,
    public_jwk,
    sign,
)  # fmt: skip

COUNT = int(os.environ.get("LARDER_FUZZ", "200"))
many = settings(max_examples=COUNT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
header_names = st.sampled_from(["alg", "kid", "typ", "cty", "crit", "b64", "jwk", "jku", "x5c", "zip", "enc"])
header_values = st.sampled_from([*ALGORITHMS, "none", "HS256", "RS256-0", "ES256-0", "at+jwt", "JWT"]) | values
headers = st.dictionaries(header_names, header_values, max_size=5)
claim_names = st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "sub", "jti", "scope", "scp", "carrier"])
claim_values = st.sampled_from([ISSUER, AUDIENCE, NOW, NOW + 60, int(NOW) - 1]) | values
payloads = st.dictionaries(claim_names, claim_values, max_size=5).map(lambda changes: {**claims(), **changes})


def _verify(token: Any) -> bool:
    try:
        verify(token, all_keys(), POLICY, NOW)
    except InvalidToken:
        return False
    return True


@many
@given(
    st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True) | values
)
def test_any_text_is_refused_with_one_kind_of_error(token: Any) -> None:
    """No text is a token unless it was signed; whatever is wrong raises InvalidToken."""
    assert not _verify(token)
    with pytest.raises(InvalidToken):
        peek_claims(split_token(token))


@many
@given(headers, payloads, st.binary(max_size=80))
def test_any_unsigned_header_and_payload_is_refused(
    header: dict[str, Any], payload: dict[str, Any], signature: bytes
) -> None:
    """Well-formed JSON with any signature that is not ours."""
    head, body = (json.dumps(part).encode() for part in (header, payload))
    assert not _verify(f"{b64(head)}.{b64(body)}.{b64(signature)}")


@many
@given(headers, payloads)
def test_what_is_accepted_is_accepted_by_pyjwt(header: dict[str, Any], payload: dict[str, Any]) -> None:
    """Signed by us with any header and payload: whatever the verifier accepts, PyJWT accepts, with the same claims."""
    token = sign(payload, algorithm="ES256", header={"alg": "ES256", "kid": "ES256-0"} | header)
    try:
        found = verify(token, all_keys(), POLICY, NOW)
    except InvalidToken:
        return
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "enforce_minimum_key_length": False}
    public_key = private_key("ES256").public_key()
    assert jwt.decode(token, public_key, ["ES256"], options, audience=AUDIENCE, issuer=ISSUER) == found
    assert found["exp"] > NOW
    assert found.get("nbf", 0) <= NOW >= found["iat"]


@many
@given(st.sampled_from(ALGORITHMS), st.integers(0, 10_000), st.sampled_from("ABZaz09-_.=+ \n\u00e9"), st.booleans())
def test_any_change_of_a_valid_token_is_refused(algorithm: str, place: int, odd: str, insert: bool) -> None:
    """One replaced or inserted character anywhere makes it invalid."""
    good = _good(algorithm)
    place %= len(good)
    changed = good[:place] + odd + good[place + (0 if insert else 1) :]
    assert _verify(changed) == (changed == good)


_GOOD: dict[str, str] = {}


def _good(algorithm: str) -> str:
    return _GOOD.setdefault(algorithm, sign(algorithm=algorithm))


@many
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_strict_json_agrees_with_python_where_it_parses(data: bytes) -> None:
    """It parses nothing that Python does not, and to the same value; it raises only ValueError."""
    try:
        value = parse_json(data)
    except ValueError:
        return
    assert value == json.loads(data.decode())
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@many
@given(st.binary(max_size=40))
def test_base64url_is_canonical(data: bytes) -> None:
    """Encoded bytes are decoded to themselves, and any text that parses is the encoding of the result."""
    assert parse_base64url(b64(data)) == data


@many
@given(st.text(alphabet="ABCQRZaz089-_=+/ \n", max_size=12))
def test_every_text_that_parses_is_canonical(text: str) -> None:
    """No two texts represent the same bytes."""
    try:
        data = parse_base64url(text)
    except ValueError:
        return
    assert b64(data) == text


@many
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops", "k", "d"]),
            st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "AQAB", "sig", "a", "verify", "RS256"]) | values,
        )
        | values
        | st.builds(
            lambda name, value: public_jwk("ES256") | {name: value}, st.sampled_from(["x", "y", "crv", "alg"]), values
        ),
        max_size=3,
    )
)
def test_any_key_set_is_parsed_or_refused(keys: list[Any]) -> None:
    """No document crashes the parser, and a valid key is used whatever other keys there are."""
    good = public_jwk("EdDSA", kid="the good one")
    try:
        text = json.dumps({"keys": [*keys, good]}, allow_nan=False)
    except ValueError:
        return
    try:
        assert "the good one" in parse_jwks(text).keys
    except BadKeySet:
        assert "\\ud" in text or "[[" in text


@many
@given(st.text(max_size=40) | st.text(alphabet='*gzipdentyW/",;=q.01 ', max_size=40))
@example('"' * 5000)
@example(", " * 5000)
def test_any_header_negotiates(text: str) -> None:
    """No header crashes the negotiation, and it always decides."""
    assert accepts_json(text) in (True, False)
    assert choose_coding(text, is_gzip=True) in ("gzip", "identity", None)
    assert is_fresh(text, '"x"') in (True, False)


mutations = st.lists(
    st.tuples(
        st.sampled_from(
            ["version", "path", "rawPath", "httpMethod", "headers", "multiValueHeaders", "queryStringParameters",
            "rawQueryString",
             "multiValueQueryStringParameters", "requestContext", "body", "isBase64Encoded", "pathParameters",
             "elb", "http"]
        ),
        st.just("2.0") | values,
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@many
@given(st.sampled_from(FORMS), mutations, st.booleans())
def test_no_event_is_a_500(form: str, changes: list[tuple[str, Any]], inside: bool) -> None:
    """An event with any of its members replaced gets a response, and never a 500."""
    sent = event(form, "GET", "/v1/flight-delays/a", {"limit": "1"}, {"Authorization": "Bearer x.y.z"})
    for name, value in changes:
        if inside and isinstance(sent.get("requestContext"), dict):
            sent["requestContext"][name] = value
        else:
            sent[name] = value
    app = App(item("a"))
    result = app.handler(sent, None)
    assert 200 <= result["statusCode"] < 500
    json.dumps(result)
    assert len(app.lines) == 1


@many
@given(values)
@example([])
@example({"version": "2.0"})
@example({"httpMethod": "GET", "path": None})
@example(
    {
        "version": "2.0",
        "rawPath": "/",
        "rawQueryString": "&".join("a=1" for _ in range(200)),
        "requestContext": {"http": {"method": "GET"}},
    }
)
@example({"Records": [{"eventSource": "aws:sqs"}]})
def test_anything_that_is_not_an_event_is_a_400(sent: Any) -> None:
    """A test event from a console, a queue's message, a number: 400, as a problem."""
    app = App()
    result = app.handler(sent, None)
    assert result["statusCode"] == 400
    assert json.loads(result["body"])["code"] == "invalid_request"
    assert app.line["use_case"] == "unrouted"


def test_hostile_sizes_cost_little() -> None:
    """Texts that are made to slow down a parser, as long as the longest token, are refused within a split second."""
    texts = [
        '"' + '\\"' * 3000,
        "[" * 6000,
        '{"a":' * 1200,
        "9" * 6000,
        '"\\u' * 1500,
        "{" + '"a":1,' * 900,
        "[" * 20 + '"' + '\\"' * 2900,
    ]
    begin = time.process_time()
    for text in texts:
        for part in (sign(text, algorithm="ES256"), sign(algorithm="ES256", header=text)):
            assert not _verify(part)
    assert time.process_time() - begin < 5


def test_mutated_tokens_are_taken_or_refused() -> None:
    """Thousands of tokens changed at every layer: each gives claims or a reason, and every reason occurs."""
    found = fuzz(10 * COUNT, seed=1)
    assert found.total() == 10 * COUNT
    reasons = {
        "malformed",
        "bad-signature",
        "no-kid",
        "wrong-algorithm",
        "malformed-claim",
        "unsupported-header",
        "taken",
    }
    assert found.keys() >= reasons


def test_the_fuzz_starts_from_valid_tokens() -> None:
    """Otherwise every mutation would be refused for another reason."""
    assert all(_verify(_good(algorithm)) for algorithm in ALGORITHMS)
    assert set(SIGNERS) > set(ALGORITHMS)
    assert parse_jwks(all_jwks()).refused == ()

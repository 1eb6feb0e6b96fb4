"""H1 to H9: what a consumer sees, through the whole handler over a table in memory."""

from __future__ import annotations

import json
import random
import re
import string
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

import pytest

import serve
from serve.access import NoAccess, parse_scopes
from serve.bearer import refuse
from serve.item import MAX_BODY_BYTES, MAX_CLAIM_CHARACTERS
from serve.tokens.jwt import InvalidToken
from serve.web.negotiate import build_etag, is_fresh
from serve.web.page import MAX_PAGE_BYTES, MAX_QUERIES, SKIP, Page, QueryResult, gather
from serve.web.problems import TOKEN_DETAILS, describe_token
from serve.web.request import parse_request
from serve.web.respond import respond_page
from serve.web.route import WHOLE, PageQuery
from tests.unit.serve.kit import FORMS, NOW, POLICY, Answered, App, check_refused, claims, event, item, sign
from wire.errors import NoCredentials, Throttled, TooLarge, Unavailable

TOKEN = sign()
BODY = '{"flight":"B6123","note":"Zoë 🛫"}'
LIST, ONE = "/v1/flight-delays", "/v1/flight-delays/a"


def _zip(text: str) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(text.encode()) + packer.flush()


def _challenge(answer: Answered) -> str:
    return str(answer.headers["www-authenticate"])


# --- H1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", [LIST, ONE, "/v1/flight-delays/unknown"])
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Basic dXNlcjpwdw=="}, {"authorization": ""}, {"cookie": "x"}]
)
def test_no_credentials_get_a_challenge_without_an_error(form: str, path: str, headers: dict[str, Any]) -> None:
    """H1: 401 with only the realm, whatever the path; the table is not read."""
    app = App(item("a"))
    answer = app.call(path, form=form, **headers)
    assert answer.status == 401
    assert _challenge(answer) == 'Bearer realm="larder"'
    assert answer.json["code"] == "token_required"
    assert app.table.asked == []


def test_the_realm_is_the_deployments() -> None:
    """H1: the realm comes from the settings."""
    assert _challenge(App(realm="flights").call(ONE)) == 'Bearer realm="flights"'


EXPLAINED: tuple[tuple[str, str], ...] = (
    ("x", "the token is not a signed JWT in compact form, or not strictly encoded"),
    (TOKEN[:-4] + "AAAA", "the token's signature is not valid"),
    (sign(kid="another"), "the issuer has no such key (kid) for signatures"),
    (sign(kid=...), "the token's header does not name its key (kid)"),
    (sign(alg="RS512"), "the token's algorithm (alg) is not accepted for its key"),
    (sign(alg="RS512", kid="another"), "the token's algorithm (alg) is not accepted for its key"),
    (sign(typ="dpop+jwt"), "the token's typ is not accepted"),
    (sign(claims(iss="https://other.example.com/")), "the token's issuer (iss) is not accepted"),
    (sign(claims(aud="another")), "the token is for another audience"),
    (sign(claims(aud=None)), "the claim aud is missing"),
    (sign(claims(exp=None)), "the claim exp is missing"),
    (sign(claims(iat=None)), "the claim iat is missing"),
    (sign(claims(exp="1")), "the claim exp has another type than expected"),
    (sign(claims(aud=1)), "the claim aud has another type than expected"),
    (sign(claims(scope=1)), "the claim scope has another type than expected"),
    (sign(claims(carrier=None)), "the claim carrier is missing, or is not a printable text of 1 to 256 characters"),
    (sign(claims(exp=1)), "the token has expired"),
    (sign(claims(nbf=NOW + 99)), "the token is not valid yet"),
)


@pytest.mark.parametrize(("token", "detail"), EXPLAINED)
def test_a_bad_token_is_explained(token: str, detail: str) -> None:
    """H1: `invalid_token`, with what a client can see in its own token and correct, in header and body."""
    answer = App().call(ONE, token)
    assert answer.status == 401
    assert _challenge(answer) == f'Bearer realm="larder", error="invalid_token", error_description="{detail}"'
    assert answer.json["detail"] == detail


def test_details_fit_into_the_header_and_have_the_bound() -> None:
    """RFC 6750, section 3: no quotes or backslashes; the length of a claim is the bound of `serve.access`."""
    assert all(re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", detail) for detail in TOKEN_DETAILS.values())
    assert f"1 to {MAX_CLAIM_CHARACTERS} characters" in TOKEN_DETAILS["bad-subject"]


def test_each_reason_of_a_refusal_has_a_detail() -> None:
    """Except a fault of the verifier itself."""
    sources = [path.read_text(encoding="utf-8") for path in Path(serve.__path__[0]).rglob("*.py")]
    reasons = {reason for source in sources for reason in re.findall(r'InvalidToken\(\s*"([a-z-]+)"', source)}
    assert reasons | {"malformed-claim"} == TOKEN_DETAILS.keys()
    assert describe_token("verifier-broke", "") is None
    assert describe_token("missing-claim", "") is None
    assert describe_token("missing-claim", "a.b") == "the claim a.b is missing"


@pytest.mark.parametrize(("left", "age"), [(600, 60), (61, 60), (60, 60), (59.5, 59), (7, 7), (1, 1), (0.5, 0)])
@pytest.mark.parametrize("path", [ONE, LIST])
def test_nothing_is_cached_longer_than_its_token_lives(path: str, left: float, age: int) -> None:
    """H5: the token's remaining life limits `max-age`, also of a 304, and also if the token is cached."""
    app, token = App(item("a")), sign(claims(exp=NOW + left))
    for _ in range(2):
        answer = app.call(path, token)
        assert answer.headers["cache-control"] == f"private, max-age={age}"
        again = app.call(path, token, if_none_match=answer.headers["etag"])
        assert (again.status, again.headers["cache-control"]) == (304, f"private, max-age={age}")


@pytest.mark.parametrize("digits", [300, 309, 400])
@pytest.mark.parametrize("path", [ONE, LIST, f"{LIST}?id=b", f"{LIST}?top=3"])
def test_a_token_can_have_no_end(path: str, digits: int) -> None:
    """An integer larger than any float is a time; also for a page without items, in which nothing expires."""
    path, _, query = path.partition("?")
    token = sign(claims(exp=10**digits, iat=-(10**400), nbf=-(10**400)))
    for app in (App(), App(item("a"))):
        answer = app.call(path, token, query=dict(parse_qsl(query)))
        if path == ONE and not app.table.items:
            assert answer.status == 404
        else:
            assert (answer.status, answer.headers["cache-control"]) == (200, "private, max-age=60")


@pytest.mark.parametrize(("left", "age"), [(2.0, 2), (0.0, 0), (-0.5, 0), (-9.0, 0)])
def test_what_a_leeway_lets_pass_is_not_cached(left: float, age: int) -> None:
    """A token whose time is up, if only by the leeway of its issuer's settings."""
    request = parse_request(event("rest", "GET", LIST, {}, {}))
    answer = respond_page(request, Page([], {}, float("inf"), WHOLE), NOW, NOW + left)
    assert answer.headers["Cache-Control"] == f"private, max-age={age}"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_has_no_case(scheme: str) -> None:
    """H1: RFC 9110 compares schemes without case."""
    assert App(item("a")).call(ONE, authorization=f"{scheme} {TOKEN}").status == 200


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Bearer  x", f"Bearer  {TOKEN}", f"Bearer\t{TOKEN}", f"Bearer{TOKEN}"]
)
def test_the_header_has_one_form(value: str) -> None:
    """H1: one space, then the token: nothing is trimmed or guessed."""
    assert App(item("a")).call(ONE, authorization=value).status == 401


@pytest.mark.parametrize(
    "scopes",
    [{"scope": None}, {"scope": ""}, {"scope": "other"}, {"scope": "flight-delays:reader"},
    {"scope": "flight-delays:READ"},
     {"scope": "flight-delays:read,other"}, {"scope": None, "scp": []}, {"scope": None, "scp": ["flight-delays"]},
     {"scope": None, "roles": "flight-delays:read"}],
)  # fmt: skip
def test_a_token_without_the_scope_is_forbidden(scopes: dict[str, Any]) -> None:
    """H1: 403 `insufficient_scope` that names the scope; the table is not read."""
    app = App(item("a"))
    answer = app.call(ONE, sign(claims(**scopes)))
    assert answer.status == 403
    assert _challenge(answer) == 'Bearer realm="larder", error="insufficient_scope", scope="flight-delays:read"'
    assert answer.json["code"] == "insufficient_scope"
    assert app.table.asked == []


@pytest.mark.parametrize(
    "scopes",
    [{"scope": "a flight-delays:read b"}, {"scope": None, "scp": ["a", "flight-delays:read"]},
     {"scope": None, "scp": "flight-delays:read"}, {"scope": "a", "scp": ["flight-delays:read"]}],
)  # fmt: skip
def test_scopes_are_words_or_lists(scopes: dict[str, Any]) -> None:
    """H1: `scope` as in RFC 8693, `scp` as some issuers do."""
    assert App(item("a")).call(ONE, sign(claims(**scopes))).status == 200


def test_scopes_are_a_set_of_words() -> None:
    """From all claims together, without blanks around them and without empty words."""
    found = parse_scopes({"scope": " a  b ", "scp": ["c", "a", ""], "roles": ["d"]}, POLICY)
    assert found == {"a", "b", "c"}
    assert parse_scopes({"scope": " a , b,,"}, POLICY._replace(scope_separator=",")) == {"a", "b"}
    assert parse_scopes({}, POLICY) == parse_scopes({"scope": "", "scp": []}, POLICY) == frozenset()


@pytest.mark.parametrize(
    "odd", [{"scope": 1}, {"scp": {"flight-delays:read": 1}}, {"scp": ["flight-delays:read", 1]}, {"scope": True}]
)
def test_malformed_scopes_make_a_token_invalid(odd: dict[str, Any]) -> None:
    """V11: a scope claim of another type is refused."""
    assert App(item("a")).call(ONE, sign(claims(**odd))).status == 401


def test_scope_claims_are_the_issuers_choice() -> None:
    """A claim that the policy does not name grants nothing."""
    app = App(item("a"), policies=(POLICY._replace(scope_claims=("scp",)),))
    assert app.call(ONE, sign()).status == 403
    assert app.call(ONE, sign(claims(scope=None, scp="flight-delays:read"))).status == 200


@pytest.mark.parametrize("form", FORMS)
def test_two_authorization_headers_are_a_malformed_request(form: str) -> None:
    """H1: 400 `invalid_request`, in lists or joined by commas."""
    app = App(item("a"))
    joined = app.call(ONE, form=form, authorization=f"Bearer {TOKEN}, Bearer {TOKEN}")
    assert (joined.status, joined.json["code"]) == (400, "invalid_request")
    sent = event(form, "GET", ONE, {}, {"Authorization": f"Bearer {TOKEN}"})
    if "multiValueHeaders" in sent:
        name = next(name for name in sent["multiValueHeaders"] if name.lower() == "authorization")
        sent["multiValueHeaders"][name] *= 2
        assert Answered(app.handler(sent, None)).status == 400


# --- H2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_body_is_sent_as_it_is_stored(form: str) -> None:
    """The same bytes: text as text, and a gzip as a gzip to a client that accepts it."""
    app = App(item("a", BODY), item("zip", _zip(BODY)))
    assert app.call(ONE, TOKEN, form=form).body == BODY.encode()
    packed = app.call("/v1/flight-delays/zip", TOKEN, form=form, accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.body == _zip(BODY)
    assert packed.result["isBase64Encoded"] is True
    plain = app.call("/v1/flight-delays/zip", TOKEN, form=form)
    assert plain.body == BODY.encode()
    assert App(item("a", "")).call(ONE, TOKEN, form=form).body == b""
    assert "content-encoding" not in plain.headers


def test_each_coding_has_its_own_strong_etag() -> None:
    """H2: another coding has another tag; the same bytes have the same tag; other bytes have another tag."""
    app = App(item("a", BODY), item("zip", _zip(BODY)), item("b", "{}"))
    plain = app.call("/v1/flight-delays/zip", TOKEN).headers["etag"]
    packed = app.call("/v1/flight-delays/zip", TOKEN, accept_encoding="gzip").headers["etag"]
    assert plain != packed
    assert re.fullmatch(r'"[0-9a-f]{32}"', plain)
    assert app.call(ONE, TOKEN).headers["etag"] == plain
    assert app.call("/v1/flight-delays/b", TOKEN).headers["etag"] != plain


def test_a_tag_is_of_every_byte() -> None:
    """One more blank, or another byte at any place, gives another tag: 32 characters in quotes."""
    bodies = [b"{}", b" {}", b"{} ", b"{}\n", b"{ }", b"", b"{}" * 5000, b"{}" * 5000 + b"x", b"x" + b"{}" * 5000]
    tags = {build_etag(body) for body in bodies}
    assert len(tags) == len(bodies)
    assert all(re.fullmatch('"[0-9a-f]{32}"', tag) for tag in tags)


@pytest.mark.parametrize("form", FORMS)
def test_a_caller_that_has_it_gets_304(form: str) -> None:
    """H2: with ETag, Cache-Control and Vary, and without body or content type; for each coding."""
    app = App(item("zip", _zip(BODY)))
    for coding in ("gzip", "identity"):
        path = "/v1/flight-delays/zip"
        full = app.call(path, TOKEN, form=form, accept_encoding=coding)
        assert full.headers["content-type"] == "application/json"
        again = app.call(path, TOKEN, form=form, accept_encoding=coding, if_none_match=full.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        for name in ("etag", "cache-control", "vary"):
            assert again.headers[name] == full.headers[name]
        assert "content-type" not in again.headers
        other = "identity" if coding == "gzip" else "gzip"
        assert app.call(path, TOKEN, form=form, accept_encoding=other, if_none_match=full.headers["etag"]).status == 200


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("origin", [None, "https://app.example.com"])
@pytest.mark.parametrize("path", [ONE, "/v1/flight-delays/zip", LIST + "?"])
def test_the_headers_of_a_304_are_these(form: str, origin: str | None, path: str) -> None:
    """H2: those that a 200 would have for caches, and none about a body: RFC 9110 section 15.4.5."""
    app = App(item("a", BODY), item("zip", _zip(BODY)), cors_origins=("https://app.example.com",))
    sent = {"if_none_match": "*", "accept_encoding": "gzip", **({"origin": origin} if origin else {})}
    query = {"limit": "1"} if path.endswith("?") else None
    answer = app.call(path.rstrip("?"), TOKEN, form=form, query=query, **sent)
    assert (answer.status, answer.body, answer.result["isBase64Encoded"]) == (304, b"", False)
    cors = {"access-control-allow-origin", "access-control-expose-headers"} if origin else set()
    dated = {"last-modified", "larder-as-of", "larder-expires-at", "larder-run"} if query is None else set()
    assert answer.headers.keys() == {"etag", "cache-control", "vary", "x-content-type-options"} | dated | cors
    assert answer.headers["cache-control"] == "private, max-age=60"
    assert answer.headers["vary"] == "Authorization, Accept-Encoding, Origin"


TAG = '"0123456789abcdef"'
COMPARED = (
    (TAG, True), (f"W/{TAG}", True), (f'"x", {TAG}', True), (f"{TAG},{TAG}", True), (f'"x",W/{TAG},"y"', True),
    ("*", True), ("\t*\t", True), (f"\t{TAG}\t", True), (f",, {TAG}", True),
    (TAG.upper(), False), (TAG[:-2] + '"', False), ('"' + TAG[2:], False), (TAG[:-1] + '0"', False),
    ('"0' + TAG[1:], False), (TAG.strip('"'), False), (f"'{TAG}'", False), ('""', False), ("W/", False),
    (f"W{TAG}", False), (f"W/ {TAG}", False), (f"w/{TAG}", False), (f"*, {TAG}", False), (f"{TAG}, *", False),
    ("**", False), ('"*"', False), (f"{TAG};q=1", False), (f'"x" {TAG}', False), (f"{TAG}x", False), (f"x{TAG}", False),
    (f'"{TAG}"', False), (f"{TAG} {TAG}", False), (f'"x\x7f", {TAG}', False), (f'"x y", {TAG}', False), ("", False),
)  # fmt: skip


@pytest.mark.parametrize(("header", "expected"), COMPARED)
def test_a_tag_is_compared_as_a_whole(header: str, *, expected: bool) -> None:
    """H2: another case, a part or a neighbour of a tag does not match; a malformed list is ignored."""
    assert is_fresh(header, TAG) is expected


def test_without_the_header_nothing_is_fresh() -> None:
    """H2: not even with a tag of a star."""
    assert is_fresh(None, TAG) is False
    assert is_fresh('"*"', '"*"') is True


def test_lists_have_etags_too() -> None:
    """H2: a page is revalidated like an item, and changes with any of its items."""
    app = App(item("a", "{}"))
    tag = app.call(LIST, TOKEN).headers["etag"]
    assert app.call(LIST, TOKEN, if_none_match=tag).status == 304
    app.table.items |= {(one.pk, one.sk): one for one in [item("b", "{}")]}
    assert app.call(LIST, TOKEN, if_none_match=tag).status == 200


def test_a_404_takes_precedence_over_a_304() -> None:
    """H2: `If-None-Match: *` does not turn a 404 into a 304."""
    assert App().call(ONE, TOKEN, if_none_match="*").status == 404


# --- H3 ---------------------------------------------------------------------------------------------------------------

UNKNOWN = (
    "/", "", "/v1", "/v1/", "/v1/flight-delays/", "/v1/flight-delays/a/", "/v1/flight-delays/a/b", "/v1/Flight-Delays",
    "/v1/other", "/v1/other/a", "/v2/flight-delays", "/flight-delays", "//v1/flight-delays", "/v1//flight-delays",
    "/v1/health/", "/v1/health/x", "/v1/flight-delays/a%b", "/v1/flight-delays/é", "/v1/flight-delays/a b",
    "/v1/flight-delays/" + "a" * 129, "/v1/flight-delays/a\n", "/v1/flight-delays/a#b", "/v1/flight-delays/a;b",
    "v1/health",
    "/v1/flight-delays/a/../b", "/live/v1/health",
)  # fmt: skip


ENCODED = (
    "/v1%2Fhealth", "/v1/flight-delays%2Fa", "/v1%2fflight-delays/a", "%2Fv1/flight-delays/a",
    "/v1/flight-delays/%2561", "/v1/flight-delays/a%00", "/v1/flight-delays/%ff", "/v1/flight-delays/%C0%AE",
    "/v1/flight-delays/%C3%A9", "/v1/flight-delays/a%20", "/v1/flight-delays/a%2Fb", "/v1/flight-delays/%",
    "/v1/flight-delays/%2", "/v1/flight-delays/a%0A", "/v1/flight-delays/a%23b", "/v1/flight-delays/a%3Fb",
)  # fmt: skip
RAW_PATHS = {"rest": "path", "function-url": "rawPath", "alb": "path", "alb-multi": "path"}


def _ask_raw(app: App, form: str, path: str) -> int:
    sent = event(form, "GET", "/", {}, {"Authorization": f"Bearer {TOKEN}"}) | {RAW_PATHS[form]: path}
    status: int = app.handler(sent, None)["statusCode"]
    return status


@pytest.mark.parametrize("form", RAW_PATHS)
@pytest.mark.parametrize("path", ENCODED)
def test_an_encoded_path_is_decoded_once_and_its_slashes_never(path: str, form: str) -> None:
    """H3: an encoded slash, a second encoding or an odd byte does not lead to another resource."""
    app = App(item("a"))
    assert _ask_raw(app, form, path) == 404
    assert app.table.asked == []


@pytest.mark.parametrize("form", RAW_PATHS)
@pytest.mark.parametrize(
    "path", ["/v1/flight-delays/a%7Eb", "/v1/%66light-delays/a~%62", "/%76%31/flight%2Ddelays/a~b"]
)
def test_an_encoded_letter_is_that_letter(path: str, form: str) -> None:
    """H3: RFC 3986 section 6.2.2.2; older clients encode `~`."""
    assert _ask_raw(App(item("a~b")), form, path) == 200


READABLE = (
    "user@example.com",
    "a.b+tag@example.com",
    "B6:123",
    "2026-11-20T06:15:00Z",
    "2026-11-20T06:15:00+01:00",
    "k=v,w",
    "a=2Fb",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READABLE)
def test_encoding_and_decoding_do_not_change_the_item(name: str, form: str) -> None:
    """Unencoded, encoded as a client's library does, and fully encoded; an HTTP API decodes it."""
    wholly = "".join(f"%{byte:02x}" for byte in name.encode())
    for written in (name, quote(name, safe=""), wholly):
        sent = event(form, "GET", "/", {}, {"Authorization": f"Bearer {TOKEN}"})
        path = f"/v1/flight-delays/{unquote(written) if form == 'http' else written}"
        sent["rawPath" if "rawPath" in sent else "path"] = path
        assert App(item(name)).handler(sent, None)["statusCode"] == 200


@pytest.mark.parametrize("form", FORMS)
def test_the_link_to_the_next_page_survives_a_query(form: str) -> None:
    """A plus in a query is a space, so it is encoded in the link."""
    app, query, pages = App(*(item(name) for name in READABLE)), {"limit": "1", "prefix": "2026-11-20T06:15:00"}, []
    while True:
        answer = app.call(LIST, TOKEN, query=query, form=form)
        pages += [entry["prediction_id"] for entry in answer.json["items"]]
        if "link" not in answer.headers:
            break
        query = dict(parse_qsl(answer.headers["link"].partition("?")[2].partition(">")[0], strict_parsing=True))
    assert pages == sorted(name for name in READABLE if name.startswith("2026-11-20T06:15:00"))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "rest"])
@pytest.mark.parametrize("path", [path for path in UNKNOWN if path])
def test_unknown_paths_are_404_without_a_token(path: str, form: str) -> None:
    """H3: routing comes before authentication."""
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        answer = App(item("a")).call(path, method=method, form=form)
        assert answer.status == 404, method
        assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("path", [path for path in UNKNOWN if not path.startswith("/live")])
def test_unknown_paths_of_a_rest_api_are_404(path: str) -> None:
    """H3: the same for a REST API, whose path has no stage."""
    assert App(item("a")).call(path).status == 404


def test_a_named_stage_is_not_part_of_the_path() -> None:
    """An HTTP API puts the name of its stage before the path."""
    sent = event("http", "GET", "/live/v1/health", {}, {})
    sent["requestContext"]["stage"] = "live"
    assert App().handler(sent, None)["statusCode"] == 200
    sent = event("http", "GET", "/v1/health", {}, {})
    sent["requestContext"]["stage"] = "v1"
    assert App().handler(sent, None)["statusCode"] == 200


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", [LIST, ONE, "/v1/health"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "FOO"])
def test_other_methods_are_405_with_allow_and_without_a_token(path: str, method: str, form: str) -> None:
    """H3: 405 lists the allowed methods."""
    answer = App(item("a")).call(path, method=method, form=form)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.json["code"] == "method_not_allowed"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", [LIST, ONE, "/v1/health"])
def test_options_is_204_without_a_token(path: str, form: str) -> None:
    """H3: OPTIONS returns the methods and nothing else."""
    answer = App().call(path, method="OPTIONS", form=form)
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS", b"")
    assert answer.headers.keys() == {"allow", "cache-control", "x-content-type-options"}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("form", FORMS)
def test_health_is_never_stored(form: str) -> None:
    """Its status, its headers and its body."""
    answer = App().call("/v1/health", form=form)
    assert (answer.status, answer.json) == (200, {"status": "pass"})
    assert answer.headers == {
        "content-type": "application/health+json", "cache-control": "no-store", "x-content-type-options": "nosniff",
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("path", "arguments"),
    [(LIST, {"token": TOKEN}), (ONE, {"token": TOKEN}), (ONE, {}), ("/v1/flight-delays/none", {"token": TOKEN}),
     ("/v1/health", {}), ("/v1/unknown", {}), (LIST, {"token": TOKEN, "query": {"limit": "0"}}),
     (ONE, {"token": TOKEN, "accept_encoding": "gzip;q=1, identity;q=0"}), (ONE, {"token": TOKEN,
     "if_none_match": "*"})],
)  # fmt: skip
def test_head_is_get_without_a_body(path: str, arguments: dict[str, Any], form: str) -> None:
    """H3: the same status and headers, without a body."""
    app = App(item("a", BODY))
    full = app.call(path, form=form, **arguments)
    head = app.call(path, method="HEAD", form=form, **arguments)
    assert (head.status, head.headers) == (full.status, full.headers)
    assert head.body == b""
    assert head.result["isBase64Encoded"] is False


# --- H4, H5 -----------------------------------------------------------------------------------------------------------

WRONG: tuple[tuple[str, dict[str, Any], int, str], ...] = (
    (ONE, {}, 401, "token_required"),
    (ONE, {"token": "x"}, 401, "invalid_token"),
    (ONE, {"token": sign(claims(scope="x"))}, 403, "insufficient_scope"),
    ("/v1/flight-delays/none", {"token": TOKEN}, 404, "not_found"),
    ("/v1/none", {}, 404, "not_found"),
    (ONE, {"method": "POST"}, 405, "method_not_allowed"),
    (ONE, {"token": TOKEN, "accept": "text/html"}, 406, "not_acceptable"),
    (LIST, {"token": TOKEN, "query": {"limit": "0"}}, 400, "invalid_request"),
)


REFUSED: list[tuple[Exception, str, str | None, str]] = [
    (NoAccess(None), "insufficient_scope", "the token's issuer gives no access to this dataset", ""),
    (NoAccess("a:b"), "insufficient_scope", None, 'scope="a:b"'),
    (InvalidToken("expired"), "invalid_token", "the token has expired", ""),
    (InvalidToken("missing-claim", "sub"), "invalid_token", "the claim sub is missing", ""),
    (InvalidToken("missing-claim"), "invalid_token", None, ""),
    (InvalidToken("verifier-broke: X"), "invalid_token", None, ""),
]


@pytest.mark.parametrize(("error", "code", "detail", "scope"), REFUSED)
def test_a_refusal_has_its_challenge(error: Any, code: str, detail: str | None, scope: str) -> None:
    """RFC 6750, section 3: error, description and scope, in this order; the reason is for the log."""
    problem = refuse("r", error)
    assert (problem.code, problem.detail, problem.members) == (code, detail, {})
    assert problem.reason == getattr(error, "reason", code)
    described = [f'error_description="{detail}"'] if detail else []
    parts = [f'error="{code}"', *described, *([scope] if scope else [])]
    assert problem.headers == {"WWW-Authenticate": f'Bearer realm="r", {", ".join(parts)}'}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("path", "arguments", "status", "code"), WRONG)
def test_errors_are_problems(path: str, arguments: dict[str, Any], status: int, code: str, form: str) -> None:
    """H4, H5: type, title, status, code and requestId; never stored."""
    answer = App(item("a")).call(path, form=form, **arguments)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem = answer.json
    assert problem["type"] == f"urn:larder:problem:{code}"
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert problem["requestId"] == (
        "Root=1-67891233-abcdef012345678912345678" if form.startswith("alb") else "request-1"
    )


def test_an_internal_error_reveals_nothing() -> None:
    """H4: 500 without a word of what happened; the log says where."""
    app = App(item("a"))
    app.table.error = KeyError("canary-in-exception")
    answer = app.call(ONE, TOKEN)
    assert (answer.status, answer.json["code"]) == (500, "internal_error")
    assert answer.json["requestId"] == app.line["request_id"] == "request-1"
    assert b"canary" not in answer.body
    assert b"KeyError" not in answer.body
    assert "canary" not in app.lines[-1]
    assert app.line["reason"] == "KeyError"
    assert any("send:" in place for place in app.line["places"])


@pytest.mark.parametrize(("life", "age"), [(3600, 60), (61, 60), (60, 60), (59, 59), (1, 1)])
def test_an_item_is_cached_no_longer_than_it_lives(life: int, age: int) -> None:
    """H5: private, at most a minute, and never past the item's expiry."""
    app = App(item("a", expires_at=int(NOW) + life), item("b"))
    for path in (ONE, LIST):
        headers = app.call(path, TOKEN).headers
        assert headers["cache-control"] == f"private, max-age={age}"
        assert headers["vary"] == "Authorization, Accept-Encoding"
    app.now = NOW + 0.5
    assert app.call(ONE, TOKEN).headers["cache-control"] == f"private, max-age={min(60, int(life - 0.5))}"


def test_an_empty_page_can_be_cached_for_a_minute() -> None:
    """H5: nothing in it can expire."""
    assert App().call(LIST, TOKEN).headers["cache-control"] == "private, max-age=60"


def test_an_expired_item_is_a_missing_item() -> None:
    """From exactly that second on, whether or not DynamoDB has deleted it; likewise a tombstone."""
    app = App(item("a", expires_at=int(NOW) + 10), item("gone", None))
    assert app.call(ONE, TOKEN).status == 200
    app.now = NOW + 9.9
    assert app.call(ONE, TOKEN).status == 200
    app.now = NOW + 10
    expired, unknown = app.call(ONE, TOKEN), app.call("/v1/flight-delays/none", TOKEN)
    tombstone = app.call("/v1/flight-delays/gone", TOKEN)
    assert expired.result == unknown.result == tombstone.result
    assert expired.status == 404
    assert app.call(LIST, TOKEN).json == {"items": []}


# --- H7 ---------------------------------------------------------------------------------------------------------------


def _walk(app: App, **query: str) -> list[list[str]]:
    pages = []
    for _ in range(200):
        answer = app.call(LIST, TOKEN, query=query)
        assert answer.status == 200
        pages.append([entry["prediction_id"] for entry in answer.json["items"]])
        if "link" not in answer.headers:
            return pages
        target, relation = answer.headers["link"].split("; ")
        assert relation == 'rel="next"'
        query = {name: values[0] for name, values in parse_qs(urlsplit(target[1:-1]).query).items()}
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7])
def test_following_the_links_shows_every_item_once(count: int) -> None:
    """H7: in order, without duplicates or gaps, and without an empty page at the end."""
    app = App(*(item(f"id{number}", f'{{"n":{number}}}') for number in range(count)))
    pages = _walk(app, limit="3")
    assert [name for page in pages for name in page] == [f"id{number}" for number in range(count)]
    assert len(pages) == max(1, -(-count // 3))


def test_a_list_has_the_stored_bodies() -> None:
    """Each item with its prediction_id and its body, a stored gzip as text."""
    app = App(item("a", BODY), item("b", _zip(BODY)))
    fresh: dict[str, object] = {"as_of": "2023-11-14T22:13:20Z", "expires_at": "2023-11-14T23:13:20Z"}
    fresh |= {"run": 1, "model_version": None}
    assert app.call(LIST, TOKEN).json == {
        "items": [{"prediction_id": name, **fresh, "body": json.loads(BODY)} for name in ("a", "b")]
    }


def test_a_prefix_narrows_the_list_and_stays_in_the_link() -> None:
    """H7: also with an `after` from elsewhere, at which DynamoDB would refuse to begin."""
    app = App(*(item(name) for name in ("a1", "b1", "b2", "b3", "c1")))
    assert _walk(app, prefix="b", limit="2") == [["b1", "b2"], ["b3"]]
    assert _walk(app, prefix="b", after="a1") == [["b1", "b2", "b3"]]
    assert _walk(app, prefix="b", after="b1") == [["b2", "b3"]]
    assert _walk(app, prefix="b", after="b") == [["b1", "b2", "b3"]]
    assert _walk(app, prefix="b", after="c1") == [[]]
    assert _walk(app, prefix="b", after="zzz") == [[]]
    assert _walk(app, prefix="zzz") == [[]]
    assert _walk(app, after="b2") == [["b3", "c1"]]
    assert _walk(app, after="b15") == [["b2", "b3", "c1"]], "what it names need not exist"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "query",
    [{"limit": value} for value in ("0", "101", "-1", "+1", "1.0", "1e1", "01", "abc", "", " 1", "1 ", "null", "١",
    "999", "1000")]
    + [{name: value} for name in ("after", "prefix") for value in ("", "a b", "a/b", "é", "a" * 129, "a\n", "a#b",
    "%61", "*")],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(query: dict[str, str], form: str) -> None:
    """H7: 400, and the table is not read."""
    app = App(item("a"))
    answer = app.call(LIST, TOKEN, query=query, form=form)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    meanings = {
        "limit": "a whole number from 1 to 100",
        "after": "a prediction_id",
        "prefix": "the beginning of a prediction_id",
    }
    ((name, _),) = query.items()
    assert answer.json["detail"].removesuffix(", given once") == f"{name} must be {meanings[name]}"
    assert app.table.asked == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("path", "query", "detail"),
    [
        (LIST, {"ids": "a,b"}, "unknown query parameter 'ids'; known are id, limit, after, prefix, top, after_"),
        (LIST, {"limit": "1", "offset": "1", "cursor": "x"}, "unknown query parameter 'cursor', 'offset'; known are"),
        (LIST, {"Limit": "1"}, "unknown query parameter 'Limit';"),
        (LIST, {"filter[shop]": ""}, "unknown query parameter 'filter%5Bshop%5D';"),
        (LIST, {'<script>é"': "secret"}, "unknown query parameter '%3Cscript%3E%C3%A9%22';"),
        (LIST, {"": "x"}, "unknown query parameter ''; known"),
        (LIST, {f"p{n}": "x" for n in range(9)}, "unknown query parameter 'p0', 'p1', 'p2', 'p3', 'p4', ...; known"),
        (LIST, {"x" * 500: "1"}, "unknown query parameter 'xxx"),
        (ONE, {"limit": "1"}, "unknown query parameter 'limit'; known are fields, max_age"),
        (ONE, {"id": "a"}, "unknown query parameter 'id'; known are fields, max_age"),
    ],
)
def test_unknown_parameters_are_refused_by_name(path: str, query: dict[str, str], detail: str, form: str) -> None:
    """H7: if a filter were ignored, the page would be unfiltered; a value can be a secret."""
    app = check_refused(path, query, form, detail)
    assert app.call("/v1/health", query=query, form=form).status == 200, "a monitor can add what it likes"


@pytest.mark.parametrize("form", FORMS)
def test_parameters_within_range_are_accepted(form: str) -> None:
    """H7: the bounds themselves, the longest id, every character of an id."""
    for query in ({"limit": "1"}, {"limit": "100"}, {"after": "a" * 128}, {"prefix": "Az09._~-"}):
        assert App(item("a")).call(LIST, TOKEN, query=query, form=form).status == 200


@pytest.mark.parametrize("form", ["rest", "http", "function-url", "alb-multi"])
def test_a_repeated_parameter_is_refused(form: str) -> None:
    """H7: two limits are refused."""
    sent = event(form, "GET", LIST, {"limit": "1"}, {"Authorization": f"Bearer {TOKEN}"})
    if sent.get("multiValueQueryStringParameters"):
        sent["multiValueQueryStringParameters"]["limit"] = ["1", "2"]
    else:
        sent["rawQueryString"] = "limit=1&limit=2"
    assert App().handler(sent, None)["statusCode"] == 400


def test_expired_items_at_the_start_of_a_page_are_skipped() -> None:
    """Thousands of expired items cost a few queries, and the live ones after them come at once."""
    expired = [item(f"a{number:05d}", expires_at=int(NOW) - 1) for number in range(3000)]
    app = App(*expired, item("b1"), item("b2"))
    assert _walk(app, limit="1") == [["b1"], ["b2"]]
    assert len(app.table.asked) <= 2 * MAX_QUERIES


def test_a_page_does_not_rely_on_the_filter_of_the_query() -> None:
    """What a query returns although it has expired or was removed is not an item."""
    rows = [item("a", expires_at=int(NOW)), item("b", None), item("c"), item("d", expires_at=int(NOW) + 1)]
    found = gather(lambda after, limit: QueryResult(rows, None), PageQuery(20, "", ""), NOW)
    assert [entry.prediction_id for entry in found.entries] == ["c", "d"]


def test_skipping_has_a_bound() -> None:
    """After the bound a page is empty and links to where it stopped; following the links ends."""
    count = (MAX_QUERIES + 1) * SKIP
    app = App(*(item(f"a{number:05d}", expires_at=int(NOW) - 1) for number in range(count)), item("b"))
    first = app.call(LIST, TOKEN)
    assert first.json == {"items": []}
    assert "link" in first.headers
    assert len(app.table.asked) == MAX_QUERIES
    pages = _walk(app)
    assert [name for page in pages for name in page] == ["b"]
    assert len(pages) < 4


# Texts that are longer when they are sent than in Python: escaped, in UTF-8, or in the base64 of a gzip.
LARGE_TEXTS = {
    "ASCII": "y",
    "two bytes": "é",
    "three bytes": "漢",
    "four bytes": "🛫",
    "quotes": '\\"',
    "no redundancy": "".join(
        random.Random(1).choices(string.ascii_letters + string.digits + "!#$%&()*+-./:;<>?@[]^_{}~", k=999)
    ),
}


@pytest.mark.parametrize("odd", ["", "."])
@pytest.mark.parametrize("unit", LARGE_TEXTS.values(), ids=LARGE_TEXTS.keys())
def test_a_page_is_bounded_in_the_bytes_that_are_sent(unit: str, odd: str) -> None:
    """H7: a page has at most `MAX_PAGE_BYTES` of UTF-8, including frames and commas, and not one byte more."""
    size = len(unit.encode())
    body = f'"{unit * (200_000 // size)}{odd}"'
    frame = '{"prediction_id":"a0","as_of":"2023-11-14T22:13:20Z","expires_at":"2023-11-14T23:13:20Z",'
    frame += '"run":1,"model_version":null,"body":}'
    frames = 4 * len(frame) + len('{"items":[,,,]}')
    rest = MAX_PAGE_BYTES - frames - 3 * len(body.encode()) - 2
    last = f'"{unit * (rest // size)}{"." * (rest % size)}"'
    for name, spare, shown in (("fits", "", 4), ("one more", ".", 3)):
        app = App(*(item(f"a{number}", body) for number in range(3)), item("a3", f'{last[:-1]}{spare}"'))
        answer = app.call(LIST, TOKEN)
        assert len(answer.json["items"]) == shown, name
        assert len(answer.body) <= MAX_PAGE_BYTES
        assert ("link" in answer.headers) == (shown == 3)


@pytest.mark.parametrize("accept_encoding", ["identity", "gzip;q=1, identity;q=0"])
@pytest.mark.parametrize("unit", LARGE_TEXTS.values(), ids=LARGE_TEXTS.keys())
def test_a_page_fits_through_a_load_balancer(unit: str, accept_encoding: str) -> None:
    """H7: the function's result, even fully escaped, has at most 1 MB, and the pages have every item."""
    body = f'"{unit * (20_000 // len(unit.encode()))}"'
    app = App(*(item(f"a{number:02d}", body) for number in range(99)))
    after, names = None, []
    while True:
        query = {"limit": "100", **({"after": after} if after else {})}
        answer = app.call(LIST, TOKEN, form="alb", query=query, accept_encoding=accept_encoding)
        assert len(json.dumps(answer.result).encode()) <= 1_000_000
        content = answer.body if "content-encoding" not in answer.headers else zlib.decompress(answer.body, 31)
        names += [entry["prediction_id"] for entry in json.loads(content)["items"]]
        if "link" not in answer.headers:
            break
        after = names[-1]
    assert names == [f"a{number:02d}" for number in range(99)]


@pytest.mark.parametrize("unit", LARGE_TEXTS.values(), ids=LARGE_TEXTS.keys())
def test_the_largest_body_fits_through_lambda(unit: str) -> None:
    """Lambda accepts results of 6 MB as JSON, and its runtime can escape every character that is not ASCII."""
    body = f'"{unit * ((MAX_BODY_BYTES - 2) // len(unit.encode()))}"'
    answer = App(item("a", _zip(body))).call(ONE, TOKEN)
    assert (answer.status, answer.body) == (200, body.encode())
    assert len(json.dumps(answer.result).encode()) <= 6 * 1024 * 1024


def test_one_large_item_is_a_page_of_its_own() -> None:
    """H7: an item that is larger than a page is sent, alone."""
    body = json.dumps({"x": "y" * 300_000})
    app = App(
        *(item(f"a{number}", body) for number in range(5)), item("b", json.dumps({"x": "y" * 900_000})), item("c")
    )
    assert _walk(app) == [["a0", "a1"], ["a2", "a3"], ["a4"], ["b"], ["c"]]


MOST = {"rest": 4_487_712, "http": 4_487_712, "function-url": 4_487_712, "alb": 737_712, "alb-multi": 737_712}
RESULT = {"alb": 1_000_000, "alb-multi": 1_000_000}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_body_that_does_not_fit_uncompressed_asks_for_gzip(form: str, method: str) -> None:
    """With one byte more than the caller accepts it is a 406 that says what to send; with gzip it is a 200."""
    for spare, status in ((0, 200), (1, 406)):
        body = f'"{"x" * (MOST[form] - 2 + spare)}"'
        app = App(item("a", _zip(body)))
        plain = app.call(ONE, TOKEN, form=form, method=method)
        assert plain.status == status
        assert len(json.dumps(plain.result)) <= RESULT.get(form, 6_000_000)
        packed = app.call(ONE, TOKEN, form=form, method=method, accept_encoding="gzip")
        assert (packed.status, packed.headers["content-encoding"]) == (200, "gzip")
        assert packed.body == (_zip(body) if method == "GET" else b"")
        if method == "GET" and spare:
            assert plain.json["detail"] == (
                f"the body has more than the {MOST[form]} bytes that can be sent uncompressed:"
                " send Accept-Encoding: gzip"
            )
            app.call(ONE, TOKEN, form=form)
            assert (app.line["code"], app.line["reason"]) == ("not_acceptable", "body-too-large")
        assert App(item("a", body)).call(ONE, TOKEN, form=form, method=method).status == status


@pytest.mark.parametrize("form", ["alb", "alb-multi"])
@pytest.mark.parametrize("text", ["x", "漢"])
def test_a_list_with_a_body_that_does_not_fit_can_be_read_to_its_end(form: str, text: str) -> None:
    """Compressed it is a page; without gzip a 406 that links to the next items, so that no item ends the list."""
    large = f'"{text * (900_000 // len(text.encode()))}"'
    app = App(item("a"), item("b", _zip(large)), item("c"))
    query = {"limit": "5", "after": "a"}
    plain = app.call(LIST, TOKEN, form=form, query=query)
    assert (plain.status, plain.headers["link"]) == (406, '<?limit=5&after=b>; rel="next"')
    assert "send Accept-Encoding: gzip" in plain.json["detail"]
    packed = app.call(LIST, TOKEN, form=form, query=query, accept_encoding="gzip")
    assert packed.headers["link"] == plain.headers["link"]
    assert packed.headers["content-encoding"] == "gzip"
    found = json.loads(zlib.decompress(packed.body, 31))
    assert [(entry["prediction_id"], entry["body"]) for entry in found["items"]] == [("b", json.loads(large))]
    last = App(item("b", _zip(large))).call(LIST, TOKEN, form=form)
    assert (last.status, "link" in last.headers) == (406, False)


def test_a_list_passes_a_body_that_an_older_release_wrote_too_large() -> None:
    """It ends the page before it; then the 406 names the item, how to get it, and where the list continues."""
    large = _zip(f'"{"x" * MAX_BODY_BYTES}"')
    app = App(item("x-"), item("x-a"), item("x-b", large), item("x-c"))
    query = {"prefix": "x-", "limit": "7"}
    first = app.call(LIST, TOKEN, query=query)
    assert [entry["prediction_id"] for entry in first.json["items"]] == ["x-", "x-a"]
    assert first.headers["link"] == '<?limit=7&after=x-a&prefix=x->; rel="next"'
    second = app.call(LIST, TOKEN, query=query | {"after": "x-a"}, accept_encoding="gzip")
    assert (second.status, second.headers["link"]) == (406, '<?limit=7&after=x-b&prefix=x->; rel="next"')
    assert second.json["detail"] == (
        "the body of item x-b is too large for a list: get that item with Accept-Encoding: gzip"
    )
    assert app.line["reason"] == "body-too-large"
    third = app.call(LIST, TOKEN, query=query | {"after": "x-b"})
    assert [entry["prediction_id"] for entry in third.json["items"]] == ["x-c"]
    assert app.call("/v1/flight-delays/x-b", TOKEN, accept_encoding="gzip").body == large


def test_a_damaged_body_is_an_internal_error() -> None:
    """Bytes that are not gzip, or half of one, are a 500 and do not end the process."""
    for stored in (b"no gzip", _zip(BODY)[:-9]):
        app = App(item("a", stored))
        assert app.call(ONE, TOKEN).status == 500
        assert app.call(LIST, TOKEN).status == 500
    assert App(item("a", _zip('"' + "x" * (MAX_BODY_BYTES - 2) + '"'))).call(ONE, TOKEN).status == 200


# --- H8 ---------------------------------------------------------------------------------------------------------------

ORIGINS = ("https://app.example.com", "https://other.example.com")


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_cors_is_off_by_default(method: str) -> None:
    """H8: no CORS header, for any origin."""
    answer = App(item("a")).call(ONE, TOKEN, method=method, origin=ORIGINS[0], access_control_request_method="GET")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "Origin" not in answer.headers.get("vary", "")


@pytest.mark.parametrize("form", FORMS)
def test_listed_origins_can_read(form: str) -> None:
    """H8: exactly those of the list, with the headers that a page needs; errors, too."""
    app = App(item("a"), cors_origins=ORIGINS)
    several: tuple[dict[str, Any], ...] = ({"token": TOKEN}, {}, {"token": TOKEN, "if_none_match": "*"})
    for arguments in several:
        answer = app.call(ONE, form=form, origin=ORIGINS[1], **arguments)
        assert answer.headers["access-control-allow-origin"] == ORIGINS[1]
        exposed = "ETag, Larder-As-Of, Larder-Expires-At, Larder-Model-Version, Larder-Run, Link, WWW-Authenticate"
        assert answer.headers["access-control-expose-headers"] == exposed
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"].endswith("Origin")


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com.evil.example", "http://app.example.com", "https://APP.example.com", "null", "*", "",
     "https://app.example.com/", "https://app.example.com, https://other.example.com"],
)  # fmt: skip
def test_other_origins_can_not(origin: str) -> None:
    """H8: no wildcard, no suffix, no case folding; but caches learn that the response depends on the origin."""
    answer = App(item("a"), cors_origins=ORIGINS).call(ONE, TOKEN, origin=origin)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "Origin" in answer.headers["vary"]


def test_a_preflight_needs_no_token() -> None:
    """H8: it allows the methods and the headers that the API knows."""
    app = App(cors_origins=ORIGINS)
    answer = app.call(ONE, method="OPTIONS", origin=ORIGINS[0], access_control_request_method="GET")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == ORIGINS[0]
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD"
    assert answer.headers["access-control-max-age"] == "600"
    sent = "Authorization, If-Modified-Since, If-None-Match, X-Api-Key"
    assert answer.headers["access-control-allow-headers"] == sent
    plain = app.call(ONE, TOKEN, origin=ORIGINS[0])
    assert "access-control-allow-methods" not in plain.headers


# --- H9 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", [ONE, LIST])
@pytest.mark.parametrize("error", [Throttled("x"), Unavailable("x"), NoCredentials("x"), TooLarge("x")])
def test_storage_that_does_not_respond_is_503(error: Exception, path: str, form: str) -> None:
    """H9: with Retry-After, and never "not found"."""
    app = App(item("a"))
    app.table.error = error
    answer = app.call(path, TOKEN, form=form)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["cache-control"] == "no-store"


# --- 406, health ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "status"),
    [("*/*", 200), ("application/json", 200), ("application/*", 200), ("APPLICATION/JSON", 200), ("text/html", 406),
     ("text/html, */*;q=0.1", 200), ("application/json;q=0", 406), ("*/*;q=0", 406), ("application/json;q=0, */*", 406),
     ("*/*;q=0, application/json", 200), ("", 200), ("application/problem+json", 406),
     ("application/json;charset=utf-8", 200),
     ("application/*;q=0, */*", 406), ("application/xml;q=0.9, application/json;q=0.1", 200)],
)  # fmt: skip
def test_accept(accept: str, status: int) -> None:
    """406 if the caller does not accept JSON; the most specific range decides."""
    app = App(item("a"))
    assert app.call(ONE, TOKEN, accept=accept).status == status
    assert app.call(LIST, TOKEN, accept=accept).status == status


@pytest.mark.parametrize(
    ("accept", "text", "packed"),
    [("", "identity", "identity"), ("gzip", "identity", "gzip"), ("x-gzip", "identity", "gzip"), ("GZIP",
    "identity", "gzip"),
     ("*", "identity", "gzip"), ("gzip;q=0", "identity", "identity"), ("gzip;q=0, *", "identity", "identity"),
     ("br", "identity", "identity"), ("deflate, gzip;q=0.5, br", "identity", "gzip"), ("identity;q=0", None, None),
     ("*;q=0", None, None), ("gzip, identity;q=0", "gzip", "gzip"), ("gzip, *;q=0", "gzip", "gzip"),
     ("identity;q=0, gzip;q=0", None, None), ("*;q=0, identity", "identity", "identity"), ("identity", "identity",
     "identity"),
     ("gzip;q=0.001", "identity", "gzip"), ("gzip;q=0.000", "identity", "identity"), ("gzip;q=nonsense", "identity",
     "gzip"),
     ("*;q=0, gzip;q=0", None, None), ("br, *;q=0", None, None), (", ;q=1,gzip", "identity", "gzip"),
     ("gzip;q=0, gzip;q=1", "identity", "gzip"), ("gzip;q=0;q=1", "identity", "gzip"), ("gzip;q=1;q=0", "identity",
     "identity"), ("identity;q=0, *", "gzip", "gzip"), ("*, identity;q=0", "gzip", "gzip")],
)  # fmt: skip
def test_accept_encoding(accept: str, text: str | None, packed: str | None) -> None:
    """RFC 9110 section 12.5.3: a stored form is sent unchanged if acceptable; 406 if nothing is."""
    app = App(item("text", BODY), item("packed", _zip(BODY)))
    for name, expected in (("text", text), ("packed", packed)):
        answer = app.call(f"/v1/flight-delays/{name}", TOKEN, accept_encoding=accept)
        assert answer.status == (406 if expected is None else 200)
        if expected is not None:
            assert answer.headers.get("content-encoding", "identity") == expected
            found = zlib.decompress(answer.body, wbits=31) if expected == "gzip" else answer.body
            assert found == BODY.encode()
    listed = app.call(LIST, TOKEN, accept_encoding=accept)
    assert listed.status == (406 if text is None else 200)
    if text is not None:
        assert listed.headers.get("content-encoding", "identity") == text


@pytest.mark.parametrize(
    ("header", "is_fresh"),
    [("{tag}", True), ("W/{tag}", True), ("*", True), (" * ", True), ('"x", {tag}', True), ('{tag}, "x"', True),
     ('"x",{tag},"y"', True), ('W/"x" , W/{tag}', True), ('"x"', False), ("", False), ("{bare}", False), ('"*"', False),
     ("w/{tag}", False), ('"a,b", {tag}', True), ('"{bare}', False), ("{tag} {tag}", False),
     (",{tag}", True), ('"x", ,{tag},', True), (" ", False), (",", False), ('"x" junk, {tag}',
     False)],
)  # fmt: skip
def test_if_none_match(header: str, is_fresh: bool) -> None:
    """H2: lists, `*`, weak comparison; malformed values are ignored."""
    app = App(item("a", BODY))
    tag = app.call(ONE, TOKEN).headers["etag"]
    sent = header.replace("{tag}", tag).replace("{bare}", tag.strip('"'))
    assert app.call(ONE, TOKEN, if_none_match=sent).status == (304 if is_fresh else 200)


@pytest.mark.parametrize("form", FORMS)
def test_health_needs_neither_token_nor_storage(form: str) -> None:
    """It responds while keys and table are unavailable, and says nothing of the inside."""
    app = App()
    app.table.error = Unavailable("x")
    app.read_error = RuntimeError("x")
    answer = app.call("/v1/health", form=form)
    assert (answer.status, answer.json) == (200, {"status": "pass"})
    assert answer.headers["content-type"] == "application/health+json"
    assert answer.headers["cache-control"] == "no-store"
    assert app.table.asked == []

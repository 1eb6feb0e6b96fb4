"""Tools for the tests of serve: keys, tokens signed with PyJWT's algorithms, a table in memory, events."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from serve.datasets import Served
from serve.handler import Dependencies, Handler, build_handler
from serve.item import Item, build_rank_tag, encode
from serve.settings import IssuerSettings, Settings
from serve.storage import Storage
from serve.tokens.jwks import KeyDocument, parse_jwks
from serve.tokens.jwt import Policy
from serve.tokens.key_cache import KeyStore
from serve.tokens.verifier import Issuer, Verifier
from tests.doubles.query import answer_query
from wire.errors import TooLarge

VERSION = ("prediction", "model")
MEMBERS = (("flight",), ("note",), ("carrier", "code"), ("carrier", "name"), ("prediction", "delay_minutes"), VERSION)
RANK_TAG = build_rank_tag("late_probability desc")
FLIGHT_DELAYS = Served("flight-delays", ("carrier",), "flight-delays:read", MEMBERS, RANK_TAG, VERSION)
SERVED = {FLIGHT_DELAYS.name: FLIGHT_DELAYS}
NOW = 1_700_000_000.0
ISSUER = "https://issuer.example.com/"
AUDIENCE = "larder"
POLICY = Policy(issuer=ISSUER, audience=AUDIENCE, leeway=0)
SIGNERS = get_default_algorithms()
FORMS = ("rest", "http", "alb", "alb-multi", "function-url")
REPEATING = tuple(form for form in FORMS if form != "alb")  # event forms that pass on all values of a parameter
Query = Mapping[str, str | Sequence[str]]
ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


def private_key(algorithm: str, which: int = 0) -> Any:
    """Make a private key for an algorithm, once; `which` distinguishes several."""
    return _private_key(algorithm, which)


@cache
def _private_key(algorithm: str, which: int) -> Any:
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}
    return ec.generate_private_key(curves[algorithm])


def public_jwk(algorithm: str, kid: str | None = None, which: int = 0, **members: Any) -> dict[str, Any]:
    """Build the public JWK of `private_key`; a member that is None is left out."""
    jwk = SIGNERS[algorithm].to_jwk(private_key(algorithm, which).public_key(), as_dict=True)
    jwk = {name: value for name, value in jwk.items() if name != "key_ops"}
    jwk |= {"kid": kid or f"{algorithm}-{which}", "alg": algorithm, "use": "sig"} | members
    return {name: value for name, value in jwk.items() if value is not None}


def jwks(*keys: Mapping[str, Any]) -> str:
    """Render a JWKS document."""
    return json.dumps({"keys": keys})


@cache
def all_jwks() -> str:
    """Render a JWKS document with one key per algorithm."""
    return jwks(*(public_jwk(algorithm) for algorithm in ALGORITHMS))


def all_keys() -> Mapping[str, Any]:
    """Parse that document."""
    return parse_jwks(all_jwks()).keys


def b64(data: bytes | str) -> str:
    """Encode as unpadded base64url."""
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Build valid claims; a change to None removes a claim."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "client-1",
        "iat": int(NOW) - 10,
        "exp": int(NOW) + 600,
        "scope": "flight-delays:read",
        "carrier": "B6",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def sign(
    payload: Mapping[str, Any] | str | bytes | None = None,
    *,
    algorithm: str = "RS256",
    which: int = 0,
    header: Mapping[str, Any] | str | bytes | None = None,
    key: Any = None,
    **changes: Any,
) -> str:
    """Sign a token. A header or payload given as text or bytes is used unchanged; `changes` go into the header."""
    if header is None:
        header = {"alg": algorithm, "kid": f"{algorithm}-{which}", "typ": "at+jwt"} | changes
        header = {name: value for name, value in header.items() if value is not ...}
    if payload is None:
        payload = claims()
    head = b64(json.dumps(header) if isinstance(header, Mapping) else header)
    body = b64(json.dumps(payload) if isinstance(payload, Mapping) else payload)
    signature = SIGNERS[algorithm].sign(f"{head}.{body}".encode(), key or private_key(algorithm, which))
    return f"{head}.{body}.{b64(signature)}"


class Table:
    """A table in memory that responds like DynamoDB, and records the requests.

    Of a batch it returns at most `most` items, in no order, and leaves the other keys unprocessed; a batch of more than
    `largest` keys is too large to be read.
    """

    def __init__(self, *items: Item) -> None:
        self.items = {(item.pk, item.sk): item for item in items}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.most = self.largest = 100

    def send(self, target: str, payload: bytes) -> bytes:
        """Handle one operation."""
        request = json.loads(payload)
        operation = target.rpartition(".")[2]
        self.asked.append((operation, request))
        if self.error is not None:
            raise self.error
        answers = {"GetItem": self._get, "BatchGetItem": self._get_batch, "Query": self._query}
        return json.dumps(answers[operation](request)).encode()

    def _get(self, request: dict[str, Any]) -> dict[str, Any]:
        item = self.items.get((request["Key"]["pk"]["S"], request["Key"]["sk"]["S"]))
        return {"Item": encode(item)} if item else {}

    def _get_batch(self, request: dict[str, Any]) -> dict[str, Any]:
        ((table, asked),) = request["RequestItems"].items()
        pairs = [(key["pk"]["S"], key["sk"]["S"]) for key in asked["Keys"]]
        assert 0 < len(pairs) <= 100, "DynamoDB: too many items requested"
        assert len(set(pairs)) == len(pairs), "DynamoDB: provided list of item keys contains duplicates"
        if len(pairs) > self.largest:
            raise TooLarge("more than the limit")
        found = [encode(self.items[pair]) for pair in reversed(pairs[: self.most]) if pair in self.items]
        answer: dict[str, Any] = {"Responses": {table: found}, "UnprocessedKeys": {}}
        if pairs[self.most :]:
            answer["UnprocessedKeys"] = {table: {"Keys": asked["Keys"][self.most :]}}
        return answer

    def _query(self, request: dict[str, Any]) -> dict[str, Any]:
        return answer_query(map(encode, self.items.values()), request)


def item(
    sk: str,
    body: str | bytes | None = "{}",
    *,
    pk: str = "flight-delays#B6",
    expires_at: int | None = None,
    place: str | None = None,
) -> Item:
    """Build an item; it lives for an hour by default. `place`: in the ranked list, in digits."""
    order, rank = "0001.1700000000000.00000001", place and f"{RANK_TAG}:{place}:{sk}"
    return Item(pk, sk, body, order, int(NOW) + 3600 if expires_at is None else expires_at, rank)


class App:
    """A handler over a table in memory, with a clock and a log that tests can read."""

    def __init__(
        self, *items: Item, document: str | None = None, policies: tuple[Policy, ...] = (POLICY,), **settings: Any
    ) -> None:
        self.table = Table(*items)
        self.now = NOW
        self.lines: list[str] = []
        self.documents = {policy.issuer: document or all_jwks() for policy in policies}
        self.read_error: Exception | None = None
        issuers = [Issuer(policy, self._store(policy.issuer)) for policy in policies]
        base = Settings("table", tuple(IssuerSettings(p, "file:x") for p in policies), "larder", (), "test")
        self.parts = Dependencies(
            settings=base._replace(**settings),
            storage=Storage(self.table.send, "table", sleep=lambda seconds: None),
            verifier=Verifier(issuers),
            served=SERVED,
            now=lambda: self.now,
            write=self.lines.append,
        )
        self.handler: Handler = build_handler(self.parts)

    def _store(self, issuer: str) -> KeyStore:
        def read(_: float) -> list[KeyDocument]:
            if self.read_error:
                raise self.read_error
            return [KeyDocument("jwks.json", self.documents[issuer].encode())]

        return KeyStore(read, lambda event, details: None, clock=lambda: self.now)

    def call(
        self,
        path: str = "/v1/flight-delays/a",
        token: str | None = None,
        *,
        method: str = "GET",
        query: Query | None = None,
        form: str = "rest",
        **headers: Any,
    ) -> Answered:
        """Send a request in the event form of one of AWS's front doors; header names have `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        return Answered(self.handler(event(form, method, path, query or {}, sent), None))

    @property
    def line(self) -> dict[str, Any]:
        """The last log line."""
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found


class Answered:
    """A response as its consumer sees it, whatever the event form."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.status: int = result["statusCode"]
        headers = result.get("headers") or {name: values[0] for name, values in result["multiValueHeaders"].items()}
        self.headers = {name.lower(): value for name, value in headers.items()}
        body = result["body"]
        self.body: bytes = base64.b64decode(body) if result["isBase64Encoded"] else body.encode()

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def check_refused(path: str, query: Query, form: str, detail: str) -> App:
    """Check that a query is a 400 that begins like this, without its secret, and only after the token is verified."""
    app = App(item("a"))
    answer = app.call(path, sign(), query=query, form=form)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert answer.json["detail"].startswith(detail)
    assert "secret" not in answer.json["detail"]
    assert app.table.asked == []
    assert app.call(path, query=query, form=form).status == 401, "the token is checked first"
    return app


def event(form: str, method: str, path: str, query: Query, headers: Mapping[str, str]) -> dict[str, Any]:
    """Build an event as AWS documents it, reduced to the relevant members; a parameter can have several values."""
    many = {name: [value] for name, value in headers.items()}
    values = {name: [value] if isinstance(value, str) else list(value) for name, value in query.items()}
    last = {name: each[-1] for name, each in values.items()}
    raw = {quote(name, safe=""): [quote(value, safe="") for value in each] for name, each in values.items()}
    elb = {
        "elb": {
            "targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/larder/0123456789abcdef"
        }
    }
    if form == "rest":
        return {
            "resource": "/{proxy+}",
            "path": path,
            "httpMethod": method,
            "headers": dict(headers) or None,
            "multiValueHeaders": many or None,
            "queryStringParameters": last or None,
            "multiValueQueryStringParameters": values or None,
            "pathParameters": {"proxy": path[1:]},
            "stageVariables": None,
            "requestContext": {"requestId": "request-1", "stage": "live", "path": f"/live{path}", "httpMethod": method},
            "body": None,
            "isBase64Encoded": False,
        }
    if form in ("http", "function-url"):
        return {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path if form == "http" else quote(path),
            "rawQueryString": urlencode(values, doseq=True),
            **({"queryStringParameters": {name: ",".join(each) for name, each in values.items()}} if values else {}),
            "headers": {name.lower(): value for name, value in headers.items()},
            "requestContext": {
                "requestId": "request-1",
                "stage": "$default",
                "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            },
            "isBase64Encoded": False,
        }
    lower = {name.lower(): value for name, value in headers.items()} | {
        "x-amzn-trace-id": "Root=1-67891233-abcdef012345678912345678"
    }
    base = {"requestContext": elb, "httpMethod": method, "path": quote(path), "body": "", "isBase64Encoded": False}
    if form == "alb":
        return base | {"queryStringParameters": {name: each[-1] for name, each in raw.items()}, "headers": lower}
    return base | {
        "multiValueQueryStringParameters": raw,
        "multiValueHeaders": {name: [value] for name, value in lower.items()},
    }

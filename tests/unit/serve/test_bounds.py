"""Every bound of serve and wire by its value, so that a change is deliberate; and the behaviour at each bound."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any

import pytest

from serve.item import MAX_BODY_BYTES, MAX_ITEM_BYTES
from serve.tokens.weak_keys import _ORDERS
from serve.web.page import MAX_PAGE_BYTES, SKIP
from serve.web.request import Form
from serve.web.respond import MAX_SENT, MAX_TEXT
from tests.unit.serve.kit import FORMS, App, item, sign
from wire.transport import Transport

BOUNDS: dict[str, dict[str, Any]] = {
    "serve.handler": {"REQUEST_SECONDS": 7.0, "MARGIN_SECONDS": 1.0},
    "serve.item": {
        "MAX_ITEM_BYTES": 409_600,
        "MAX_PK_BYTES": 2048,
        "MAX_BODY_BYTES": 4_194_304,
        "MAX_CLAIM_CHARACTERS": 256,
    },
    "serve.settings": {"MAX_LEEWAY": 300},
    "serve.tokens.jwt": {"MAX_TOKEN_BYTES": 8192},
    "serve.access": {"MAX_INTEGER": 9_007_199_254_740_991},
    "serve.tokens.key_cache": {"FRESHNESS": (300, 30, 5, 3600), "CLOCKS": 10.0, "REFRESH_SECONDS": 1.0},
    "serve.tokens.key_sources": {"MAX_DOCUMENTS": 100, "READING_SECONDS": 4.0},
    "serve.tokens.strict": {"MAX_DEPTH": 16},
    "serve.tokens.verifier": {"CACHED_TOKENS": 512, "CACHED_SECONDS": 60},
    "serve.tokens.weak_keys": {
        "MIN_RSA_BITS": 2048,
        "MAX_RSA_BITS": 8192,
        "MIN_EXPONENT": 65537,
        "MAX_EXPONENT": 4_294_967_295,
    },
    "serve.web.page": {"MAX_QUERIES": 5, "MAX_PAGE_BYTES": 700_000, "SKIP": 1000},
    "serve.storage": {"BATCH_SECONDS": 4.0, "BASE": 0.025, "CAP": 1.0},
    "serve.web.request": {"MAX_FIELDS": 150},
    "serve.web.respond": {"MAX_AGE": 60, "_LAMBDA": 5_983_616, "_LOAD_BALANCER": 983_616},
    "serve.web.route": {
        "DEFAULT_LIMIT": 20,
        "MAX_LIMIT": 100,
        "MAX_TOP": 100,
        "MAX_IDS": 100,
        "MAX_LINK": 8000,
        "_MAX_NAMES": 5,
        "_MAX_NAME": 64,
        "_MAX_KNOWN": 50,
    },
    "wire.addresses": {"_SEND_BUFFER": 262_144, "_KEPT": 60.0},
    "wire.channel": {"_READ": 65_536},
    "wire.head": {"MAX_HEAD": 65_536, "MAX_CHUNK_LINE": 1024},
    "wire.transport": {"_RECEIVE": 65_536, "_TRUSTED": 0.05, "_IDLE": 240.0},
}
# connect, attempt, budget, tries, base, cap, largest, idle
LIMITS = {
    "serve.handler": (1.0, 1.0, 4.0, 4, 0.025, 1.0, 8_388_608, 240.0),
    "serve.tokens.key_sources": (1.0, 1.5, 3.0, 2, 0.025, 1.0, 1_048_576, 240.0),
}


@pytest.mark.parametrize("module", BOUNDS)
def test_each_bound_has_this_value(module: str) -> None:
    """As its module states it."""
    found = vars(importlib.import_module(module))
    assert {name: found[name] for name in BOUNDS[module]} == BOUNDS[module]


@pytest.mark.parametrize("module", LIMITS)
def test_the_limits_of_calls(module: str) -> None:
    """Of storage and of keys."""
    assert tuple(importlib.import_module(module).LIMITS) == LIMITS[module]


def test_the_defaults_of_a_transport() -> None:
    """Connections, seconds and bytes; each deployment has them."""
    defaults = {name: one.default for name, one in inspect.signature(Transport).parameters.items()}
    expected = {"connections": 8, "connect_timeout": 3.0, "timeout": 10.0, "largest": 33_554_432}
    assert {name: defaults[name] for name in expected} == expected


def test_the_primes_of_the_roca_test() -> None:
    """All up to 167 for which 65537 is no generator, each with the number of its powers."""
    primes = [number for number in range(3, 168) if all(number % other for other in range(2, number))]
    powers = {prime: len({pow(65537, exponent, prime) for exponent in range(prime)}) for prime in primes}
    assert dict(_ORDERS) == {prime: count for prime, count in powers.items() if count < prime - 1}


def test_bounds_are_consistent() -> None:
    """What can be stored can be sent: the largest body, and a page of the largest size, in every event form."""
    assert MAX_ITEM_BYTES < MAX_PAGE_BYTES < min(MAX_SENT.values())
    assert max(MAX_SENT.values()) > MAX_BODY_BYTES + 1000 > min(MAX_SENT.values())
    assert sorted(set(MAX_TEXT.values())) == [81_968, 498_634]
    assert sorted(set(MAX_SENT.values())) == [737_712, 4_487_712]


@pytest.mark.parametrize("limit", [1, 2, 99, 100, None])
def test_a_list_asks_for_one_more_than_its_limit(limit: int | None) -> None:
    """The additional item shows that there is a next page; later queries skip what has expired."""
    app = App(*(item(f"a{number:04d}", expires_at=1) for number in range(150)))
    app.call("/v1/flight-delays", sign(), query={} if limit is None else {"limit": str(limit)})
    asked = [request["Limit"] for _, request in app.table.asked]
    assert asked[0] == (limit or 20) + 1
    assert set(asked[1:]) == {SKIP}


def test_a_page_is_full_at_its_limit() -> None:
    """Twenty without a limit, the last of which is in the link; 21 items make two pages, 20 make one."""
    for count, shown, link in ((19, 19, False), (20, 20, False), (21, 20, True)):
        answer = App(*(item(f"a{number:02d}") for number in range(count))).call("/v1/flight-delays", sign())
        assert (len(answer.json["items"]), "link" in answer.headers) == (shown, link)


@pytest.mark.parametrize("missing", [None, 0, 1, 3])
@pytest.mark.parametrize("first", [300_000, 300_001])
def test_a_page_has_its_largest_size_exactly(first: int, missing: int | None) -> None:
    """Of a list (None) and of named items, with and without missing ids; commas count, the last missing id has none."""
    ids = [*(f"none{number}" for number in range(missing or 0)), "a", "b"]
    query = {} if missing is None else {"id": ids}

    def ask(*sizes: int) -> Any:
        stored = (item(name, f'"{"x" * (size - 2)}"') for name, size in zip("ab", sizes, strict=True))
        return App(*stored).call("/v1/flight-delays", sign(), query=query, accept_encoding="identity")

    around = len(ask(2, 2).body) - 4 + 2 * bool(missing)
    for spare, shown in ((0, 2), (-1, 1)):
        answer = ask(first, MAX_PAGE_BYTES - around - first - spare)
        assert (len(answer.json["items"]), "link" in answer.headers) == (shown, shown == 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("spare", "is_base64"), [(0, False), (1, True)])
def test_a_long_text_reaches_the_gateway_as_base64(spare: int, form: str, *, is_base64: bool) -> None:
    """From `MAX_TEXT` characters on, of one or more bytes each; until then the result fits however it is escaped."""
    limit = 1_000_000 if form.startswith("alb") else 6_000_000
    most = MAX_TEXT[Form[{"function-url": "HTTP"}.get(form, form.upper().replace("-", "_"))]]
    for unit in ("x", "\u00e9", "\U0001f600"):
        body = json.dumps(unit * (most - 2 + spare), ensure_ascii=False)
        assert len(body) == most + spare
        answer = App(item("a", body)).call("/v1/flight-delays/a", sign(), form=form)
        assert answer.result["isBase64Encoded"] is is_base64
        assert answer.body == body.encode()
        assert is_base64 or limit - 16_384 - 12 <= 12 * len(body) <= limit - 16_384

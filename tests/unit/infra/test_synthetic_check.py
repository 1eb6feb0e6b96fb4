"""The synthetic check reports the faults that a consumer would see."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from infra.synthetic import Answer, check, render_line

TOKEN_URL = "https://login.example.com/token"
GRANT = {"token_url": TOKEN_URL, "client_id": "c", "client_secret": "s"}
GOOD = {"anonymous": Answer(401, b""), "issuer": Answer(200, b'{"access_token": "t"}'), "consumer": Answer(200, b"{}")}

CASES = [
    ("no fault", {}, GRANT, ""),
    ("a ready token", {"issuer": Answer(500, b"")}, {"token": "t"}, ""),
    ("answered without a token", {"anonymous": Answer(200, b"{}")}, GRANT, "without a token the status is 200"),
    (
        "nothing answers",
        {"anonymous": Answer(0, b""), "consumer": Answer(0, b"")},
        GRANT,
        "with a token the status is 0",
    ),
    ("the issuer fails", {"issuer": Answer(503, b"")}, GRANT, "the issuer returned no token"),
    ("an issuer that returns no JSON", {"issuer": Answer(200, b"<html>")}, GRANT, "the issuer returned no token"),
    ("a refused token", {"consumer": Answer(401, b"")}, GRANT, "with a token the status is 401"),
    ("a server error", {"consumer": Answer(500, b"")}, GRANT, "with a token the status is 500"),
    ("a body that is no JSON", {"consumer": Answer(200, b"<html>")}, GRANT, "is not JSON"),
]


@pytest.mark.parametrize(("answers", "credentials", "fault"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_check(answers: Mapping[str, Answer], credentials: Mapping[str, str], fault: str) -> None:
    """Each fault has its own message; without a fault there is none."""
    given = {**GOOD, **answers}

    def send(url: str, headers: Mapping[str, str], form: bytes | None) -> Answer:
        if url == TOKEN_URL:
            assert form is not None
            assert b"grant_type=client_credentials" in form
            return given["issuer"]
        return given["consumer"] if headers.get("Authorization") == "Bearer t" else given["anonymous"]

    faults = check(send, "https://api.example.com/v1/flight-delays", credentials)
    assert bool(faults) == bool(fault)
    assert fault in "; ".join(faults)


def test_api_key_is_sent_to_the_api_and_not_to_the_issuer() -> None:
    """With an API key, both requests to the API have it, and the request to the issuer does not."""
    keys = {}

    def send(url: str, headers: Mapping[str, str], form: bytes | None) -> Answer:
        who = "issuer" if url == TOKEN_URL else "consumer" if "Authorization" in headers else "anonymous"
        keys[who] = headers.get("x-api-key")
        return GOOD[who]

    assert check(send, "https://api.example.com/v1/flight-delays", {**GRANT, "api_key": "k"}) == []
    assert keys == {"issuer": None, "consumer": "k", "anonymous": "k"}


def test_line_has_no_secret_and_counts_a_fault() -> None:
    """The line has the faults and their metric, which is 0 without faults."""
    assert json.loads(render_line("prod", 1.0, 20.0, ["x"]))["SyntheticFailures"] == 1
    assert json.loads(render_line("prod", 1.0, 20.0, []))["SyntheticFailures"] == 0

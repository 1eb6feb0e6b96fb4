"""Raw requests against the handler, the server, Envoy, nginx, and the stand-in's REST API and load balancer.

`differences.yaml` names each answer that differs from the handler's, with its reason; there is no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from examples.flights.tokens import Issuer
from tests.doors.kit import needs_server, token
from tests.doors.raw import REQUESTS, Door, build_raw, describe, read_differences

pytestmark = [pytest.mark.slow, needs_server]


def sign(carrier: str) -> str:
    """Sign a token of a carrier."""
    return token(carrier=carrier)


def compare(door: Door, handler: Door, functions: tuple[str, ...], make: Callable[[str], str]) -> dict[str, str]:
    """Return how the answers of a door differ from the handler's, by the name of the request."""
    found = {}
    for function in functions:
        for name, asked in REQUESTS[function].items():
            raw = build_raw(asked, make)
            difference = describe(handler(function, raw), door(function, raw))
            if difference:
                found[name] = difference
    return found


@pytest.mark.parametrize("name", ["server", "envoy", "nginx"])
def test_a_door_answers_as_the_handler(doors: dict[str, Door], name: str) -> None:
    """But for the differences that are named."""
    if name not in doors:
        pytest.skip("nginx is missing: apt-get install nginx-light")
    both = ("serve", "score")
    names = {request for function in both for request in REQUESTS[function]}
    found = compare(doors[name], doors["handler"], both, sign)
    print(f"{name}: {found}")
    assert found == read_differences(name, names)


@pytest.mark.parametrize("name", ["api-gateway", "load-balancer"])
def test_the_stand_in_answers_as_the_handler(stand_in: tuple[dict[str, Door], Issuer], name: str) -> None:
    """The same for the read API behind API Gateway and a load balancer, as the stand-in plays them."""
    doors, issuer = stand_in
    found = compare(doors[name], doors["handler"], ("serve",), lambda carrier: issuer.sign(carrier, time.time()))
    print(f"{name}: {found}")
    assert found == read_differences(name, REQUESTS["serve"])

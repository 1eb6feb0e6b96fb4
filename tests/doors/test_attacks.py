"""The attack set of tokens and the rules of isolation, as real requests through every door.

Each answer is the handler's, but for what `differences.yaml` names; no door shows a subject what another's items have.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.doors.kit import needs_server, token
from tests.doors.raw import CANARIES, DIFFERENCES, REQUESTS, Door, Raw, Seen, build_raw, describe, read_differences
from tests.unit.serve import attacks, kit
from tests.unit.serve.attacks import HOSTILE_SUBJECTS, UNUSUAL_SUBJECTS, Case
from tests.unit.serve.kit import POLICY

pytestmark = [pytest.mark.slow, needs_server]
DOORS = ("server", "envoy", "nginx", "api-gateway", "load-balancer")
LIST = "/v1/flight-delays"
# The doors' clocks run, so the cases at a limit's very second are left to the handler's own tests.
AT_THE_LIMIT = re.compile(r"(exp|iat|nbf) at [-+]|good fractional times")
CLAIMED = [("Carrier", "C2"), ("X-Carrier", "C2"), ("X-Amzn-Oidc-Identity", "C2"), ("Cookie", "carrier=C2")]


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> tuple[str, Door, Door]:
    """A door: its name, itself, and the handler over the same table."""
    name: str = request.param
    on_aws = name in ("api-gateway", "load-balancer")
    found: Any = request.getfixturevalue("stand_in" if on_aws else "doors")
    doors: dict[str, Door] = found[0] if on_aws else found
    if name not in doors:
        pytest.skip("nginx is missing: apt-get install nginx-light")
    return name, doors[name], doors["handler"]


def build_cases(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Build the attack set for the time that is now, as far as one policy and a header can have it."""
    for module in (kit, attacks):
        monkeypatch.setattr(module, "NOW", float(int(time.time())))
    return [
        case
        for case in attacks.cases.__wrapped__()
        if isinstance(case.token, str)
        and not set(case.token) & set("\r\n")  # a header ends there
        and case.policy == POLICY
        and not AT_THE_LIMIT.match(case.name)
    ]


def get(target: str, signed: str) -> Raw:
    """Build a request with a token, as UTF-8."""
    sent = f"Bearer {signed}".encode().decode("latin-1")
    return Raw("GET", target, [("Authorization", sent)], b"", False)


def test_a_token_is_refused_or_accepted_as_by_the_handler(
    door: tuple[str, Door, Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status, problem and WWW-Authenticate are the handler's, and the handler's are the attack set's."""
    name, through, handler = door
    found, known = build_cases(monkeypatch), {}
    assert len(found) >= 680
    for case in found:
        raw = get(f"{LIST}/a", case.token)
        right = handler("serve", raw)
        assert right is not None
        assert (right.status, right.status == 200 or right.body["code"]) == (
            (200, True) if case.reason is None else (401, "invalid_token")
        ), case.name
        if difference := describe(right, through("serve", raw)):
            known[f"token {case.name}"] = difference
    print(f"{name}: {len(found)} tokens, {known}")
    names = {f"token {case.name}" for case in found}
    assert known == read_differences(name, names)
    assert names >= {name for one in DIFFERENCES.values() for name in one["requests"] if name.startswith("token ")}


def test_no_subject_sees_anothers_items(door: tuple[str, Door, Door]) -> None:
    """Two subjects with the same ids, at the same time: each reads its own canary, never the other's."""
    name, through, handler = door
    tokens = {subject: token(carrier=subject) for subject in CANARIES}
    asked = []
    for label, request in REQUESTS["isolation"].items():
        raw = build_raw({**request, "token": "none"}, str)
        for subject in CANARIES:
            headers = [("Authorization", f"Bearer {tokens[subject]}")]
            asked += [(label, subject, raw._replace(headers=headers + more)) for more in ([], CLAIMED)]
    right = [handler("serve", raw) for _, _, raw in asked]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: through("serve", one[2]), asked * 3))
    differences = {}
    for (label, subject, _), expected, seen in zip(asked * 3, right * 3, answers, strict=True):
        (other,) = set(CANARIES) - {subject}
        for answer in (expected, seen):
            assert CANARIES[other] not in repr(answer), label
        if difference := describe(expected, seen):
            differences[label] = difference
    own = [CANARIES[subject] in repr(answer) for (_, subject, _), answer in zip(asked, right, strict=True)]
    assert sum(own) >= len(own) / 3, "the items are there to be seen"
    print(f"{name}: {len(answers)} requests, {differences}")
    assert differences == read_differences(name, REQUESTS["isolation"])


def test_a_claim_that_names_no_subject_is_refused(door: tuple[str, Door, Door]) -> None:
    """A hostile subject gets the handler's 401, an unusual one a partition of its own, which is empty."""
    _, through, handler = door
    for target in (LIST, f"{LIST}/one"):
        for value in (*HOSTILE_SUBJECTS, *UNUSUAL_SUBJECTS):
            raw = get(target, token(carrier=value))
            right, seen = handler("serve", raw), through("serve", raw)
            assert describe(right, seen) == "", value
            assert isinstance(right, Seen)
            if value in HOSTILE_SUBJECTS:
                assert (right.status, right.body["code"]) == (401, "invalid_token"), value
            else:
                assert not any(canary in json.dumps(right.body) for canary in CANARIES.values()), value

"""Wycheproof's JSON Web Signature and Key vectors, if they are available.

`LARDER_WYCHEPROOF` is the folder testvectors_v1 of a checkout of C2SP/wycheproof (Apache-2.0). The vectors are not kept
here: the attack set holds their ideas, so the default suite does not need them. RFC 7520 is among them.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.tokens.jwks import BadKeySet, parse_jwks
from serve.tokens.jwt import InvalidToken, Policy, check_signature, split_token
from serve.tokens.signing_key import ALGORITHMS

FOLDER = os.environ.get("LARDER_WYCHEPROOF")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LARDER_WYCHEPROOF names no folder")


def _vectors() -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    for name in ("json_web_signature_test.json", "json_web_key_test.json"):
        for group in json.loads((Path(FOLDER or "") / name).read_text())["testGroups"]:
            public = group.get("public") or group["private"]
            for vector in group["tests"]:
                yield public.get("keys", [public]), vector


def test_every_vector_has_its_result() -> None:
    """Every invalid one is refused; every valid one is accepted, if its algorithm is ours and it has a payload."""
    taken = refused = 0
    for jwks, vector in _vectors():
        jws = vector["jws"] if isinstance(vector["jws"], str) else json.dumps(vector["jws"])
        parts = jws.split(".")
        try:
            check_signature(split_token(jws), parse_jwks(json.dumps({"keys": jwks})).keys, Policy("", ""))
        except (InvalidToken, BadKeySet):
            refused += 1
            header = json.loads(_decode(parts[0])) if vector["result"] == "valid" else {}
            ours = header.get("alg") in ALGORITHMS and parts[1] != ""
            assert not ours, vector
        else:
            taken += 1
            assert vector["result"] == "valid", vector
    assert taken >= 15
    assert refused >= 380


def _decode(part: str) -> bytes:

    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

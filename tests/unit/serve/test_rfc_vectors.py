"""The examples of RFC 7515 (appendix A), 7520 (section 4) and 8037 (appendix A.4), as jwcrypto's own tests have them.

Only one of them names its key, as our tokens must; of the others the signature is checked alone, and all of them are
refused as tokens.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serve.tokens.jwks import parse_jwk, parse_jwks
from serve.tokens.jwt import InvalidToken, Policy, check_signature, split_token
from serve.tokens.signing_key import is_signed
from tests.unit.serve.kit import b64

jwcrypto = pytest.importorskip("jwcrypto", reason="the environment that holds only what serve needs has none")
POLICY = Policy("", "")
PRIVATE = ("d", "p", "q", "dp", "dq", "qi")


def _load(name: str) -> ModuleType:
    path = Path(jwcrypto.__file__).with_name(name)
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COOKBOOK, APPENDICES = _load("tests-cookbook.py"), _load("tests.py")


def _public(jwk: dict[str, Any]) -> dict[str, Any]:
    return {"kid": "example"} | {name: value for name, value in jwk.items() if name not in PRIVATE}


def _signed() -> Iterator[Any]:
    """Yield key, algorithm, signed bytes, and signature, for the algorithms that we support."""
    for name, example in (("7515 A.2", APPENDICES.A2_example), ("7515 A.3", APPENDICES.A3_example)):
        signed_part = f"{b64(example['protected'])}.{b64(example['payload'])}".encode()
        yield pytest.param(example["key"], example["alg"], signed_part, example["signature"], id=f"RFC {name}")
    edwards = APPENDICES.E_Ed25519
    start, _, end = edwards["jws_serialization_compact"].rpartition(".")
    signature = APPENDICES.base64url_decode(end)
    yield pytest.param(json.loads(edwards["key_json"]), "EdDSA", start.encode(), signature, id="RFC 8037 A.4")


@pytest.mark.parametrize(("jwk", "algorithm", "signed_part", "signature"), list(_signed()))
def test_signatures_of_the_appendices_are_valid(
    jwk: dict[str, Any], algorithm: str, signed_part: bytes, signature: bytes
) -> None:
    """They are not once a bit is changed."""
    key = parse_jwk(_public(jwk) | {"alg": algorithm})
    assert is_signed(key, signature, signed_part)
    assert not is_signed(key, signature, signed_part + b"x")
    assert not is_signed(key, signature[:-1] + bytes([signature[-1] ^ 1]), signed_part)


def test_the_example_that_names_its_key_is_accepted() -> None:
    """RFC 7520 section 4.1: RS256, with a kid; the payload is a sentence."""
    keys = parse_jwks({"keys": [COOKBOOK.RSA_Public_Key_3_3]}).keys
    parts = split_token(COOKBOOK.JWS_compact_4_1_3)
    assert check_signature(parts, keys, POLICY).kid == "bilbo.baggins@hobbiton.example"
    assert parts.payload.decode().startswith("It\u2019s a dangerous business, Frodo")


def _refused() -> Iterator[Any]:
    rsa, ec, oct_key = COOKBOOK.RSA_Public_Key_3_3, COOKBOOK.EC_Public_Key_3_1, COOKBOOK.Symmetric_Key_MAC_3_5
    yield pytest.param(rsa, COOKBOOK.JWS_compact_4_2_3, "wrong-algorithm", id="RFC 7520 4.2, PS384")
    yield pytest.param(ec, COOKBOOK.JWS_compact_4_3_3, "wrong-algorithm", id="RFC 7520 4.3, ES512")
    yield pytest.param(oct_key, COOKBOOK.JWS_compact_4_4_3, "wrong-algorithm", id="RFC 7520 4.4, HS256")
    head, _, signature = COOKBOOK.JWS_compact_4_4_3.split(".")
    yield pytest.param(oct_key, f"{head}..{signature}", "malformed", id="RFC 7520 4.5, detached")
    for section in ("4_1_3", "4_2_3", "4_3_3", "4_4_3", "4_6_3", "4_7_3"):
        for shape in ("general", "flattened"):
            token = json.dumps(getattr(COOKBOOK, f"JWS_{shape}_{section}"))
            name = f"RFC 7520 {section[:3].replace('_', '.')}, {shape} JSON"
            yield pytest.param(rsa, token, "malformed", id=name)
    yield pytest.param(rsa, json.dumps(COOKBOOK.JWS_general_4_8_5), "malformed", id="RFC 7520 4.8, several signatures")
    for name in ("A1", "A2", "A3", "A4", "A5"):
        example = getattr(APPENDICES, f"{name}_example")
        parts = (example["protected"], example["payload"], example["signature"])
        reason = "malformed" if name == "A5" else "no-kid"
        yield pytest.param(dict(example["key"]), ".".join(map(b64, parts)), reason, id=f"RFC 7515 A.{name[1]}, no kid")
    compact = APPENDICES.E_Ed25519["jws_serialization_compact"]
    yield pytest.param(json.loads(APPENDICES.E_Ed25519["key_json"]), compact, "no-kid", id="RFC 8037 A.4, no kid")


@pytest.mark.parametrize(("jwk", "token", "reason"), list(_refused()))
def test_all_other_examples_are_refused(jwk: dict[str, Any], token: str, reason: str) -> None:
    """Other algorithms, other serialisations, and tokens that name no key."""
    keys = parse_jwks({"keys": [_public(jwk)]}).keys
    with pytest.raises(InvalidToken) as caught:
        check_signature(split_token(token), keys, POLICY)
    assert caught.value.reason == reason

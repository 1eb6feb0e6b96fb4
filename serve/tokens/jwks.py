"""Parse key documents, JWKS or PEM, into usable keys and refused keys with reasons.

keys = parse_jwks({"keys": [...]}).keys      # what `serve.tokens.jwt.verify` takes
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from serve.tokens.signing_key import BadKey, SigningKey, build_signing_key
from serve.tokens.strict import Ambiguous, parse_base64url, parse_json

_CURVES = {"P-256": (SECP256R1, 32), "P-384": (SECP384R1, 48)}
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


class BadKeySet(Exception):
    """The document is neither JWKS nor PEM."""


class KeyDocument(NamedTuple):
    """One file, object or parameter; the kid of a PEM is its name."""

    name: str
    data: bytes


class RefusedKey(NamedTuple):
    """A key that is not used, and why."""

    kid: str
    reason: str


class KeySet(NamedTuple):
    """Usable keys by kid, and refused keys. If `keys` is empty, every token is invalid."""

    keys: Mapping[str, SigningKey]
    refused: tuple[RefusedKey, ...]


def parse_keys(documents: Iterable[KeyDocument]) -> KeySet:
    """Parse all documents of one issuer into one key set. One bad key does not disable the rest (V5).

    If a kid occurs twice, both keys are refused.

    Raises:
        BadKeySet: a document is neither JWKS nor PEM.
    """
    entries = [entry for document in documents for entry in _split_document(document)]
    times = Counter(kid for kid, _ in entries)
    keys: dict[str, SigningKey] = {}
    refused: list[RefusedKey] = []
    for kid, source in entries:
        try:
            if times[kid] > 1:
                raise BadKey("kid is not unique")
            keys[kid] = _parse_pem(kid, source) if isinstance(source, bytes) else parse_jwk(source)
        except BadKey as error:
            refused.append(RefusedKey(kid, str(error)))
    return KeySet(keys, tuple(refused))


def parse_jwks(document: str | bytes | Mapping[str, Any]) -> KeySet:
    """Parse one JWKS document (RFC 7517 section 5): text, or parsed JSON.

    Raises:
        BadKeySet: the document is not a JWKS.
    """
    if isinstance(document, Mapping):
        try:
            document = json.dumps(document)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadKeySet("not a JWKS document") from error
    try:
        data = document.encode() if isinstance(document, str) else document
    except UnicodeEncodeError as error:
        raise BadKeySet("not a JWKS document") from error
    return parse_keys([KeyDocument("jwks.json", data)])


def parse_jwk(jwk: object) -> SigningKey:
    """Parse one JWK.

    Raises:
        BadKey: symmetric, private, not for signatures, weak, malformed, or of an unsupported type or algorithm.
    """
    if isinstance(jwk, Ambiguous):
        raise BadKey("a member occurs twice")
    if not isinstance(jwk, dict):
        raise BadKey("not an object")
    if any(member in jwk for member in _PRIVATE):
        raise BadKey("private or symmetric: it must not be published among public keys")
    if "use" in jwk and jwk["use"] != "sig":
        raise BadKey("use is not sig")
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or "verify" not in operations:
            raise BadKey("key_ops has no verify")
    if "alg" in jwk and not isinstance(jwk["alg"], str):
        raise BadKey("alg is not a string")
    try:
        public_key = _load(jwk)
    except BadKey:
        raise
    except (ValueError, TypeError) as error:  # off the curve, an even exponent, ...: cryptography's own checks
        raise BadKey("not a valid key of its type") from error
    return build_signing_key(jwk.get("kid"), public_key, jwk.get("alg"))


def _split_document(document: KeyDocument) -> list[tuple[str, Any]]:
    """Split a document into (kid, JWK or PEM)."""
    if document.data.lstrip().startswith(b"-----BEGIN "):
        return [(document.name.rpartition("/")[2].removesuffix(".pem"), document.data)]
    try:
        keys = parse_json(document.data, mark_ambiguous=True)["keys"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadKeySet(f"{document.name}: neither a JWKS document nor PEM") from error
    if not isinstance(keys, list):
        raise BadKeySet(f"{document.name}: keys is not a list")
    return [(_name(jwk, number), jwk) for number, jwk in enumerate(keys)]


def _name(jwk: object, number: int) -> str:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return kid if isinstance(kid, str) and kid else f"(key {number} without kid)"


def _load(jwk: Mapping[str, Any]) -> object:
    kind = jwk.get("kty")
    if kind == "RSA":
        return RSAPublicNumbers(e=_integer(jwk, "e"), n=_integer(jwk, "n")).public_key()
    if kind == "EC":
        curve, size = _CURVES.get(str(jwk.get("crv")), (None, 0))
        if curve is None:
            raise BadKey("crv is neither P-256 nor P-384")
        x, y = _integer(jwk, "x", size), _integer(jwk, "y", size)
        return EllipticCurvePublicNumbers(x, y, curve()).public_key()
    if kind == "OKP" and jwk.get("crv") == "Ed25519":
        return Ed25519PublicKey.from_public_bytes(_octets(jwk, "x", 32))
    raise BadKey("kty is neither RSA, EC nor OKP with Ed25519")


def _integer(jwk: Mapping[str, Any], member: str, size: int | None = None) -> int:
    return int.from_bytes(_octets(jwk, member, size), "big")


def _octets(jwk: Mapping[str, Any], member: str, size: int | None) -> bytes:
    text = jwk.get(member)
    if not isinstance(text, str):
        raise BadKey(f"{member} is missing")
    octets = parse_base64url(text)
    if size is not None and len(octets) != size:  # RFC 7518 section 6.2.1.2: at full length
        raise BadKey(f"{member} is not {size} bytes long")
    return octets


def _parse_pem(kid: str, data: bytes) -> SigningKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # slow to import, and PEM is rare

    if b"PRIVATE" in data:
        raise BadKey("private: it must not be published among public keys")
    try:
        public_key = load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise BadKey("not a public key in PEM") from error
    return build_signing_key(kid, public_key)

"""One public key for verifying tokens: checked when it is built, and bound to one algorithm.

`cryptography` is used directly. PyJWT's algorithms are thin wrappers around the same calls, and importing any of them
also imports its HTTP client, which would triple this module's share of a cold start; the tests use PyJWT as an oracle.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from serve.tokens.weak_keys import check_ed25519, check_rsa

ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "ES384", "EdDSA"})

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_SHA256 = SHA256()
_SHA384 = SHA384()
_PKCS1 = PKCS1v15()
_PSS = PSS(mgf=MGF1(_SHA256), salt_length=32)  # RFC 7518 section 3.5: as long as the hash
_ECDSA256 = ECDSA(_SHA256)
_ECDSA384 = ECDSA(_SHA384)


class BadKey(Exception):
    """A key that must not be used; the message says why and contains no secret."""


class SigningKey(NamedTuple):
    """A public key, its kid, and the only algorithm that it is for."""

    kid: str
    algorithm: str
    public_key: PublicKey


def build_signing_key(kid: object, public_key: object, algorithm: object = None) -> SigningKey:
    """Check and build a key. The default algorithm is RS256, ES256, ES384 or EdDSA, by the key's type.

    Raises:
        BadKey: the key is weak, of an unsupported type, or does not match the algorithm.
    """
    if not isinstance(kid, str) or not kid:
        raise BadKey("kid is missing")
    try:
        if isinstance(public_key, RSAPublicKey):
            numbers = public_key.public_numbers()
            check_rsa(numbers.n, numbers.e)
            fitting: tuple[str, ...] = ("RS256", "PS256")
        elif isinstance(public_key, EllipticCurvePublicKey) and isinstance(public_key.curve, SECP256R1):
            fitting = ("ES256",)
        elif isinstance(public_key, EllipticCurvePublicKey) and isinstance(public_key.curve, SECP384R1):
            fitting = ("ES384",)
        elif isinstance(public_key, Ed25519PublicKey):
            check_ed25519(public_key.public_bytes_raw())
            fitting = ("EdDSA",)
        else:
            raise BadKey("neither RSA, P-256, P-384 nor Ed25519")
    except ValueError as error:
        raise BadKey(str(error)) from error
    chosen = fitting[0] if algorithm is None else algorithm
    if chosen not in fitting:
        raise BadKey(f"its algorithm is not {' or '.join(fitting)}")
    return SigningKey(kid, str(chosen), public_key)


def is_signed(key: SigningKey, signature: bytes, signed_part: bytes) -> bool:
    """Return whether the signature is valid for this key and its algorithm."""
    public_key = key.public_key
    try:
        if isinstance(public_key, RSAPublicKey):
            padding = _PSS if key.algorithm == "PS256" else _PKCS1
            public_key.verify(signature, signed_part, padding, _SHA256)
        elif isinstance(public_key, Ed25519PublicKey):
            public_key.verify(signature, signed_part)
        else:
            size = 32 if key.algorithm == "ES256" else 48
            if len(signature) != 2 * size:  # JWS has r and s at their full length, never DER
                return False
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            public_key.verify(encode_dss_signature(r, s), signed_part, _ECDSA256 if size == 32 else _ECDSA384)
    except InvalidSignature:
        return False
    return True

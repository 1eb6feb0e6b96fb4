"""One public key for verifying tokens: checked when it is built, and bound to one algorithm.

`cryptography` is used directly. PyJWT's algorithms are thin wrappers around the same calls, and importing any of them
also imports its HTTP client, which would triple this module's share of a cold start; the tests use PyJWT as an oracle.
"""

from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from serve.tokens.weak_keys import check_ed25519, check_rsa

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_PKCS1 = PKCS1v15()
# RFC 7518 section 3.5: a salt as long as the hash.
_RSA = {
    "RS256": (_PKCS1, SHA256()),
    "PS256": (PSS(mgf=MGF1(SHA256()), salt_length=32), SHA256()),
    "RS384": (_PKCS1, SHA384()),
    "PS384": (PSS(mgf=MGF1(SHA384()), salt_length=48), SHA384()),
    "RS512": (_PKCS1, SHA512()),
    "PS512": (PSS(mgf=MGF1(SHA512()), salt_length=64), SHA512()),
}
# RFC 7518 section 3.4: the curve, the bytes of r and of s, the hash. `ECDSA` is built where it is used: the first one
# imports modules for 10 ms, which a deployment with RSA keys does not need.
_ECDSA = {
    "ES256": (SECP256R1, 32, SHA256()),
    "ES384": (SECP384R1, 48, SHA384()),
    "ES512": (SECP521R1, 66, SHA512()),
}
_UNSUPPORTED = "its type is not RSA, P-256, P-384, P-521 or Ed25519"
_EDDSA = ("EdDSA", "Ed25519")  # RFC 8037, and its name in RFC 9864

# Every algorithm that a policy can allow: those of RFC 7518 (on NIST curves) and 8037 that have a public key.
ALGORITHMS = frozenset((*_RSA, *_ECDSA, *_EDDSA))
DEFAULT_ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "ES384", "EdDSA"})


class BadKey(Exception):
    """A key that must not be used; the message says why and contains no secret."""


class UnusedKey(BadKey):
    """A key for another purpose or algorithm; that is not a fault of the key set."""


class SigningKey(NamedTuple):
    """A public key, its kid, and the only algorithm that it is for.

    If the key set has them, `x5t` and `x5t_s256` are the thumbprints of its certificate, and `issuer` is the only
    issuer that the key is for.
    """

    kid: str
    algorithm: str
    public_key: PublicKey
    x5t: str | None = None
    x5t_s256: str | None = None
    issuer: str | None = None


def build_signing_key(
    kid: object, public_key: object, algorithm: object = None, allowed: frozenset[str] = DEFAULT_ALGORITHMS
) -> SigningKey:
    """Check and build a key. The default algorithm is the first `allowed` one of its type: RS256 comes before PS256.

    Raises:
        UnusedKey: no allowed algorithm uses keys of this type.
        BadKey: the key is weak, of an unsupported type, or does not match the algorithm.
    """
    if not isinstance(kid, str) or not kid:
        raise BadKey("kid is missing")
    try:
        if isinstance(public_key, RSAPublicKey):
            numbers = public_key.public_numbers()
            check_rsa(numbers.n, numbers.e)
            fitting: tuple[str, ...] = tuple(_RSA)
        elif isinstance(public_key, EllipticCurvePublicKey):
            fitting = tuple(name for name, (curve, _, _) in _ECDSA.items() if isinstance(public_key.curve, curve))
        elif isinstance(public_key, Ed25519PublicKey):
            check_ed25519(public_key.public_bytes_raw())
            fitting = _EDDSA
        else:
            raise BadKey(_UNSUPPORTED)
    except ValueError as error:
        raise BadKey(str(error)) from error
    if not fitting:
        raise BadKey(_UNSUPPORTED)
    usable = [name for name in fitting if name in allowed]
    if algorithm is None and not usable:
        raise UnusedKey(f"it is for {' or '.join(fitting)}, which the issuer's settings do not allow")
    chosen = usable[0] if algorithm is None else algorithm
    if chosen not in fitting:
        raise BadKey(f"its algorithm is not {' or '.join(fitting)}")
    return SigningKey(kid, str(chosen), public_key)


def is_signed(key: SigningKey, signature: bytes, signed_part: bytes) -> bool:
    """Return whether the signature is valid for this key and its algorithm."""
    public_key = key.public_key
    try:
        if isinstance(public_key, RSAPublicKey):
            public_key.verify(signature, signed_part, *_RSA[key.algorithm])
        elif isinstance(public_key, Ed25519PublicKey):
            public_key.verify(signature, signed_part)
        else:
            _, size, digest = _ECDSA[key.algorithm]
            if len(signature) != 2 * size:  # JWS has r and s at their full length, never DER
                return False
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            public_key.verify(encode_dss_signature(r, s), signed_part, ECDSA(digest))
    except InvalidSignature:
        return False
    return True

"""Create key pairs and sign development tokens."""

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import get_default_algorithms

from serve.tokens.jwks import BadKeySet, parse_jwks

MAKERS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def create_key(folder: Path, kid: str, algorithm: str = "ES256") -> Path:
    """Create a key pair: `{kid}.pem`, private and readable by its owner only, and the public half in `jwks.json`.

    Raises:
        FileExistsError: the key set has a key with this kid; a replacement needs a new kid.
        ValueError: the kid is not usable as a file name, or `jwks.json` is not a key set.
    """
    if not kid or "/" in kid or kid.startswith("."):
        raise ValueError(f"kid {kid!r} cannot be a file name: it must not be empty, contain / or begin with a dot")
    folder.mkdir(parents=True, exist_ok=True)
    jwks_path = folder / "jwks.json"
    document = json.loads(jwks_path.read_text()) if jwks_path.exists() else {"keys": []}
    if any(jwk.get("kid") == kid for jwk in document["keys"]):
        raise FileExistsError(f"{jwks_path} already has a key {kid!r}: choose another kid")
    private_key = MAKERS[algorithm]()
    jwk: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(private_key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    document["keys"].append({"kid": kid, "alg": algorithm, "use": "sig"} | jwk)
    text = json.dumps(document, indent=2) + "\n"
    try:
        parse_jwks(text)
    except BadKeySet as error:
        raise ValueError(str(error)) from error
    private_path = folder / f"{kid}.pem"
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    jwks_path.write_text(text)
    return private_path


def build_claims(
    issuer: str, audience: str, scope: str, extra: Mapping[str, Any], now: float, lifetime: int = 3600
) -> dict[str, Any]:
    """Build the claims of a token for development. `now` is in epoch seconds, `lifetime` in seconds."""
    times = {"iat": int(now), "exp": int(now) + lifetime, "jti": str(uuid.uuid4())}
    return {
        "iss": issuer,
        "aud": audience,
        "sub": "developer",
        "jti": str(uuid.uuid4()),
        "scope": scope,
        **times,
        **extra,
    }


def sign_token(private_path: Path, claims: Mapping[str, Any]) -> str:
    """Sign a token with a key that `create_key` made; its name and algorithm are those in `jwks.json` beside it.

    Raises:
        FileNotFoundError: the private key or `jwks.json` does not exist.
        ValueError: `jwks.json` has no key with this kid.
    """
    document = json.loads((private_path.parent / "jwks.json").read_text())
    algorithms = {jwk["kid"]: jwk["alg"] for jwk in document["keys"]}
    if private_path.stem not in algorithms:
        raise ValueError(f"{private_path.parent / 'jwks.json'} has no key {private_path.stem!r}")
    private_key: Any = load_pem_private_key(private_path.read_bytes(), password=None)
    headers = {"kid": private_path.stem, "typ": "at+jwt"}
    return jwt.encode(dict(claims), private_key, algorithm=algorithms[private_path.stem], headers=headers)

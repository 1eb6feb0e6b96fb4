"""A token issuer on the laptop: create a signing key, store its public key, sign tokens for a subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from serve.datasets import Served

HOURS_12 = 12 * 60 * 60


@dataclass(frozen=True)
class LocalIssuer:
    """An issuer with one private key, which stays in this process."""

    issuer: str
    audience: str
    kid: str
    private_key: EllipticCurvePrivateKey

    def sign_for(self, served: Served, subject: Mapping[str, str], now: float) -> str:
        """Sign a token with which a subject reads its items of a dataset for twelve hours.

        Args:
            served: who can read the dataset.
            subject: claim -> value, for each claim of the subject.
            now: epoch seconds.
        """
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": "-".join(["local", *subject.values()]),
            "iat": int(now),
            "exp": int(now) + HOURS_12,
            **({"scope": served.scope} if served.scope else {}),
            **subject,
        }
        return jwt.encode(claims, self.private_key, algorithm="ES256", headers={"kid": self.kid})


def create_issuer(ssm: Any, path: str, issuer: str, audience: str, kid: str) -> LocalIssuer:
    """Create an issuer, and store its public key as the parameter `{path}{kid}.pem`."""
    private_key = generate_private_key(SECP256R1())
    public_key = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    ssm.put_parameter(Name=f"{path}{kid}.pem", Value=public_key, Type="String", Overwrite=True)
    return LocalIssuer(issuer, audience, kid, private_key)

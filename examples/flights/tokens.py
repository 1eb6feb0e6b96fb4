"""An issuer for the demo: create a signing key, store its public key, sign tokens for airlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from examples.flights.datasets.flight_delays import flight_delays

HOURS_12 = 12 * 60 * 60


@dataclass(frozen=True)
class Issuer:
    """An issuer of tokens with one private key, which stays in this process."""

    issuer: str
    audience: str
    kid: str
    private_key: EllipticCurvePrivateKey

    def sign(self, airline: str, now: float) -> str:
        """Sign a token with which an airline reads its own flights for twelve hours."""
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": f"demo-{airline}",
            "iat": int(now),
            "exp": int(now) + HOURS_12,
            "scope": flight_delays.served.scope,
            **dict.fromkeys(flight_delays.served.subject, airline),
        }
        return jwt.encode(claims, self.private_key, algorithm="ES256", headers={"kid": self.kid})


def open_issuer(ssm: Any, path: str, issuer: str, audience: str, kid: str = "demo-1") -> Issuer:
    """Create an issuer, and store its public key as the parameter `{path}{kid}.pem`."""
    private_key = generate_private_key(SECP256R1())
    public_key = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    ssm.put_parameter(Name=f"{path}{kid}.pem", Value=public_key, Type="String", Overwrite=True)
    return Issuer(issuer, audience, kid, private_key)

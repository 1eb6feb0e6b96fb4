"""An issuer for the demo: sign tokens for airlines."""

from __future__ import annotations

from typing import Any

from examples.flights.datasets.flight_delays import flight_delays
from infra.local.issuer import LocalIssuer, create_issuer


class Issuer(LocalIssuer):
    """An issuer whose subjects are airlines."""

    def sign(self, airline: str, now: float) -> str:
        """Sign a token with which an airline reads its own flights for twelve hours."""
        return self.sign_for(flight_delays.served, dict.fromkeys(flight_delays.served.subject, airline), now)


def open_issuer(ssm: Any, path: str, issuer: str, audience: str, kid: str = "demo-1") -> Issuer:
    """Create an issuer, and store its public key as the parameter `{path}{kid}.pem`."""
    return Issuer(**vars(create_issuer(ssm, path, issuer, audience, kid)))

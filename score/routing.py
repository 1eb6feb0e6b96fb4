"""Choose the version that answers: the canary by a hash of the subject, so that a caller always sees the same version.

The shadow is chosen at random for each request.
"""

from __future__ import annotations

from hashlib import sha256

from score.scorer import Scorer
from score.store import Serving


def choose(serving: Serving, subject: str | None) -> tuple[Scorer, str]:
    """Return the version that answers a subject, and its role: `live` or `canary`. Without a subject: the live one.

    The hash includes model and version, so that each canary has different subjects.
    """
    share, canary = serving.alias.canary, serving.canary
    if share and canary and subject is not None:
        text = f"{serving.alias.model}#{share.version}#{subject}"
        place = int.from_bytes(sha256(text.encode()).digest()[:8]) / 2**64
        if place < share.share:
            return canary, "canary"
    return serving.live, "live"


def choose_shadow(serving: Serving, chance: float) -> Scorer | None:
    """Return the shadow if it also scores the request, else None; `chance` is a random number from 0 to 1."""
    share = serving.alias.shadow
    return serving.shadow if share and serving.shadow and chance < share.share else None

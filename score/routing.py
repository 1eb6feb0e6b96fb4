"""Which version answers: a canary by a hash of the subject, so that a caller sees one version; a shadow by chance."""

from __future__ import annotations

from hashlib import sha256

from score.scorer import Scorer
from score.store import Serving


def choose(serving: Serving, subject: str | None) -> tuple[Scorer, str]:
    """Return the version that answers a subject, and its role: `live` or `canary`. Without a subject it is live.

    The hash has model and version in it, so that another canary has other subjects.
    """
    share, canary = serving.alias.canary, serving.canary
    if share and canary and subject is not None:
        text = f"{serving.alias.model}#{share.version}#{subject}"
        place = int.from_bytes(sha256(text.encode()).digest()[:8]) / 2**64
        if place < share.share:
            return canary, "canary"
    return serving.live, "live"


def choose_shadow(serving: Serving, chance: float) -> Scorer | None:
    """Return the version that scores a request as well, for a chance from 0 to 1; None for none."""
    share = serving.alias.shadow
    return serving.shadow if share and serving.shadow and chance < share.share else None

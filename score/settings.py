"""The settings of a deployment: those of the read API, and those of the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from score.model import Model
from serve.datasets import Served
from serve.settings import Settings, parse_settings


class ScoreSettings(NamedTuple):
    """Everything that the function reads from its environment.

    Attributes:
        api: the settings that it shares with the read API.
        bucket: bucket of the models.
        public_key: public key of the publisher, who must have signed every manifest; empty: signatures are not checked.
        kept_queue: URL of the queue of kept features; empty: nothing is kept.
    """

    api: Settings
    bucket: str
    public_key: str
    kept_queue: str = ""


def parse_score_settings(
    env: Mapping[str, str], models: Mapping[str, Model], served: Mapping[str, Served]
) -> ScoreSettings:
    """Parse the environment.

    Raises:
        ValueError: a variable is missing or malformed; the message names it.
    """
    api = parse_settings(env, served)
    if not env.get("LARDER_MODELS_BUCKET"):
        raise ValueError("LARDER_MODELS_BUCKET is not set; set it to the name of Larder's bucket")
    for number, (policy, _) in enumerate(api.issuers):
        for name in sorted(policy.models or ()):
            if name not in models:
                known = ", ".join(sorted(models))
                raise ValueError(f"LARDER_ISSUERS[{number}]: models: there is no model {name!r} (known: {known})")
    return ScoreSettings(
        api=api,
        bucket=env["LARDER_MODELS_BUCKET"],
        public_key=env.get("LARDER_MODELS_PUBLIC_KEY") or "",
        kept_queue=env.get("LARDER_KEPT_QUEUE") or "",
    )

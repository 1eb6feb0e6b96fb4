"""The settings of a deployment, parsed from environment variables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.tokens.jwt import Policy
from serve.tokens.signing_key import ALGORITHMS

MAX_LEEWAY = 300


class IssuerSettings(NamedTuple):
    """One issuer: the policy for its tokens, and the location of its keys."""

    policy: Policy
    keys: str


class Settings(NamedTuple):
    """Everything that the function reads from its environment."""

    table: str
    issuers: tuple[IssuerSettings, ...]
    realm: str
    cors_origins: tuple[str, ...]
    environment: str


def parse_settings(env: Mapping[str, str]) -> Settings:
    """Parse the environment.

    Raises:
        ValueError: a variable is missing or malformed; the message names it.
    """
    for name in ("LARDER_TABLE", "LARDER_ISSUERS"):
        if not env.get(name):
            raise ValueError(f"{name} is not set")
    realm = env.get("LARDER_REALM") or "larder"
    if not realm.isascii() or not realm.isprintable() or '"' in realm or "\\" in realm:
        raise ValueError("LARDER_REALM must be printable ASCII without quotes")
    origins = tuple(origin.strip() for origin in env.get("LARDER_CORS_ORIGINS", "").split(",") if origin.strip())
    if "*" in origins:
        raise ValueError("LARDER_CORS_ORIGINS must list exact origins, not *")
    return Settings(
        table=env["LARDER_TABLE"],
        issuers=_parse_issuers(env["LARDER_ISSUERS"]),
        realm=realm,
        cors_origins=origins,
        environment=env.get("LARDER_ENVIRONMENT") or "local",
    )


def _parse_issuers(text: str) -> tuple[IssuerSettings, ...]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError("LARDER_ISSUERS is not JSON") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError("LARDER_ISSUERS must be a list with at least one issuer")
    issuers = tuple(_parse_issuer(entry) for entry in entries)
    names = [issuer.policy.issuer for issuer in issuers]
    if len(set(names)) < len(names):
        raise ValueError("LARDER_ISSUERS has an issuer twice")
    return issuers


def _parse_issuer(entry: Any) -> IssuerSettings:
    if not isinstance(entry, dict):
        raise ValueError("LARDER_ISSUERS has an entry that is not an object")
    known = {"issuer", "audience", "keys", "algorithms", "leeway", "require_at_jwt", "require_iat", "scope_claims"}
    if set(entry) - known:
        raise ValueError(f"LARDER_ISSUERS has unknown members: {', '.join(sorted(set(entry) - known))}")
    for name in ("issuer", "audience", "keys"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise ValueError(f"LARDER_ISSUERS: {name} must be a string")
    algorithms = entry.get("algorithms", sorted(ALGORITHMS))
    if not isinstance(algorithms, list) or not algorithms or not ALGORITHMS.issuperset(map(str, algorithms)):
        raise ValueError(f"LARDER_ISSUERS: algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
    leeway = entry.get("leeway", 10)
    if type(leeway) not in (int, float) or math.isnan(leeway) or not 0 <= leeway <= MAX_LEEWAY:
        raise ValueError(f"LARDER_ISSUERS: leeway must be 0 to {MAX_LEEWAY} seconds")
    flags = {name: entry.get(name, default) for name, default in (("require_at_jwt", False), ("require_iat", True))}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise ValueError("LARDER_ISSUERS: require_at_jwt and require_iat must be true or false")
    scope_claims = entry.get("scope_claims", ["scope", "scp"])
    if not isinstance(scope_claims, list) or not all(isinstance(name, str) for name in scope_claims):
        raise ValueError("LARDER_ISSUERS: scope_claims must be a list of claim names")
    policy = Policy(
        issuer=entry["issuer"],
        audience=entry["audience"],
        algorithms=frozenset(algorithms),
        leeway=leeway,
        scope_claims=tuple(scope_claims),
        **flags,
    )
    return IssuerSettings(policy, entry["keys"])

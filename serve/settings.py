"""The settings of a deployment, parsed from environment variables."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from serve.datasets import Served
from serve.tokens.jwt import ANY_TENANT, TENANT, TENANT_ID, Claim, Policy, find_issuer
from serve.tokens.signing_key import ALGORITHMS
from serve.tokens.strict import parse_json

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


def parse_settings(env: Mapping[str, str], served: Mapping[str, Served]) -> Settings:
    """Parse the environment.

    Raises:
        ValueError: a variable is missing or malformed; the message names it.
    """
    for name in ("LARDER_TABLE", "LARDER_ISSUERS"):
        if not env.get(name):
            raise ValueError(f"{name} is not set")
    if _text(env["LARDER_TABLE"]) is None:
        raise ValueError("LARDER_TABLE must be a table's name without blanks around it")
    realm = env.get("LARDER_REALM") or "larder"
    if not _is_quotable(realm):
        raise ValueError("LARDER_REALM must be printable ASCII without quotes")
    return Settings(
        table=env["LARDER_TABLE"],
        issuers=parse_issuers(env["LARDER_ISSUERS"], served),
        realm=realm,
        cors_origins=_parse_origins(env.get("LARDER_CORS_ORIGINS", "")),
        environment=env.get("LARDER_ENVIRONMENT") or "local",
    )


def parse_issuers(text: str, served: Mapping[str, Served]) -> tuple[IssuerSettings, ...]:
    """Parse the value of LARDER_ISSUERS: a JSON list of objects (docs/identity-providers.md).

    Raises:
        ValueError: the value is malformed; the message names the place, what was found, and what was expected.
    """
    try:
        entries = parse_json(text.encode())
    except ValueError as error:
        raise ValueError(f"LARDER_ISSUERS is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError("LARDER_ISSUERS must be a list with at least one issuer")
    issuers = tuple(_parse_issuer(number, entry, served) for number, entry in enumerate(entries))
    for number, one in enumerate(issuers):
        for other in issuers[:number]:
            if _overlap(one.policy, other.policy):
                raise ValueError(f"LARDER_ISSUERS has an issuer twice: {one.policy.issuer!r}")
    return issuers


def _overlap(one: Policy, other: Policy) -> bool:
    """Return whether both issuers accept the same token."""
    return one.issuer == other.issuer or _accepts(one, other.issuer) or _accepts(other, one.issuer)


def _accepts(policy: Policy, issuer: str) -> bool:
    start, tenant, end = policy.issuer.partition(TENANT)
    return bool(tenant) and find_issuer({"tid": issuer.removeprefix(start).removesuffix(end)}, policy) == issuer


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    for origin in origins:
        _check_origin(origin)
    if len(set(origins)) < len(origins):
        raise ValueError("LARDER_CORS_ORIGINS has an origin twice")
    return origins


def _check_origin(origin: str) -> None:
    if not _is_origin(origin):
        raise ValueError(
            f"LARDER_CORS_ORIGINS must list exact origins such as https://app.example.com, in lower case and without "
            f"path, default port or *, not {origin!r}"
        )


def _is_origin(origin: str) -> bool:
    """Return whether a browser can send this origin (RFC 6454 section 6.2): others would match nothing or too much."""
    try:
        parts = urlsplit(origin)
        name, port = parts.hostname, parts.port
    except ValueError:  # a port of 99999, a bracket without its other half
        return False
    default_port = {"https": 443, "http": 80}.get(parts.scheme)
    if default_port is None or name is None:
        return False
    exact = f"{parts.scheme}://" + (f"[{name}]" if ":" in name else name)
    if port not in (None, 0, default_port):
        exact += f":{port}"
    return origin == exact and name.isascii() and name.translate(dict.fromkeys(map(ord, ".:-_"))).isalnum()


class _Setting(NamedTuple):
    """How to parse one member of an issuer; `parse` returns None for a value that is not `expected`."""

    expected: str
    parse: Callable[[Any], Any]


def _parse_issuer(number: int, entry: Any, served: Mapping[str, Served]) -> IssuerSettings:
    place = f"LARDER_ISSUERS[{number}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{place} must be an object with the members issuer, audience and keys, not {_show(entry)}")
    unknown = entry.keys() - SETTINGS.keys()
    if unknown:
        raise ValueError(f"{place} has unknown members: {', '.join(sorted(unknown))} (known: {', '.join(SETTINGS)})")
    for name in ("issuer", "audience", "keys"):
        if name not in entry:
            raise ValueError(f"{place}: {name} must be {SETTINGS[name].expected}; it is missing")
    parsed = {}
    for name, value in entry.items():
        setting = SETTINGS[name]
        parsed[name] = setting.parse(value)
        if parsed[name] is None:
            raise ValueError(f"{place}: {name} must be {setting.expected}, not {_show(value)}")
    keys = parsed.pop("keys")
    policy = Policy(**parsed)
    _check_together(place, policy, served)
    return IssuerSettings(policy, keys)


def _check_together(place: str, policy: Policy, served: Mapping[str, Served]) -> None:
    """Check what depends on other settings and on the datasets."""
    if (TENANT in policy.issuer) != bool(policy.tenants):
        raise ValueError(f"{place}: tenants must list the accepted tenants if issuer has {TENANT}, and only then")
    known = ", ".join(sorted(served))
    for name, datasets in (("datasets", policy.datasets or ()), ("scopes", dict(policy.scopes))):
        for dataset in datasets:
            if dataset not in served:
                raise ValueError(f"{place}: {name} has {dataset!r}, which is not a dataset (known: {known})")
    accessible = {name: one for name, one in served.items() if policy.datasets is None or name in policy.datasets}
    for dataset, scope in policy.scopes:
        if dataset not in accessible:
            raise ValueError(
                f"{place}: scopes has {dataset!r}, which is not in datasets: the issuer gives no access to it"
            )
        if scope is not None and policy.scope_separator in scope:
            raise ValueError(f"{place}: scopes has {scope!r} for {dataset!r}, which scope_separator would split")
    claims = sorted({claim for one in accessible.values() for claim in one.subject})
    for claim, _ in policy.subject_claims:
        if claim not in claims:
            raise ValueError(
                f"{place}: subject_claims has {claim!r}, which no dataset's subject has (known: {', '.join(claims)})"
            )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _text(value: Any) -> str | None:
    """Parse a text that is printable and has no blanks around it."""
    is_text = isinstance(value, str) and value and value == value.strip() and value.isprintable()
    return value if is_text else None


def _is_quotable(value: Any) -> bool:
    """Return whether a value can be quoted in a header (RFC 6750, section 3)."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and not set('"\\') & set(value)


def _issuer(value: Any) -> str | None:
    issuer = _text(value)
    if issuer is None or issuer.count(TENANT) > 1 or set("*{}") & set(issuer.replace(TENANT, "")):
        return None
    return issuer


def _audience(value: Any) -> str | None:
    audience = _text(value)
    return audience if audience is not None and "*" not in audience else None


def _texts(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...] | None]:
    """Return a parser of lists with at least one value and none twice."""

    def parse_all(value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, list) or not value:
            return None
        parsed = tuple(parse(one) for one in value)
        return None if None in parsed or len(set(parsed)) < len(parsed) else parsed

    return parse_all


def _audiences(value: Any) -> str | tuple[str, ...] | None:
    return _audience(value) if isinstance(value, str) else _texts(_audience)(value)


def _claim(value: Any) -> Claim | None:
    """Parse a claim: a name, or a list of the names that lead to it."""
    if isinstance(value, str):
        # Many tools write `realm_access.roles` for a nested claim. Here it would be a claim whose name has a dot, so it
        # is refused.
        is_path = "." in value and not any(mark in value for mark in ":/")
        return value if value and _is_quotable(value) and not is_path else None
    if not isinstance(value, list) or not value:
        return None
    if not all(one and _is_quotable(one) for one in value):
        return None
    return tuple(value) if len(value) > 1 else value[0]


def _mapping(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[tuple[str, Any], ...] | None]:
    def parse_all(value: Any) -> tuple[tuple[str, Any], ...] | None:
        if not isinstance(value, dict) or not value:
            return None
        parsed = tuple((name, parse(one)) for name, one in value.items())
        return None if any(one is None for _, one in parsed) else parsed

    return parse_all


def _scopes(value: Any) -> tuple[tuple[str, str | None], ...] | None:
    if not isinstance(value, dict) or not value:
        return None
    # RFC 6749 section 3.3; a scope is sent in a header.
    is_good = all(one is None or (one and _is_quotable(one) and " " not in one) for one in value.values())
    return tuple(value.items()) if is_good else None


def _required(value: Any) -> tuple[tuple[Claim, tuple[str | int, ...]], ...] | None:
    """Parse [{"claim": ..., "values": [...]}, ...]."""
    if not isinstance(value, list) or not value:
        return None
    parsed = []
    for one in value:
        if not isinstance(one, dict) or one.keys() != {"claim", "values"}:
            return None
        claim, values = _claim(one["claim"]), one["values"]
        if claim is None or not isinstance(values, list) or not values:
            return None
        if not all(type(value) in (int, bool) or _text(value) is not None for value in values):
            return None
        if len({(type(value), value) for value in values}) < len(values):
            return None
        parsed.append((claim, tuple(values)))
    return tuple(parsed)


def _names(value: Any) -> frozenset[str] | None:
    names = _texts(_text)(value)
    return frozenset(names) if names else None


def _algorithms(value: Any) -> frozenset[str] | None:
    names = _names(value)
    return names if names and ALGORITHMS.issuperset(names) else None


def _tenants(value: Any) -> frozenset[str] | None:
    if value == ANY_TENANT:
        return frozenset({ANY_TENANT})
    names = _texts(lambda one: one if isinstance(one, str) and re.match(TENANT_ID, one) else None)(value)
    return frozenset(names) if names else None


def _leeway(value: Any) -> float | None:
    return value if type(value) in (int, float) and 0 <= value <= MAX_LEEWAY else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


_A_CLAIM = 'a claim\'s name, or the list of names that leads to a nested claim, e.g. ["realm_access", "roles"]'
# Every member of an issuer; the names are those of the members of Policy. docs/identity-providers.md explains each with
# its risk.
SETTINGS: dict[str, _Setting] = {
    "issuer": _Setting(
        f"a string without blanks around it, exactly as in iss (no *, and no braces except {TENANT})", _issuer
    ),
    "audience": _Setting("a string, or a list of strings, without * or blanks around them", _audiences),
    "keys": _Setting("a string: the location of the issuer's keys", _text),
    "algorithms": _Setting(f"a list of some of {', '.join(sorted(ALGORITHMS))}", _algorithms),
    "leeway": _Setting(f"0 to {MAX_LEEWAY} seconds", _leeway),
    "require_at_jwt": _Setting("true or false", _flag),
    "require_iat": _Setting("true or false", _flag),
    "require_claims": _Setting('a list such as [{"claim": "token_use", "values": ["access"]}]', _required),
    "datasets": _Setting("a list of datasets", _names),
    "models": _Setting("a list of models", _names),  # score checks that they exist
    "audience_claim": _Setting(_A_CLAIM, _claim),
    "tenants": _Setting(f'a list of tenant ids (GUIDs in lower case), or "{ANY_TENANT}"', _tenants),
    "allow_missing_kid": _Setting("true or false", _flag),
    "scope_claims": _Setting(f"a list; each of them {_A_CLAIM}", _texts(_claim)),
    "scope_separator": _Setting('" " or ","', lambda value: value if value in (" ", ",") else None),
    "scopes": _Setting("an object: dataset -> its scope at this issuer, or null for none", _scopes),
    "subject_claims": _Setting(f"an object: claim of a dataset's subject -> {_A_CLAIM}", _mapping(_claim)),
    "allow_integer_subject": _Setting("true or false", _flag),
    "allow_list_subject": _Setting("true or false", _flag),
}

"""Scopes and subject of a verified token: whether it gives access to a dataset, and to whose items.

The partition key is built here, from verified claims and nothing else: no part of a request can name another subject.
"""

from collections.abc import Mapping
from typing import Any

from serve.datasets import Served
from serve.item import MAX_PK_BYTES, build_pk, is_subject
from serve.tokens.jwt import InvalidToken, Policy, get_claim
from serve.tokens.verifier import Trusted

# An issuer whose numbers are floating-point loses digits of larger integers (RFC 8259, section 6).
MAX_INTEGER = 2**53 - 1


class NoAccess(Exception):
    """The token is valid but gives no access to the dataset; `scope` is the missing scope, None if none would help."""

    def __init__(self, scope: str | None) -> None:
        super().__init__(scope)
        self.scope = scope


def find_partition(trusted: Trusted, dataset: Served) -> str:
    """Return the partition key that a token gives access to, built only from its claims, and remember it.

    Raises:
        NoAccess, InvalidToken: as in `check_access` and `build_partition`.
    """
    partition = trusted.partitions.get(dataset.name)
    if partition is None:
        check_access(trusted.claims, trusted.policy, dataset)
        partition = trusted.partitions[dataset.name] = build_partition(trusted.claims, dataset, trusted.policy)
    return partition


def check_access(claims: Mapping[str, Any], policy: Policy, dataset: Served) -> None:
    """Check that the issuer gives access to the dataset, and that the token has its scope.

    Raises:
        NoAccess: one of them is missing.
        InvalidToken: a scope claim has another type.
    """
    if policy.datasets is not None and dataset.name not in policy.datasets:
        raise NoAccess(None)
    scope = dict(policy.scopes).get(dataset.name, dataset.scope)
    scopes = parse_scopes(claims, policy)
    if scope is not None and scope not in scopes:
        raise NoAccess(scope)


def parse_scopes(claims: Mapping[str, Any], policy: Policy) -> frozenset[str]:
    """Parse the scopes of a token: words in a string, or a list of words.

    Raises:
        InvalidToken: a scope claim has another type.
    """
    scopes: set[str] = set()
    for claim in policy.scope_claims:
        value = get_claim(claims, claim)
        if value is None and (isinstance(claim, tuple) or claim not in claims):
            continue
        if isinstance(value, str):
            scopes.update([word.strip() for word in value.split(policy.scope_separator)])
        elif isinstance(value, list) and all(isinstance(word, str) for word in value):
            scopes.update(value)
        else:
            raise InvalidToken("malformed-claim", claim)
    scopes.discard("")
    return frozenset(scopes)


def build_subject(claims: Mapping[str, Any], dataset: Served, policy: Policy | None = None) -> tuple[str, ...]:
    """Build the subject from its claims, whose text can come from an issuer's users (V11).

    Args:
        claims: of a verified token.
        dataset: names the claims.
        policy: the places of the claims in the issuer's tokens, and their types other than text; None: each claim is
            text under its own name.

    Raises:
        InvalidToken: a claim is missing, not a string, empty, too long, or has unprintable characters.
    """
    places = dict(policy.subject_claims) if policy else {}
    subject = []
    for name in dataset.subject:
        claim = places.get(name, name)
        value = get_claim(claims, claim)
        if policy and policy.allow_list_subject and isinstance(value, list) and len(value) == 1:
            (value,) = value
        if policy and policy.allow_integer_subject and type(value) is int and abs(value) <= MAX_INTEGER:
            value = str(value)
        if not isinstance(value, str) or not is_subject(value):
            raise InvalidToken("bad-subject", claim)
        subject.append(value)
    return tuple(subject)


def build_partition(claims: Mapping[str, Any], dataset: Served, policy: Policy | None = None) -> str:
    """Build the partition key of the subject's items; arguments as in `build_subject`.

    Raises:
        InvalidToken: as in `build_subject`, or the key is longer than DynamoDB's limit.
    """
    pk = build_pk(dataset.name, build_subject(claims, dataset, policy))
    if len(pk.encode()) > MAX_PK_BYTES:
        raise InvalidToken("bad-subject")
    return pk

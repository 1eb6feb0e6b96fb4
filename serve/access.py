"""Scopes and subject of a verified token: whether it gives access to a dataset, and to whose items.

The partition key is built here, from verified claims and nothing else: no part of a request can name another subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.datasets import Served
from serve.item import MAX_PK_BYTES, build_pk
from serve.tokens.jwt import InvalidToken

MAX_CLAIM_CHARACTERS = 256


def parse_scopes(claims: Mapping[str, Any], scope_claims: tuple[str, ...]) -> frozenset[str]:
    """Parse the scopes of a token: words in a string, or a list of words.

    Raises:
        InvalidToken: a scope claim has another type.
    """
    scopes: set[str] = set()
    for name in scope_claims:
        value = claims.get(name, [])
        words = value.split(" ") if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InvalidToken("malformed-claim")
        scopes.update(words)
    return frozenset(scopes)


def build_subject(claims: Mapping[str, Any], dataset: Served) -> tuple[str, ...]:
    """Build the subject from its claims, whose text can come from an issuer's users (V11).

    Raises:
        InvalidToken: a claim is missing, not a string, empty, too long, or has unprintable characters.
    """
    subject = []
    for name in dataset.subject:
        value = claims.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM_CHARACTERS or not value.isprintable():
            raise InvalidToken("bad-subject")
        subject.append(value)
    return tuple(subject)


def build_partition(claims: Mapping[str, Any], dataset: Served) -> str:
    """Build the partition key of the subject's items.

    Raises:
        InvalidToken: as in `build_subject`, or the key is longer than DynamoDB's limit.
    """
    pk = build_pk(dataset.name, build_subject(claims, dataset))
    if len(pk.encode()) > MAX_PK_BYTES:
        raise InvalidToken("bad-subject")
    return pk

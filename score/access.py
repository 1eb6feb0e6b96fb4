"""Decide whether a verified token can score with a model, and return the caller's subject."""

from __future__ import annotations

from score.model import Model
from serve.access import NoAccess, build_partition, parse_scopes
from serve.datasets import Served
from serve.tokens.verifier import Trusted


def authorize(trusted: Trusted, model: Model) -> str:
    """Return the caller's subject. It is built from the token's claims only, and begins with the model's name.

    Raises:
        NoAccess: the issuer gives no access to the model, or the token lacks the model's scope.
        InvalidToken: a claim of the subject is missing or malformed.
    """
    remembered = f"models/{model.name}"
    subject = trusted.partitions.get(remembered)
    if subject is not None:
        return subject
    policy = trusted.policy
    # An issuer whose setting lists datasets gives access to no model, unless it also lists models.
    is_open = policy.datasets is None if policy.models is None else model.name in policy.models
    if not is_open:
        raise NoAccess(None)
    if model.scope is not None and model.scope not in parse_scopes(trusted.claims, policy):
        raise NoAccess(model.scope)
    subject = build_partition(trusted.claims, Served(model.name, model.subject, model.scope), policy)
    trusted.partitions[remembered] = subject  # no dataset has this name
    return subject

"""Whether a verified token can score with a model, and whose requests they are."""

from __future__ import annotations

from score.model import Model
from serve.access import NoAccess, build_partition, parse_scopes
from serve.datasets import Served
from serve.tokens.verifier import Trusted


def authorize(trusted: Trusted, model: Model) -> str:
    """Return the caller's subject, built from the token's claims and nothing else; it begins with the model's name.

    Raises:
        NoAccess: the issuer gives no access to the model, or the token lacks its scope.
        InvalidToken: a claim of the subject is missing or malformed.
    """
    policy = trusted.policy
    # An issuer that is bound to some datasets scores with no model unless its setting says so.
    is_open = policy.datasets is None if policy.models is None else model.name in policy.models
    if not is_open:
        raise NoAccess(None)
    if model.scope is not None and model.scope not in parse_scopes(trusted.claims, policy):
        raise NoAccess(model.scope)
    return build_partition(trusted.claims, Served(model.name, model.subject, model.scope), policy)

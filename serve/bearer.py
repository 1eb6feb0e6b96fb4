"""The bearer token of a request: find it, verify it, and build the problem if it is refused. For serve and score."""

import re
from collections.abc import Callable, Mapping, Sequence

from serve.access import NoAccess
from serve.settings import IssuerSettings
from serve.tokens.jwt import InvalidToken
from serve.tokens.key_cache import KeyStore, KeysUnavailable
from serve.tokens.key_sources import open_source
from serve.tokens.verifier import Issuer, Trusted, Verifier
from serve.web.problems import Problem, challenge, describe_token, unavailable
from serve.web.request import HttpRequest

Report = Callable[[str, Mapping[str, object]], None]
_ANOTHER = re.compile(r",\s*[A-Za-z]+ ")  # a second Authorization header, joined to the first by a gateway


def open_verifier(issuers: Sequence[IssuerSettings], env: Mapping[str, str], report: Report) -> Verifier:
    """Open the verifier of a deployment's issuers. `report` is called for problems with their keys.

    Raises:
        ValueError: the location of an issuer's keys is malformed.
    """
    opened = []
    for policy, keys in issuers:
        read = open_source(keys, env)
        store = KeyStore(read, report, algorithms=policy.algorithms, allow_missing_kid=policy.allow_missing_kid)
        opened.append(Issuer(policy, store))
    return Verifier(opened)


def authenticate(request: HttpRequest, verifier: Verifier, realm: str, now: float) -> Trusted:
    """Verify the token of a request.

    Raises:
        Problem: 400, 401, or 503 if the issuer's keys are unavailable.
    """
    token = _bearer_token(request, realm)
    try:
        return verifier.verify(token, now)
    except InvalidToken as error:
        raise refuse(realm, error) from error
    except KeysUnavailable as error:
        raise unavailable("keys") from error
    except Exception as error:  # V14: a token that breaks the verifier must not become a 500
        raise refuse(realm, InvalidToken(f"verifier-broke: {type(error).__name__}")) from error


def refuse(realm: str, error: InvalidToken | NoAccess, what: str = "dataset") -> Problem:
    """Build the problem for a token that is not valid, or gives no access; `what` is a dataset or a model."""
    if isinstance(error, NoAccess):
        detail = None if error.scope else f"the token's issuer gives no access to this {what}"
        return challenge(realm, "insufficient_scope", scope=error.scope, detail=detail)
    return challenge(realm, "invalid_token", detail=describe_token(error.reason, error.claim), reason=error.reason)


def _bearer_token(request: HttpRequest, realm: str) -> str:
    """Return exactly the text after `Bearer `; the verifier rejects white space around the token."""
    value, *others = request.headers.get("authorization") or [""]
    if others or ("," in value and _ANOTHER.search(value)):
        raise Problem("invalid_request", "there is more than one Authorization header")
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise challenge(realm, "token_required")
    return token

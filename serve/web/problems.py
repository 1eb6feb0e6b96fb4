"""Problem details (RFC 9457): one exception, and one table of the problem types."""

from typing import NamedTuple


class ProblemType(NamedTuple):
    """Status and title of a code, which consumers can rely on."""

    status: int
    title: str


PROBLEM_TYPES = {
    "invalid_request": ProblemType(400, "The request is malformed"),
    "token_required": ProblemType(401, "A bearer token is required"),
    "invalid_token": ProblemType(401, "The bearer token is not valid"),
    "insufficient_scope": ProblemType(403, "The token does not have the required scope"),
    "not_found": ProblemType(404, "Not found"),
    "too_old": ProblemType(404, "The item is older than the request accepts"),
    "method_not_allowed": ProblemType(405, "Method not allowed"),
    "not_acceptable": ProblemType(406, "Not acceptable"),
    "content_too_large": ProblemType(413, "The request is too large"),
    "unsupported_media_type": ProblemType(415, "The request's content type is not supported"),
    "invalid_instance": ProblemType(422, "The features do not fit the model"),
    "internal_error": ProblemType(500, "Internal server error"),
    "unavailable": ProblemType(503, "Service unavailable"),
    "model_unavailable": ProblemType(503, "The model is unavailable"),
}


# Why a token is refused, by the verifier's reason; some name the claim. Each is a rule that a caller can check against
# the token or public documents, so the detail reveals nothing about keys, subjects or items.
TOKEN_DETAILS = {
    "malformed": "the token is not a signed JWT in compact form, or not strictly encoded",
    "unsupported-header": "the token's header has crit or b64, which are not supported",
    "nested": "the token's header has cty: nested tokens are not supported",
    "wrong-type": "the token's typ is not accepted",
    "no-kid": "the token's header does not name its key (kid)",
    "unknown-kid": "the issuer has no such key (kid) for signatures",
    "wrong-algorithm": "the token's algorithm (alg) is not accepted for its key",
    "bad-signature": "the token's signature is not valid",
    "wrong-issuer": "the token's issuer (iss) is not accepted",
    "wrong-audience": "the token is for another audience",
    "missing-claim": "the claim {claim} is missing",
    "malformed-claim": "the claim {claim} has another type than expected",
    "wrong-claim": "the claim {claim} has a value that is not accepted",
    "bad-subject": "the claim {claim} is missing, or is not a printable text of 1 to 256 characters",
    "expired": "the token has expired",
    "not-yet-valid": "the token is not valid yet",
}


def describe_token(reason: str, claim: str) -> str | None:
    """Describe to the caller why the token is refused; None for an internal reason, e.g. a bug in the verifier."""
    detail = TOKEN_DETAILS.get(reason)
    if detail is None or ("{claim}" in detail and not claim):
        return None
    return detail.format(claim=claim)


class Problem(Exception):
    """An error response. `detail` is for the caller, `reason` for the log; neither repeats values of the request.

    `members` are additional members of the problem's JSON.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        reason: str | None = None,
        headers: dict[str, str] | None = None,
        members: dict[str, object] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.reason = reason
        self.headers = headers or {}
        self.members = members or {}


def unavailable(reason: str) -> Problem:
    """Build the problem for storage or keys that are unavailable or throttled (H9): never `not_found`."""
    return Problem("unavailable", reason=reason, headers={"Retry-After": "1"})


def challenge(
    realm: str, code: str, *, scope: str | None = None, detail: str | None = None, reason: str = ""
) -> Problem:
    """Build the problem for missing or insufficient credentials, with the challenge of RFC 6750 section 3.

    Without credentials the challenge has no error code. REST APIs rename the header, so the body has the code too.
    """
    fields = f'Bearer realm="{realm}"'
    if code != "token_required":
        fields += f', error="{code}"'
    if detail is not None:
        fields += f', error_description="{detail}"'
    if scope is not None:
        fields += f', scope="{scope}"'
    return Problem(code, detail, reason=reason or code, headers={"WWW-Authenticate": fields})

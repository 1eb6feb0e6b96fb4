"""Problem details (RFC 9457): one exception, and one table of the problem types."""

from __future__ import annotations

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
    "method_not_allowed": ProblemType(405, "Method not allowed"),
    "not_acceptable": ProblemType(406, "Not acceptable"),
    "internal_error": ProblemType(500, "Internal server error"),
    "unavailable": ProblemType(503, "Service unavailable"),
}


class Problem(Exception):
    """An error response. `detail` is for the caller, `reason` for the log; neither repeats the request."""

    def __init__(
        self, code: str, detail: str | None = None, *, reason: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.reason = reason
        self.headers = headers or {}


def unavailable(reason: str) -> Problem:
    """Build the problem for storage or keys that do not respond or throttle (H9): never `not_found`."""
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

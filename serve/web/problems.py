"""Everything that can be wrong with a request, as RFC 9457 has it: one exception, one table. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """What a consumer can rely on: the status, and the title that goes with a code."""

    status: int
    title: str


KINDS = {
    "invalid_request": Kind(400, "The request is malformed"),
    "token_required": Kind(401, "A bearer token is required"),
    "invalid_token": Kind(401, "The bearer token is not valid"),
    "insufficient_scope": Kind(403, "The token lacks the scope"),
    "not_found": Kind(404, "There is no such thing here"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "not_acceptable": Kind(406, "The answer has no acceptable form"),
    "internal_error": Kind(500, "Something went wrong here"),
    "unavailable": Kind(503, "Not available right now"),
}


class Problem(Exception):
    """A request that gets no item. `detail` is for the caller, `reason` for the log; neither repeats the request."""

    def __init__(
        self, code: str, detail: str | None = None, *, reason: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.reason = reason
        self.headers = headers or {}


def unavailable(reason: str) -> Problem:
    """Build the answer for storage or keys that cannot be reached or ask for fewer requests (H9): never "not found"."""
    return Problem("unavailable", reason=reason, headers={"Retry-After": "1"})


def challenge(
    realm: str, code: str, *, scope: str | None = None, detail: str | None = None, reason: str = ""
) -> Problem:
    """Build a refusal of credentials, with the challenge of RFC 6750 section 3.

    Without any credentials the challenge carries no error code. REST APIs rename the header, so the body repeats it.
    """
    fields = f'Bearer realm="{realm}"'
    if code != "token_required":
        fields += f', error="{code}"'
    if detail is not None:
        fields += f', error_description="{detail}"'
    if scope is not None:
        fields += f', scope="{scope}"'
    return Problem(code, detail, reason=reason or code, headers={"WWW-Authenticate": fields})

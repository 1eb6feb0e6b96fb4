"""What can go wrong with a query, in Athena's words. Pure."""

from __future__ import annotations


class InvalidRequestError(Exception):
    """The request is refused (HTTP 400, `InvalidRequestException`); no query is started."""

    def __init__(self, message: str, code: str = "INVALID_INPUT") -> None:
        super().__init__(message)
        self.code = code


class QueryFailedError(Exception):
    """The query ends as FAILED, with this text as its `StateChangeReason`: `CODE: what happened`."""


class QueryCancelledError(Exception):
    """The query ends as CANCELLED."""

"""Errors of queries, with Athena's codes."""

from __future__ import annotations


class InvalidRequestError(Exception):
    """The request is refused (HTTP 400, `InvalidRequestException`); no query is started."""

    def __init__(self, message: str, code: str = "INVALID_INPUT") -> None:
        super().__init__(message)
        self.code = code


class QueryFailedError(Exception):
    """The query ends as FAILED; the message, `CODE: text`, is its `StateChangeReason`."""


class QueryCancelledError(Exception):
    """The query ends as CANCELLED."""

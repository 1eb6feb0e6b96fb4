"""What can go wrong on the wire, as a small set of exceptions. Pure."""

from __future__ import annotations


class WireError(Exception):
    """Whatever keeps a request from being answered; only its children are raised."""


class Unavailable(WireError):
    """The service did not answer in time or well: network, time-out, 5xx, a damaged body. Trying again may help."""


class Throttled(Unavailable):
    """The service answered, and asks for fewer requests."""


class Refused(WireError):
    """The service will not do this however often it is asked: 4xx, with AWS's code and message.

    A missing S3 object is `Refused` with status 404, and 403 where the role may not list the bucket.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


class TooLarge(WireError):
    """The answer is larger than the caller allows; it was not read to its end."""


class NoCredentials(Unavailable):
    """No credentials were found, or they could not be refreshed."""


class TransportError(Unavailable):
    """A request that got no whole answer; it may have been applied all the same."""


class Dropped(TransportError):
    """The connection ended before anything of the answer came, as a kept one does that the service has closed."""

"""The exceptions of `wire`."""


class WireError(Exception):
    """A request failed; only subclasses are raised."""


class Unavailable(WireError):
    """No successful response: network, time-out, 5xx or a malformed body. A retry can help."""


class Throttled(Unavailable):
    """The service rejected the request because there are too many."""


class Refused(WireError):
    """The service rejected the request for good: 4xx, with AWS's code and message.

    A missing S3 object is `Refused` with status 404, or 403 where the role is not allowed to list the bucket.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


class TooLarge(WireError):
    """The response is larger than the caller allows; it was not read to its end."""


class NoCredentials(Unavailable):
    """No credentials were found, or they could not be refreshed."""


class TransportError(Unavailable):
    """The request has no complete response; it is unknown whether the service has applied it."""


class Dropped(TransportError):
    """The connection ended before any byte of the response, e.g. because the service had closed it while idle."""

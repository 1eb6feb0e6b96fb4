"""The freshness of an item, as headers and as JSON: its as_of, its expires_at, and the run that wrote it."""

import time
from functools import lru_cache
from typing import NamedTuple

from serve.item import Order

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Freshness(NamedTuple):
    """An item's freshness as it is sent.

    Attributes:
        as_of: epoch seconds.
        as_of_text: as_of in RFC 3339.
        headers: for the response to a GET of the item; must not be modified, since it is cached.
        members: JSON members for an entry of a list.
    """

    as_of: float
    as_of_text: str
    headers: dict[str, str]
    members: str

    def age(self, now: float) -> int:
        """Return the whole seconds since as_of; 0 if as_of is in the future, since clocks differ."""
        return max(0, int(now - self.as_of))


@lru_cache(256)  # all items that one run wrote share one result
def describe_freshness(order: str, expires_at: int) -> Freshness:
    """Describe the freshness of an item from its order and expires_at (epoch seconds).

    An item whose order cannot be parsed counts as written by run 0 in 1970, the oldest possible.
    """
    try:
        parsed = Order.parse(order)
    except ValueError:  # the body can still be sent
        parsed = Order(0, 0, 0)
    as_of, ends, run = _render_instant(parsed.as_of_ms), _render_instant(expires_at * 1000), parsed.run
    return Freshness(
        as_of=parsed.as_of_ms / 1000,
        as_of_text=as_of,
        headers={
            "Last-Modified": render_http_date(parsed.as_of_ms // 1000),
            "Larder-As-Of": as_of,
            "Larder-Expires-At": ends,
            "Larder-Run": str(run),
        },
        members=f'"as_of":"{as_of}","expires_at":"{ends}","run":{run}',
    )


def build_headers(freshness: Freshness, now: float) -> dict[str, str]:
    """Build the headers; Last-Modified is never later than the response (RFC 9110, section 8.8.2.1)."""
    if freshness.as_of <= now:
        return freshness.headers
    return {**freshness.headers, "Last-Modified": render_http_date(int(now))}


def render_http_date(seconds: int) -> str:
    """Render an HTTP date (RFC 9110, section 5.6.7). `time.strftime` depends on the locale; `email` imports slowly."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(seconds)
    return f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year:04d} {hour:02d}:{minute:02d}:{second:02d} GMT"


def _render_instant(milliseconds: int) -> str:
    """Render an instant as RFC 3339, with milliseconds unless they are zero."""
    year, month, day, hour, minute, second, *_ = time.gmtime(milliseconds // 1000)
    fraction = f".{milliseconds % 1000:03d}" if milliseconds % 1000 else ""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{fraction}Z"

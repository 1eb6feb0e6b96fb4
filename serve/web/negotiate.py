"""Content negotiation and conditional requests.

RFC 9110: sections 12.5.1 (Accept), 12.5.3 (Accept-Encoding), 8.8.3 (ETag), 13.1.2 (If-None-Match), 13.1.3
(If-Modified-Since), 13.2.2 (precedence of the two).
"""

import re
from functools import lru_cache
from hashlib import sha256

# Number of recent headers whose result is cached: most clients send the same few, and parsing one takes 2 us of a GET's
# 140. A caller who sends many different ones only makes other requests as slow as they would be without a cache.
_CACHED = 64

# Both patterns are compiled at their first use, since many clients send neither header.
# A tag or nothing, up to a comma or the end: recipients ignore empty list members (section 5.6.1).
_TAGS = r'\s*(?:(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*)?(?:,|\Z)'
_WEIGHT = r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z"


@lru_cache(_CACHED)
def accepts_json(accept: str | None) -> bool:
    """Return whether `application/json` is acceptable; without the header everything is."""
    if accept is None or not accept.strip():
        return True
    accepted = _parse_accepted(accept)
    for media_range in ("application/json", "application/*", "*/*"):  # the most specific range decides
        if media_range in accepted:
            return accepted[media_range]
    return False


@lru_cache(_CACHED)
def choose_coding(accept_encoding: str | None, *, is_gzip: bool) -> str | None:
    """Choose `gzip` or `identity` for a body that is stored in one of them; None if neither is acceptable."""
    accepted = _parse_accepted(accept_encoding or "")
    identity = accepted.get("identity", accepted.get("*", True))
    gzip = [accepted[name] for name in ("gzip", "x-gzip") if name in accepted] or [accepted.get("*", False)]
    if any(gzip) and (is_gzip or not identity):
        return "gzip"
    return "identity" if identity else None


def build_etag(body: bytes) -> str:
    """Build a strong validator of the bytes that are sent; each coding has its own."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def is_current(
    if_none_match: str | None, if_modified_since: str | None, etag: str, last_modified: str | None = None
) -> bool:
    """Return whether the caller has the version that would be sent.

    If-None-Match takes precedence over the date. A date must be equal to `last_modified`; a later date does not match.
    as_of is not the time of publication, so an item with an older as_of can replace one with a newer as_of: when an
    output comes late, or when a withdrawal restores it.
    """
    if if_none_match is not None:
        return is_fresh(if_none_match, etag)
    return if_modified_since is not None and if_modified_since.strip() == last_modified


def is_fresh(if_none_match: str | None, etag: str) -> bool:
    """Return whether the caller has the version of `etag`, by weak comparison. A malformed header is ignored."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    match, position, tags = re.compile(_TAGS).match, 0, []
    while position < len(if_none_match):
        found = match(if_none_match, position)
        if found is None:
            return False
        tags.append(found[1])
        position = found.end()
    return etag in tags


def _parse_accepted(header: str) -> dict[str, bool]:
    """Parse `a;q=0.5, b` into whether a name has a weight above 0, since there is one representation to choose.

    Other parameters are ignored, and a malformed weight counts as 1.
    """
    accepted: dict[str, bool] = {}
    for member in header.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        if not name:
            continue
        is_accepted = True
        for parameter in parameters:
            if parameter.startswith("q=") and re.match(_WEIGHT, parameter[2:]):
                is_accepted = float(parameter[2:]) > 0
        accepted[name] = is_accepted or accepted.get(name, False)
    return accepted

"""as_of, when an output was made: the rules that a dataset can define, and parsing as_of from an object key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from urllib.parse import unquote
from zoneinfo import ZoneInfo, available_timezones

from enrich.dataset.suggestions import find_close


class BadAsOf(ValueError):
    """as_of cannot be parsed from the object key."""


@dataclass(frozen=True, slots=True)
class FromKey:
    """as_of is in the object key.

    Attributes:
        pattern: matches from the start of a path segment. `{}` is a date (`2026-11-20`, `20261120`) or an RFC 3339
            instant; `{year}`, `{month}`, `{day}`, `{hour}`, `{minute}` and `{second}` are the parts of an instant, from
            the year on without a gap; a part that is left out has its first value (January, the 1st, midnight). `*` is
            any text within a segment. Examples: `scored={}`, `year={year}/month={month}/day={day}`,
            `{year}/{month}/{day}/{hour}`, `dt={}/hour={hour}`, `*-{}.csv`.
        zone: time zone of a date, or of an instant without an offset, e.g. `Europe/Berlin`.
        ahead: how much later as_of can be than the output's arrival. Set it if the date is the day that the predictions
            are for, and not the day on which they were made: `ahead=timedelta(days=1)` for tomorrow's. Then the output
            with the later date is the newer one, and the ttl of an item counts from that date.
    """

    pattern: str
    zone: str = "UTC"
    ahead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class FromColumn:
    """as_of is in a column (date or timestamp) that has one value in the whole output, in every row.

    Attributes:
        column: name of the column.
        zone: time zone of a date, or of a timestamp without an offset.
        ahead: as in `FromKey`.
    """

    column: str
    zone: str = "UTC"
    ahead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class LastModified:
    """as_of is when S3 received the object (for a multipart upload: when the upload began)."""


AsOf = FromKey | FromColumn | LastModified

_UNITS = ("year", "month", "day", "hour", "minute", "second")
_PIECE = re.compile(r"(\{[^{}/]*\}|\*)")
_INSTANT = r"\d{4}-?(?:\d{2}-?\d{2}|W\d{2})[^/]*?"  # how a date begins, so that `*` does not match a part of it
_EXAMPLES = "scored={} or year={year}/month={month}/day={day}"


def get_ahead(rule: AsOf) -> timedelta:
    """Return how much later as_of can be than the output's arrival, per the dataset's definition."""
    return timedelta(0) if isinstance(rule, LastModified) else rule.ahead


def set_zone(instant: datetime, zone: str) -> datetime:
    """Return an instant in UTC; one without an offset is local time in the zone."""
    local: tzinfo = ZoneInfo(zone) if zone != "UTC" else UTC
    return (instant if instant.tzinfo else instant.replace(tzinfo=local)).astimezone(UTC)


def parse_as_of(rule: FromKey, object_key: str) -> datetime:
    """Parse as_of from an object key, in UTC.

    A colon or a plus can be percent-encoded, as Hive and Spark do in partition names.

    Raises:
        BadAsOf: no part of the key matches the pattern, several parts with different dates do, or the part is neither a
            date nor an instant.
    """
    found = _find(rule.pattern, _INSTANT, object_key) or _find(rule.pattern, "[^/]+?", object_key)
    if not found:
        raise BadAsOf(
            f"object key {object_key!r} does not match the pattern {rule.pattern!r} of as_of, which begins at the "
            "start of a path segment; change the key or the pattern: `*` is any text within a segment"
        )
    instants = {set_zone(_build(object_key, dict(parts)), rule.zone) for parts in found}
    if len(instants) > 1:
        raise BadAsOf(
            f"object key {object_key!r} has {len(instants)} different dates that match the pattern {rule.pattern!r} of "
            "as_of, expected one; write more of the key into the pattern"
        )
    return instants.pop()


def find_mistakes(rule: FromKey | FromColumn) -> Iterator[tuple[str, str]]:
    """Yield the mistakes in a rule, each with its remedy."""
    try:
        ZoneInfo(rule.zone)
    except (KeyError, ValueError, OSError):
        names = {name.lower(): name for name in available_timezones()}
        close = find_close(rule.zone.strip().lower(), names, cutoff=0.8)
        hint = f"did you mean {names[close]!r}?" if close else "write its name in the IANA database, e.g. Europe/Berlin"
        yield f"{rule.zone!r} is not a time zone", hint
    if not timedelta(0) <= rule.ahead <= timedelta(days=36_500):
        yield f"ahead is {rule.ahead}", "set how much later as_of can be than the arrival, e.g. timedelta(days=1)"
    if isinstance(rule, FromKey) and (wrong := _find_wrong_pattern(rule.pattern)):
        yield wrong, f"write e.g. {_EXAMPLES}"


def _find_wrong_pattern(pattern: str) -> str | None:
    if "//" in pattern:
        return f"{pattern!r} has a bucket or an empty segment, which no object key has"
    names = [piece[1:-1] for piece in _PIECE.findall(pattern) if piece != "*"]
    unknown = [name for name in names if name and name not in _UNITS]
    if unknown or "{" in _PIECE.sub("", pattern) or "}" in _PIECE.sub("", pattern):
        what = f"{{{unknown[0]}}}" if unknown else "a brace"
        return f"{pattern!r} has {what}; known are {{}}, {', '.join(f'{{{unit}}}' for unit in _UNITS)}"
    if len(set(names)) < len(names):
        return f"{pattern!r} has a placeholder twice"
    units = {"year", "month", "day", *names} - {""} if "" in names else set(names)
    if ("" in names and {"year", "month", "day"} & set(names)) or units != set(_UNITS[: len(units)]) or not units:
        return f"{pattern!r} needs one {{}}, or {{year}} and the parts after it without a gap"
    return None


def _find(pattern: str, instant: str, object_key: str) -> set[tuple[tuple[str, str], ...]]:
    """Return the texts that the placeholders match, as (name, text) pairs, one tuple for each different match."""
    return {tuple(match.groupdict().items()) for match in _compile(pattern, instant).finditer(object_key)}


def _build(object_key: str, texts: dict[str, str]) -> datetime:
    whole = unquote(texts.pop("instant", ""))
    units = {unit: int(text) for unit, text in texts.items()}
    try:
        if whole:
            return datetime.fromisoformat(whole).replace(**units)  # type: ignore[arg-type]
        return datetime(**{"month": 1, "day": 1, **units})  # type: ignore[arg-type]
    except ValueError:
        found = whole + "".join(f" {unit} {text}" for unit, text in texts.items())
        raise BadAsOf(
            f"object key {object_key!r}: {found.strip()!r} is neither a date such as 2026-11-20 nor an RFC 3339 "
            "instant; change the key, or the pattern of as_of"
        ) from None


@cache
def _compile(pattern: str, instant: str) -> re.Pattern[str]:
    pieces = _PIECE.split(pattern.removeprefix("/"))  # text, placeholder, text, placeholder, ..., text
    found = "(?:^|/)"
    for at, piece in enumerate(pieces):
        if at % 2 == 0:
            found += re.escape(piece)
        elif piece == "*":
            found += "[^/]*"
        elif piece == "{}":
            found += f"(?P<instant>{instant})"
        else:
            # Next to another number a part has its full width, which marks where it ends: 20261120, but not month=1.
            is_adjacent = (at > 1 and not pieces[at - 1]) or (at + 2 < len(pieces) and not pieces[at + 1])
            width = "4" if piece == "{year}" else "2" if is_adjacent else "1,2"
            found += rf"(?P<{piece[1:-1]}>\d{{{width}}})"
    return re.compile(found if pieces[-1] else f"{found}(?=/|$)", re.ASCII)

"""Guess a dataset's prefix, as_of and partition columns from the object keys of its outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from enrich.dataset.as_of import AsOf, BadAsOf, FromKey, LastModified, parse_as_of
from enrich.read.partitions import guess_type, parse_partitions

_DATE = r"(?:\d{4}-\d\d-\d\d(?:T[0-9:.%A-F]+Z?)?|\d{8})"
_SHAPES = (  # regular expression of a part of a key, from the start of a segment, and the pattern to declare for it
    (rf"([^/=]+=){_DATE}/hour=\d\d?/", "{0}{{}}/hour={{hour}}"),
    (rf"([^/=]+=){_DATE}/", "{0}{{}}"),
    (r"year=\d{4}/month=\d\d?/day=\d\d?/hour=\d\d?/", "year={{year}}/month={{month}}/day={{day}}/hour={{hour}}"),
    (r"year=\d{4}/month=\d\d?/day=\d\d?/", "year={{year}}/month={{month}}/day={{day}}"),
    (r"20\d\d/\d\d/\d\d/\d\d/", "{{year}}/{{month}}/{{day}}/{{hour}}"),
    (r"20\d\d/\d\d/\d\d/", "{{year}}/{{month}}/{{day}}"),
    (rf"{_DATE}/", "{{}}"),
    (rf"{_DATE}((?:\.[A-Za-z0-9]+)+)$", "{{}}{0}"),
    (rf"[^/]*?([-_]){_DATE}((?:\.[A-Za-z0-9]+)+)$", "*{0}{{}}{1}"),
)
_LATE = timedelta(minutes=5)  # a run refuses an as_of that is later than its output by more


def find_start(path: str) -> str | None:
    """Return a local path from its first segment that has a date or a `name=value`; None if there is none."""
    found = re.search(rf"(?:^|/)(?=[^/]*=[^/]*/|{_DATE}/|20\d\d/\d\d/\d\d/)", path)
    return path[found.end() :] if found else None


def guess_prefix(object_key: str, name: str) -> str:
    """Guess the prefix from a key on S3: its folders up to the first that has a date or a `name=value`."""
    steps = object_key.split("/")[:-1]
    dated = (n for n, step in enumerate(steps) if "=" in step or re.fullmatch(rf"{_DATE}|20\d\d", step))
    first = next(dated, None)
    chosen = steps[:first] if first is not None else steps[:1]
    return "/".join(chosen) + "/" if chosen else f"{name}/"


def guess_as_of(object_key: str, now: datetime) -> AsOf:
    """Guess the as_of rule: a date in the key, if it is valid and not in the future, otherwise LastModified."""
    for shape, pattern in _SHAPES:
        if found := re.search(rf"(?:^|/){shape}", object_key):
            rule = FromKey(pattern.format(*found.groups()))
            try:
                if parse_as_of(rule, object_key) <= now + _LATE:
                    return rule
            except BadAsOf:
                continue
    return LastModified()


def render_as_of(rule: AsOf) -> str:
    """Render a guessed rule as Python."""
    return f"FromKey({json.dumps(rule.pattern)})" if isinstance(rule, FromKey) else "LastModified()"


def find_partitions(object_keys: Iterable[str], rule: AsOf, columns: Collection[str]) -> dict[str, str]:
    """Find the columns that keys have as `name=value`, with their types.

    A column of the file takes precedence. The part that as_of is read from is left out: with it in the body, every
    output would change every item.
    """
    values: dict[str, list[str]] = {}
    for object_key in object_keys:
        for name, value in parse_partitions(object_key).items():
            values.setdefault(name, []).append(value)
    dated = re.findall(r"([^/=]+)=\{", rule.pattern) if isinstance(rule, FromKey) else []
    taken = {name.lower() for name in [*columns, *dated]}
    return {name: guess_type(found) for name, found in values.items() if name.lower() not in taken}

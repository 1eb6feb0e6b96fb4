"""Gather one page of live items from as many queries as it takes, up to a bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from serve.item import Item, body_text, is_expired
from serve.web.route import Page

MAX_QUERIES = 5
# Of the whole page in UTF-8. A load balancer takes 1 MB of JSON from a function, in which a large body is base64: four
# bytes for three (`respond.render`).
MAX_PAGE_BYTES = 700_000
SKIP = 1000  # how many items a query may look at once a page has turned out to begin with expired ones


class QueryResult(NamedTuple):
    """What one query saw: items in order, and where to go on (None: the end)."""

    items: list[Item]
    last: str | None


class Entry(NamedTuple):
    """One item of a page, and its member of the page's JSON."""

    prediction_id: str
    json: str


class Found(NamedTuple):
    """A page: `next_after` is None if it is the last; `expires_at` is when its first item goes (never: infinity)."""

    entries: list[Entry]
    next_after: str | None
    expires_at: float

    @property
    def json(self) -> str:
        """The page as it is sent."""
        return f'{{"items":[{",".join([entry.json for entry in self.entries])}]}}'


Query = Callable[[str, int], QueryResult]  # (after, limit), both within the page's prefix


def gather(query: Query, page: Page, now: float) -> Found:
    """Gather a page. Expired items and tombstones are passed over, wherever they lie (they can fill thousands of rows).

    A page may be short, even empty, and still have a next one: when the bound on queries or on bytes is met first. An
    item that is larger than the bound is a page of its own.

    Raises:
        ValueError: a stored body is damaged.
    """
    after = page.after
    if page.prefix and not after.startswith(page.prefix):
        if after > page.prefix:  # past the last one; DynamoDB refuses to begin outside of the prefix
            return Found([], None, float("inf"))
        after = ""
    entries: list[Entry] = []
    size, expires_at = len('{"items":[]}'), float("inf")
    for number in range(MAX_QUERIES):
        result = query(after, page.limit + 1 if number == 0 else SKIP)
        for item in result.items:
            if item.body is None or is_expired(item.expires_at, now):
                continue
            entry = Entry(item.sk, f'{{"prediction_id":{json.dumps(item.sk)},"body":{body_text(item.body)}}}')
            size += len(entry.json.encode()) + bool(entries)  # and a comma
            if len(entries) == page.limit or (entries and size > MAX_PAGE_BYTES):
                return Found(entries, entries[-1].prediction_id, expires_at)
            entries.append(entry)
            expires_at = min(expires_at, item.expires_at)
        if result.last is None:
            return Found(entries, None, expires_at)
        after = result.last
    return Found(entries, after, expires_at)

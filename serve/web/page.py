"""Collect one page of live items from several queries, up to a bound on queries and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from serve.item import BodyTooLarge, Item, body_text, is_expired
from serve.web.problems import Problem
from serve.web.route import PageQuery

MAX_QUERIES = 5
# Of the whole page in UTF-8, below `respond.MAX_SENT` of every door.
MAX_PAGE_BYTES = 700_000
SKIP = 1000  # items that a query evaluates after the first, which found too few live ones


class QueryResult(NamedTuple):
    """Result of one query: items in order, and where the next query starts (None: the end)."""

    items: list[Item]
    last: str | None


class Entry(NamedTuple):
    """One item of a page, and its member of the page's JSON."""

    prediction_id: str
    json: str


class Page(NamedTuple):
    """A page: `next_after` is None if it is the last; `expires_at` is the earliest of its items (none: infinity)."""

    entries: list[Entry]
    next_after: str | None
    expires_at: float

    @property
    def json(self) -> str:
        """The page as it is sent."""
        return f'{{"items":[{",".join([entry.json for entry in self.entries])}]}}'


Query = Callable[[str, int], QueryResult]  # (after, limit), both within the page's prefix


def gather(query: Query, page: PageQuery, now: float) -> Page:
    """Collect a page. Expired items and tombstones are skipped; there can be thousands of them.

    A page can be short, even empty, and have a next one: if the bound on queries or bytes is reached first. An item
    that is larger than the bound is a page of its own.

    Raises:
        Problem: not_acceptable, if the page would begin with a body that is too large for any page.
        ValueError: a stored body is damaged.
    """
    after = page.after
    if page.prefix and not after.startswith(page.prefix):
        if after > page.prefix:  # past the last item; DynamoDB rejects a start outside of the prefix
            return Page([], None, float("inf"))
        after = ""
    entries: list[Entry] = []
    size, expires_at = len('{"items":[]}'), float("inf")
    for number in range(MAX_QUERIES):
        result = query(after, page.limit + 1 if number == 0 else SKIP)
        for item in result.items:
            if item.body is None or is_expired(item.expires_at, now):
                continue
            try:
                text = body_text(item.body)
            except BodyTooLarge:  # written by a release that had no bound
                if entries:
                    return Page(entries, entries[-1].prediction_id, expires_at)
                detail = f"the body of item {item.sk} is too large for a list: get that item with Accept-Encoding: gzip"
                link = {"Link": page.link_after(item.sk)}
                raise Problem("not_acceptable", detail, reason="body-too-large", headers=link) from None
            entry = Entry(item.sk, f'{{"prediction_id":{json.dumps(item.sk)},"body":{text}}}')
            size += len(entry.json.encode()) + bool(entries)  # and a comma
            if len(entries) == page.limit or (entries and size > MAX_PAGE_BYTES):
                return Page(entries, entries[-1].prediction_id, expires_at)
            entries.append(entry)
            expires_at = min(expires_at, item.expires_at)
        if result.last is None:
            return Page(entries, None, expires_at)
        after = result.last
    return Page(entries, after, expires_at)

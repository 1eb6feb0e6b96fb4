"""Collect live items into a page of limited size: a page of a list, or the items that a request names."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from serve.item import BodyTooLarge, Item, body_text, is_expired
from serve.web.fields import cut
from serve.web.freshness import describe_freshness
from serve.web.problems import Problem
from serve.web.route import ItemsQuery, PageQuery, TopQuery, Wanted
from serve.web.version import find_version

MAX_QUERIES = 5
# Limit of the whole page in UTF-8, below `respond.MAX_SENT` for every event form.
MAX_PAGE_BYTES = 700_000
_quote = json.encoder.encode_basestring_ascii  # what `json.dumps` calls for a text
SKIP = 1000  # items that each query after the first evaluates, when the first has found too few live ones


class QueryResult(NamedTuple):
    """Result of one query: items in order, and where the next query starts (None: the end)."""

    items: list[Item]
    last: str | None


class Entry(NamedTuple):
    """One item of a page, as its prediction_id and its JSON text; valid until `until` (epoch seconds).

    The JSON of an item that is older than the request accepts has no body.
    """

    prediction_id: str
    json: str
    is_too_old: bool
    until: float


class Page(NamedTuple):
    """A page of items as it is sent.

    Attributes:
        entries: the items, in the order of the response.
        link: the `Link` header to the next page; empty if there is none.
        expires_at: epoch seconds until which the page is valid: the earliest `until` of its entries (without entries:
            infinity).
        wanted: what the request wants of each item.
        missing: requested ids for which the subject has no item; None for a list.
        remaining: requested ids that were not read, because the page had reached its size; None for a list.
    """

    entries: list[Entry]
    link: dict[str, str]
    expires_at: float
    wanted: Wanted
    missing: Sequence[str] | None = None
    remaining: Sequence[str] | None = None

    @property
    def json(self) -> str:
        """The JSON text of the page."""
        pieces = ['{"items":[', *_separate(entry.json for entry in self.entries if not entry.is_too_old)]
        if self.wanted.max_age is not None:
            pieces += ['],"too_old":[', *_separate(entry.json for entry in self.entries if entry.is_too_old)]
        pieces.append("]")
        if self.missing is not None:
            pieces.append(f',"missing":{json.dumps(self.missing)},"remaining":{json.dumps(self.remaining)}')
        pieces.append("}")
        return "".join(pieces)  # once: each copy of a large text costs more than all that was built for it


Query = Callable[[str, int], QueryResult]  # (after, limit): after a position, within the page's prefix
Read = Callable[[Sequence[str]], Iterable[tuple[Sequence[str], dict[str, Item]]]]  # ids -> some of them, with items


def gather(query: Query, page: PageQuery | TopQuery, now: float) -> Page:
    """Collect a page. Expired items and tombstones are skipped; there can be thousands of them.

    A page can have few items, or none, and still have a next page: if the limit on queries or bytes is reached first.
    An item larger than the limit is a page of its own. An item that is too old for the request counts towards `limit`.

    Raises:
        Problem: not_acceptable, if the page would begin with a body that is too large for any page.
        ValueError: a stored body is damaged.
    """
    after = page.after
    if page.prefix and not after.startswith(page.prefix):
        if after > page.prefix:  # past the last item; DynamoDB rejects a start outside of the prefix
            return Page([], {}, float("inf"), page.wanted)
        after = ""
    entries: list[Entry] = []
    reached = ""  # position of the last entry in the list
    taken: set[str] = set()  # while an item's rank changes, an index can have the item twice
    size = len(_close(entries, {}, page.wanted).json)
    for number in range(MAX_QUERIES):
        result = query(after, page.limit + 1 if number == 0 else SKIP)
        for item in result.items:
            if item.body is None or is_expired(item.expires_at, now) or item.sk in taken:
                continue
            try:
                entry = _build_entry(item, page.wanted, now)
            except BodyTooLarge:  # written by a release that had no limit
                if entries:
                    return _close(entries, page.link_after(reached, len(entries)), page.wanted)
                raise _too_large(item.sk, page.link_after(page.find_position(item), 1)) from None
            size += len(entry.json.encode()) + bool(entries)  # and a comma
            if len(entries) == page.limit or (entries and size > MAX_PAGE_BYTES):
                return _close(entries, page.link_after(reached, len(entries)), page.wanted)
            entries.append(entry)
            reached = page.find_position(item)
            taken.add(item.sk)
            if page.is_complete(len(entries)):
                return _close(entries, {}, page.wanted)
        if result.last is None:
            return _close(entries, {}, page.wanted)
        after = result.last
    return _close(entries, page.link_after(after, len(entries)), page.wanted)


def gather_named(read: Read, asked: ItemsQuery, now: float) -> Page:
    """Collect the items that a request names, in its order.

    Each id is in the page: as an item, as too old, as missing, or as remaining if the limit on bytes is reached first.
    An item larger than the limit is a page of its own.

    Raises:
        Problem: not_acceptable, if the body of the first id is too large for any page.
        ValueError: a stored body is damaged.
    """
    entries: list[Entry] = []
    missing: list[str] = []
    size, position = len(_close(entries, {}, asked.wanted, missing, ()).json), 0
    for ids, found in read(asked.ids):
        for prediction_id in ids:
            item = found.get(prediction_id)
            if item is None or item.body is None or is_expired(item.expires_at, now):
                missing.append(prediction_id)
                size += len(prediction_id) + len('"", ')
                position += 1
                continue
            try:
                entry = _build_entry(item, asked.wanted, now)
            except BodyTooLarge:
                if not position:
                    raise _too_large(prediction_id, asked.link_from(1)) from None
                entry = None
            size += len(entry.json.encode()) + bool(entries) if entry else 0
            if entry is None or (entries and size > MAX_PAGE_BYTES):
                rest = asked.ids[position:]
                return _close(entries, asked.link_from(position), asked.wanted, missing, rest)
            entries.append(entry)
            position += 1
    return _close(entries, {}, asked.wanted, missing, ())


def _build_entry(item: Item, wanted: Wanted, now: float) -> Entry:
    """Build the entry of a live item.

    Raises:
        BodyTooLarge: the body is too large for any page.
        ValueError: the body is damaged.
    """
    freshness = describe_freshness(item.order, item.expires_at)
    text = None
    members = f'"prediction_id":{_quote(item.sk)},{freshness.members}'
    if wanted.version:
        text = body_text(item.body or "")
        members += f',"model_version":{find_version(text, wanted.version).json}'
    until = float(item.expires_at)
    if wanted.max_age is not None:
        if is_too_old(freshness.as_of, wanted.max_age, now):
            return Entry(item.sk, f"{{{members}}}", True, until)
        until = min(until, freshness.as_of + wanted.max_age)
    text = body_text(item.body or "") if text is None else text
    if wanted.selection is not None:
        text = cut(text, wanted.selection)
    return Entry(item.sk, f'{{{members},"body":{text}}}', False, until)


def _separate(texts: Iterable[str]) -> list[str]:
    """Return the texts with commas between them."""
    return [piece for text in texts for piece in (",", text)][1:]


def is_too_old(as_of: float, max_age: int, now: float) -> bool:
    """Return whether an item is older than a request accepts, if only by a fraction of a second."""
    return now - as_of > max_age


def _close(
    entries: list[Entry],
    link: dict[str, str],
    wanted: Wanted,
    missing: Sequence[str] | None = None,
    remaining: Sequence[str] | None = None,
) -> Page:
    expires_at = min([entry.until for entry in entries], default=float("inf"))
    return Page(entries, link, expires_at, wanted, missing, remaining)


def _too_large(prediction_id: str, link: dict[str, str]) -> Problem:
    detail = f"the body of item {prediction_id} is too large for a list: get that item with Accept-Encoding: gzip"
    return Problem("not_acceptable", detail, reason="body-too-large", headers=link)

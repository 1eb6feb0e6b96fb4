"""Route a method and a path, before the token is verified."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

from serve.datasets import Place, Served, list_names
from serve.item import PREDICTION_ID, RANK_PLACE, Item
from serve.web.fields import Selection, select
from serve.web.problems import Problem


class UseCase(StrEnum):
    """What a request asks for: a short, closed list, since the dashboards group by it."""

    GET_ITEM = "get_item"
    GET_ITEMS = "get_items"
    LIST_ITEMS = "list_items"
    TOP_ITEMS = "top_items"
    HEALTH = "health"
    OPTIONS = "options"
    UNROUTED = "unrouted"  # unknown path, wrong method, malformed event


class Route(NamedTuple):
    """The use case, dataset and item that a request asks for."""

    use_case: UseCase
    dataset: Served | None = None
    prediction_id: str = ""


class Wanted(NamedTuple):
    """What a request wants of each item.

    Attributes:
        fields: members of the body, as the caller named them; empty for all.
        selection: `fields` as the argument of `serve.web.fields.cut`; None for all.
        max_age: greatest accepted age of an item (now - as_of), in seconds; None for any.
        version: the member of the body that is sent as the model's version, of a dataset that names one.
    """

    fields: str = ""
    selection: Selection | None = None
    max_age: int | None = None
    version: Place = ()

    @property
    def query(self) -> str:
        """The parameters that repeat this in the query of a link, each after an `&`."""
        fields = f"&fields={quote(self.fields)}" if self.fields else ""
        return fields + (f"&max_age={self.max_age}" if self.max_age is not None else "")


WHOLE = Wanted()


class PageQuery(NamedTuple):
    """The query of a list: at most `limit` items whose prediction_id begins with `prefix` and sorts after `after`."""

    limit: int
    after: str
    prefix: str
    wanted: Wanted = WHOLE

    def link_after(self, position: str, taken: int) -> dict[str, str]:
        """Build the link to the page after a position; relative, because the function does not know its public host."""
        del taken
        prefix = f"&prefix={quote(self.prefix)}" if self.prefix else ""
        return {"Link": f'<?limit={self.limit}&after={quote(position)}{prefix}{self.wanted.query}>; rel="next"'}

    def find_position(self, item: Item) -> str:
        """Return the position of an item in the list."""
        return item.sk

    def is_complete(self, taken: int) -> bool:
        """Return whether a page with so many items is the end of the list."""
        del taken
        return False


class TopQuery(NamedTuple):
    """The query of a ranked list: the first `top` items after the position `after`, at most `limit` in a page."""

    top: int
    limit: int
    after: str
    wanted: Wanted = WHOLE
    prefix: str = ""

    def link_after(self, position: str, taken: int) -> dict[str, str]:
        """Build the link to the page after a position, for the remaining items; empty if none remain."""
        if self.is_complete(taken):
            return {}
        query = f"top={self.top - taken}&limit={self.limit}&after_rank={quote(position)}{self.wanted.query}"
        return {"Link": f'<?{query}>; rel="next"'}

    def find_position(self, item: Item) -> str:
        """Return the position of an item in the list: `PLACE:prediction_id`, without the rank's tag."""
        return (item.rank or "").partition(":")[2]

    def is_complete(self, taken: int) -> bool:
        """Return whether so many items are all that the request asks for."""
        return taken >= self.top


class ItemsQuery(NamedTuple):
    """The query of several items by their prediction_ids."""

    ids: tuple[str, ...]
    wanted: Wanted = WHOLE

    def link_from(self, position: int) -> dict[str, str]:
        """Build the link to the items from `position` on; empty if there are none, or the link is too long."""
        ids = "&".join([f"id={quote(one)}" for one in self.ids[position:]])
        link = f'<?{ids}{self.wanted.query}>; rel="next"'
        return {"Link": link} if ids and len(link) <= MAX_LINK else {}


ALLOW = "GET, HEAD, OPTIONS"
DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_TOP = 100
MAX_IDS = 100  # DynamoDB's quota for the keys of one BatchGetItem
MAX_LINK = 8000  # characters; API Gateway takes 10,240 bytes of headers
_MAX_NAMES, _MAX_NAME = 5, 64  # how many unknown names an error repeats, and how many characters of each
_MAX_KNOWN = 50  # how many members of a body an error lists
# Compiled at their first use: few requests have such parameters, and each takes 0.1 ms of a cold start.
_LIMIT = r"[1-9][0-9]{0,2}\Z"
_SECONDS = r"(?:0|[1-9][0-9]{0,8})\Z"
_ANY = r"(?s:.+)\Z"
_WANTED, _PAGE = ("fields", "max_age"), ("limit", "after", "prefix")
_TOP = ("top", "after_rank")  # of a dataset with a rank


def route(method: str, path: str, served: Mapping[str, Served], query: Mapping[str, list[str]]) -> Route:
    """Return the route. With `id` in its query, the path of a dataset gets the named items; without, it lists items.

    Raises:
        Problem: not_found, or method_not_allowed with `Allow`.
    """
    found = _find(path, served)
    if found is None:
        raise Problem("not_found")
    if method == "OPTIONS":
        return Route(UseCase.OPTIONS, found.dataset)
    if method not in ("GET", "HEAD"):
        raise Problem("method_not_allowed", headers={"Allow": ALLOW})
    if found.use_case is UseCase.LIST_ITEMS:
        for name, use_case in (("id", UseCase.GET_ITEMS), ("top", UseCase.TOP_ITEMS)):
            if name in query:
                return found._replace(use_case=use_case)
    return found


def _find(path: str, served: Mapping[str, Served]) -> Route | None:
    match path.split("/"):
        case ["", "v1", "health"]:
            return Route(UseCase.HEALTH)
        case ["", "v1", name] if name in served:
            return Route(UseCase.LIST_ITEMS, served[name])
        case ["", "v1", name, prediction_id] if name in served and PREDICTION_ID.match(prediction_id):
            return Route(UseCase.GET_ITEM, served[name], prediction_id)
    return None


def parse_wanted(query: Mapping[str, list[str]], dataset: Served) -> Wanted:
    """Parse the parameters that every path takes: `fields` and `max_age`.

    Raises:
        Problem: invalid_request, for a parameter that is out of range, empty or repeated, or a member that the
            dataset's body does not have.
    """
    fields = _single(query, "fields", _ANY, "names of members with commas between them, e.g. a,b.c")
    max_age = _single(query, "max_age", _SECONDS, "a whole number of seconds, up to 999999999")
    selection = _parse_fields(fields, dataset) if fields else None
    return Wanted(fields, selection, int(max_age) if max_age else None, dataset.version_place)


def parse_item_query(query: Mapping[str, list[str]], dataset: Served) -> Wanted:
    """Parse the query of one item.

    Raises:
        Problem: invalid_request, for an unknown parameter, and as in `parse_wanted`.
    """
    if not query:
        return Wanted(version=dataset.version_place)
    check_known(query, _WANTED)
    return parse_wanted(query, dataset)


def parse_items_query(query: Mapping[str, list[str]], dataset: Served) -> ItemsQuery:
    """Parse the query of several items: their ids, in the order in which they are sent back.

    Ids need no check against the subject: the partition comes from the token, so no id leads to another subject's item.

    Raises:
        Problem: invalid_request, for too many ids, an id that is malformed or given twice, a parameter of lists, and as
            in `parse_item_query`.
    """
    _check_list(query, dataset)
    mixed = [name for name in (*_PAGE, *_TOP) if name in query]
    if mixed:
        raise Problem("invalid_request", f"id names the items: it can't be combined with {', '.join(mixed)}")
    ids = query["id"]
    if len(ids) > MAX_IDS:
        raise Problem("invalid_request", f"there are {len(ids)} ids: ask for at most {MAX_IDS} at a time")
    places: dict[str, int] = {}
    for place, one in enumerate(ids, 1):
        if not PREDICTION_ID.match(one):
            raise Problem("invalid_request", f"id number {place} must be a prediction_id")
        if places.setdefault(one, place) != place:
            raise Problem("invalid_request", f"id number {place} is the same as number {places[one]}: ask for it once")
    return ItemsQuery(tuple(ids), parse_wanted(query, dataset))


def parse_page(query: Mapping[str, list[str]], dataset: Served) -> PageQuery:
    """Parse the query of a list.

    `after` needs no signature: the partition comes from the token, so `after` only chooses where in it to start.

    Raises:
        Problem: invalid_request, for a parameter that is unknown, out of range, empty, or repeated.
    """
    _check_list(query, dataset)
    if "after_rank" in query:
        raise Problem("invalid_request", "after_rank continues a ranked list: send it with top, as the link does")
    limit = _count(query, "limit", MAX_LIMIT)
    after = _single(query, "after", PREDICTION_ID, "a prediction_id")
    prefix = _single(query, "prefix", PREDICTION_ID, "the beginning of a prediction_id")
    return PageQuery(limit or DEFAULT_LIMIT, after, prefix, parse_wanted(query, dataset))


def parse_top(query: Mapping[str, list[str]], dataset: Served) -> TopQuery:
    """Parse the query of a ranked list. `after_rank` only chooses where in the token's partition to start.

    Raises:
        Problem: invalid_request, if the dataset has no rank, for a parameter that `top` excludes, and as in
            `parse_page`.
    """
    _check_list(query, dataset)
    mixed = [name for name in ("after", "prefix") if name in query]
    if mixed:
        detail = f"top lists items by rank: send it without {', '.join(mixed)} (of lists by prediction_id)"
        raise Problem("invalid_request", detail)
    top = _count(query, "top", MAX_TOP)
    limit = min(_count(query, "limit", MAX_LIMIT) or top, top)
    after = _single(query, "after_rank", RANK_PLACE, "the value in the link to the next page")
    return TopQuery(top, limit, after, parse_wanted(query, dataset))


def _check_list(query: Mapping[str, list[str]], dataset: Served) -> None:
    """Check that a query of the items' path has only parameters that the dataset knows."""
    ranked = [name for name in _TOP if name in query]
    if ranked and not dataset.rank_tag:
        detail = f"this dataset has no rank, so there is no ranked list of its items: leave out {', '.join(ranked)}"
        raise Problem("invalid_request", detail)
    check_known(query, ("id", *_PAGE, *(_TOP if dataset.rank_tag else ()), *_WANTED))


def check_known(query: Mapping[str, list[str]], known: tuple[str, ...]) -> None:
    """Check that a query has no other parameters: ignoring a filter would return a wrong result.

    Raises:
        Problem: invalid_request, with the names of unknown parameters, which are percent-encoded: the caller controls
            them. Values are not repeated, as they can be secrets.
    """
    unknown = [name for name in query if name not in known]
    if unknown:
        raise Problem("invalid_request", f"unknown query parameter {_quote(unknown)}; known are {', '.join(known)}")


def _parse_fields(text: str, dataset: Served) -> Selection:
    known = list_names(dataset.places)
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(list(known)[:_MAX_KNOWN]) + (", ..." if len(known) > _MAX_KNOWN else "")
        expected = f"known are {listed}" if known else "none is known"
        raise Problem("invalid_request", f"fields has the unknown member {_quote(unknown)}; {expected}")
    return select([place for name in names for place in known[name]])


def _quote(names: list[str]) -> str:
    """Render names that a caller chose, percent-encoded."""
    quoted = sorted({f"'{quote(name, safe='')[:_MAX_NAME]}'" for name in names})
    return ", ".join(quoted[:_MAX_NAMES]) + (", ..." if len(quoted) > _MAX_NAMES else "")


def _count(query: Mapping[str, list[str]], name: str, most: int) -> int:
    """Parse a number of items; return 0 if the query does not have it."""
    meaning = f"a whole number from 1 to {most}"
    text = _single(query, name, _LIMIT, meaning)
    if text and int(text) > most:
        raise Problem("invalid_request", f"{name} must be {meaning}")
    return int(text) if text else 0


def _single(query: Mapping[str, list[str]], name: str, pattern: str | re.Pattern[str], meaning: str) -> str:
    if not query.get(name):
        return ""
    value, *others = query[name]
    if others or not re.match(pattern, value):
        raise Problem("invalid_request", f"{name} must be {meaning}, given once")
    return value

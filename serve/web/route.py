"""Route a method and a path, before the token is verified."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

from serve.datasets import Served
from serve.item import PREDICTION_ID
from serve.web.problems import Problem


class UseCase(StrEnum):
    """What a request asks for; the dashboards group by it, so it is a short, closed list."""

    GET_ITEM = "get_item"
    LIST_ITEMS = "list_items"
    HEALTH = "health"
    OPTIONS = "options"
    UNROUTED = "unrouted"  # unknown path, wrong method, malformed event


class Route(NamedTuple):
    """The use case, dataset and item that a request asks for."""

    use_case: UseCase
    dataset: Served | None = None
    prediction_id: str = ""


class PageQuery(NamedTuple):
    """The query of a list: at most `limit` items whose prediction_id begins with `prefix` and sorts after `after`."""

    limit: int
    after: str
    prefix: str

    def link_after(self, prediction_id: str) -> str:
        """Render the link to the page after an item: relative, as the function does not know its public host."""
        prefix = f"&prefix={quote(self.prefix)}" if self.prefix else ""
        return f'<?limit={self.limit}&after={quote(prediction_id)}{prefix}>; rel="next"'


ALLOW = "GET, HEAD, OPTIONS"
DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_MAX_NAMES, _MAX_NAME = 5, 64  # unknown parameters that an error names, and characters of each
_LIMIT = re.compile(r"[1-9][0-9]{0,2}\Z")


def route(method: str, path: str, served: Mapping[str, Served]) -> Route:
    """Return the route.

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


def parse_page(query: Mapping[str, list[str]]) -> PageQuery:
    """Parse the query of a list.

    `after` needs no signature: the partition comes from the token, so `after` only chooses where in it to start.

    Raises:
        Problem: invalid_request, for a parameter that is unknown, out of range, empty, or repeated.
    """
    check_known(query, PageQuery._fields)
    limit = _single(query, "limit", _LIMIT, f"a whole number from 1 to {MAX_LIMIT}")
    if limit and int(limit) > MAX_LIMIT:
        raise Problem("invalid_request", f"limit must be a whole number from 1 to {MAX_LIMIT}")
    after = _single(query, "after", PREDICTION_ID, "a prediction_id")
    prefix = _single(query, "prefix", PREDICTION_ID, "the beginning of a prediction_id")
    return PageQuery(int(limit) if limit else DEFAULT_LIMIT, after, prefix)


def check_known(query: Mapping[str, list[str]], known: tuple[str, ...]) -> None:
    """Check that a query has no other parameters: a filter that is ignored would answer another question.

    Raises:
        Problem: invalid_request, with the names of unknown parameters, which are percent-encoded: the caller controls
            them. Values are not repeated, as they can be secrets.
    """
    unknown = [f"'{quote(name, safe='')[:_MAX_NAME]}'" for name in query if name not in known]
    if unknown:
        named = ", ".join(sorted(unknown)[:_MAX_NAMES]) + (", ..." if len(unknown) > _MAX_NAMES else "")
        expected = f"known are {', '.join(known)}" if known else "this path has none"
        raise Problem("invalid_request", f"unknown query parameter {named}; {expected}")


def _single(query: Mapping[str, list[str]], name: str, pattern: re.Pattern[str], meaning: str) -> str:
    values = query.get(name, [])
    if not values:
        return ""
    if len(values) > 1 or not pattern.match(values[0]):
        raise Problem("invalid_request", f"{name} must be {meaning}, given once")
    return values[0]

"""Route a method and a path. This happens before the token is verified."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from score.model import Model
from serve.web.problems import Problem
from serve.web.route import check_known


class UseCase(StrEnum):
    """The kinds of requests. The dashboards group by them, so the list is short and closed."""

    SCORE = "score"
    DESCRIBE = "describe_model"
    DIRECT = "direct"
    OPTIONS = "options"
    UNROUTED = "unrouted"  # unknown path, wrong method, malformed event


class Route(NamedTuple):
    """The use case and model of a request, and the allowed methods of its path."""

    use_case: UseCase
    model: Model
    allow: str


_SCORE, _DESCRIBE = "POST, OPTIONS", "GET, HEAD, OPTIONS"


def route(method: str, path: str, models: Mapping[str, Model]) -> Route:
    """Return the route.

    Raises:
        Problem: not_found, or method_not_allowed with `Allow`.
    """
    match path.split("/"):
        case ["", "v1", "models", name, "score"] if name in models:
            found = Route(UseCase.SCORE, models[name], _SCORE)
        case ["", "v1", "models", name] if name in models:
            found = Route(UseCase.DESCRIBE, models[name], _DESCRIBE)
        case _:
            raise Problem("not_found")
    if method not in found.allow.split(", "):
        raise Problem("method_not_allowed", headers={"Allow": found.allow})
    return found._replace(use_case=UseCase.OPTIONS) if method == "OPTIONS" else found


def parse_explain(query: Mapping[str, list[str]]) -> bool:
    """Parse the query of a score; return whether each prediction is to be explained.

    Raises:
        Problem: invalid_request, for an unknown parameter, or a value other than true or false.
    """
    check_known(query, ("explain",))
    match query.get("explain", ["false"]):
        case ["true"]:
            return True
        case ["false"]:
            return False
    raise Problem("invalid_request", "explain must be true or false, given once")

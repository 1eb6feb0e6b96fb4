"""The Lambda entry point: an event with a token and a path in, the stored bytes of the item out.

    parse_request -> route -> verify_token -> authorize -> item_key -> get_item -> is_expired -> respond

An event of a REST API, reduced to what is read (`serve.web.request` has the other forms):

    {"httpMethod": "GET", "path": "/v1/flight-delays/2024-01-02.JFK.B6.1", "headers": {"Authorization": "Bearer ..."},
     "queryStringParameters": null, "requestContext": {"requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"}}
"""

import gc

# Until all is imported. None of it is garbage, and searching it for garbage takes 9 ms of a cold start.
gc.disable()

import os
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

from serve.access import NoAccess, find_partition
from serve.bearer import authenticate, open_verifier, refuse
from serve.datasets import Served, load_served
from serve.item import Item, is_expired
from serve.log import build_key_line, build_request_line, hash_subject, note_fault, note_problem, write
from serve.settings import Settings, parse_settings
from serve.storage import Storage, StorageUnavailable
from serve.tokens.jwt import InvalidToken
from serve.tokens.verifier import Verifier
from serve.web.page import gather, gather_named
from serve.web.problems import Problem, unavailable
from serve.web.request import HttpRequest, MalformedEvent, check_repeatable, parse_form, parse_request
from serve.web.respond import (
    HttpResponse,
    add_cors,
    check_acceptable,
    render_response,
    respond_health,
    respond_item,
    respond_options,
    respond_page,
    respond_problem,
)
from serve.web.route import Route, UseCase, parse_item_query, parse_items_query, parse_page, parse_top, route
from wire.client import Client, Limits
from wire.credentials import find_source
from wire.deadline import time_limit
from wire.endpoint import resolve

# Seconds for all that a request waits for: keys, storage, retries. After that the response is a 503 with Retry-After:
# the function's time-out (template.yaml) would end the invocation without a response or a log line.
REQUEST_SECONDS = 7.0
# Seconds of the invocation's remaining time that are kept for the response and its log line. A first request has less
# than `REQUEST_SECONDS`, because the start of the function counts too.
MARGIN_SECONDS = 1.0
# Limits of one call; far below the 29 s of API Gateway.
LIMITS = Limits(connect=1.0, attempt=1.0, budget=4.0, tries=4, largest=8 * 1024 * 1024)

Handler = Callable[[Any, Any], dict[str, Any]]


class Dependencies(NamedTuple):
    """What the handler depends on; tests pass their own."""

    settings: Settings
    storage: Storage
    verifier: Verifier
    served: Mapping[str, Served]
    now: Callable[[], float] = time.time
    write: Callable[[str], None] = write


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Handle an event; dependencies are built for the first one."""
    return _handler()(event, context)


def build_handler(dependencies: Dependencies) -> Handler:
    """Return a handler with these dependencies."""

    def handle(event: Any, context: Any) -> dict[str, Any]:
        with time_limit(_seconds_left(context)):
            return _handle(dependencies, event)

    return handle


def build_dependencies(
    env: Mapping[str, str], served: Mapping[str, Served], write: Callable[[str], None] = write
) -> Dependencies:
    """Build the dependencies of a deployment from its environment variables and its datasets; `write` takes log lines.

    Raises:
        ValueError: a variable is missing or malformed.
    """
    settings = parse_settings(env, served)
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    client = Client(resolve("dynamodb", region, env), find_source(env), LIMITS)

    def report(event: str, details: Mapping[str, object]) -> None:
        write(build_key_line(settings.environment, time.time(), event, details))

    verifier = open_verifier(settings.issuers, env, report)
    return Dependencies(settings, Storage(client.send, settings.table), verifier, served, write=write)


@cache
def _handler() -> Handler:
    return build_handler(build_dependencies(os.environ, load_served()))


def _seconds_left(context: Any) -> float:
    """Return the seconds that a request can wait; on a laptop there is no context to ask."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return REQUEST_SECONDS if remaining is None else min(REQUEST_SECONDS, remaining() / 1000 - MARGIN_SECONDS)


def _handle(dependencies: Dependencies, event: object) -> dict[str, Any]:
    """Handle any event, and write its log line."""
    started = time.perf_counter()
    seen: dict[str, object] = {"request_id": ""}
    request = None
    try:
        request = parse_request(event)
        seen["request_id"] = request.request_id
        response = _respond(dependencies, request, seen)
    except MalformedEvent:
        seen |= {"code": "invalid_request", "reason": "malformed-event"}
        response = respond_problem(Problem("invalid_request"), "")
    except Problem as problem:
        response = respond_problem(note_problem(problem, seen), str(seen["request_id"]))
    except Exception as error:  # noqa: BLE001 - its message can contain data, so only its place is logged
        response = respond_problem(note_fault(error, seen), str(seen["request_id"]))
    form, is_head = (request.form, request.method == "HEAD") if request else (parse_form(event), False)
    if request is not None:
        is_preflight = seen.get("use_case") == UseCase.OPTIONS
        response = add_cors(
            response, request.header("origin"), dependencies.settings.cors_origins, is_preflight=is_preflight
        )
    use_case = str(seen.pop("use_case", UseCase.UNROUTED))
    latency = (time.perf_counter() - started) * 1000
    environment = dependencies.settings.environment
    dependencies.write(build_request_line(environment, dependencies.now(), use_case, response.status, latency, seen))
    return render_response(response, form, is_head=is_head)


def _respond(dependencies: Dependencies, request: HttpRequest, seen: dict[str, object]) -> HttpResponse:
    """Return the response to a request, and add the fields of its log line to `seen`."""
    found = route(request.method, request.path, dependencies.served, request.query)
    seen["use_case"] = found.use_case
    dataset = found.dataset
    if found.use_case is UseCase.OPTIONS:
        return respond_options()
    if dataset is None:
        return respond_health()
    seen["dataset"] = dataset.name
    now = dependencies.now()
    partition, ends = _authorize(dependencies, request, dataset, now, seen)
    seen["subject"] = hash_subject(partition)
    check_acceptable(request)
    try:
        if found.use_case is UseCase.LIST_ITEMS:
            page = parse_page(request.query, dataset)
            query = partial(dependencies.storage.query, partition, page.prefix, now)
            return respond_page(request, gather(query, page, now), now, ends)
        if found.use_case is UseCase.TOP_ITEMS:
            top = parse_top(request.query, dataset)
            query = partial(dependencies.storage.query_ranked, partition, dataset.rank_tag, now)
            return respond_page(request, gather(query, top, now), now, ends)
        if found.use_case is UseCase.GET_ITEMS:
            check_repeatable(request)
            asked = parse_items_query(request.query, dataset)
            named = gather_named(partial(dependencies.storage.get_items, partition), asked, now)
            seen |= {"asked": len(asked.ids), "found": sum(not entry.is_too_old for entry in named.entries)}
            return respond_page(request, named, now, ends)
        wanted = parse_item_query(request.query, dataset)
        return respond_item(request, _get(dependencies, found, partition, now), wanted, now, ends)
    except StorageUnavailable as error:
        raise unavailable(f"storage: {error}") from error


def _get(dependencies: Dependencies, found: Route, partition: str, now: float) -> Item:
    item = dependencies.storage.get_item(partition, found.prediction_id)
    if item is None or item.body is None or is_expired(item.expires_at, now):
        raise Problem("not_found")
    return item


def _authorize(
    dependencies: Dependencies, request: HttpRequest, dataset: Served, now: float, seen: dict[str, object]
) -> tuple[str, int]:
    """Return the partition key that the token gives access to, built only from its claims, and until when it is valid.

    That limits how long the response can be cached, which is less than a day.

    Raises:
        Problem: 400, 401, 403, or 503 if the issuer's keys are unavailable.
    """
    realm = dependencies.settings.realm
    trusted = authenticate(request, dependencies.verifier, realm, now)
    seen["kid"] = trusted.kid
    try:
        partition = find_partition(trusted, dataset)
    except (NoAccess, InvalidToken) as error:
        raise refuse(realm, error) from error
    return partition, int(min(trusted.claims["exp"], now + 86_400))  # an integer can be larger than any float


gc.freeze()  # without it, the next search would be through all that was imported
gc.enable()

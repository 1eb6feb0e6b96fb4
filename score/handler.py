"""The Lambda entry point: an event with a token, a path and features in, a prediction out.

    parse_request -> route -> authenticate -> authorize -> read_body -> current -> parse_body -> fetch_stored
    -> predict -> keep -> respond

An event of a REST API, with only the members that are read (`serve.web.request` has the other forms):

    {"httpMethod": "POST", "path": "/v1/models/iris/score", "headers": {"Authorization": "Bearer ..."},
     "body": "eyJpbnN0YW5jZSI6IHsic2VwYWxfbGVuZ3RoIjogNS45LCAuLi4=", "isBase64Encoded": true,
     "requestContext": {"requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"}}

An event of `lambda.invoke`, for a model with `direct`: {"model": "wine", "values": {"alcohol": 13.2, ...}}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import repeat
from typing import Any, NamedTuple

from score.access import authorize
from score.answer import build_body, build_prediction, describe_model, find_label
from score.contract import Instances, parse_body, parse_document, read_body
from score.explain import MAX_INSTANCES, OutOfTime, explain
from score.kept import Scored, build_messages
from score.log import build_event_line, build_label_line, build_request_line, count, name_label
from score.manifest import Scalar
from score.model import Model, load_models
from score.outbox import EXTENSION_LIMITS, Outbox, open_send, register_extension
from score.outbox import LIMITS as OUTBOX_LIMITS
from score.route import Route, UseCase, parse_explain, route
from score.routing import choose, choose_shadow
from score.scorer import Scorer
from score.settings import ScoreSettings, parse_score_settings
from score.store import LIMITS as MODEL_LIMITS
from score.store import RETRY_SECONDS, ModelStore, ModelUnavailable, Serving, open_fetch, open_verify
from score.stored import Used, fetch_stored, find_partitions
from serve.access import NoAccess
from serve.bearer import authenticate, open_verifier, refuse
from serve.datasets import Served, load_served
from serve.log import hash_subject, note_fault, note_problem, write
from serve.storage import Storage, StorageUnavailable
from serve.tokens.jwt import InvalidToken
from serve.tokens.verifier import Verifier
from serve.web.problems import Problem, unavailable
from serve.web.request import HttpRequest, MalformedEvent, parse_form, parse_request
from serve.web.respond import (
    JSON,
    HttpResponse,
    add_cors,
    check_acceptable,
    render_response,
    respond_options,
    respond_problem,
)
from wire.backoff import draw
from wire.client import Client, Limits
from wire.credentials import find_source
from wire.deadline import time_limit
from wire.endpoint import parse_endpoint, resolve

# Seconds for everything that a request waits for: keys, loading a model, storage. After that the response is a 503.
REQUEST_SECONDS = 15.0
MARGIN_SECONDS = 1.0  # of the invocation's remaining time, for the response and its log line
WARM_SECONDS = 5.0  # for loading models before the first request; Lambda's init phase ends after 10 s
LIMITS = Limits(connect=1.0, attempt=1.0, budget=4.0, tries=4, largest=8 * 1024 * 1024)  # of one call to DynamoDB
# A request without anything to wait for is quick up to this size of its body, in base64, and if the model takes no more
# than this time for its largest request.
QUICK_CHARACTERS = 16_384
QUICK_SECONDS = 0.005
EXPOSED = "Larder-Model-Version, WWW-Authenticate"

Handler = Callable[[Any, Any], dict[str, Any] | list[Any]]


class Dependencies(NamedTuple):
    """What the handler depends on; tests pass their own."""

    settings: ScoreSettings
    models: Mapping[str, Model]
    served: Mapping[str, Served]
    store: ModelStore
    storage: Storage
    verifier: Verifier
    now: Callable[[], float] = time.time
    write: Callable[[str], None] = write
    draw: Callable[[], float] = draw
    outbox: Outbox | None = None  # for kept features; None: nothing is kept


def handler(event: Any, context: Any) -> dict[str, Any] | list[Any]:
    """Handle an event; dependencies are built at the first one."""
    return _handler()(event, context)


def build_handler(dependencies: Dependencies) -> Handler:
    """Return a handler with these dependencies."""

    def handle(event: Any, context: Any) -> dict[str, Any] | list[Any]:
        try:
            with time_limit(_seconds_left(context)):
                if isinstance(event, dict) and not event.keys() & {"requestContext", "httpMethod", "rawPath"}:
                    return _handle_direct(dependencies, event, context)
                return _handle(dependencies, event)
        finally:
            if dependencies.outbox:
                dependencies.outbox.end_invocation()

    return handle


def build_dependencies(
    env: Mapping[str, str],
    models: Mapping[str, Model],
    served: Mapping[str, Served],
    write: Callable[[str], None] = write,
) -> Dependencies:
    """Build the dependencies of a deployment from its environment variables, models and datasets.

    `write` takes log lines.

    Raises:
        ValueError: a variable is missing or malformed.
    """
    settings = parse_score_settings(env, models, served)
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    source = find_source(env)
    table = Client(resolve("dynamodb", region, env), source, LIMITS)
    objects = Client(resolve("s3", region, env), source, MODEL_LIMITS)

    def report(event: str, details: Mapping[str, object]) -> None:
        write(build_event_line(settings.api.environment, time.time(), event, details))

    verify = open_verify(settings.public_key) if settings.public_key else None
    store = ModelStore(open_fetch(objects, settings.bucket), models, report, verify)
    verifier = open_verifier(settings.api.issuers, env, report)
    outbox = None
    if settings.kept_queue and any(model.keep for model in models.values()):
        queue = Client(resolve("sqs", region, env), source, OUTBOX_LIMITS)
        runtime = env.get("AWS_LAMBDA_RUNTIME_API")
        next_invocation = None
        if runtime:
            lambda_api = Client(parse_endpoint(f"http://{runtime}", "lambda", region), None, EXTENSION_LIMITS)
            next_invocation = register_extension(lambda_api, "outbox")
        outbox = Outbox(open_send(queue, settings.kept_queue), report, next_invocation)
    storage = Storage(table.send, settings.api.table)
    return Dependencies(settings, models, served, store, storage, verifier, write=write, outbox=outbox)


@cache
def _dependencies() -> Dependencies:
    return build_dependencies(os.environ, load_models(), load_served())


@cache
def _handler() -> Handler:
    return build_handler(_dependencies())


def is_quick(dependencies: Dependencies, event: Mapping[str, Any]) -> bool:
    """Return whether the event of a function URL is answered within milliseconds, without waiting for anything.

    Then a server need not pass it to a thread, which takes longer than the answer. The model has no stored features and
    is loaded, the token was verified before, and both are still valid in a second.
    """
    match event["rawPath"].split("/"):
        case ["", "v1", "models", name, "score"] if name in dependencies.models:
            if dependencies.models[name].stored or event["rawQueryString"]:  # an explanation takes many predictions
                return False
        case _:
            return False
    now = dependencies.now() + 1
    serving = dependencies.store.find_loaded(name, now)
    if serving is None or serving.seconds > QUICK_SECONDS or len(event.get("body", "")) > QUICK_CHARACTERS:
        return False
    token = event["multiValueHeaders"].get("authorization", [""])[0]
    return dependencies.verifier.remembers(token.removeprefix("Bearer "), now)


def warm_up(dependencies: Dependencies) -> None:
    """Load the models before the first request. A model that can't be loaded is reported; a request tries again."""
    with time_limit(WARM_SECONDS):
        for name in dependencies.models:
            with suppress(ModelUnavailable):  # the store has reported it
                dependencies.store.current(name, dependencies.now())


def _seconds_left(context: Any) -> float:
    """Return the seconds that a request can wait; on a laptop there is no context."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return REQUEST_SECONDS if remaining is None else min(REQUEST_SECONDS, remaining() / 1000 - MARGIN_SECONDS)


def _handle(dependencies: Dependencies, event: object) -> dict[str, Any]:
    """Handle an event of an HTTP front door, and write its log line."""
    started = time.perf_counter()
    seen: dict[str, object] = {"request_id": ""}
    request, allow = None, "POST"
    try:
        request = parse_request(event)
        seen["request_id"] = request.request_id
        found = route(request.method, request.path, dependencies.models)
        seen["use_case"], allow = found.use_case, found.allow
        response = _respond(dependencies, event, request, found, seen)
    except MalformedEvent:
        seen |= {"code": "invalid_request", "reason": "malformed-event"}
        response = respond_problem(Problem("invalid_request"), "")
    except Problem as problem:
        response = respond_problem(note_problem(problem, seen), str(seen["request_id"]))
    except Exception as error:  # noqa: BLE001 - its message can contain data, so only its place is logged
        response = respond_problem(note_fault(error, seen), str(seen["request_id"]))
    form, is_head = (request.form, request.method == "HEAD") if request else (parse_form(event), False)
    if request is not None:
        response = add_cors(
            response,
            request.header("origin"),
            dependencies.settings.api.cors_origins,
            is_preflight=seen.get("use_case") == UseCase.OPTIONS,
            methods=allow.removesuffix(", OPTIONS"),
            headers="Authorization, Content-Type, X-Api-Key",
            exposed=EXPOSED,
        )
    _write_line(dependencies, seen, response.status, started)
    return render_response(response, form, is_head=is_head)


def _handle_direct(dependencies: Dependencies, event: dict[str, Any], context: Any) -> dict[str, Any] | list[Any]:
    """Handle an event of `lambda.invoke`. IAM has authorized the caller: there is no token, and so no subject."""
    started = time.perf_counter()
    seen: dict[str, object] = {"request_id": str(getattr(context, "aws_request_id", "")), "use_case": UseCase.DIRECT}
    try:
        model, document = _find_direct(dependencies.models, event)
        seen["model"] = model.name
        serving = _current(dependencies, model)
        scorer, role = choose(serving, None)
        # The payload can have values that strict JSON does not have, such as NaN: boto3 sends any text.
        asked = parse_document(document, model, scorer.bounds)
        body, status = _score(dependencies, serving, scorer, role, asked, {}, seen, is_explained=False), 200
    except Problem as problem:
        body, status = _direct_problem(note_problem(problem, seen), seen)
    except Exception as error:  # noqa: BLE001 - as in `_handle`
        body, status = _direct_problem(note_fault(error, seen), seen)
    _write_line(dependencies, seen, status, started)
    return body


def _find_direct(models: Mapping[str, Model], event: dict[str, Any]) -> tuple[Model, Any]:
    """Return the model of an event without a token, and the document for it: the event without `model`."""
    direct = [model for model in models.values() if model.direct and not model.stored]
    name = event.get("model", direct[0].name if len(direct) == 1 else None)
    found = [model for model in direct if model.name == name]
    if not found:
        detail = "set model to the name of a model that accepts invocations without a token"
        raise Problem("not_found", detail, reason="not-direct")
    document = {member: value for member, value in event.items() if member != "model"}
    return found[0], document["texts"] if document.keys() == {"texts"} else document


def _direct_problem(problem: Problem, seen: Mapping[str, object]) -> tuple[dict[str, Any], int]:
    response = respond_problem(problem, str(seen["request_id"]))
    return json.loads(str(response.body)), response.status


def _respond(
    dependencies: Dependencies, event: Any, request: HttpRequest, found: Route, seen: dict[str, object]
) -> HttpResponse:
    """Return the response to a request, and add the fields of its log line to `seen`."""
    if found.use_case is UseCase.OPTIONS:
        return respond_options(found.allow)
    model = found.model
    seen["model"] = model.name
    subject, partitions = _authorize(dependencies, request, model, seen)
    check_acceptable(request)
    headers = {"Content-Type": JSON, "Cache-Control": "no-store"}
    if found.use_case is UseCase.DESCRIBE:
        scorer, _ = choose(_current(dependencies, model), subject)
        seen["version"] = scorer.version
        headers["Larder-Model-Version"] = scorer.version
        return HttpResponse(200, headers, json.dumps(describe_model(model, scorer)))
    is_explained = parse_explain(request.query)
    data = read_body(event, request)
    serving = _current(dependencies, model)
    scorer, role = choose(serving, subject)
    asked = parse_body(data, model, scorer.bounds)
    if is_explained and len(asked.rows) > MAX_INSTANCES:
        raise Problem("invalid_request", f"explain accepts at most {MAX_INSTANCES} instances; found {len(asked.rows)}")
    body = _score(dependencies, serving, scorer, role, asked, partitions, seen, is_explained=is_explained)
    headers["Larder-Model-Version"] = scorer.version
    return HttpResponse(200, headers, json.dumps(body))


def _authorize(
    dependencies: Dependencies, request: HttpRequest, model: Model, seen: dict[str, object]
) -> tuple[str, dict[str, str]]:
    """Return the caller's subject, and the partition of each dataset that the model reads.

    Raises:
        Problem: 400, 401, 403, or 503 if the issuer's keys are unavailable.
    """
    realm = dependencies.settings.api.realm
    trusted = authenticate(request, dependencies.verifier, realm, dependencies.now())
    seen["kid"] = trusted.kid
    try:
        subject = authorize(trusted, model)
        partitions = find_partitions(trusted, model, dependencies.served)
    except (NoAccess, InvalidToken) as error:
        raise refuse(realm, error, "model") from error
    seen["subject"] = hash_subject(subject)
    return subject, partitions


def _current(dependencies: Dependencies, model: Model) -> Serving:
    try:
        return dependencies.store.current(model.name, dependencies.now())
    except ModelUnavailable as error:
        headers = {"Retry-After": str(int(RETRY_SECONDS))}
        raise Problem("model_unavailable", reason="model-not-loaded", headers=headers) from error


def _score(
    dependencies: Dependencies,
    serving: Serving,
    scorer: Scorer,
    role: str,
    asked: Instances,
    partitions: Mapping[str, str],
    seen: dict[str, object],
    *,
    is_explained: bool,
) -> dict[str, Any] | list[Any]:
    """Score the instances of a request and build the body of its answer."""
    seen |= {"version": scorer.version, "role": role}
    reasons = ["omitted"] * asked.omitted
    used: Sequence[Mapping[str, Used]] = [{}] * len(asked.rows)
    if scorer.model.stored:
        used = _fetch_stored(dependencies, scorer.model, asked, partitions, reasons, seen)
    if reasons or scorer.model.stored:
        seen["missing"] = count(reasons)
    answers = scorer.predict(asked.rows)
    predictions = list(map(build_prediction, repeat(scorer), answers, used))
    if is_explained:
        try:
            for prediction, row, answer in zip(predictions, asked.rows, answers, strict=True):
                prediction.update(explain(scorer, row, answer))
        except OutOfTime as error:
            raise unavailable("explanation-too-slow") from error
    seen["scores"] = list(map(max, answers))
    if scorer.manifest.labels:
        _count_labels(dependencies, scorer, [prediction["label"] for prediction in predictions], seen)
    _score_shadow(dependencies, serving, scorer, asked.rows, answers, seen)
    _keep(dependencies, scorer, role, asked, used, answers, seen)
    return build_body(scorer, asked.form, predictions, is_explained=is_explained)


def _fetch_stored(
    dependencies: Dependencies,
    model: Model,
    asked: Instances,
    partitions: Mapping[str, str],
    reasons: list[str],
    seen: dict[str, object],
) -> list[dict[str, Used]]:
    """Add the stored features to the rows, and to `reasons` why they have no value; return the origin of each."""
    now = dependencies.now()
    try:
        used = fetch_stored(dependencies.storage, partitions, model, asked.rows, asked.ids, asked.pointers, now)
    except StorageUnavailable as error:
        raise unavailable(f"storage: {error}") from error
    each = [one for found in used for one in found.values()]
    reasons += [one.missing.value for one in each if one.missing]
    seen["stored"] = count([f"{one.as_of} run {one.run}" for one in each if one.as_of])
    return used


def _score_shadow(
    dependencies: Dependencies,
    serving: Serving,
    scorer: Scorer,
    rows: Sequence[Mapping[str, Scalar]],
    answers: Sequence[tuple[float, ...]],
    seen: dict[str, object],
) -> None:
    """Score a sample of the requests with the shadow too, and log the difference. It never changes the answer."""
    shadow = choose_shadow(serving, dependencies.draw())
    if shadow is None or shadow is scorer:
        return
    seen["shadow"] = shadow.version
    try:
        others = shadow.predict(rows)
    except Exception as error:  # noqa: BLE001 - a shadow is a version on trial
        seen["shadow_failed"] = type(error).__name__
        return
    pairs = list(zip(answers, others, strict=True))
    if scorer.manifest.labels:
        labels = [(find_label(scorer, one), find_label(shadow, other)) for one, other in pairs]
        seen["ShadowLabelsDiffer"] = sum(one != other for one, other in labels)
    else:
        seen["ShadowLabelsDiffer"] = 0
    seen["ShadowDifference"] = max(abs(max(one) - max(other)) for one, other in pairs)


def _count_labels(dependencies: Dependencies, scorer: Scorer, labels: Sequence[str], seen: dict[str, object]) -> None:
    """Count the labels of a request: the first in the request's line, each other in a line of its own."""
    seen["labels"] = count(labels)
    (first, number), *others = count([name_label(label, scorer.manifest.labels) for label in labels]).items()
    seen |= {"Label": first, "Labels": number}
    for name, number in others:
        of = scorer.model.name, scorer.version, name, number
        dependencies.write(build_label_line(dependencies.settings.api.environment, dependencies.now(), *of))


def _keep(
    dependencies: Dependencies,
    scorer: Scorer,
    role: str,
    asked: Instances,
    used: Sequence[Mapping[str, Used]],
    answers: Sequence[tuple[float, ...]],
    seen: dict[str, object],
) -> None:
    """Put the features of a sample of the requests into the outbox. It never changes the answer."""
    keep, outbox = dependencies.models[scorer.model.name].keep, dependencies.outbox
    if keep is None or outbox is None or dependencies.draw() >= keep.share:
        return
    request_id, subject = str(seen["request_id"]), str(seen.get("subject", ""))
    scored = list(map(Scored, asked.rows, asked.ids, used, answers))
    try:
        messages, dropped = build_messages(scorer, role, request_id, subject, dependencies.now(), scored)
        for message in messages:
            outbox.put(scorer.model.name, message)
    except Exception as error:  # noqa: BLE001 - the answer does not depend on it
        outbox.report_dropped(scorer.model.name, len(scored), type(error).__name__)
        return
    seen["kept"] = len(scored) - dropped
    if dropped:
        outbox.report_dropped(scorer.model.name, dropped, "TooLarge")


def _write_line(dependencies: Dependencies, seen: dict[str, object], status: int, started: float) -> None:
    use_case = str(seen.pop("use_case", UseCase.UNROUTED))
    latency = (time.perf_counter() - started) * 1000
    environment = dependencies.settings.api.environment
    dependencies.write(build_request_line(environment, dependencies.now(), use_case, status, latency, seen))


if os.environ.get("AWS_LAMBDA_RUNTIME_API"):
    # In Lambda's init phase, which has a full CPU, and which provisioned concurrency runs before any request.
    try:
        warm_up(_dependencies())
    except Exception as error:  # noqa: BLE001 - the first request fails with the same error, and reports it
        write(json.dumps({"level": "ERROR", "event": "not_warm", "reason": type(error).__name__}))

__all__ = ["Dependencies", "build_dependencies", "build_handler", "handler", "is_quick", "warm_up"]

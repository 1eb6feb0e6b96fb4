"""Open serve and score as a server runs them: dependencies of the environment, lines to metrics, a look at storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from server.app import CHECK_SECONDS, Function
from server.settings import SCORE_SECONDS, SERVE_SECONDS
from wire.deadline import time_limit

Write = Callable[[str], None]
# An item that never exists: a subject follows the name of a dataset.
_NOBODY = "#ready"


def open_serve(env: Mapping[str, str], write: Write) -> Function:
    """Open the read API.

    Raises:
        ValueError: a variable is missing or malformed.
    """
    from serve.datasets import load_served
    from serve.handler import build_dependencies, build_handler
    from serve.log import build_request_line
    from serve.web.route import UseCase

    dependencies = build_dependencies(env, load_served(), write)

    def check() -> None:
        with time_limit(CHECK_SECONDS):
            dependencies.storage.get_item(_NOBODY, "-")

    def write_line(status: int, latency_ms: float, fields: Mapping[str, object]) -> None:
        of = dependencies.settings.environment, dependencies.now(), UseCase.UNROUTED
        write(build_request_line(*of, status, latency_ms, fields))

    return Function(build_handler(dependencies), check, SERVE_SECONDS, write_line=write_line)


def open_score(env: Mapping[str, str], write: Write) -> Function:
    """Open the models.

    Raises:
        ValueError: a variable is missing or malformed.
    """
    from score.handler import REQUEST_SECONDS, build_dependencies, build_handler, is_quick, warm_up
    from score.log import build_request_line
    from score.model import load_models
    from score.route import UseCase
    from score.store import ModelUnavailable
    from serve.datasets import load_served

    models = load_models()
    dependencies = build_dependencies(env, models, load_served(), write)
    reads_table = any(model.stored for model in models.values())

    def load_one() -> None:
        """Load a model, with as much time as a request has: a file takes longer than a probe waits."""
        why = ModelUnavailable("there are no models")
        for name in models:
            try:
                with time_limit(REQUEST_SECONDS):
                    dependencies.store.current(name, dependencies.now())
            except ModelUnavailable as error:
                why = error
            else:  # one that cannot be loaded is no reason to refuse requests to the others
                return
        raise why

    def check() -> None:
        if not any(map(dependencies.store.is_serving, models)):
            load_one()
        if reads_table:
            with time_limit(CHECK_SECONDS):
                dependencies.storage.get_item(_NOBODY, "-")

    def stop() -> None:
        if dependencies.outbox:
            dependencies.outbox.flush()

    def write_line(status: int, latency_ms: float, fields: Mapping[str, object]) -> None:
        of = dependencies.settings.api.environment, dependencies.now(), UseCase.UNROUTED
        write(build_request_line(*of, status, latency_ms, fields))

    quick, start = partial(is_quick, dependencies), partial(warm_up, dependencies)
    return Function(build_handler(dependencies), check, SCORE_SECONDS, quick, start, stop, write_line)


OPEN = {"serve": open_serve, "score": open_score}

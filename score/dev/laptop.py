"""Serve models together with the read API on this machine: requests for models go to score, all others to serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from score.handler import build_dependencies, build_handler
from score.model import Model
from serve.datasets import Served
from serve.handler import Handler

_PATH = "/v1/models/"


def add_models(
    api: Handler, env: Mapping[str, str], served: Mapping[str, Served], models: Mapping[str, Model]
) -> Handler:
    """Return a handler of function URL events that also serves the project's models, if there are any.

    Args:
        api: the handler of the read API.
        env: variables of the stack; the models are in Larder's bucket.
        served: the project's datasets.
        models: its models.
    """
    if not models:
        return api
    variables = {"LARDER_MODELS_BUCKET": env.get("LARDER_BUCKET", ""), **env}
    return split(api, cast(Handler, build_handler(build_dependencies(variables, models, served))))


def split(api: Handler, score: Handler) -> Handler:
    """Return a handler that passes requests for models to score, and all others to the read API."""

    def handle(event: Any, context: Any) -> dict[str, Any]:
        is_model = str(event.get("rawPath", "")).startswith(_PATH)
        return (score if is_model else api)(event, context)

    return handle

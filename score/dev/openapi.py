"""Build the models' part of the HTTP contract: tags, paths, schemas, at the anchors of enrich/openapi/service.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from score.contract import MAX_BODY_BYTES
from score.explain import MAX_INSTANCES, MAX_TOKENS
from score.model import REQUIRED, Boolean, Category, Model, Number, Text
from score.scorer import MAX_ROWS

_LAMBDA = "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions"
_FUNCTION = f"{_LAMBDA}/${{ScoreFunction.Alias}}/invocations"
_INTEGRATION = {"type": "aws_proxy", "httpMethod": "POST", "uri": {"Fn::Sub": _FUNCTION}}
_ERRORS = {
    "400": "InvalidRequest",
    "401": "Unauthorized",
    "403": "Forbidden",
    "406": "NotAcceptable",
    "429": "TooManyRequests",
    "500": "InternalError",
    "503": "ModelUnavailable",
}
_BODY_ERRORS = {"413": "ContentTooLarge", "415": "UnsupportedMediaType", "422": "InvalidInstance"}
_ID = "8f3b1c5e-2d41-4a7b-9e0d-5b6d3f2a1c00"
_FORMS = {
    "bare": "only the object of features: the answer has only `prediction`",
    "values": '`{"values": {...}}`: the answer has only `prediction`',
    "texts": "a list of texts: the answer is the list of their labels",
}


def build_model_parts(models: Iterable[Model]) -> list[dict[str, str]]:
    """Build the parts of all models: anchor -> text. The first part is shared by all models."""
    parts = [_build_part(model) for model in models]
    return [_build_shared(), *parts] if parts else []


def _build_part(model: Model) -> dict[str, str]:
    title = "".join(word[:1].upper() + word[1:] for word in model.name.replace("_", "-").split("-")) + "Model"
    subject = " and ".join(f"`{claim}`" for claim in model.subject)
    scope = f"scope `{model.scope}`" if model.scope else "no scope"
    scopes = ", ".join(f"the scope of `{each.dataset}`" for each in model.stored.values())
    about = (
        f"{model.about or f'The model {model.name}'}; {scope}{f' and {scopes}' if scopes else ''}, subject {subject}"
    )
    paths = {
        f"/v1/models/{model.name}": _describe_path(model, title),
        f"/v1/models/{model.name}/score": _score_path(model, title),
    }
    return {
        "tag": _render([{"name": model.name, "description": about}], 2),
        "paths": _render(paths, 2) + "\n",
        "schemas": _render(dict(_schemas(model, title)), 4) + "\n",
    }


def _describe_path(model: Model, title: str) -> dict[str, Any]:
    answer = {
        "description": "The members of a request, and the version that answers this caller.",
        "headers": _headers(),
        "content": {"application/json": {"schema": _reference(f"{title}Description")}},
    }
    without = {status: {"description": "As for GET, without a body."} for status in _ERRORS}
    return {
        "get": _operation(
            model, f"describe{title}", "The model's features and version", {"200": answer, **_errors({})}
        ),
        "head": _operation(
            model, f"head{title}", "The headers of the GET response", {"200": {"description": "As for GET."}, **without}
        ),
        **_rest(model, title),
    }


def _score_path(model: Model, title: str) -> dict[str, Any]:
    answer = {
        "description": "The predictions, in the order of the instances.",
        "headers": _headers(),
        "content": {"application/json": {"schema": _reference(f"{title}Answer")}},
    }
    explain = {
        "name": "explain",
        "in": "query",
        "description": f"for up to {MAX_INSTANCES} instances: how the prediction changes if one feature has its"
        f" typical value (`contributions`), or one token of a text is removed (`tokens`, the {MAX_TOKENS} largest)."
        " It shows what the model reacts to; it is not a cause.",
        "schema": {"type": "boolean", "default": False},
    }
    body = {
        "required": True,
        "description": f"1 to {MAX_ROWS} instances, {MAX_BODY_BYTES} bytes at most.",
        "content": {"application/json": {"schema": _reference(f"{title}Request")}},
    }
    operation = _operation(model, f"score{title}", "Score instances", {"200": answer, **_errors(_BODY_ERRORS)})
    return {"post": {**operation, "parameters": [explain], "requestBody": body}, **_rest(model, f"{title}Score")}


def _operation(model: Model, name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": [model.name],
        "summary": summary,
        "responses": dict(sorted(responses.items())),
        "x-amazon-apigateway-integration": _INTEGRATION,
    }


def _rest(model: Model, title: str) -> dict[str, Any]:
    allowed = {
        "description": "The methods are in the Allow header.",
        "headers": {"Allow": _reference("Allow", "headers")},
    }
    refused = _reference("MethodNotAllowed", "responses")
    options = _operation(model, f"options{title}", "Allowed methods", {"204": allowed})
    return {
        "options": {**options, "security": []},
        "x-amazon-apigateway-any-method": {
            "responses": {"405": refused},
            "x-amazon-apigateway-integration": _INTEGRATION,
        },
    }


def _errors(more: dict[str, str]) -> dict[str, Any]:
    return {status: _reference(name, "responses") for status, name in {**_ERRORS, **more}.items()}


def _headers() -> dict[str, Any]:
    return {
        "Larder-Model-Version": _reference("LarderModelVersion", "headers"),
        "Cache-Control": _reference("CacheControl", "headers"),
    }


def _schemas(model: Model, title: str) -> Iterator[tuple[str, Any]]:
    required = [name for name, kind in model.sent.items() if kind.missing is REQUIRED]
    properties = {name: _describe(kind) for name, kind in model.sent.items()}
    for name in model.ids:
        properties[name] = _reference("PredictionId")
        required.append(name)
    instance = {"type": "object", **({"required": required} if required else {}), "properties": properties}
    yield f"{title}Instance", instance
    one = _reference(f"{title}Instance")
    forms = "".join(f"; or {_FORMS[form]}" for form in model.forms)
    request: dict[str, Any] = {"description": f"`instance` or `instances`{forms}"}
    if not model.forms:
        many = {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": one}
        request |= {"type": "object", "properties": {"instance": one, "instances": many}}
    yield f"{title}Request", request
    yield f"{title}Prediction", _describe_prediction(model)
    prediction = _reference(f"{title}Prediction")
    which: dict[str, Any] = {"type": "object", "required": ["name", "version"]}
    which["properties"] = {"name": {"type": "string", "enum": [model.name]}, "version": _reference("ModelVersion")}
    answer: dict[str, Any] = {"description": "`prediction` for `instance`, `predictions` for `instances`"}
    if "texts" not in model.forms:
        many = {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": prediction}
        answer |= {"type": "object", "properties": {"prediction": prediction, "predictions": many, "model": which}}
    yield f"{title}Answer", answer
    features = {"type": "array", "items": {"type": "object", "required": ["name", "type"], "properties": _FEATURE}}
    yield (
        f"{title}Description",
        {
            "type": "object",
            "required": ["name", "task", "version", "features"],
            "properties": {
                "name": {"type": "string", "enum": [model.name]},
                "about": {"type": "string"},
                "task": {"type": "string", "enum": [model.task]},
                "labels": {"type": "array", "items": {"type": "string"}},
                "version": _reference("ModelVersion"),
                "created": {"type": "string", "format": "date-time"},
                "forms": {"type": "array", "items": {"type": "string"}},
                "features": features,
            },
        },
    )


_FEATURE = {"name": {"type": "string"}, "type": {"type": "string"}, "required": {"type": "boolean"}}


def _describe_prediction(model: Model) -> dict[str, Any]:
    if model.task == "classification":
        probability = {"type": "number", "minimum": 0, "maximum": 1, "description": "of the label"}
        members: dict[str, Any] = {"label": {"type": "string"}, "probability": probability}
    else:
        members = {"value": {"type": "number"}}
    required = list(members)
    if model.stored:
        used = {
            "as_of": {**_reference("AsOf")},
            "run": {**_reference("Run")},
            "missing": {"type": "string", "enum": ["absent", "expired", "removed", "too_old", "null", "unusable"]},
        }
        stored = {name: {"type": "object", "properties": used} for name in model.stored}
        members["stored"] = {"type": "object", "properties": stored, "description": "the stored predictions it used"}
        required.append("stored")
    members["contributions"] = {"type": "object", "description": "with `explain`: contribution of each feature"}
    if any(isinstance(kind, Text) for kind in model.features.values()):
        members["tokens"] = {"type": "object", "description": "with `explain`: contribution of each token of the text"}
    return {"type": "object", "required": required, "properties": members}


def _describe(kind: Number | Category | Boolean | Text) -> dict[str, Any]:
    described: dict[str, Any]
    if isinstance(kind, Number):
        described = {"type": "integer" if kind.integer else "number"}
        described |= {"minimum": kind.low} if kind.low is not None else {}
        described |= {"maximum": kind.high} if kind.high is not None else {}
    elif isinstance(kind, Category):
        described = {"type": "string", "enum": list(kind.choices)}
    elif isinstance(kind, Text):
        described = {"type": "string", "maxLength": kind.longest}
    else:
        described = {"type": "boolean"}
    if kind.missing is not REQUIRED:
        described["nullable"] = True
        if isinstance(kind, Category):
            described["enum"] = [*kind.choices, None]
    return {**described, "description": kind.about} if kind.about else described


def _build_shared() -> dict[str, str]:
    """Build the headers, responses and schemas that all models share."""
    headers = {
        "LarderModelVersion": {
            "description": "the version that answered",
            "required": True,
            "schema": _reference("ModelVersion"),
            "example": "3f79bb7b435b0532",
        }
    }
    errors = [{"pointer": "/instance/sepal_length", "detail": "expected a number; found a text"}]
    responses = {
        "ContentTooLarge": _problem(
            "The body is larger than the model accepts.", 413, "content_too_large", "The request is too large"
        ),
        "UnsupportedMediaType": _problem(
            "Content-Type is not application/json in UTF-8, or the request has Content-Encoding.",
            415,
            "unsupported_media_type",
            "The request's content type is not supported",
        ),
        "InvalidInstance": _problem(
            "A feature is missing, unknown, of another type or out of range. One bad instance fails the request;"
            " `errors` has at most 20 errors, and never a value of the request.",
            422,
            "invalid_instance",
            "The features do not fit the model",
            errors=errors,
        ),
        "ModelUnavailable": {
            **_problem(
                "No version of the model is loaded yet, or storage or signing keys are unavailable (`unavailable`).",
                503,
                "model_unavailable",
                "The model is unavailable",
            ),
            "headers": {"Retry-After": _reference("RetryAfter", "headers")},
        },
    }
    version = {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "digest of the model file"}
    return {
        "headers": _render(headers, 4),
        "responses": _render(responses, 4),
        "schemas": _render({"ModelVersion": version}, 4) + "\n",
    }


def _problem(description: str, status: int, code: str, title: str, **members: Any) -> dict[str, Any]:
    example = {"type": f"urn:larder:problem:{code}", "title": title, "status": status, "code": code, "requestId": _ID}
    content = {"schema": _reference("Problem"), "example": {**example, **members}}
    return {"description": description, "content": {"application/problem+json": content}}


def _reference(name: str, kind: str = "schemas") -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _render(value: Any, indent: int) -> str:
    """Render YAML without aliases, which CloudFormation does not support."""
    dumper = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return "".join(f"{' ' * indent}{line}\n" for line in text.splitlines())

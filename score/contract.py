"""Parse the body of a request: its form, and the features of each instance.

Each error has a JSON pointer (RFC 6901) into the body. It never repeats a value of the request.
"""

from __future__ import annotations

import math
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from score.manifest import Scalar
from score.model import REQUIRED, Boolean, Category, Feature, Model, Number, Text
from score.scorer import MAX_ROWS
from serve.item import PREDICTION_ID
from serve.tokens.strict import parse_json
from serve.web.problems import Problem
from serve.web.request import HttpRequest
from serve.web.respond import JSON

MAX_BODY_BYTES = 1024 * 1024
MAX_ERRORS = 20
_MAX_NAME = 64  # characters of a member's name in an error
_MAX_CHOICES = 20  # in an error
_RESERVED = ("instance", "instances", "values")


class Instances(NamedTuple):
    """The instances of a request.

    Attributes:
        rows: for each instance, the features that the request has, by name; None for a missing one.
        ids: for each instance, the members that are not features: they are parts of prediction_ids.
        pointers: JSON pointer to each instance in the body.
        form: `instance`, `instances`, or one of the model's own forms.
        omitted: number of features, of all instances, that are absent or null.
    """

    rows: Sequence[dict[str, Scalar]]
    ids: Sequence[dict[str, str]]
    pointers: Sequence[str]
    form: str
    omitted: int


class Fault(NamedTuple):
    """An error in a body, and its place."""

    pointer: str
    detail: str


def invalid_instance(faults: Sequence[Fault]) -> Problem:
    """Build the problem for features that do not fit the model."""
    errors = [fault._asdict() for fault in faults[:MAX_ERRORS]]
    return Problem("invalid_instance", reason="invalid-instance", members={"errors": errors})


def read_body(event: Mapping[str, Any], request: HttpRequest) -> bytes:
    """Return the bytes of a body after checks of its content type and size.

    Raises:
        Problem: unsupported_media_type, content_too_large, or invalid_request for invalid base64.
    """
    _check_media_type(request)
    body, is_base64 = event.get("body"), event.get("isBase64Encoded")
    if body is None:
        body = ""
    if not isinstance(body, str):
        raise Problem("invalid_request", reason="malformed-event")
    if len(body) > MAX_BODY_BYTES * 4 // 3 + 4:
        raise _too_large()
    try:
        data = b64decode(body, validate=True) if is_base64 is True else body.encode()
    except (Error, ValueError) as error:  # ValueError: not ASCII; UnicodeEncodeError: a lone surrogate
        raise Problem("invalid_request", "the body is not valid base64", reason="malformed-body") from error
    if len(data) > MAX_BODY_BYTES:
        raise _too_large()
    return data


def parse_body(data: bytes, model: Model, bounds: Mapping[str, float]) -> Instances:
    """Parse the body of a request.

    Args:
        data: JSON text.
        model: defines the features and forms.
        bounds: feature -> largest absolute value of its numbers, as in `Scorer.bounds`.

    Raises:
        Problem: invalid_request if it is not strict JSON, invalid_instance for every other error.
    """
    try:
        document = parse_json(data)
    except ValueError as error:
        raise Problem("invalid_request", "the body is not strict JSON", reason="malformed-body") from error
    return parse_document(document, model, bounds)


def parse_document(document: Any, model: Model, bounds: Mapping[str, float]) -> Instances:
    """Parse the JSON value of a request; see `parse_body`."""
    given, pointers, form = _find_instances(document, model)
    rows: list[dict[str, Scalar]] = []
    ids: list[dict[str, str]] = []
    faults: list[Fault] = []
    omitted: list[str] = []
    for instance, pointer in zip(given, pointers, strict=True):
        if form == "texts":
            instance = {next(iter(model.sent)): instance}  # noqa: PLW2901 - an instance in its own form
        row, names = _parse_instance(instance, pointer, model, bounds, faults, omitted, is_text=form == "texts")
        rows.append(row)
        ids.append(names)
        if len(faults) >= MAX_ERRORS:
            break
    if faults:
        raise invalid_instance(faults)
    return Instances(rows, ids, pointers, form, len(omitted))


def _find_instances(document: Any, model: Model) -> tuple[list[Any], list[str], str]:
    """Return the instances, where they are in the body, and the form."""
    if isinstance(document, list) and "texts" in model.forms:
        _check_count(document, "")
        return document, [f"/{number}" for number in range(len(document))], "texts"
    if isinstance(document, dict):
        members = document.keys()
        if members == {"instance"}:
            return [document["instance"]], ["/instance"], "instance"
        if members == {"instances"}:
            many = document["instances"]
            if not isinstance(many, list):
                raise invalid_instance([Fault("/instances", f"expected a list; found {_name_type(many)}")])
            _check_count(many, "/instances")
            return many, [f"/instances/{number}" for number in range(len(many))], "instances"
        if members == {"values"} and "values" in model.forms:
            return [document["values"]], ["/values"], "values"
        if "bare" in model.forms and not members & set(_RESERVED):
            return [document], [""], "bare"
        found = f"an object with {len(members)} members" if members != {"values"} else "values"
    else:
        found = _name_type(document)
    raise invalid_instance([Fault("", f"expected {_list_forms(model)}; found {found}")])


def _list_forms(model: Model) -> str:
    forms = ['{"instance": {...}}', '{"instances": [{...}]}']
    own = {"bare": "an object of features", "values": '{"values": {...}}', "texts": "a list of texts"}
    return " or ".join([*forms, *[own[form] for form in model.forms]])


def _check_count(instances: list[Any], pointer: str) -> None:
    if not 1 <= len(instances) <= MAX_ROWS:
        remedy = "send at least one" if not instances else "send several requests"
        detail = f"expected 1 to {MAX_ROWS} instances; found {len(instances)}: {remedy}"
        raise invalid_instance([Fault(pointer, detail)])


def _parse_instance(
    instance: Any,
    pointer: str,
    model: Model,
    bounds: Mapping[str, float],
    faults: list[Fault],
    omitted: list[str],
    *,
    is_text: bool,
) -> tuple[dict[str, Scalar], dict[str, str]]:
    row: dict[str, Scalar] = {}
    ids: dict[str, str] = {}
    if not isinstance(instance, dict):
        faults.append(Fault(pointer, f"expected an object of features; found {_name_type(instance)}"))
        return row, ids
    known = model.sent
    unknown = sorted(instance.keys() - known.keys() - set(model.ids))[:MAX_ERRORS]
    faults += [Fault(f"{pointer}/{_escape(name[:_MAX_NAME])}", "unknown member") for name in unknown]
    for name, feature in known.items():
        value = instance.get(name)
        place = pointer if is_text else f"{pointer}/{_escape(name)}"
        if value is None:
            if feature.missing is REQUIRED:
                found = "null" if name in instance else "nothing"
                faults.append(Fault(place, f"expected {_describe(feature)}; found {found}"))
            else:
                row[name] = feature.missing
                omitted.append(name)
            continue
        parsed = _PARSERS[type(feature)](value, feature)
        if isinstance(parsed, Fault):
            faults.append(Fault(place, parsed.detail))
        elif name in bounds and abs(parsed) > bounds[name]:
            faults.append(Fault(place, f"expected a number from {-bounds[name]:g} to {bounds[name]:g}"))
        else:
            row[name] = parsed
    for name in model.ids:
        value = instance.get(name)
        if not isinstance(value, str) or not PREDICTION_ID.match(value):
            found = _name_type(value) if name in instance else "nothing"
            detail = f"expected a text of characters that a prediction_id can have; found {found}"
            faults.append(Fault(f"{pointer}/{_escape(name)}", detail))
        else:
            ids[name] = value
    return row, ids


def check_value(value: Any, feature: Feature) -> Scalar:
    """Return a stored value as the model takes it; None if the feature does not accept it."""
    parsed = _PARSERS[type(feature)](value, feature)
    return None if isinstance(parsed, Fault) else parsed


def _parse_number(value: Any, feature: Number) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _unexpected(value, feature)
    try:
        number = float(value)
    except OverflowError:
        return Fault("", f"expected {_describe(feature)}; found a number that is too large")
    if not math.isfinite(number):  # not possible in strict JSON, but in the event of a direct invocation
        return Fault("", f"expected {_describe(feature)}; found a number that is not finite")
    if feature.integer and number != math.floor(number):
        return Fault("", f"expected {_describe(feature)}; found a fraction")
    if (feature.low is not None and number < feature.low) or (feature.high is not None and number > feature.high):
        return Fault("", f"expected {_describe(feature)}; found a number out of range")
    return value if feature.integer and isinstance(value, int) else number


def _parse_category(value: Any, feature: Category) -> Any:
    if not isinstance(value, str):
        return _unexpected(value, feature)
    return value if value in feature.choices else Fault("", f"expected {_describe(feature)}; found another text")


def _parse_boolean(value: Any, feature: Boolean) -> Any:
    return value if isinstance(value, bool) else _unexpected(value, feature)


def _parse_text(value: Any, feature: Text) -> Any:
    if not isinstance(value, str):
        return _unexpected(value, feature)
    if len(value) > feature.longest:
        return Fault("", f"expected {_describe(feature)}; found {len(value)} characters")
    if "\0" in value:  # for the runtime it would end the text
        return Fault("", "expected a text without the character U+0000")
    return value


_PARSERS: dict[type, Callable[[Any, Any], Any]] = {
    Number: _parse_number,
    Category: _parse_category,
    Boolean: _parse_boolean,
    Text: _parse_text,
}


def _unexpected(value: Any, feature: Feature) -> Fault:
    return Fault("", f"expected {_describe(feature)}; found {_name_type(value)}")


def _describe(feature: Feature) -> str:
    if isinstance(feature, Number):
        kind = "a whole number" if feature.integer else "a number"
        bounds = [f"of at least {feature.low:g}"] if feature.low is not None else []
        bounds += [f"of at most {feature.high:g}"] if feature.high is not None else []
        return " ".join([kind, " and ".join(bounds)]).strip()
    if isinstance(feature, Category):
        some = ", ".join(feature.choices[:_MAX_CHOICES])
        return f"one of {some}" + (", ..." if len(feature.choices) > _MAX_CHOICES else "")
    if isinstance(feature, Text):
        return f"a text of at most {feature.longest} characters"
    return "true or false"


def _name_type(value: Any) -> str:
    for kind, name in (
        (bool, "a boolean"),
        (str, "a text"),
        (dict, "an object"),
        (list, "a list"),
        (float, "a number"),
    ):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_media_type(request: HttpRequest) -> None:
    given = request.header("content-type") or JSON
    if given != JSON:
        kind, *parameters = [part.strip().lower() for part in given.split(";")]
        charset = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
        if kind != JSON or not set(charset) <= {"utf-8"}:
            raise Problem("unsupported_media_type", "send application/json in UTF-8", reason="content-type")
    if (request.header("content-encoding") or "identity").strip().lower() != "identity":
        raise Problem("unsupported_media_type", "send the body without Content-Encoding", reason="content-encoding")


def _too_large() -> Problem:
    return Problem("content_too_large", f"send at most {MAX_BODY_BYTES} bytes", reason="content-too-large")

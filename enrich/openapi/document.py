"""Build openapi.yaml: the service's own part (service.yaml), and a tag, paths and schemas for each dataset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from enrich.dataset.definition import Dataset
from enrich.dataset.mistakes import Mistake
from enrich.dataset.validation import ToolMissing
from enrich.openapi.paths import PATHS, RANKED, VERSIONED
from enrich.openapi.schema import Schema, describe_body, find_unknown
from serve.datasets import list_names
from serve.item import RANK_PLACE

SERVICE = Path(__file__).with_name("service.yaml")
_HEAD = """\
# The HTTP contract. Written by `./larder openapi --write` from datasets/; a test compares them. API Gateway is
# built from it (infra/gateway.yaml), and the laptop server shows it at /docs.
"""
_FRESH = {"as_of": "AsOf", "expires_at": "ExpiresAt", "run": "Run"}  # member of an entry -> its schema
_END = r"\Z"  # what $ is to Python
ANCHORS = {  # the parts of all datasets and models replace the line
    "tag": "  # further datasets: tags",
    "paths": "  # further datasets: paths",
    "parameters": "    # further datasets: parameters",
    "schemas": "    # further datasets: schemas",
    "headers": "    # models: headers",
    "responses": "    # models: responses",
}


def build_parts(dataset: Dataset) -> dict[str, str]:
    """Build a dataset's part of the HTTP contract: text by the name of its anchor.

    Raises:
        DatasetMistakes: the dataset can't be bound, or its `members` do not fit the body.
        ToolMissing: sqlglot or PyYAML is not installed.
    """
    model = "".join(word[:1].upper() + word[1:] for word in dataset.name.replace("_", "-").split("-"))
    schema = describe_body(dataset)
    subject = " and ".join(f"`{claim}`" for claim in dataset.served.subject)
    scope = f"scope `{dataset.served.scope}`" if dataset.served.scope else "no scope"
    about = f"{dataset.about or f'The items of {dataset.name}'}; {scope}, subject {subject}"
    return {
        "tag": f"  - {_flow({'name': dataset.name, 'description': about})}\n",
        "paths": PATHS.replace("RANKED", RANKED if dataset.rank else "")
        .replace("VERSIONED", VERSIONED if dataset.model_version else "")
        .replace("NAME", dataset.name)
        .replace("MODEL", model),
        "parameters": "".join(
            f"    {line}\n"
            for name, parameter in _describe_parameters(dataset).items()
            for line in _block(f"{model}{name}", parameter)
        ),
        "schemas": "".join(f"    {line}".rstrip() + "\n" for line in _schemas(dataset, model, schema)),
    }


def find_untyped(datasets: Iterable[Dataset]) -> Iterator[Mistake]:
    """Yield the members whose type can't be derived from the dataset, as mistakes with the remedy."""
    for dataset in datasets:
        for place in find_unknown(describe_body(dataset)):
            member = place.removeprefix("body.")
            remedy = f"add {member!r}: Member('what it is', EXAMPLE) to members, or cast it in the metadata query"
            yield Mistake(f"{dataset.name} {place}", "has no known type", remedy)


def build_document(datasets: Iterable[Dataset], models: Iterable[Mapping[str, str]] = ()) -> str:
    """Build the text of openapi.yaml: the service's own part, with the part of each dataset and model.

    Args:
        datasets: the project's datasets.
        models: the parts of its models, as `score.dev.openapi` builds them.

    Raises:
        DatasetMistakes: a dataset can't be bound.
        ToolMissing: sqlglot or PyYAML is not installed.
    """
    parts: list[Mapping[str, str]] = [*map(build_parts, datasets), *models]
    _, start, service = SERVICE.read_text(encoding="utf-8").partition("info:\n")
    text = f"openapi: 3.0.3\n{_HEAD}{start}{service}"
    for part, anchor in ANCHORS.items():
        inserted = "".join(one.get(part, "") for one in parts)
        before, _, after = text.partition(f"{anchor}\n")
        text = before + inserted + after.removeprefix("" if inserted or not before.endswith("\n\n") else "\n")
    return text


def _describe_parameters(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Describe the parameters that differ between datasets, by the suffix of their names."""
    found = {"Fields": _describe_fields(dataset)}
    if dataset.rank:
        top = (
            "the number of items, from the beginning of the ranked list; it can't be combined with `id`, `after` and"
            " `prefix`. `limit` is the size of a page. With `max_age`, items that are too old are in `too_old`."
        )
        after = "with `top`: where the previous page ended; take it from its `Link`"
        number = {"type": "integer", "minimum": 1, "maximum": 100}
        place = {"type": "string", "pattern": f"^{RANK_PLACE.pattern.removesuffix(_END)}$"}
        found["Top"] = {"name": "top", "in": "query", "description": top, "schema": number}
        found["AfterRank"] = {"name": "after_rank", "in": "query", "description": after, "schema": place}
    return found


def _describe_fields(dataset: Dataset) -> dict[str, Any]:
    """Describe the parameter that names members of the body."""
    names = list(list_names(dataset.places()))
    description = (
        "only these members of the body, separated by commas; `required` of the body then applies only to them."
        " A list, or a value that one expression builds, is returned as a whole."
    )
    schema = {"type": "array", "minItems": 1, "items": {"type": "string", "enum": names}}
    parameter = {"name": "fields", "in": "query", "style": "form", "explode": False, "description": description}
    return {**parameter, "schema": schema}


def _schemas(dataset: Dataset, model: str, schema: Schema) -> Iterator[str]:
    fresh = {"prediction_id": _reference("PredictionId"), **{one: _reference(model) for one, model in _FRESH.items()}}
    if dataset.version_place:
        fresh["model_version"] = _describe_version(dataset, schema)
    entry = {**fresh, "body": _reference(f"{model}Body")}
    ids = {"type": "array", "maxItems": 100, "items": _reference("PredictionId")}
    page = {
        "items": _array(entry),
        "too_old": {**_array(fresh), "description": "with `max_age`: the items that are older"},
        "missing": {**ids, "description": "with `id`: the ids for which the subject has no item"},
        "remaining": {**ids, "description": "with `id`: the ids that did not fit into this page: request them next"},
    }
    yield from _block(f"{model}Page", {"type": "object", "required": ["items"], "properties": page})
    body = {"description": f"The body of an item of {dataset.name}", **schema}
    yield from _block(f"{model}Body", body)
    yield ""


def _describe_version(dataset: Dataset, schema: Schema) -> Schema:
    """Describe the version of the model: the member of the body; null if it is null, or absent from an earlier body."""
    for name in dataset.version_place:
        schema = schema["properties"][name]
    kind: Schema = {name: schema[name] for name in schema if name in ("type", "format")}
    description = f"`{dataset.model_version}` of the body; null if the body has none"
    return {**kind, **({"nullable": True} if kind else {}), "description": description}


def _array(properties: dict[str, Any]) -> dict[str, Any]:
    items = {"type": "object", "required": list(properties), "properties": properties}
    return {"type": "array", "maxItems": 100, "items": items}


def _block(name: str, value: Any) -> Iterator[str]:
    """Yield the lines of a member: schemas with properties, items or an example as blocks, others on one line."""
    nested = isinstance(value, dict) and (
        name == "example" or not value.keys().isdisjoint({"properties", "items", "example"}) or _holds_schemas(value)
    )
    if not nested:
        yield f"{_flow(name)}: {_flow(value)}"
        return
    yield f"{_flow(name)}:"
    for member, inner in value.items():
        lines = [f"{_flow(member)}: {_flow(inner)}"] if name == "example" else _block(member, inner)
        yield from (f"  {line}" for line in lines)


def _holds_schemas(value: dict[str, Any]) -> bool:
    return bool(value) and all(isinstance(inner, dict) for inner in value.values())


def _reference(model: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model}"}


def _flow(value: Any) -> str:
    """Render a value as YAML on one line."""
    try:
        import yaml
    except ImportError as error:
        raise ToolMissing(
            "writing openapi.yaml needs PyYAML: pip install -r tests/requirements.txt -c constraints.txt"
        ) from error
    text: str = yaml.safe_dump([value], default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.strip()[1:-1]

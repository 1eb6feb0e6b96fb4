"""Build a dataset's tag, paths and schemas, and insert them into openapi.yaml."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enrich.dataset.definition import Dataset
from enrich.dataset.validation import ToolMissing, read_document
from enrich.openapi.paths import PATHS
from enrich.openapi.schema import Schema, build_example, build_schema, find_unknown

ANCHORS = {  # each part is inserted above its line
    "tag": "  # further datasets: tags",
    "paths": "  # further datasets: paths",
    "schemas": "    # further datasets: schemas",
}


class NoPlace(ValueError):
    """The dataset can't be inserted into openapi.yaml; the message has the remedy."""


@dataclass(frozen=True)
class Contract:
    """A dataset's part of openapi.yaml.

    Attributes:
        parts: text by the name of its anchor.
        unknown: places of the body whose type can't be derived from the dataset.
    """

    name: str
    model: str
    parts: dict[str, str]
    unknown: list[str]


def build_contract(dataset: Dataset) -> Contract:
    """Build a dataset's part of the HTTP contract.

    Raises:
        DatasetMistakes: the dataset can't be bound.
        ToolMissing: sqlglot or PyYAML is not installed.
    """
    model = "".join(word[:1].upper() + word[1:] for word in dataset.name.replace("_", "-").split("-"))
    schema = build_schema(dataset)
    subject = " and ".join(f"`{claim}`" for claim in dataset.served.subject)
    scope = f"scope `{dataset.served.scope}`" if dataset.served.scope else "no scope"
    about = f"The items of {dataset.name}; {scope}, subject {subject}"
    parts = {
        "tag": f"  - {_flow({'name': dataset.name, 'description': about})}\n",
        "paths": PATHS.replace("NAME", dataset.name).replace("MODEL", model),
        "schemas": "".join(f"    {line}".rstrip() + "\n" for line in _schemas(dataset.name, model, schema)),
    }
    return Contract(dataset.name, model, parts, find_unknown(schema))


def insert_contract(text: str, document: Any, contract: Contract) -> str:
    """Insert a dataset's part into the text of openapi.yaml; return the text unchanged if all of it is there.

    Args:
        text: of openapi.yaml.
        document: the parsed text.
        contract: the part to insert.

    Raises:
        NoPlace: the file has only some of it, or lacks an anchor line.
    """
    wanted = {
        f"path /v1/{contract.name}": f"/v1/{contract.name}" in document["paths"],
        f"path /v1/{contract.name}/{{prediction_id}}": f"/v1/{contract.name}/{{prediction_id}}" in document["paths"],
        f"tag {contract.name}": contract.name in {tag["name"] for tag in document.get("tags", [])},
    }
    if all(wanted.values()):
        return text
    schemas = document["components"]["schemas"]
    wanted |= {f"schema {name}": name in schemas for name in (f"{contract.model}Page", f"{contract.model}Body")}
    if there := [what for what, found in wanted.items() if found]:
        raise NoPlace(
            f"openapi.yaml: has {', '.join(there)} already, and not all that {contract.name} needs; remove it"
        )
    for part, anchor in ANCHORS.items():
        before, line, after = text.partition(f"{anchor}\n")
        if not line:
            raise NoPlace(f"openapi.yaml: has no line {anchor.strip()!r}, above which a dataset's {part} goes; add it")
        text = before + contract.parts[part] + line + after
    return text


def write_contract(path: Path, contract: Contract) -> bool:
    """Write a dataset's part into openapi.yaml; return whether the file changed.

    Raises:
        NoPlace: as `insert_contract`; nothing is written.
    """
    text = path.read_text(encoding="utf-8")
    changed = insert_contract(text, read_document(path), contract)
    if changed != text:
        path.write_text(changed, encoding="utf-8")
    return changed != text


def render_contract(contract: Contract) -> str:
    """Render the parts to insert by hand, with their places."""
    return "\n".join(f"# above the line {ANCHORS[part].strip()!r}:\n{text}" for part, text in contract.parts.items())


def _schemas(name: str, model: str, schema: Schema) -> Iterator[str]:
    entry = {"prediction_id": _reference("PredictionId"), "body": _reference(f"{model}Body")}
    items = {"type": "object", "required": list(entry), "properties": entry}
    page = {"items": {"type": "array", "maxItems": 100, "items": items}}
    yield from _block(f"{model}Page", {"type": "object", "required": ["items"], "properties": page})
    body = {"description": f"What is predicted, in {name}", **schema, "example": build_example(schema)}
    yield from _block(f"{model}Body", body)
    yield ""


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

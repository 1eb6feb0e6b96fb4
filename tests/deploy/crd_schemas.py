"""JSON Schemas of the custom resources in infra/kubernetes, as strict as `kubectl apply --validate=strict`.

    python -m tests.deploy.crd_schemas CRD.yaml ...     writes tests/deploy/schemas/KIND.json from the projects' files

schemas/README.md names their sources.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).with_name("schemas")


def read_schema(kind: str) -> dict[str, Any]:
    """Read the schema of a kind."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text())
    return schema


def build_schema(crd: dict[str, Any], version: str) -> dict[str, Any]:
    """Build the schema of one version of a custom resource, without texts; it refuses members that it does not name."""
    (found,) = (one for one in crd["spec"]["versions"] if one["name"] == version)
    schema: dict[str, Any] = _convert(found["schema"]["openAPIV3Schema"])
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
    schema["properties"] |= {
        "apiVersion": {"const": f"{group}/{version}"},
        "kind": {"const": kind},
        "metadata": {"type": "object"},
    }
    schema["x-scope"] = crd["spec"]["scope"]
    return schema


def _convert(node: Any) -> Any:
    if isinstance(node, list):
        return [_convert(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {
        name: {key: _convert(one) for key, one in value.items()} if name == "properties" else _convert(value)
        for name, value in node.items()
        if not (name.startswith("x-kubernetes-") or (name in {"description", "example"} and isinstance(value, str)))
    }
    if "properties" in kept and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def main(paths: list[str]) -> None:
    """Write the newest served version of each custom resource."""
    for path in paths:
        for crd in yaml.safe_load_all(Path(path).read_text()):
            version = next(one["name"] for one in crd["spec"]["versions"] if one["storage"])
            target = SCHEMAS / f"{crd['spec']['names']['kind']}.json"
            target.write_text(json.dumps(build_schema(crd, version), separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

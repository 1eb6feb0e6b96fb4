"""Build infra/gateway.yaml, which API Gateway imports, from the contract (openapi.yaml).

./larder gateway       writes openapi.yaml and infra/gateway.yaml, as `./larder openapi --write` does;
                       `sam build` runs it, and tests compare both files with datasets/

SAM's own `ApiKeyRequired` requires a key for every method, including a browser's preflight and /v1/health, and drops
the contract's security schemes. Here, with `ApiKeys: required`, each operation that requires a token also requires a
key.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from enrich.dataset.definition import Dataset
from enrich.dataset.mistakes import DatasetMistakes
from enrich.datasets import DatasetFileError, find_project, load_datasets
from enrich.openapi.document import build_document
from infra.discovery import require_api_keys
from score.dev.openapi import build_model_parts
from score.models import load_models

GATEWAY = Path(__file__).with_name("gateway.yaml")  # where infra/template.yaml includes it from
_HEAD = "# Written by `./larder openapi --write` from openapi.yaml. A test compares them.\n"


class PlainDumper(yaml.SafeDumper):
    """PyYAML's dumper without aliases, which CloudFormation does not support."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Return True: a repeated value is written again."""
        return True


def build_project_document(datasets: Mapping[str, Dataset]) -> str:
    """Build the text of openapi.yaml from datasets, and from the models of the project.

    Raises:
        DatasetMistakes: a dataset or a model has mistakes.
        ToolMissing: sqlglot or PyYAML is not installed.
    """
    models = load_models({name: dataset.served for name, dataset in datasets.items()})
    return build_document(datasets.values(), build_model_parts(models.values()))


def build_gateway(openapi: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build the document that API Gateway imports: the contract, with security that depends on the stack.

    Args:
        openapi: the contract; None: that of the project's datasets in their present state.
    """
    if openapi is None:
        openapi = yaml.safe_load(build_project_document(load_datasets()))
    document = require_api_keys(openapi)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            given = openapi["paths"][path][method]
            if isinstance(operation, dict) and operation.get("security") != given.get("security"):
                without = given.get("security", openapi["security"])
                operation["security"] = {"Fn::If": ["HasApiKeys", operation["security"], without]}
    return document


def render(document: dict[str, Any]) -> str:
    """Render the file's text."""
    return _HEAD + yaml.dump(document, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=120)


def write_contract(project: Path, openapi: str) -> list[Path]:
    """Write openapi.yaml and infra/gateway.yaml of a project; return the files that changed.

    Args:
        project: the folder of both files.
        openapi: text of the contract.
    """
    texts = {
        project / "openapi.yaml": openapi,
        project / "infra" / "gateway.yaml": render(build_gateway(yaml.safe_load(openapi))),
    }
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_text(texts[path])
    return changed


def main() -> None:
    """Write the contract of the project's datasets."""
    description = "Write openapi.yaml and infra/gateway.yaml, as `./larder openapi --write` does."
    argparse.ArgumentParser(prog="./larder gateway", description=description).parse_args()
    try:
        write_contract(find_project(), build_project_document(load_datasets()))
    except (DatasetFileError, DatasetMistakes) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""Build infra/gateway.yaml, which API Gateway imports, from the contract (openapi.yaml).

python -m infra.gateway       writes infra/gateway.yaml; a test compares it with the contract, and `sam build` writes it

SAM's own `ApiKeyRequired` asks for a key on every method, a browser's preflight and /v1/health too, and drops the
contract's security schemes. Here an operation that requires a token requires a key, with `ApiKeys: required`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from infra.discovery import require_api_keys

ROOT = Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "infra" / "gateway.yaml"
_HEAD = "# Written by `python -m infra.gateway` from openapi.yaml; change that one. A test compares them.\n"


class PlainDumper(yaml.SafeDumper):
    """PyYAML's dumper without aliases, which CloudFormation does not know."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write a value again where it occurs again."""
        return True


def build_gateway() -> dict[str, Any]:
    """Build the document that API Gateway imports: the contract, with security that depends on the stack."""
    openapi = yaml.safe_load((ROOT / "openapi.yaml").read_text())
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


def main() -> None:
    """Write infra/gateway.yaml."""
    GATEWAY.write_text(render(build_gateway()))


if __name__ == "__main__":
    main()

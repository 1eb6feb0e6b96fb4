"""Turn infra/environments.yaml into template parameters and samconfig.toml.

python -m infra.environments                          writes samconfig.toml
python -m infra.environments dev --release 1.2.0      prints dev's parameters, for sam deploy --parameter-overrides
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "infra" / "environments.yaml"
SCHEMA = ROOT / "infra" / "environments.schema.json"
SAMCONFIG = ROOT / "samconfig.toml"
Environments = Mapping[str, Any]

_HEAD = """\
# Written by `python -m infra.environments` from infra/environments.yaml; change that one. A test compares them.
version = 0.1

[default.build.parameters]
template_file = "infra/template.yaml"
parallel = true
"""


def read_environments(path: Path = ENVIRONMENTS) -> Environments:
    """Read the environments.

    Raises:
        jsonschema.ValidationError: they do not conform to the schema; the message names the place.
    """
    document: Environments = yaml.safe_load(path.read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return document


def build_parameters(document: Environments, name: str) -> dict[str, str]:
    """Build the template's parameters of one environment, sorted; all values are text, as CloudFormation requires."""
    environment = document["environments"][name]
    given = {
        "Environment": name,
        "Service": document["service"],
        "Issuer": environment["issuer"],
        "Audience": environment["audience"],
        "DomainName": environment["domain"],
        "CertificateArn": environment["certificate"],
        "DiscoveryBucketName": document["discovery"]["bucket"],
        **environment.get("parameters", {}),
    }
    return {key: str(value) for key, value in sorted(given.items())}


def build_samconfig(document: Environments) -> str:
    """Build samconfig.toml: `sam build` once, `sam deploy --config-env` with each environment's parameters."""
    sections = [_HEAD]
    for name, environment in document["environments"].items():
        overrides = [f"{key}={value}" for key, value in build_parameters(document, name).items()]
        lines = [
            f"[{name}.build.parameters]",
            'template_file = "infra/template.yaml"',
            "parallel = true",
            "",
            f"[{name}.deploy.parameters]",
            f"stack_name = {json.dumps(environment['stack'])}",
            f"region = {json.dumps(environment['region'])}",
            "resolve_s3 = true",
            f"s3_prefix = {json.dumps(environment['stack'])}",
            'capabilities = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]',
            f"confirm_changeset = {'true' if name == 'prod' else 'false'}",
            "fail_on_empty_changeset = false",
            "parameter_overrides = [",
            *(f"  {json.dumps(override)}," for override in overrides),
            "]",
            "",
        ]
        sections.append("\n".join(lines))
    return "\n".join(sections)


def main() -> None:
    """Write samconfig.toml, or print one environment's parameters."""
    parser = argparse.ArgumentParser(description="Write the environments as samconfig.toml.")
    parser.add_argument("environment", nargs="?", help="print this one's parameters; none: write samconfig.toml")
    parser.add_argument("--release", default="unversioned", help="version or commit of what is deployed")
    options = parser.parse_args()
    document = read_environments()
    if options.environment is None:
        SAMCONFIG.write_text(build_samconfig(document))
        return
    if options.environment not in document["environments"]:
        parser.error(f"no environment {options.environment}: choose from {', '.join(document['environments'])}")
    parameters = build_parameters(document, options.environment) | {"ReleaseVersion": options.release}
    print(" ".join(f"{key}={json.dumps(value)}" for key, value in parameters.items()))  # noqa: T201


if __name__ == "__main__":
    main()

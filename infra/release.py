"""Build a release: the stack as plain CloudFormation, for teams whose tool is not SAM (Terraform, CDK, the AWS CLI).

    ./larder release                      writes .larder/release for AWS
    ./larder release --into DIR --target native

The folder has the bundles, the translated template in each of its variants, the templates of the other doors
(infra/doors), `release.json`, which names them all, and `SHA256SUMS`. Two builds of the same sources are equal.

Variants exist because the SAM transform decides about two parameters, which CloudFormation can't: `canary` shifts
traffic in two steps, `api-keys` requires API keys. Each template accepts only its own values of `Canary` and `ApiKeys`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from enrich.dataset.mistakes import DatasetMistakes
from enrich.datasets import DatasetFileError
from enrich.release import RELEASE
from infra.bundle import FUNCTIONS, PLATFORMS, BundleError, build, find_used, has_models
from infra.discovery import find_door
from infra.environments import DIGESTS, build_parameters, read_environments
from infra.gateway import build_gateway
from infra.translate import DOORS, ROOT, Template, read_template, translate

PLACE = ROOT / ".larder" / "release"
MANIFEST, SUMS = "release.json", "SHA256SUMS"
OPTIONS = {  # parameters about which the SAM transform decides: name in a variant -> (parameter, off, on)
    "canary": ("Canary", "false", "true"),
    "api-keys": ("ApiKeys", "", "required"),
}
VARIANTS = tuple("-".join(filter(None, names)) for names in product(*(("", option) for option in OPTIONS)))
ARTIFACTS = {
    "ArtifactsBucket": {
        "Type": "String",
        "Description": "bucket in the stack's region that has the bundles of this release",
        "AllowedPattern": "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    },
    "ArtifactsPrefix": {
        "Type": "String",
        "Description": "prefix of the bundles' object keys, e.g. larder/; empty for none",
        "Default": "",
        "AllowedPattern": "^([^/].*/)?$",
    },
}


class ReleaseError(Exception):
    """The release cannot be written; the message has the remedy."""


def build_template(variant: str, bundles: Mapping[str, str]) -> Template:
    """Translate infra/template.yaml to CloudFormation with one variant's options.

    Args:
        variant: one of `VARIANTS`.
        bundles: name of the zip of each function, by logical id.
    """
    given = {}
    template = read_template()
    for option, (name, off, on) in OPTIONS.items():
        given[name] = on if option in variant else off
        template["Parameters"][name] |= {
            "Default": given[name],
            "AllowedValues": [given[name]],
            "ConstraintDescription": f"{given[name]!r} in this variant of the template; {MANIFEST} names the others",
        }
    # SAM's AlwaysDeploy gives the deployment a random name. Here its name is the digest of the API's document, which
    # has no conditions: if the document or the variant changes, it is deployed.
    api = template["Resources"]["Api"]["Properties"]
    api["AlwaysDeploy"] = False
    api["DefinitionBody"] = _resolve(build_gateway(), "HasApiKeys", "api-keys" in variant)
    code = {
        function: {"Bucket": {"Ref": "ArtifactsBucket"}, "Key": {"Fn::Sub": f"${{ArtifactsPrefix}}{name}"}}
        for function, name in bundles.items()
    }
    translated = translate(template, code, given)
    translated["Parameters"] |= ARTIFACTS  # only now: SAM would put their defaults into the locations of code
    _publish_by_digest(translated)
    return translated


def _resolve(node: Any, condition: str, value: bool) -> Any:
    """Replace each `Fn::If` of a condition with the branch that it selects."""
    if isinstance(node, list):
        return [_resolve(one, condition, value) for one in node]
    if not isinstance(node, dict):
        return node
    if "Fn::If" in node and node["Fn::If"][0] == condition:
        return _resolve(node["Fn::If"][1 if value else 2], condition, value)
    return {name: _resolve(one, condition, value) for name, one in node.items()}


def _publish_by_digest(template: Template) -> None:
    """Publish a function's version when its parameter ServeDigest or ScoreDigest changes.

    SAM names a version by that digest when it translates. Here the template is translated once for all environments,
    and a changed description replaces the version. The function's own description changes too, since Lambda publishes
    no version of an unchanged function.
    """
    resources = template["Resources"]
    for parameter, bundle in DIGESTS.items():
        (function,) = (name for name, one in FUNCTIONS.items() if one == bundle)
        text = resources[function]["Properties"]["Description"].strip()
        description = {"Fn::Sub": f"{text} ${{{parameter}}}"}
        resources[function]["Properties"]["Description"] = description
        (version,) = (
            one
            for one in resources.values()
            if one["Type"] == "AWS::Lambda::Version" and one["Properties"]["FunctionName"] == {"Ref": function}
        )
        version["Properties"]["Description"] = description
        version["UpdateReplacePolicy"] = "Retain"  # for a rollback, as SAM keeps versions


def build_release(target: str = "aws-arm64") -> dict[str, bytes]:
    """Build all files of the release, by name.

    Raises:
        BundleError: a bundle cannot be built.
        ValueError: an environment has a mistake.
    """
    files, names = {}, {}
    for bundle in find_used(models=has_models()):
        built = build(bundle, target)
        names[bundle] = f"{bundle}-{built.digest[:16]}.zip"
        files[names[bundle]] = built.path.read_bytes()
    # Without models this function does not exist: nothing reads its zip.
    functions = {function: names.get(bundle, f"{bundle}-unused.zip") for function, bundle in FUNCTIONS.items()}
    templates = {}
    for variant in VARIANTS:
        templates[variant] = f"larder-{RELEASE}{variant and '-'}{variant}.template.json"
        files[templates[variant]] = _render(build_template(variant, functions))
    doors = {}
    for path in sorted(DOORS.glob("*.yaml")):
        doors[path.stem] = f"larder-{RELEASE}-door-{path.stem}.template.json"
        files[doors[path.stem]] = _render(read_template(path))
    manifest = {
        "release": RELEASE,
        "templates": templates,
        "doors": doors,
        "functions": {function: name for function, name in functions.items() if name in files},
        "environments": dict(_build_environments()),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    files[MANIFEST] = _render(manifest, indent=1)
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())]
    return {**files, SUMS: "".join(sums).encode()}


def _build_environments() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each environment's stack, region, variant and parameters, except those that a deployment adds."""
    document = read_environments()
    for name, environment in document["environments"].items():
        parameters = {**build_parameters(document, name), "ReleaseVersion": RELEASE}
        variant = "-".join(option for option, (one, _, on) in OPTIONS.items() if parameters.get(one) == on)
        given = {member: environment.get(member) for member in ("stack", "region", "domain", "certificate")}
        yield name, {**given, "door": find_door(environment), "variant": variant, "parameters": parameters}


def find_old(folder: Path) -> set[str]:
    """Return the files of the release that is in a folder.

    Raises:
        ReleaseError: the folder has other files, or is a file.
    """
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise ReleaseError(f"{folder} is a file; name a folder with --into")
    found, sums = {path.name for path in folder.iterdir()}, folder / SUMS
    ours = {line.partition("  ")[2] for line in sums.read_text().splitlines()} | {SUMS} if sums.is_file() else set()
    if foreign := sorted(found - ours):
        raise ReleaseError(f"{folder} has {foreign[0]}, which is not of a release; name an empty folder with --into")
    return found


def write_release(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a release into a folder, and replace the release that is there.

    Raises:
        ReleaseError: the folder has other files.
    """
    old = find_old(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in old - set(files):
        (folder / name).unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _render(document: Any, indent: int | None = None) -> bytes:
    return (json.dumps(document, indent=indent, ensure_ascii=False) + "\n").encode()


def main() -> None:
    """Write the release, and print where it is."""
    parser = argparse.ArgumentParser(
        prog="./larder release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, default=PLACE, help="folder (default: .larder/release)")
    parser.add_argument("--target", choices=sorted(PLATFORMS), default="aws-arm64", help="default: %(default)s")
    options = parser.parse_args()
    try:
        find_old(options.into)  # before building, which takes minutes
        files = build_release(options.target)
        write_release(options.into, files)
    except jsonschema.ValidationError as error:
        sys.exit(f"infra/environments.yaml: {error.json_path}: {error.message}")
    except (BundleError, DatasetFileError, DatasetMistakes, ReleaseError) as error:
        sys.exit(f"larder release: {error}")
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"larder release: {error}")
    size = sum(map(len, files.values())) / 1e6
    print(f"{options.into}: release {RELEASE}, {len(files)} files, {size:.0f} MB; `sha256sum --check {SUMS}`")  # noqa: T201


if __name__ == "__main__":
    main()

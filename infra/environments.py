"""Turn infra/environments.yaml into template parameters, samconfig.toml, and the template of the discovery bucket.

./larder environments                          writes samconfig.toml and infra/discovery-bucket.yaml
./larder environments dev --release 1.2.0      prints dev's parameters, for sam deploy --parameter-overrides
./larder environments prod --no-canary         for a deploy while an alarm is firing: all traffic at once

Mistakes that CloudFormation would find during a deploy, or serve after it, are found here: a parameter that the
template does not have, or a value that it does not accept; a certificate of another region; an origin with a path.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.suggestions import suggest
from enrich.datasets import load_datasets, load_served
from infra import discovery_bucket
from infra.bundle import digest_inputs
from infra.discovery import API_GATEWAY, build_base_url, find_door
from infra.translate import ROOT, TEMPLATE, read_template
from score.models import load_models
from serve.settings import parse_settings
from serve.tokens.key_sources import check_location

ENVIRONMENTS = ROOT / "infra" / "environments.yaml"
SCHEMA = ROOT / "infra" / "environments.schema.json"
SAMCONFIG = ROOT / "samconfig.toml"
DIGESTS = {"ServeDigest": "serve", "ScoreDigest": "score"}  # parameter -> bundle
NEED_FIREWALL = {"load-balancer", "private-cluster"}  # doors whose templates require WebAclArn
MAX_ISSUERS = 3000  # characters of LARDER_ISSUERS: all variables of a function share 4 KB (Lambda's quota)
Environments = Mapping[str, Any]

_HEAD = """\
# Written by `./larder environments` from infra/environments.yaml; change that one. A test compares them.
version = 0.1

[default.build.parameters]
template_file = "infra/template.yaml"
parallel = true
"""


def read_environments(path: Path = ENVIRONMENTS) -> Environments:
    """Read the environments.

    Raises:
        yaml.YAMLError: they are not YAML, or a member occurs twice.
        jsonschema.ValidationError: they do not conform to the schema; the message names the place.
    """
    with path.open() as file:  # PyYAML's errors name the file
        document: Environments = yaml.load(file, _Loader)  # noqa: S506 - a subclass of the safe loader
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return document


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with an error for a repeated member; PyYAML would silently use the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Build a mapping."""
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=deep)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} occurs twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def build_parameters(document: Environments, name: str) -> dict[str, str]:
    """Build the template's parameters of one environment, sorted; all values are text, as CloudFormation requires.

    Raises:
        ValueError: the template does not have a parameter or does not accept its value, the certificate is of another
        region, a setting of the door is missing, an overwritten output would be gone before its items expire, or serve
        would refuse its settings or is not allowed to read the keys of an issuer.
    """
    environment = document["environments"][name]
    parameters = environment.get("parameters", {})
    issuers = build_issuers(environment, name)
    _check_settings(name, issuers, parameters)
    one = {"Issuer": environment.get("issuer"), "Audience": environment.get("audience")}
    given = {
        "Environment": name,
        "Service": document["service"],
        **({"Issuers": issuers} if "issuers" in environment else one),
        **_build_address(document, name),
        "DiscoveryBucketName": document.get("discovery", {}).get("bucket"),
        **parameters,
    }
    if load_models(load_served()):
        given = {"Models": "true", **given}
    found = {key: str(value) for key, value in sorted(given.items()) if value is not None}
    _check_parameters(name, found)
    _check_replaced_outputs(name, found)
    if found.get("ItemEvents") == "true" and not found.get("EventBus"):
        raise ValueError(
            f"environments.{name}: ItemEvents is true, but EventBus is empty, so the events have no bus; set "
            "EventBus to own or default"
        )
    certificate = environment.get("certificate", "")
    if certificate and f":acm:{environment['region']}:" not in certificate:
        raise ValueError(
            f"environments.{name}: the certificate {certificate} is not in {environment['region']}: the API is "
            "regional, so its certificate must be in the stack's region"
        )
    return found


def _build_address(document: Environments, name: str) -> dict[str, str | None]:
    """Build the parameters of the stack's address; API Gateway has the domain only if it is the door."""
    environment = document["environments"][name]
    if (door := find_door(environment)) == API_GATEWAY:
        return {"DomainName": environment.get("domain"), "CertificateArn": environment.get("certificate")}
    if "domain" not in environment:
        raise ValueError(f"environments.{name}: the door {door} needs a domain and its certificate; add both")
    parameters = environment.get("parameters", {})
    if door in NEED_FIREWALL and parameters.get("Waf") == "false":
        raise ValueError(f"environments.{name}: the door {door} is public and needs the firewall; remove Waf")
    if parameters.get("ApiKeys"):
        raise ValueError(
            f"environments.{name}: the door {door} has no API keys; remove ApiKeys, or the door (docs/front-doors.md)"
        )
    return {"PublicUrl": build_base_url(document, name)}


def is_protected(document: Environments, name: str) -> bool:
    """Return whether an environment's tables are protected from deletion: yes, unless DeletionProtection is false."""
    return str(document["environments"][name].get("parameters", {}).get("DeletionProtection", "true")) == "true"


def _check_parameters(name: str, given: Mapping[str, str]) -> None:
    """Check names and values as CloudFormation does with the template's parameters."""
    known = _read_parameters()
    for parameter, value in given.items():
        place = f"environments.{name}: {parameter}"
        if parameter not in known:
            raise ValueError(f"{place} is not in {TEMPLATE.relative_to(ROOT)}; {suggest(parameter, known)}")
        if wanted := find_mismatch(known[parameter], value):
            raise ValueError(f"{place} is {value!r}; the template accepts {wanted}")


def _check_replaced_outputs(name: str, given: Mapping[str, str]) -> None:
    """Check that an output that was overwritten can be withdrawn as long as one of its items can live."""
    days = int(given.get("ReplacedOutputDays", _read_parameters()["ReplacedOutputDays"]["Default"]))
    for dataset in load_datasets().values():
        if isinstance(dataset.ttl, timedelta) and dataset.ttl > timedelta(days=days):  # other types: `./larder check`
            least = -(-dataset.ttl // timedelta(days=1))
            raise ValueError(
                f"environments.{name}: items of {dataset.name!r} live for {least} days, and replaced outputs are gone "
                f"after {days} days, so they could not be restored; set ReplacedOutputDays to {least} or more"
            )


@cache
def _read_parameters() -> Mapping[str, Any]:
    parameters: Mapping[str, Any] = read_template()["Parameters"]
    return parameters


def find_mismatch(parameter: Mapping[str, Any], value: str) -> str:
    """Return what CloudFormation requires of a parameter, if a value does not fulfil it; otherwise an empty text."""
    if "AllowedValues" in parameter and value not in (allowed := [str(one) for one in parameter["AllowedValues"]]):
        return f"one of {', '.join(one or 'an empty text' for one in allowed)}"
    if "AllowedPattern" in parameter and not re.fullmatch(parameter["AllowedPattern"], value):
        return f"a text that matches {parameter['AllowedPattern']}"
    if parameter["Type"] == "Number":
        least, most = parameter.get("MinValue", 0), parameter.get("MaxValue", 10**12)
        if not value.isdecimal() or not least <= int(value) <= most:
            return f"a whole number from {least}" + (f" to {most}" if "MaxValue" in parameter else "")
    return ""


def build_issuers(environment: Mapping[str, Any], name: str) -> str:
    """Build the value of LARDER_ISSUERS: JSON without blanks and escapes that a shell or SAM would change.

    Raises:
        ValueError: there is a list of issuers, but also a KeyStore, which would be ignored.
    """
    parameters = environment.get("parameters", {})
    if "issuers" in environment and "KeyStore" in parameters:
        raise ValueError(f"environments.{name}: KeyStore is ignored if there are issuers: give each issuer its keys")
    default = f"ssm:/larder/{name}/keys/"
    one = {"issuer": environment.get("issuer"), "audience": environment.get("audience")}
    given = environment.get("issuers") or [{**one, "keys": parameters.get("KeyStore") or default}]
    text = json.dumps([{"keys": default, **issuer} for issuer in given], separators=(",", ":"))
    for character in ("\\\\", '\\"', " "):
        text = text.replace(character, f"\\u{ord(character[-1]):04x}")
    return text


def _check_settings(name: str, issuers: str, parameters: Mapping[str, Any]) -> None:
    """Check the settings as serve does, and that its role can read the locations of keys."""
    variables = {
        "LARDER_TABLE": "table",
        "LARDER_ISSUERS": issuers,
        "LARDER_CORS_ORIGINS": str(parameters.get("CorsOrigins", "")),
    }
    served = load_served()
    try:
        settings = parse_settings(variables, served)
        for issuer in settings.issuers:
            check_location(issuer.keys)
    except ValueError as error:
        raise ValueError(f"environments.{name}: {error}") from error
    if len(issuers) > MAX_ISSUERS:
        raise ValueError(
            f"environments.{name}: issuers have {len(issuers)} characters as JSON, expected at most {MAX_ISSUERS}"
        )
    bucket = parameters.get("KeyStoreBucketName")
    readable = ("https://", f"ssm:/larder/{name}/keys/", *([f"s3://{bucket}/"] if bucket else []))
    for issuer in settings.issuers:
        if not f"{issuer.keys}/".startswith(readable):
            raise ValueError(
                f"environments.{name}: serve is not allowed to read the keys of {issuer.policy.issuer} at "
                f"{issuer.keys}: use {' or '.join(readable)} (for S3, name its bucket in KeyStoreBucketName)"
            )


def build_digest(template: str, code: str, parameters: Mapping[str, str]) -> str:
    """Build the parameter ServeDigest or ScoreDigest: a change of template, code or parameters publishes a version.

    SAM's own digest covers only the code and the names of parameters, so a changed value would reach only `$LATEST`,
    but not the alias that consumers call.

    Args:
        template: text of the template.
        code: a digest of the function's code.
        parameters: all parameters and their values.
    """
    given = {name: value for name, value in sorted(parameters.items()) if name not in DIGESTS}
    return hashlib.sha256(json.dumps([template, code, given]).encode()).hexdigest()


def build_samconfig(document: Environments) -> str:
    """Build samconfig.toml: one `sam build`, then `sam deploy --config-env` with each environment's parameters."""
    sections = [_HEAD]
    for name, environment in document["environments"].items():
        overrides = [f"{key}={_quote(value)}" for key, value in build_parameters(document, name).items()]
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
            f"confirm_changeset = {'true' if is_protected(document, name) else 'false'}",
            "fail_on_empty_changeset = false",
            "parameter_overrides = [",
            *(f"  {json.dumps(override)}," for override in overrides),
            # Otherwise sam passes the value of the previous deploy. If it is empty the bundle decides: `sam build`
            # writes a digest into it.
            *(f'  "{digest}=\\"\\"",' for digest in DIGESTS),
            "]",
            "",
        ]
        sections.append("\n".join(lines))
    return "\n".join(sections)


def _quote(value: str) -> str:
    """Quote a value that SAM would otherwise split or change (in its option `--parameter-overrides`)."""
    return '"' + value.replace('"', '\\"') + '"' if set(value) & set(" \"'\\") else value


def main() -> None:
    """Write the generated files, or print one environment's parameters."""
    parser = argparse.ArgumentParser(
        prog="./larder environments",
        description=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("environment", nargs="?", help="print its parameters (default: write the generated files)")
    parser.add_argument("--release", default="unversioned", help="version or commit that is deployed")
    parser.add_argument("--no-canary", action="store_true", help="shift all traffic at once, whatever the alarms")
    options = parser.parse_args()
    try:
        _write(parser, options)
    except jsonschema.ValidationError as error:
        sys.exit(f"infra/environments.yaml: {error.json_path}: {error.message}")
    except DatasetMistakes as error:  # the message names the file
        sys.exit(str(error))
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"infra/environments.yaml: {error}")


def _write(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    document = read_environments()
    if options.environment is None:
        SAMCONFIG.write_text(build_samconfig(document))
        discovery_bucket.write(document)
        return
    if options.environment not in document["environments"]:
        parser.error(
            f"no environment {options.environment!r}; {suggest(options.environment, document['environments'])}"
        )
    parameters = build_parameters(document, options.environment) | {"ReleaseVersion": options.release}
    if options.no_canary:
        parameters["Canary"] = "false"
    for digest, bundle in DIGESTS.items():
        parameters[digest] = build_digest(TEMPLATE.read_text(), digest_inputs(bundle), parameters)
    print(" ".join(f"{key}={_quote(value)}" for key, value in parameters.items()))  # noqa: T201


if __name__ == "__main__":
    main()

"""Translate the SAM template to CloudFormation: includes first, then SAM."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import intrinsics_multi_constructor

from infra.gateway import GATEWAY, build_gateway

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "infra" / "template.yaml"
DOORS = ROOT / "infra" / "doors"  # templates of other doors (docs/front-doors.md), which are plain CloudFormation
Template = dict[str, Any]
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is nine times as fast

logging.getLogger("samtranslator").setLevel(logging.ERROR)  # it warns about its own missing feature flags and metrics


def read_template(path: Path = TEMPLATE) -> Template:
    """Read the SAM template, with long forms of intrinsic functions (`!Ref x` is `{"Ref": "x"}`)."""
    template: Template = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a subclass of the safe loader
    return template


class _Loader(YAML_LOADER):  # type: ignore[misc]
    """A safe loader that knows intrinsic functions."""


_Loader.add_multi_constructor("!", intrinsics_multi_constructor)


def include(node: Any, folder: Path) -> Any:
    """Replace each `AWS::Include` with the file that it names, relative to the template's folder."""
    if isinstance(node, list):
        return [include(value, folder) for value in node]
    if not isinstance(node, dict):
        return node
    transform_ = node.get("Fn::Transform")
    if isinstance(transform_, dict) and transform_.get("Name") == "AWS::Include":
        path = folder / transform_["Parameters"]["Location"]
        # Like `sam build`, which writes that file again: the present contract is deployed.
        return build_gateway() if path == GATEWAY else yaml.load(path.read_text(), YAML_LOADER)  # noqa: S506 - a safe loader
    return {name: include(value, folder) for name, value in node.items()}


def translate(
    template: Template,
    code: Mapping[str, Mapping[str, Any]],
    parameters: Mapping[str, str],
    *,
    region: str = "us-east-1",
    folder: Path = TEMPLATE.parent,
) -> Template:
    """Translate a template as `sam deploy` and CloudFormation together do.

    Args:
        template: as returned by `read_template`; it is not changed.
        code: for each function's logical id, its bundle as `{"Bucket": ..., "Key": ...}`.
        parameters: values that the SAM transform needs; CloudFormation resolves all other references.
        region: region of the stack.
        folder: folder of the template.
    """
    whole = include(copy.deepcopy(template), folder)
    for name, location in code.items():
        whole["Resources"][name]["Properties"]["CodeUri"] = dict(location)
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=region))
    translated = translator.translate(whole, dict(parameters))
    return json.loads(json.dumps(translated))  # type: ignore[no-any-return]  # dates and subclasses become plain JSON

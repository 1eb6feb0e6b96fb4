"""A release as plain CloudFormation: its templates keep what SAM's transform would lose; its folder is complete."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infra.bundle import FUNCTIONS
from infra.environments import DIGESTS
from infra.release import OPTIONS, SUMS, VARIANTS, ReleaseError, build_template, write_release
from infra.translate import Template, read_template

BUNDLES = {function: f"{bundle}-0.zip" for function, bundle in FUNCTIONS.items()}
VARIANT = "canary-api-keys"


@pytest.fixture(scope="module")
def template() -> Template:
    return build_template(VARIANT, BUNDLES)  # a second each; tests/deploy has the other variants


def count_uses(node: Any, found: Counter[str]) -> Counter[str]:
    """Count the references to each name."""
    if isinstance(node, list):
        for one in node:
            count_uses(one, found)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == "Ref":
                found[value] += 1
            elif name == "Fn::Sub":
                found.update(re.findall(r"\$\{(\w+)\}", value if isinstance(value, str) else value[0]))
            count_uses(value, found)
    return found


def test_every_parameter_still_has_an_effect(template: Template) -> None:
    """Translation does not replace a parameter with its default, except those of the variant."""
    source = read_template()
    parts = ("Conditions", "Resources", "Outputs")
    before, after = (count_uses({part: one[part] for part in parts}, Counter()) for one in (source, template))
    assert {name for name in source["Parameters"] if after[name] < before[name]} == {"Canary"}
    assert all(after[name] for name in template["Parameters"] if name != "Canary")


def test_variant_accepts_its_own_values(template: Template) -> None:
    """Another value of `Canary` or `ApiKeys` is refused by CloudFormation, with the remedy."""
    for name, _off, on in OPTIONS.values():
        parameter = template["Parameters"][name]
        assert (parameter["Default"], parameter["AllowedValues"]) == (on, [on])
        assert "release.json" in parameter["ConstraintDescription"]
    resources = template["Resources"]
    assert [one for one in resources.values() if one["Type"] == "AWS::CodeDeploy::DeploymentGroup"]
    (api,) = (one for one in resources.values() if one["Type"] == "AWS::ApiGateway::RestApi")
    body = json.dumps(api["Properties"]["Body"])
    assert "HasApiKeys" not in body  # the deployment's name is the body's digest, which has no conditions
    assert '"apiKey": []' in body


def test_code_is_in_the_deployers_bucket(template: Template) -> None:
    """Each function reads its zip below the prefix that the deployer chose."""
    for function, name in BUNDLES.items():
        code = template["Resources"][function]["Properties"]["Code"]
        assert code == {"S3Bucket": {"Ref": "ArtifactsBucket"}, "S3Key": {"Fn::Sub": f"${{ArtifactsPrefix}}{name}"}}


@pytest.mark.parametrize("parameter", DIGESTS)
def test_another_digest_is_another_version(template: Template, parameter: str) -> None:
    """The function and its version change with the digest, and the previous version stays for a rollback."""
    (function,) = (name for name, bundle in FUNCTIONS.items() if bundle == DIGESTS[parameter])
    resources = template["Resources"]
    (version,) = (
        one
        for one in resources.values()
        if one["Type"] == "AWS::Lambda::Version" and one["Properties"]["FunctionName"] == {"Ref": function}
    )
    description = resources[function]["Properties"]["Description"]
    assert f"${{{parameter}}}" in description["Fn::Sub"]
    assert len(description["Fn::Sub"]) + 64 < 256  # Lambda's quota
    assert version["Properties"]["Description"] == description
    assert (version["DeletionPolicy"], version["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_variants_are_all_combinations() -> None:
    """Each option is on in half of the variants."""
    assert sorted(VARIANTS) == ["", "api-keys", "canary", "canary-api-keys"]


def test_folder_has_one_release(tmp_path: Path) -> None:
    """A release replaces the previous release, but no other file."""
    folder = tmp_path / "new" / "release"
    for files in ({"a-1.zip": b"1", "x": b"2"}, {"a-2.zip": b"3", "x": b"4"}):
        write_release(folder, {**files, SUMS: "".join(f"0  {name}\n" for name in files).encode()})
        assert {path.name for path in folder.iterdir()} == {*files, SUMS}
    assert (folder / "x").read_bytes() == b"4"
    with pytest.raises(ReleaseError, match="x is a file; name a folder with --into"):
        write_release(folder / "x", {})
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ReleaseError, match=r"notes\.txt.*--into"):
        write_release(folder, {"x": b"5", SUMS: b"0  x\n"})
    assert (folder / "x").read_bytes() == b"4"

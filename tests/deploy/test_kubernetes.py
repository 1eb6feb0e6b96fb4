"""The manifests: each overlay is valid, strictly and offline, and seeded faults are reported."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from infra.tools import install
from infra.translate import ROOT
from tests.deploy.crd_schemas import SCHEMAS, read_schema
from tests.deploy.kubernetes_rules import RULES, check

MANIFESTS = ROOT / "infra" / "kubernetes"
OVERLAYS = ("alb", "gateway", "private")
CUSTOM = {path.stem for path in SCHEMAS.glob("*.json")}
FAULTS: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("kubernetes_faults.yaml").read_text())
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools() -> Path:
    """Return the folder of kubectl and kubernetes-validate."""
    return install("kubernetes")


def render(tools: Path, manifests: Path, overlay: str) -> list[dict[str, Any]]:
    """Render an overlay as `kubectl apply -k` does; an error is a ValueError."""
    command = [str(tools / "kubectl"), "kustomize", str(manifests / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def validate(tools: Path, manifests: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Yield what the API server would refuse: unknown members, too, and kinds without a schema."""
    own = [one for one in manifests if one["kind"] not in CUSTOM]
    path = folder / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(own))
    command = [str(tools / "kubernetes-validate"), "--strict", "--quiet", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if said := (done.stdout + done.stderr).strip():  # with --quiet: errors, and a warning if a kind has no schema
        yield said
    for one in manifests:
        if one["kind"] in CUSTOM:
            schema = read_schema(one["kind"])
            for error in jsonschema.Draft202012Validator(schema).iter_errors(one):
                yield f"{one['kind']}: {error.json_path}: {error.message}"


def add_models(manifests: Path) -> None:
    """Uncomment the lines `with models`."""
    for path in manifests.glob("overlays/*/kustomization.yaml"):
        lines = [
            line.replace("# - ", "- ", 1) if line.endswith("# with models") else line
            for line in path.read_text().splitlines()
        ]
        path.write_text("\n".join(lines) + "\n")


def copy(tmp_path: Path, *, models: bool) -> Path:
    """Copy the manifests."""
    target = tmp_path / "kubernetes"
    shutil.copytree(MANIFESTS, target)
    if models:
        add_models(target)
    return target


@pytest.mark.parametrize("models", [False, True], ids=["serve", "serve and score"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_valid(tools: Path, overlay: str, models: bool, tmp_path: Path) -> None:
    """An overlay conforms to the schemas of Kubernetes and of the custom resources, and to our rules."""
    manifests = render(tools, copy(tmp_path, models=models), overlay)
    assert list(validate(tools, manifests, tmp_path)) == []
    assert check(manifests) == []
    names = {one["metadata"]["name"] for one in manifests if one["kind"] == "Deployment"}
    assert names == ({"larder-serve", "larder-score"} if models else {"larder-serve"})


def test_gateway_class_is_valid() -> None:
    """The class, which has no namespace, is applied alone."""
    one = yaml.safe_load((MANIFESTS / "overlays" / "gateway" / "class.yaml").read_text())
    jsonschema.validate(one, read_schema("GatewayClass"))
    assert one["spec"]["controllerName"] == "gateway.envoyproxy.io/gatewayclass-controller"
    (gateway,) = yaml.safe_load_all((MANIFESTS / "overlays" / "gateway" / "gateway.yaml").read_text())
    assert gateway["spec"]["gatewayClassName"] == one["metadata"]["name"]


@pytest.mark.parametrize("fault", FAULTS, ids=[one["fault"] for one in FAULTS])
def test_seeded_fault_is_reported(tools: Path, fault: dict[str, str], tmp_path: Path) -> None:
    """A fault in one file is reported by kustomize, a schema or a rule, in some overlay."""
    manifests = copy(tmp_path, models=True)
    path = manifests / fault["file"]
    text = path.read_text()
    assert text.count(fault["old"]) == 1, f"{fault['file']} has {fault['old']!r} {text.count(fault['old'])} times"
    path.write_text(text.replace(fault["old"], fault["new"]))
    found: list[str] = []
    for overlay in OVERLAYS:
        try:
            rendered = render(tools, manifests, overlay)
        except ValueError as error:
            found.append(str(error))
            continue
        found += check(rendered) or list(validate(tools, rendered, tmp_path))
    assert found
    if "rule" in fault:
        assert any(one.startswith(fault["rule"]) for one in found), found


def test_each_rule_has_a_fault() -> None:
    """Every rule has a seeded fault that it, and not another, must report."""
    assert {rule.__name__ for rule in RULES} == {one["rule"] for one in FAULTS if "rule" in one}


def test_schemas_are_strict() -> None:
    """A schema refuses a member that its resource does not have, at each depth."""
    for kind in sorted(CUSTOM):
        text = json.dumps(read_schema(kind))
        assert '"additionalProperties": false' in text, kind

"""The CDK example includes a release's template completely."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.translate import ROOT

EXAMPLE = ROOT / "examples" / "cdk"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: Node.js 20 or newer brings it"),
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example with its locked packages."""
    folder = tmp_path_factory.mktemp("cdk") / "app"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "cdk.out"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install the locked packages: {done.stderr.strip()[-500:]}")
    return folder


@pytest.mark.parametrize("environment", ["dev", "pre-prod", "prod"])  # each of another variant
def test_synth_loses_nothing(app: Path, release: Path, environment: str) -> None:
    """The result has the resources, conditions and outputs of the release, with the app's own bundles."""
    manifest = json.loads((release / "release.json").read_text())
    here = manifest["environments"][environment]
    template = json.loads((release / manifest["templates"][here["variant"]]).read_text())
    out = app / f"cdk.out.{environment}"
    context = {"release": str(release), "environment": environment}
    env = {**os.environ, "CDK_OUTDIR": str(out), "CDK_CONTEXT_JSON": json.dumps(context)}
    done = subprocess.run(["node", "app.js"], cwd=app, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / f"{here['stack']}.template.json").read_text())

    for part in ("Resources", "Conditions", "Outputs"):
        lost = set(template[part]) - set(found[part])
        added = set(found[part]) - set(template[part]) - {"CDKMetadata", "CDKMetadataAvailable"}
        assert (lost, added) == (set(), set()), part
    for name, one in template["Resources"].items():
        other = found["Resources"][name]
        for member in ("Type", "Condition", "DeletionPolicy", "UpdateReplacePolicy", "UpdatePolicy"):
            assert other.get(member) == one.get(member), f"{name}: {member}"
        assert set(other.get("Properties", {})) == set(one.get("Properties", {})), name
    assets = json.loads((out / f"{here['stack']}.assets.json").read_text())["files"]
    for function in manifest["functions"]:
        code = found["Resources"][function]["Properties"]["Code"]
        assert code["S3Key"].removesuffix(".zip") in assets
    # parameters that the environment sets become values, all others remain parameters
    assert set(template["Parameters"]) - set(found["Parameters"]) >= set(here["parameters"])
    texts = json.dumps(found["Resources"]["ServeFunction"]["Properties"]["Description"])
    assert "ServeDigest" not in texts

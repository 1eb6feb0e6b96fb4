"""A whole release: its sums, its linted templates, and a second build that is the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.release import MANIFEST, OPTIONS, SUMS, VARIANTS, build_release

pytestmark = pytest.mark.slow
ACCEPTED = {"W2001"}  # Canary has one value, and is not used


def test_second_build_is_the_same(release: Path) -> None:
    """A release does not depend on the time, on randomness, or on the machine's order of files."""
    again = build_release("native")
    assert {name: hashlib.sha256(data).hexdigest() for name, data in again.items()} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.iterdir()
    }


def test_sums_are_of_every_file(release: Path) -> None:
    """`sha256sum --check` accepts the folder, and the manifest names each file that is deployed."""
    lines = {line[66:]: line[:64] for line in (release / SUMS).read_text().splitlines()}
    assert set(lines) == {path.name for path in release.iterdir()} - {SUMS}
    for name, digest in lines.items():
        assert hashlib.sha256((release / name).read_bytes()).hexdigest() == digest
    manifest = json.loads((release / MANIFEST).read_text())
    assert manifest["files"] == {name: digest for name, digest in lines.items() if name != MANIFEST}
    named = {*manifest["templates"].values(), *manifest["doors"].values(), *manifest["functions"].values()}
    assert named == set(manifest["files"])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant or "plain")
def test_template_of_a_variant(release: Path, variant: str) -> None:
    """CloudFormation accepts its size, and the linter its content; its environments have its values."""
    manifest = json.loads((release / MANIFEST).read_text())
    path = release / manifest["templates"][variant]
    assert path.stat().st_size < 1_000_000  # CloudFormation's quota
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--format", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [one for one in json.loads(done.stdout) if one["Rule"]["Id"] not in ACCEPTED]
    assert [(one["Rule"]["Id"], one["Message"]) for one in found] == []
    template = json.loads(path.read_text())
    for name, one in manifest["environments"].items():
        given = one["parameters"]
        assert set(given) <= set(template["Parameters"]), name
        if one["variant"] == variant:
            for parameter, _, _ in OPTIONS.values():
                assert (
                    given.get(parameter, template["Parameters"][parameter]["Default"])
                    in (template["Parameters"][parameter]["AllowedValues"])
                ), name

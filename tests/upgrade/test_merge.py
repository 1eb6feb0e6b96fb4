"""A fork of the last release merges today's main, and a later one, without a conflict, and its tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upgrade.fork import BY_HAND, COMMANDS, ROOT, WRITTEN, find_release, git, make_fork, run, write_generated

# The tests of a project's own files, and of the files generated from them
OWN = (
    "tests/contract/test_own_datasets.py",
    "tests/unit/infra/test_environments.py::test_samconfig_is_up_to_date",
    "tests/unit/infra/test_discovery_bucket.py::test_template_is_up_to_date",
)


def merge(place: Path) -> None:
    """Merge main into the fork as UPGRADING.md says; what the user wrote by hand does not change."""
    git(place, "merge", "--quiet", "--no-edit", "main")
    assert git(place, "diff", "--name-only", "HEAD^", "HEAD", "--", *BY_HAND) == ""
    write_generated(place)
    git(place, "commit", "--quiet", "--all", "--allow-empty", "--message", "what the release writes")
    assert git(place, "status", "--porcelain") == ""


@pytest.mark.long
def test_a_fork_merges_a_later_release(tmp_path: Path) -> None:
    """Also if both sides have changed every generated file, and after the user has deleted the example."""
    make_fork(tmp_path, find_release(), later=True)
    for name in WRITTEN:
        assert git(tmp_path, "diff", "--name-only", "base", "main", "--", name), f"{name} has not changed in main"
        assert git(tmp_path, "diff", "--name-only", "base", "fork", "--", name), f"{name} has not changed in the fork"
    merge(tmp_path)
    assert "summary: Now " in (tmp_path / "openapi.yaml").read_text()
    assert "flight" not in (tmp_path / "openapi.yaml").read_text()
    assert (tmp_path / "samconfig.toml").read_text().count("disable_rollback") == 2
    done = run(tmp_path, "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *OWN)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_forks_tests_pass(tmp_path: Path) -> None:
    """Lint, `check` and the default suite without its integration tests; `LARDER_UPGRADE_FROM` names another commit."""
    make_fork(tmp_path, os.environ.get("LARDER_UPGRADE_FROM") or find_release(), later=False)
    merge(tmp_path)
    for words in (
        ("enrich", "check"),
        ("ruff", "format", "--check", "."),
        ("ruff", "check", "."),
        ("mypy", "enrich", "serve", "wire", "infra", "examples", "tests", "dev.py", "larder"),
        (
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "loadfile",
            "tests/unit",
            "tests/contract",
            "tests/upgrade/test_formats.py",
        ),
    ):
        done = run(tmp_path, *words)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"


def test_the_page_has_the_commands() -> None:
    """What is run here after a merge is what UPGRADING.md says."""
    page = (ROOT / "UPGRADING.md").read_text()
    for module, *words in COMMANDS:
        name = {"infra.environments": "environments"}.get(module, "")
        assert f"./larder {' '.join(filter(None, [name, *words]))}\n" in page
        help_text = subprocess.run(
            [sys.executable, "larder", "--help"], cwd=ROOT, capture_output=True, text=True
        ).stdout
        assert f"  {name or words[0]} " in help_text

"""The version, the changelog, UPGRADING.md and the samples agree; differences are reported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from enrich.release import RELEASE
from tests.upgrade.fork import ROOT
from tests.upgrade.release import find_mistakes


def test_release_is_complete() -> None:
    """At each commit: releases stay described."""
    assert list(find_mistakes(ROOT, RELEASE)) == []


@pytest.mark.parametrize(
    ("release", "file", "old", "new", "message"),
    [
        ("9.0.0", "UPGRADING.md", "", "", f"the newest release is {RELEASE}, and enrich/release.py has 9.0.0"),
        ("v1", "UPGRADING.md", "", "", "'v1' is no semantic version"),
        (RELEASE, "CHANGELOG.md", "## [Unreleased]", "## Unreleased", "the section [Unreleased] is missing"),
        (RELEASE, "CHANGELOG.md", f"## [{RELEASE}]", "## [0.0.9]", "the newest release is 0.0.9"),
        (RELEASE, "CHANGELOG.md", f"## [{RELEASE}]", f"## {RELEASE}", "the newest release is none"),
        (RELEASE, "UPGRADING.md", f"\n### {RELEASE}\n", "\n### later\n", f"the section {RELEASE} is missing"),
        (RELEASE, "CHANGELOG.md", f"\n## [{RELEASE}]", f"\n## [{RELEASE}] - 2027-01-01\n\n## [0.0.9]",
         "tests/upgrade/formats/0.0.9 has no samples"),
    ],
)  # fmt: skip
def test_differences_are_reported(tmp_path: Path, release: str, file: str, old: str, new: str, message: str) -> None:
    """With the file, what was found, and what to do."""
    for name in ("CHANGELOG.md", "UPGRADING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests/upgrade").mkdir(parents=True)
    (tmp_path / "tests/upgrade/formats").symlink_to(ROOT / "tests/upgrade/formats")
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert any(message in found for found in find_mistakes(tmp_path, release))


def test_the_command_prints_it() -> None:
    """`--version` has the release and the commit, and needs no packages."""
    done = subprocess.run([sys.executable, "-S", "larder", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert re.match(rf"larder {re.escape(RELEASE)} \([^,]+, Python 3", done.stdout), done.stderr

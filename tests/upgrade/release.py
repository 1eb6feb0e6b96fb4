"""Check that a release is complete, before it is tagged.

    python -m tests.upgrade.release       prints what is missing; CONTRIBUTING.md has the procedure

Version, changelog, UPGRADING.md and samples must agree at any commit. At the commit of the release, the tag must be the
version's, and the files that are the user's must be those of the release before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from enrich.release import RELEASE
from tests.upgrade.fork import BY_HAND, ROOT, find_release, git

SEMANTIC = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?"


def find_mistakes(root: Path, release: str) -> Iterator[str]:
    """Yield what does not agree with the version, in the files of a checkout."""
    if not re.fullmatch(SEMANTIC, release):
        yield f"enrich/release.py: {release!r} is no semantic version, e.g. 1.2.0"
    changelog = (root / "CHANGELOG.md").read_text()
    released = re.findall(rf"^## \[({SEMANTIC})\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    if "## [Unreleased]" not in changelog:
        yield "CHANGELOG.md: the section [Unreleased] is missing; it is the first, and can be empty"
    if released[:1] != [release]:
        newest = released[0] if released else "none"
        yield f"CHANGELOG.md: the newest release is {newest}, and enrich/release.py has {release}"
    upgrading = (root / "UPGRADING.md").read_text()
    for each in released:
        if f"\n### {each}\n" not in upgrading:
            yield f"UPGRADING.md: the section {each} is missing; write what a user must do, or that there is nothing"
        if not list((root / "tests/upgrade/formats" / each).glob("*/ledger.json")):
            yield f"tests/upgrade/formats/{each} has no samples; run `python -m tests.upgrade.samples`"


def find_mistakes_of_commit() -> Iterator[str]:
    """Yield what does not agree with the release, in the git repository."""
    tags = git(ROOT, "tag", "--points-at", "HEAD", "--list", "v[0-9]*").split()
    if tags and f"v{RELEASE}" not in tags:
        yield f"the commit has the tag {tags[0]}; expected v{RELEASE}"
    elif not tags and git(ROOT, "tag", "--list", f"v{RELEASE}"):
        yield f"v{RELEASE} is another commit: write the next version into enrich/release.py"
    if (last := find_release()) and git(ROOT, "diff", "--name-only", last, "--", *BY_HAND):
        yield f"{' and '.join(BY_HAND)} are the user's: undo the changes since {last}, or users get a conflict"


def main() -> None:
    """Print what is missing; end with 1 if anything is."""
    found = [*find_mistakes(ROOT, RELEASE), *find_mistakes_of_commit()]
    print("\n".join(found) or f"{RELEASE} is complete")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

"""Lint what is deployed.

cfn-lint and checkov read the template (source and translation), those of other doors and of the discovery bucket;
hadolint reads the Dockerfiles.

    ./larder lint

The linters do not find every fault of the template; tests/unit/infra/rules checks for others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from infra.discovery_bucket import PATH as BUCKET
from infra.tools import ToolError, install
from infra.translate import DOORS, TEMPLATE, Template, read_template, translate
from wire.scratch import open_scratch

IMAGES = Path(__file__).parent
SKIPS = Path(__file__).with_name("linters.yaml")

CODE = {"Bucket": "artifacts", "Key": "bundle.zip"}


class LintError(Exception):
    """A linter failed; the message ends with its output."""


class Finding(NamedTuple):
    """A finding of a linter: the linter, its rule, and the place and message."""

    linter: str
    rule: str
    text: str


def translate_all(template: Template) -> Template:
    """Translate with all options on, so that the linters see every resource."""
    functions = [name for name, one in template["Resources"].items() if one["Type"] == "AWS::Serverless::Function"]
    return translate(template, dict.fromkeys(functions, CODE), {"Canary": "true"})


def lint(template: Path = TEMPLATE) -> list[Finding]:
    """Return the findings of the linters in a template and in its translation, including those that are skipped."""
    with tempfile.TemporaryDirectory(dir=open_scratch()) as folder:
        translated = Path(folder) / "translated.json"
        translated.write_text(json.dumps(translate_all(read_template(template)), indent=1))
        found = [*_cfn_lint(template), *_cfn_lint(translated), *_checkov(translated)]
        for door in sorted(DOORS.glob("*.yaml")):
            found += [*_cfn_lint(door), *_checkov(door)]
        found += lint_images(sorted(IMAGES.glob("*.Dockerfile")))
        has_bucket = yaml.safe_load(BUCKET.read_text()) is not None  # no template without discovery
        return [*found, *_cfn_lint(BUCKET), *_checkov(BUCKET)] if has_bucket else found


def lint_images(paths: list[Path]) -> list[Finding]:
    """Return the findings of the linter in Dockerfiles."""
    found = _run([str(install("hadolint") / "hadolint"), "--format", "json", *map(str, paths)])
    return [
        Finding("hadolint", one["code"], f"{Path(one['file']).name}:{one['line']}: {one['message']}") for one in found
    ]


def judge(findings: list[Finding], skips: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return what must be fixed: findings that are not skipped, and skips without a finding.

    A skip names a rule, `CKV_AWS_18`, or a rule and a text that its message contains, `W2001 Canary`.
    """
    skipped = [(linter, rule) for linter, rules in skips.items() for rule in rules]
    needed = {skip for skip in skipped for finding in findings if _covers(skip, finding)}
    open_ = [one for one in findings if not any(_covers(skip, one) for skip in skipped)]
    faults = [f"{one.linter} {one.rule}: {one.text}" for one in open_]
    unneeded = [skip for skip in skipped if skip not in needed]
    return faults + [f"infra/linters.yaml: {linter} no longer reports {rule}" for linter, rule in unneeded]


def _covers(skip: tuple[str, str], finding: Finding) -> bool:
    rule, _, what = skip[1].partition(" ")
    return (skip[0], rule) == (finding.linter, finding.rule) and what in finding.text


def read_skips() -> dict[str, dict[str, str]]:
    """Read the rules that are skipped, with the reason of each."""
    skips: dict[str, dict[str, str]] = yaml.safe_load(SKIPS.read_text())
    return skips


def _cfn_lint(path: Path) -> list[Finding]:
    found = _run([str(Path(sys.executable).with_name("cfn-lint")), "--format", "json", str(path)])
    return [Finding("cfn-lint", one["Rule"]["Id"], f"{path.name}: {one['Message']}") for one in found]


def _checkov(path: Path) -> list[Finding]:
    command = [str(install("checkov") / "checkov"), "--file", str(path), "--framework", "cloudformation"]
    report = _run([*command, "--output", "json", "--quiet", "--compact", "--skip-download"])
    failed = report["results"]["failed_checks"] if "results" in report else []
    return [Finding("checkov", one["check_id"], f"{one['resource']}: {one['check_name']}") for one in failed]


def _run(command: list[str]) -> Any:
    """Run a linter and return its report.

    Raises:
        LintError: its output is not a report.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise LintError(f"{command[0]} printed no report:\n{done.stdout}{done.stderr}") from error


def main() -> None:
    """Print what must be fixed; exit with 1 if there is anything."""
    argparse.ArgumentParser(prog="./larder lint", description=__doc__.partition("\n")[0]).parse_args()
    try:
        faults = judge(lint(), read_skips())
    except (LintError, ToolError) as error:
        sys.exit(f"larder lint: {error}")
    print("\n".join(faults) or "cfn-lint, checkov and hadolint find no faults")  # noqa: T201
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

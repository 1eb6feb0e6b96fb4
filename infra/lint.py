"""Lint the template, as it is written and as it is translated, with cfn-lint and checkov. An edge.

    python -m infra.lint

Of 25 seeded faults cfn-lint saw 9 in the source and 14 in the translation; tests of the template look for the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from infra.tools import install
from infra.translate import TEMPLATE, Template, read_template, translate

SKIPS = Path(__file__).with_name("linters.yaml")

CODE = {"Bucket": "artifacts", "Key": "bundle.zip"}


class LintError(Exception):
    """A linter could not be run; the message ends with what it said."""


class Finding(NamedTuple):
    """What a linter says: which one, its rule, and where and what in its own words."""

    linter: str
    rule: str
    text: str


def translate_all(template: Template) -> Template:
    """Translate with everything switched on, so that nothing is hidden from a linter."""
    functions = [name for name, one in template["Resources"].items() if one["Type"] == "AWS::Serverless::Function"]
    return translate(template, dict.fromkeys(functions, CODE), {"Canary": "true"})


def lint(template: Path = TEMPLATE) -> list[Finding]:
    """Return what the linters find in a template and in its translation, skips included."""
    with tempfile.TemporaryDirectory() as folder:
        translated = Path(folder) / "translated.json"
        translated.write_text(json.dumps(translate_all(read_template(template)), indent=1))
        return [*_cfn_lint(template), *_cfn_lint(translated), *_checkov(translated)]


def judge(findings: list[Finding], skips: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return what has to be mended: findings without a reasoned skip, and skips that nothing needs.

    A skip is of a rule, `CKV_AWS_18`, or of a rule where it speaks of something, `W2001 Canary`.
    """
    skipped = [(linter, rule) for linter, rules in skips.items() for rule in rules]
    needed = {skip for skip in skipped for finding in findings if _covers(skip, finding)}
    open_ = [one for one in findings if not any(_covers(skip, one) for skip in skipped)]
    faults = [f"{one.linter} {one.rule}: {one.text}" for one in open_]
    unneeded = [skip for skip in skipped if skip not in needed]
    return faults + [f"infra/linters.yaml: nothing says {linter} {rule} any more" for linter, rule in unneeded]


def _covers(skip: tuple[str, str], finding: Finding) -> bool:
    rule, _, what = skip[1].partition(" ")
    return (skip[0], rule) == (finding.linter, finding.rule) and what in finding.text


def read_skips() -> dict[str, dict[str, str]]:
    """Read which rules are not followed, and why."""
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
    """Run a linter and return its report; what is no report is an error, never a clean bill."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise LintError(f"{command[0]} gave no report:\n{done.stdout}{done.stderr}") from error


def main() -> None:
    """Print what has to be mended; fail if there is anything."""
    faults = judge(lint(), read_skips())
    print("\n".join(faults) or "cfn-lint and checkov have nothing to say")  # noqa: T201
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

"""The linters: the template has nothing for them to say, and what is left to them they do say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.lint import Finding, judge, lint, read_skips
from infra.translate import read_template
from tests.unit.infra.rules import check

LEFT_TO_LINTERS = [("checkov", "CKV_AWS_73"), ("cfn-lint", "W8001"), ("cfn-lint", "E6101")]
SKIPS = {"cfn-lint": {"W2001 Canary": "a reason"}, "checkov": {"CKV_AWS_18": "a reason"}}
ONE = Finding("cfn-lint", "W2001", "Parameter Canary not used")
TWO = Finding("checkov", "CKV_AWS_18", "Bucket: has no access log")


@pytest.mark.parametrize(
    ("findings", "faults"),
    [
        ([ONE, TWO], []),
        ([ONE], ["infra/linters.yaml: nothing says checkov CKV_AWS_18 any more"]),
        (
            [ONE, TWO, Finding("cfn-lint", "W2001", "Parameter Waf not used")],
            ["cfn-lint W2001: Parameter Waf not used"],
        ),
        (
            [ONE, TWO, Finding("checkov", "CKV_AWS_21", "Bucket: no versions")],
            ["checkov CKV_AWS_21: Bucket: no versions"],
        ),
    ],
    ids=["all is skipped", "a skip too many", "a rule is skipped for one thing only", "another rule"],
)
def test_findings_are_judged(findings: list[Finding], faults: list[str]) -> None:
    """A skip covers its rule, or its rule where it speaks of one thing; a skip that covers nothing is told."""
    assert judge(findings, SKIPS) == faults


def test_every_skip_has_its_reason() -> None:
    """Each rule that is not followed says why in a sentence."""
    for rules in read_skips().values():
        assert all(len(reason.split()) > 5 for reason in rules.values())


@pytest.mark.slow
def test_what_is_left_to_the_linters_is_seen(tmp_path: Path) -> None:
    """No traces, a condition without effect, an attribute that is none: no rule of ours tells, a linter does."""
    template = read_template()
    template["Resources"]["Api"]["Properties"]["TracingEnabled"] = False
    del template["Resources"]["ServeFunction"]["Properties"]["ProvisionedConcurrencyConfig"]
    template["Outputs"]["QueueUrl"]["Value"] = {"Fn::GetAtt": ["Queue", "Uri"]}
    assert check(template) == []
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template))
    said = judge(lint(path), read_skips())
    assert [one for one in LEFT_TO_LINTERS if not any(fault.startswith(f"{one[0]} {one[1]}: ") for fault in said)] == []

"""The linters find nothing in the template, and they report the faults that our own rules leave to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.lint import IMAGES, Finding, judge, lint, lint_images, read_skips
from infra.translate import Template, read_template

FAULTS: dict[str, list[tuple[str, str]]] = {  # resource -> what a linter reports after `break_template`
    "Api": [("checkov", "CKV_AWS_73")],  # no traces
    "Parameters": [("cfn-lint", "W8001")],  # a condition that nothing uses
    "Outputs": [("cfn-lint", "E6101")],  # an attribute that does not exist
    "Table": [("checkov", "CKV_AWS_28")],  # no point-in-time recovery
    "OutputsBucket": [("checkov", "CKV_AWS_21"), ("checkov", "CKV_AWS_54")],  # no versions, a public policy
    "ServeLogs": [("checkov", "CKV_AWS_66")],  # lines are kept forever
    "ServeFunction": [("checkov", "CKV_AWS_258")],  # a public function URL
    "RefusalsByCode": [("cfn-lint", "E3032")],  # more than three dimensions
    "QueueOld": [("cfn-lint", "E3615")],  # a period that CloudWatch does not have
    "Bucket": [("cfn-lint", "W3011")],  # lost when it is replaced
}
SKIPS = {"cfn-lint": {"W2001 Canary": "a reason"}, "checkov": {"CKV_AWS_18": "a reason"}}
ONE = Finding("cfn-lint", "W2001", "Parameter Canary not used")
TWO = Finding("checkov", "CKV_AWS_18", "Bucket: has no access log")


@pytest.mark.parametrize(
    ("findings", "faults"),
    [
        ([ONE, TWO], []),
        ([ONE], ["infra/linters.yaml: checkov no longer reports CKV_AWS_18"]),
        (
            [ONE, TWO, Finding("cfn-lint", "W2001", "Parameter Waf not used")],
            ["cfn-lint W2001: Parameter Waf not used"],
        ),
        (
            [ONE, TWO, Finding("checkov", "CKV_AWS_21", "Bucket: no versions")],
            ["checkov CKV_AWS_21: Bucket: no versions"],
        ),
    ],
    ids=["all are skipped", "an unneeded skip", "a rule is skipped for one message only", "another rule"],
)
def test_findings_are_judged(findings: list[Finding], faults: list[str]) -> None:
    """A skip covers a rule, or a rule with one message; a skip that covers nothing is reported."""
    assert judge(findings, SKIPS) == faults


def test_every_skip_has_its_reason() -> None:
    """Each skip gives its reason in a sentence."""
    for rules in read_skips().values():
        assert all(len(reason.split()) > 5 for reason in rules.values())


def break_template(template: Template) -> None:
    """Put the faults of FAULTS into a template."""
    resources = {name: one["Properties"] for name, one in template["Resources"].items()}
    resources["Api"]["TracingEnabled"] = False
    del resources["ServeFunction"]["ProvisionedConcurrencyConfig"]
    template["Outputs"]["QueueUrl"]["Value"] = {"Fn::GetAtt": ["Queue", "Uri"]}
    del resources["Table"]["PointInTimeRecoverySpecification"]
    resources["OutputsBucket"]["VersioningConfiguration"]["Status"] = "Suspended"
    resources["OutputsBucket"]["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] = False
    del resources["ServeLogs"]["RetentionInDays"]
    resources["ServeFunction"]["FunctionUrlConfig"] = {"AuthType": "NONE"}
    resources["RefusalsByCode"]["MetricTransformations"][0]["Dimensions"] *= 2
    resources["QueueOld"]["Period"] = 90
    del template["Resources"]["Bucket"]["UpdateReplacePolicy"]


@pytest.mark.slow
def test_faults_that_are_left_to_the_linters_are_reported(tmp_path: Path) -> None:
    """A linter reports each fault for which we have no rule of our own."""
    template = read_template()
    break_template(template)
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template))
    reported = judge(lint(path), read_skips())
    expected = [f"{linter} {rule}: " for findings in FAULTS.values() for linter, rule in findings]
    assert [one for one in expected if not any(fault.startswith(one) for fault in reported)] == []


@pytest.mark.slow
def test_faults_of_a_dockerfile_are_reported(tmp_path: Path) -> None:
    """The committed files have no findings; a `cd`, and a package whose version is not pinned, are found."""
    assert lint_images(sorted(IMAGES.glob("*.Dockerfile"))) == []
    broken = tmp_path / "broken.Dockerfile"
    broken.write_text((IMAGES / "serve.Dockerfile").read_text() + "RUN cd /app && pip install requests\n")
    assert {finding.rule for finding in lint_images([broken])} >= {"DL3003", "DL3013"}

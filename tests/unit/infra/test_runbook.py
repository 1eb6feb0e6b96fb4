"""Alarms and the runbook agree, in both directions; each operation is rehearsed, and no command is misspelt."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

from infra.translate import ROOT, read_template

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ALARMS = sorted(
    name
    for name, one in read_template()["Resources"].items()
    if one["Type"] in ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
)
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("alarm", ALARMS)
def test_each_alarm_has_its_section(alarm: str) -> None:
    """Whoever is woken finds what the alarm means, where to look first, and a remedy."""
    assert alarm in SECTIONS, f"docs/runbook.md has no section {alarm}"
    for part in ("**Means.** ", "**First look.** ", "**Remedy.** "):
        assert part in SECTIONS[alarm], part


def test_each_section_has_its_alarm() -> None:
    """A section without an alarm misleads."""
    assert set(SECTIONS) == set(ALARMS)


def test_links_of_the_runbook_lead_somewhere() -> None:
    """Links inside the page name a heading; links to other pages name a file."""
    headings = {
        re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (Path(ROOT / "docs") / target).exists(), target


REHEARSALS = {  # page -> its test
    "Rotate a signing key": "test_signing_key_is_rotated_without_a_gap",
    "Replay a day": "test_day_is_replayed",
    "Withdraw a bad output": "test_bad_output_is_withdrawn",
    "Stop and start enrich": "test_bad_output_is_withdrawn",
    "Write everything again": "test_everything_is_written_again",
    "Restore the table": "test_table_is_restored",
    "Raise the write budget": "test_write_budget_is_kept_and_raised",
    "Move to a new item format": "test_item_format_is_changed_without_an_error",
    "Give a consumer an API key": "test_consumer_is_given_an_api_key",
    "Take outputs from another account": "test_outputs_come_from_another_account",
}
OF_EVERY_COMMAND = {"output", "query", "max-items"}  # options of the AWS command line itself


def test_each_operation_is_rehearsed() -> None:
    """Every page below "Operations" has a test that runs its commands on a deployed stack."""
    pages = re.findall(r"^## (.+)$", RUNBOOK.partition("# Operations\n")[2], re.MULTILINE)
    assert pages == list(REHEARSALS)
    tests = ast.parse((ROOT / "tests" / "integration" / "infra" / "test_operations.py").read_text())
    assert {one.name for one in ast.walk(tests) if isinstance(one, ast.FunctionDef)} >= set(REHEARSALS.values())


def test_commands_of_aws_are_spelt_right() -> None:
    """Each names an operation that there is, and options that it has; what AWS's own command line adds is left out."""
    session, checked = botocore.session.Session(), 0
    for service, operation, rest in re.findall(r"\baws (\w+) ([a-z-]+)([^\n`]*)", RUNBOOK):
        if service == "s3" or operation == "wait":
            continue
        model = session.get_service_model(service.removesuffix("api"))
        names = {xform_name(name, "-"): name for name in model.operation_names}
        assert operation in names, f"aws {service} {operation}"
        shape = model.operation_model(names[operation]).input_shape
        members = {xform_name(name, "-") for name in shape.members} if shape else set()
        for option in re.findall(r" --([a-z-]+)", rest):
            known = {option, option.removeprefix("no-")} & (members | OF_EVERY_COMMAND)
            assert known, f"aws {service} {operation} --{option}"
        checked += 1
    assert checked > 25

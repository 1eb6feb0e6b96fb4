"""Alarms and the runbook agree, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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

"""The runbook agrees with the alarms, the code and the template; each operation has a test; commands are valid."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

from infra.translate import ROOT, read_template
from serve.web.problems import PROBLEM_TYPES

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ALARMS = sorted(
    name
    for name, one in read_template()["Resources"].items()
    if one["Type"] in ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
)
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("alarm", ALARMS)
def test_each_alarm_has_its_section(alarm: str) -> None:
    """The section of each alarm has its meaning, a first look, and a remedy."""
    assert alarm in SECTIONS, f"docs/runbook.md has no section {alarm}"
    for part in ("**Means.** ", "**First look.** ", "**Remedy.** "):
        assert part in SECTIONS[alarm], part


def test_each_section_has_its_alarm() -> None:
    """Each section belongs to an existing alarm."""
    assert set(SECTIONS) == set(ALARMS)


def test_links_of_the_runbook_are_valid() -> None:
    """Links name a file and one of its headings, or a heading of the page."""
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        page, _, heading = target.partition("#")
        path = ROOT / "docs" / (page or "runbook.md")
        assert path.exists(), target
        if heading:
            found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in found}, target


REHEARSALS = {  # section -> its test
    "Rotate a signing key": "test_signing_key_is_rotated_without_a_gap",
    "Replay a day": "test_day_is_replayed",
    "Withdraw a bad output": "test_bad_output_is_withdrawn",
    "Stop and start enrich": "test_bad_output_is_withdrawn",
    "Write everything again": "test_everything_is_written_again",
    "Restore the table": "test_table_is_restored",
    "Raise the write budget": "test_write_budget_is_kept_and_raised",
    "Move to a new item format": "test_item_format_is_changed_without_an_error",
    "Remove a dataset": "test_dataset_is_removed",
    "Delete old versions of functions": "test_old_versions_are_deleted",
    "Give a consumer an API key": "test_consumer_is_given_an_api_key",
    "Take outputs from another account": "test_outputs_come_from_another_account",
}
OF_EVERY_COMMAND = {"output", "query", "max-items"}  # options of the AWS command line itself


def test_each_operation_has_its_test() -> None:
    """Every section below "Operations" has a test that runs its commands on a deployed stack."""
    pages = re.findall(r"^## (.+)$", RUNBOOK.partition("# Operations\n")[2], re.MULTILINE)
    assert pages == list(REHEARSALS)
    tests = ast.parse((ROOT / "tests" / "integration" / "infra" / "test_operations.py").read_text())
    assert {one.name for one in ast.walk(tests) if isinstance(one, ast.FunctionDef)} >= set(REHEARSALS.values())


def test_aws_commands_are_valid() -> None:
    """Each uses an existing operation, and options of the operation or of the AWS command line."""
    session, checked = botocore.session.Session(), 0
    for service, operation, rest in re.findall(r"\baws (\w+) ([a-z-]+)([^\n`]*)", RUNBOOK):
        if service == "s3" or operation == "wait":
            continue
        model = session.get_service_model(service.removesuffix("api"))
        names = {xform_name(name, "-"): name for name in model.operation_names}
        assert operation in names, f"aws {service} {operation}"
        shape = model.operation_model(names[operation]).input_shape
        members = {xform_name(name, "-") for name in shape.members} if shape else set()
        for option in re.findall(r" --([a-z0-9-]+)", rest):
            known = {option, option.removeprefix("no-")} & (members | OF_EVERY_COMMAND)
            assert known, f"aws {service} {operation} --{option}"
        checked += 1
    assert checked > 25


@cache
def parse_code() -> dict[Path, ast.Module]:
    """Parse each module of the deployed folders."""
    return {
        path: ast.parse(path.read_text())
        for side in ("enrich", "notify", "serve", "score", "infra")
        for path in (ROOT / side).rglob("*.py")
    }


@cache
def walk_code() -> list[ast.AST]:
    """Return the nodes of all modules."""
    return [node for tree in parse_code().values() for node in ast.walk(tree)]


@cache
def find_events() -> set[str]:
    """Find the events that are logged."""
    calls = [node for node in walk_code() if isinstance(node, ast.Call)]
    return {
        argument.value
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] in ("log_line", "_report")
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    } | {  # notify has its event as a member of its line
        value.value
        for node in walk_code()
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "event"
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


OTHER_WORDS = {
    "AVAILABLE",
    "COMPLETED",
    "DDBStreamBatchInfo",
    "String",
    "VersionDeletionPolicy",
    "httpRequest.clientIp",
    "python3.13",
    "sam",
    "terminatingRuleId",
}  # names of AWS and Python


@cache
def find_known_words() -> set[str]:
    """Find every name that the code or the template uses: texts, members, parameters, logical ids, metrics, files."""
    known = set(OTHER_WORDS)
    for node in walk_code():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            known |= {node.value, node.value.partition(":")[0]}  # a reason can continue after a colon
        elif isinstance(node, ast.keyword | ast.arg):
            known.add(node.arg or "")
        elif isinstance(node, ast.FunctionDef):
            known.add(node.name)
    for name in ("template.yaml", "environments.yaml"):
        known |= set(re.findall(r"[A-Za-z][\w-]*", (ROOT / "infra" / name).read_text()))
    return known


def find_unknown_words(page: str) -> set[str]:
    """Return the words that a page sets as code, alone or in a query of log lines, and that are not in the code."""
    known = find_known_words()
    codes = [code for code in re.findall(r"`([^`\n]+)`", page) if not code.startswith(("$", "aws ", "./larder "))]
    words = {code for code in codes if re.fullmatch(r"[\w.-]+", code)}
    for query in (code for code in codes if "filter " in code or "stats " in code):
        for fields in re.findall(r"(?:\bby|filter) ([\w., ]+)", query):
            words |= set(re.split(r",? +", fields)) - {"stats"}
    unknown = {word for word in words if word not in known and not (set(word.split(".")) <= known)}
    unknown |= {event for event in re.findall(r'event = "([^"]+)"', page) if event not in find_events()}
    return {word for word in unknown if not re.search(r"\.(?:py|md|json|yaml|toml)$|^\.pyc$", word)}


def find_reject_reasons() -> set[str]:
    """Find the reject reasons of enrich: constants in kebab case, or beside their explanation."""
    found = set()
    for path, tree in parse_code().items():
        if {"dataset", "join"} & set(path.parts):
            for value in (node.value for node in tree.body if isinstance(node, ast.Assign)):
                pair = isinstance(value, ast.Tuple) and len(value.elts) == 2
                first = value.elts[0] if isinstance(value, ast.Tuple) and pair else value
                text = first.value if isinstance(first, ast.Constant) else None
                if isinstance(text, str) and re.fullmatch(r"[a-z]+(-[a-z]+)+" if not pair else r"[a-z-]+", text):
                    found.add(text)
    return found


def test_words_of_the_runbook_exist_in_the_code() -> None:
    """Each code, reason, event, parameter or metric that the runbook names is in the code or the template."""
    assert find_unknown_words(RUNBOOK) == set()


@pytest.mark.parametrize(
    "wrong",
    [
        "`storage_unavailable`",
        "`filter state >= 1 | stats count(*) by kode`",
        '`filter event = "run ended"`',
        "`WafRates`",
    ],
)
def test_an_unknown_word_is_found(wrong: str) -> None:
    """The check above finds a misspelt code, an unknown field, an event that is never logged, an unknown parameter."""
    assert find_unknown_words(wrong)


def test_the_runbook_names_every_code_of_a_server_error() -> None:
    """Each problem code that counts against the error budget is in the sections of the alarms."""
    codes = {code for code, kind in PROBLEM_TYPES.items() if kind.status >= 500}
    assert {code for code in codes if f"`{code}`" not in SECTIONS["ErrorBudgetBurnsFast"]} == set()


def test_the_runbook_names_every_event_of_a_failed_key() -> None:
    """KeysUnreadable explains each event of a line with KeyFailures."""
    events = {event for event in find_events() if event.startswith("key")}
    assert len(events) == 2
    assert {event for event in events if f"`{event}`" not in SECTIONS["KeysUnreadable"]} == set()


def test_the_runbook_names_every_reject_reason() -> None:
    """RejectsMany has a remedy for each reject reason."""
    reasons = find_reject_reasons()
    assert len(reasons) >= 9
    assert {reason for reason in reasons if f"`{reason}`" not in SECTIONS["RejectsMany"]} == set()

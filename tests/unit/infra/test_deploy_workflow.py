"""The example of a deploy workflow: pinned actions, few permissions, and roles that cover the template."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.environments import read_environments
from infra.lint import translate_all
from infra.translate import read_template

FOLDER = Path(__file__).parents[3] / "infra/github"
TEXT = (FOLDER / "deploy.yaml").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
ROLES = read_template(FOLDER / "deployer.yaml")["Resources"]
# The prefix of a resource type's actions, if it differs from the type's name
PREFIXES = {"ApplicationAutoScaling": "application-autoscaling", "WAFv2": "wafv2"}
# An action that creates each kind of resource; the test fails for a type that is not listed
CREATES = {
    "apigateway": "apigateway:POST", "application-autoscaling": "application-autoscaling:RegisterScalableTarget",
    "athena": "athena:CreateWorkGroup", "cloudwatch": "cloudwatch:PutMetricAlarm",
    "codedeploy": "codedeploy:CreateDeployment", "dynamodb": "dynamodb:CreateTable", "events": "events:PutRule",
    "glue": "glue:CreateTable",
    "iam": "iam:CreateRole", "lambda": "lambda:CreateFunction", "logs": "logs:CreateLogGroup",
    "route53": "route53:ChangeResourceRecordSets", "s3": "s3:CreateBucket", "scheduler": "scheduler:CreateSchedule",
    "sns": "sns:CreateTopic", "sqs": "sqs:CreateQueue", "ssm": "ssm:PutParameter", "wafv2": "wafv2:CreateWebACL",
}  # fmt: skip


def statements(role: str) -> Iterator[dict[str, Any]]:
    for policy in ROLES[role]["Properties"]["Policies"]:
        yield from policy["PolicyDocument"]["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed(role: str) -> set[str]:
    return {action for statement in statements(role) for action in listed(statement["Action"])}


def allows(role: str, action: str) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in allowed(role))


def resources(role: str, action: str) -> list[str]:
    found = [
        listed(each["Resource"])
        for each in statements(role)
        if any(fnmatchcase(action, pattern) for pattern in listed(each["Action"]))
    ]
    return [
        one["Fn::Sub"] if isinstance(one, dict) and "Fn::Sub" in one else str(one) for some in found for one in some
    ]


def test_the_execution_role_can_create_every_resource() -> None:
    """With all options enabled, each service of the template's resources has an action that creates them."""
    types = {one["Type"] for one in translate_all(read_template())["Resources"].values()}
    services = {kind.split("::")[1] for kind in types if kind.startswith("AWS::")}
    prefixes = {PREFIXES.get(service, service.lower()) for service in services}
    assert {prefix for prefix in prefixes if not allows("ExecutionRole", CREATES[prefix])} == set()


def test_the_roles_have_only_needed_permissions() -> None:
    """`*` is only for actions that AWS does not limit to a resource; no role creates users; names are the stack's."""
    for role in ("DeployerRole", "PlannerRole", "ExecutionRole"):
        on_all = [each["Sid"] for each in statements(role) if "*" in listed(each["Resource"])]
        assert on_all == (["NoResourceLevel"] if role == "ExecutionRole" else [])
        for action in ("*", "iam:CreateUser", "iam:CreateAccessKey", "sts:AssumeRole", "s3:DeleteBucket"):
            assert not allows(role, action) or (role, action) == ("ExecutionRole", "s3:DeleteBucket")
    for action in ("dynamodb:DeleteTable", "lambda:CreateFunction", "iam:PutRolePolicy", "s3:DeleteBucket"):
        for arn in resources("ExecutionRole", action):
            assert "${StackName}" in arn or arn.endswith((":event-bus/default", "deploymentconfig:*"))


def test_a_pull_request_cannot_deploy() -> None:
    """Its role executes no change set, and does not overwrite bundles of the deployer."""
    assert not allows("PlannerRole", "cloudformation:ExecuteChangeSet")
    assert allows("DeployerRole", "cloudformation:ExecuteChangeSet")
    written = {role: resources(role, "s3:PutObject") for role in ("PlannerRole", "DeployerRole")}
    assert [arn.rpartition("*/")[0] for arn in written["PlannerRole"]] != written["DeployerRole"]
    assert not any("plan/" in arn for arn in written["DeployerRole"])
    subjects = {
        role: ROLES[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Condition"] for role in written
    }
    claim = "token.actions.githubusercontent.com:sub"
    assert {role: condition["StringEquals"][claim]["Fn::Sub"] for role, condition in subjects.items()} == {
        "PlannerRole": "repo:${Repository}:pull_request",
        "DeployerRole": "repo:${Repository}:environment:${Environment}",
    }
    assert all(list(condition) == ["StringEquals"] for condition in subjects.values())


def test_jobs_have_the_permissions_that_they_need() -> None:
    """None by default; only the jobs that use AWS get a token, and only the plan can write a comment."""
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in WORKFLOW["jobs"].items()} == {
        "check": {"contents": "read"},
        "plan": {"contents": "read", "id-token": "write", "pull-requests": "write"},
        "deploy": {"contents": "read", "id-token": "write"},
    }
    deploy = WORKFLOW["jobs"]["deploy"]
    assert deploy["if"] == "github.event_name == 'push'"
    assert deploy["environment"] == "${{ matrix.name }}"  # prod requires approval
    assert set(deploy["strategy"]["matrix"]["name"]) <= set(
        read_environments(Path(__file__).parents[3] / "examples/flights/infra/environments.yaml")["environments"]
    )
    assert all(job["needs"] == "check" for name, job in WORKFLOW["jobs"].items() if name != "check")


@pytest.mark.parametrize("job", WORKFLOW["jobs"])
def test_steps_run_fixed_code(job: str) -> None:
    """Actions are pinned by commit with the version in a comment, and no script contains an expression."""
    for step in WORKFLOW["jobs"][job]["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            assert re.search(rf"{re.escape(step['uses'])} # v\d+\.\d+\.\d+\n", TEXT)
        else:
            assert "${{" not in step["run"]
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
            for module in re.findall(r"python -m (infra\.\w+)", step["run"]):
                assert (FOLDER.parents[1] / f"{module.replace('.', '/')}.py").exists()
            for path in re.findall(r"-r (\S+\.txt)|(?:^|\s)\./(larder)\b", step["run"]):
                assert (FOLDER.parents[1] / (path[0] or path[1])).exists()


def test_the_schema_of_the_workflow_finds_mistakes(tmp_path: Path) -> None:
    """`tox -e lint` checks it with GitHub's schema: a wrong key or value, in whatever place, is reported."""
    mistakes = {
        "key-of-a-job": ("runs-on:", "run-on:"),
        "value": ("    needs: check\n", "    needs: {check: true}\n"),
        "number": ("timeout-minutes: 20", "timeout-minutes: soon"),
        "key-of-a-step": ("      - run: sam build", "      - runs: sam build"),
        "none": ("", ""),
    }
    for name, (old, new) in mistakes.items():
        assert old in TEXT
        (tmp_path / f"{name}.yaml").write_text(TEXT.replace(old, new, 1))
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, tmp_path.glob("*.yaml"))], capture_output=True, text=True)
    assert done.returncode == 1
    assert set(re.findall(r"([\w-]+)\.yaml::", done.stdout)) == mistakes.keys() - {"none"}


def test_a_failed_command_of_a_pipe_fails_its_step() -> None:
    """GitHub's default shell has no pipefail; the configured one has."""
    assert WORKFLOW["defaults"] == {"run": {"shell": "bash"}}
    assert all("shell" not in step for job in WORKFLOW["jobs"].values() for step in job["steps"])


def test_the_roles_pass_cfn_lint() -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(FOLDER / "deployer.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")

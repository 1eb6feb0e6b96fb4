"""Least privilege of the job's role, on a stand-in that enforces IAM: without an action, a job does less.

The stand-in does not execute Glue jobs. So a process of the test does what a job does, with the settings of the
template's job and credentials of its role.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.local.athena.server import AthenaServer
from infra.local.ministack import ACCOUNT, client_env
from infra.translate import read_template
from tests.integration.infra.deployed import (
    DATASET,
    Deployed,
    deploy_larder,
    find_resource,
    object_key,
    parquet,
    run_stand_in,
)
from tests.integration.infra.test_least_privilege import ASKED_BY_AWS
from tests.unit.infra.rules.template import listed, statements

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# What AWS does with the role: Glue reads the job's files and writes its log. The policy simulator judges the rest of
# `ASKED_BY_AWS` for enrich's role, whose statements a rule compares with these (tests/unit/infra/rules/grants.py).
BY_GLUE = {("ReadJobFiles", "s3:GetObject"), *(("Log", f"logs:{one}") for one in (
    "CreateLogGroup", "CreateLogStream", "PutLogEvents",
))}  # fmt: skip
# What the runs of this test do not need: a job lists an output of several files, and reports an output that failed.
# That the code needs these actions is a rule, too.
NOT_HERE = {("FindOutputs", "s3:ListBucket"), ("Continue", "sqs:SendMessage")}
ACTIONS = [
    (statement["Sid"], action)
    for role, statement in statements(read_template())
    if role == "JobRole"
    for action in listed(statement["Action"])
    if (statement["Sid"], action) not in {*ASKED_BY_AWS, *BY_GLUE, *NOT_HERE}
]


@dataclass
class JobStack:
    """A stack with a job, whose role can change."""

    larder: Deployed
    env: Mapping[str, str]
    role: str
    policy: Mapping[str, Any]
    rounds: Iterator[int] = field(default_factory=itertools.count)

    def allow(self, *, without: tuple[str, str] | None = None) -> None:
        """Give the role its policy, less one action of a statement."""
        policy = copy.deepcopy(dict(self.policy))
        for statement in policy["Statement"]:
            if without and statement["Sid"] == without[0]:
                statement["Action"] = [each for each in listed(statement["Action"]) if each != without[1]]
        policy["Statement"] = [each for each in policy["Statement"] if each["Action"]]
        iam = self.larder.client("iam")
        iam.put_role_policy(RoleName=self.role, PolicyName="job", PolicyDocument=json.dumps(policy))

    def queue(self) -> None:
        """Queue a newer output, with other values and a reject, and an older one, with more items."""
        number = next(self.rounds)
        keys = [object_key(0, number), object_key(2, number)]
        self.larder.put(keys[0], parquet(200, delay=5.0 + number % 2, bad=1))
        self.larder.put(keys[1], parquet(201 + number))
        assert self.execute(self.env, "enqueue", *keys) == 0

    def run(self) -> tuple[int, int]:
        """Do what a job does; return the exit code, and the number of fingerprints that are left."""
        arn = f"arn:aws:iam::{ACCOUNT}:role/{self.role}"
        found = self.larder.client("sts").assume_role(RoleArn=arn, RoleSessionName="job")["Credentials"]
        own = {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }
        code = self.execute({**self.env, **own}, "run")
        bucket, prefix = self.larder.stack["BucketName"], f"fingerprints/{DATASET}/"
        listed = self.larder.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
        return code, len(listed.get("Contents", []))

    def execute(self, env: Mapping[str, str], *words: str) -> int:
        """Run the process; return its exit code."""
        command = [sys.executable, "-m", "tests.integration.infra.job_process", *words]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        print(done.stdout[-2000:], done.stderr[-2000:])
        return done.returncode


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    """A stack whose job's role the test can take, and a local Athena for the job, which checks no role."""
    template = read_template()
    trust = template["Resources"]["JobRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    trust.append({"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"})
    log = tmp_path_factory.mktemp("job") / "ministack.log"
    with run_stand_in(log, auth=True) as (client, endpoint), closing(AthenaServer()) as athena:
        athena.start(endpoint)
        larder = deploy_larder(client, endpoint, "job", template=template, parameters={"JobWorkers": "2"})
        client("events").disable_rule(Name=larder.stack["OutputsRuleName"])
        job = client("glue").get_job(JobName=find_resource(client, "job", "Job"))["Job"]
        env = {**os.environ, **client_env(endpoint), **json.loads(job["DefaultArguments"]["--settings"])}
        env |= {"LARDER_PROJECT": str(ROOT / "examples" / "flights"), "AWS_ENDPOINT_URL_ATHENA": athena.endpoint}
        role = find_resource(client, "job", "JobRole")
        policy = client("iam").get_role_policy(RoleName=role, PolicyName="job")["PolicyDocument"]
        found = JobStack(larder, env, role, policy)
        found.queue()
        assert found.run()[0] == 0, "with the template's role"
        yield found


@pytest.mark.parametrize(("sid", "action"), ACTIONS, ids=[":".join(one) for one in ACTIONS])
def test_each_action_is_needed(stack: JobStack, sid: str, action: str) -> None:
    """Without it a run stops, or files are left; with it, the same runs are done."""
    stack.queue()
    stack.allow(without=(sid, action))
    lacking = stack.run()
    stack.allow()
    stack.queue()
    whole = stack.run()
    assert whole[0] == 0
    assert lacking[0] != 0 or lacking[1] > whole[1]

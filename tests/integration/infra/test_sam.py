"""`sam build && sam deploy`, as on AWS, against the stand-in: an authenticated GET, a second deploy, a teardown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.flights.http import get
from examples.flights.tokens import open_issuer
from infra.bundle import ROOT
from infra.environments import build_parameters, read_environments
from infra.local.ministack import client_env
from infra.rules.kept import RETAINED
from infra.tools import install
from tests.integration.infra.deployed import run_stand_in

pytestmark = pytest.mark.slow


def outputs(client: Callable[[str], Any], stack: str) -> dict[str, str]:
    """Return a stack's outputs."""
    described = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    return {one["OutputKey"]: one["OutputValue"] for one in described["Outputs"]}


def test_build_deploy_again_and_delete(tmp_path: Path) -> None:
    """The README's commands, with samconfig.toml's parameters for dev; only `Platform` says that it is a laptop."""
    document = read_environments()
    dev = document["environments"]["dev"]
    with run_stand_in(tmp_path / "ministack.log", region=dev["region"]) as (client, endpoint):
        env = {**os.environ, **client_env(endpoint), "AWS_REGION": dev["region"], "AWS_DEFAULT_REGION": dev["region"]}
        env |= {"LARDER_PYTHON": sys.executable, "LARDER_TARGET": "native", "SAM_CLI_TELEMETRY": "0"}

        def sam(*words: str) -> None:
            command = [str(install("sam") / "sam"), *words, "--config-env", "dev"]
            done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, done.stdout + done.stderr

        def deploy(release: str) -> dict[str, str]:
            given = build_parameters(document, "dev") | {"Platform": "laptop", "ReleaseVersion": release}
            sam("deploy", "--parameter-overrides", *(f"{name}={value}" for name, value in given.items()))
            return outputs(client, dev["stack"])

        location = {"LocationConstraint": dev["region"]}
        client("s3").create_bucket(Bucket=document["discovery"]["bucket"], CreateBucketConfiguration=location)
        shutil.rmtree(ROOT / ".aws-sam", ignore_errors=True)
        sam("build")
        stack = deploy("one")
        url = f"{endpoint}/_aws/execute-api/{stack['ApiId']}/live/v1/flight-delays"
        issuer = open_issuer(client("ssm"), stack["KeyStorePath"], dev["issuer"], dev["audience"])
        assert get(url, None).status == 401
        assert get(url, issuer.sign("B6", time.time())).json()["items"] == []
        again = deploy("two")
        assert {name: again[name] for name in ("TableName", "QueueUrl", "ApiId")} == {
            name: stack[name] for name in ("TableName", "QueueUrl", "ApiId")
        }
        assert get(url, issuer.sign("B6", time.time())).status == 200
        sam("delete", "--no-prompts")
        left = {*client("dynamodb").list_tables()["TableNames"]}
        left |= {one["Name"] for one in client("s3").list_buckets()["Buckets"]}
        assert len({name for name in left if name.startswith(f"{dev['stack']}-")}) == len(RETAINED)

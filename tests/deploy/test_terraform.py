"""The Terraform module creates, updates and destroys the stack on the stand-in, only from a release."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.local.ministack import Ministack
from infra.local.stand_in import open_clients, run_stand_in
from infra.translate import ROOT
from tests.integration.infra.deployed import ask, find_resource

MIRROR = os.environ.get("LARDER_TERRAFORM_MIRROR", "")
MODULES = ROOT / "examples" / "terraform"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed"),
    pytest.mark.skipif(
        not Path(MIRROR).is_dir() or not MIRROR,
        reason="no mirror of Terraform providers: set LARDER_TERRAFORM_MIRROR to a folder that `terraform providers "
        "mirror` wrote, with hashicorp/aws",
    ),
]
BUCKET = "larder-releases"
ROOT_MODULE = """
variable "release" {}
variable "variant" { default = "" }
variable "parameters" { type = map(string) }
variable "s3_url" {}
provider "aws" {
  s3_use_path_style           = true # the stand-in has no names for buckets
  skip_credentials_validation = true
  skip_requesting_account_id  = true
}
module "larder" {
  source     = "./larder"
  name       = "larder-terraform"
  bucket     = "larder-releases"
  release    = var.release
  variant    = var.variant
  parameters = var.parameters
  s3_url     = var.s3_url
}
output "outputs" { value = module.larder.outputs }
"""


class Terraform:
    """Terraform in a folder of its own, with the providers of a mirror, against the stand-in."""

    def __init__(self, folder: Path, aws: Ministack) -> None:
        self.folder = folder
        config = folder / "terraform.rc"
        config.write_text(f'provider_installation {{\n filesystem_mirror {{ path = "{MIRROR}" }}\n}}\n')
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.env = {
            **own,
            **aws.env,
            "TF_CLI_CONFIG_FILE": str(config),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }

    def run(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run a command; an exit code that is not allowed is an error with the whole output."""
        command = ["terraform", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert done.returncode in allowed, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def apply(self, release: Path, aws: Ministack, variant: str = "", **parameters: str) -> None:
        """Apply, then expect that a second plan is empty (its exit code would be 2)."""
        given = {"release": str(release), "variant": variant, "s3_url": aws.endpoint, "parameters": parameters}
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(given))
        self.run("apply", "-auto-approve", "-input=false", "-no-color")
        self.run("plan", "-detailed-exitcode", "-input=false", "-no-color")


def read_served(functions: Any, function: str) -> Mapping[str, str]:
    """Return the variables of the version that consumers call."""
    found = functions.get_function_configuration(FunctionName=function, Qualifier="live")
    variables: Mapping[str, str] = found["Environment"]["Variables"]
    return variables


def test_module_is_formatted() -> None:
    """`terraform fmt` changes nothing."""
    done = subprocess.run(["terraform", "fmt", "-check", "-recursive", str(MODULES)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_from_apply_to_destroy(release: Path, tmp_path: Path) -> None:
    """Create; an empty plan; a changed value that reaches consumers; another variant; at the end nothing is left."""
    work = tmp_path / "work"
    shutil.copytree(MODULES / "larder", work / "larder")
    (work / "main.tf").write_text(ROOT_MODULE)
    with run_stand_in(tmp_path / "ministack.log") as (aws, _athena):
        client = open_clients(aws)
        client("s3").create_bucket(Bucket=BUCKET)
        terraform = Terraform(work, aws)
        terraform.run("init", "-input=false", "-no-color")
        terraform.run("validate", "-no-color")

        given = {"Platform": "laptop", "Audience": "first"}
        terraform.apply(release, aws, **given)
        outputs = json.loads(terraform.run("output", "-json", "outputs").stdout)
        function = outputs["ServeFunctionName"]
        base = f"{aws.endpoint}/_aws/execute-api/{outputs['ApiId']}/live/v1"
        assert ask(f"{base}/health").status == 200
        assert ask(f"{base}/flight-delays").status == 401
        assert '"first"' in read_served(client("lambda"), function)["LARDER_ISSUERS"]

        table = outputs["TableName"]
        terraform.apply(release, aws, **{**given, "Audience": "second"})
        assert '"second"' in read_served(client("lambda"), function)["LARDER_ISSUERS"]
        assert json.loads(terraform.run("output", "-json", "outputs").stdout)["TableName"] == table

        terraform.apply(release, aws, "api-keys", **{**given, "Audience": "second"})
        assert find_resource(client, "larder-terraform", "UsagePlan")

        wrong = {**given, "ApiKeys": "required"}
        (work / "terraform.tfvars.json").write_text(
            json.dumps({"release": str(release), "s3_url": aws.endpoint, "parameters": wrong})
        )
        refused = terraform.run("apply", "-auto-approve", "-input=false", "-no-color", allowed=(1,))
        assert "ApiKeys" in refused.stderr

        terraform.run("destroy", "-auto-approve", "-input=false", "-no-color")
        stacks = client("cloudformation").list_stacks()["StackSummaries"]
        assert [one for one in stacks if one["StackStatus"] != "DELETE_COMPLETE"] == []
        assert client("s3").list_objects_v2(Bucket=BUCKET).get("KeyCount", 0) == 0

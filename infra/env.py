"""Print the variables of a stack, for the commands of docs/runbook.md.

eval "$(./larder env larder-prod)"    a deployed stack
eval "$(./larder env --local)"        the stack that runs on this machine
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.running import NotRunning, read_variables

# Other variables for the runbook: variable -> output of the stack
OUTPUTS = {
    "LARDER_API": "ApiId",
    "LARDER_DEAD_LETTERS": "DeadLettersUrl",
    "LARDER_ENRICH": "EnrichFunctionName",
    "LARDER_SERVE": "ServeFunctionName",
}
OPTIONAL = {"LARDER_SCORE": "ScoreFunctionName", "LARDER_KEPT_TABLE": "KeptTableName"}  # of a project with models


def fetch_variables(cloudformation: Any, functions: Any, stack: str) -> dict[str, str]:
    """Return the LARDER_* variables of the stack's enrich function, and those of `OUTPUTS` and `OPTIONAL`.

    Args:
        cloudformation: a boto3 client of CloudFormation.
        functions: a boto3 client of Lambda.
        stack: name of the stack.

    Raises:
        NotRunning: the stack lacks outputs of infra/template.yaml.
    """
    described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in described.get("Outputs", ())}
    if missing := [output for output in OUTPUTS.values() if output not in outputs]:
        raise NotRunning(f"stack {stack} has no output {', '.join(missing)}: was it made from infra/template.yaml?")
    function = functions.get_function_configuration(FunctionName=outputs["EnrichFunctionName"])
    variables: dict[str, str] = function["Environment"]["Variables"]
    own = {name: value for name, value in variables.items() if name.startswith("LARDER_")}
    named = OUTPUTS | {name: output for name, output in OPTIONAL.items() if output in outputs}
    return dict(sorted((own | {name: outputs[output] for name, output in named.items()}).items()))


def main() -> None:
    """Print export lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="./larder env"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("stack", nargs="?", help="name of a deployed stack")
    which.add_argument("--local", action="store_true", help="the stack that runs on this machine")
    options = parser.parse_args()
    try:
        if options.local:
            found = read_variables()
        else:
            found = fetch_variables(boto3.client("cloudformation"), boto3.client("lambda"), options.stack)
    except NotRunning as error:
        sys.exit(f"larder env: {error}")
    except (BotoCoreError, ClientError) as error:
        reason = str(error).rstrip(".")
        sys.exit(f"larder env: stack {options.stack}: {reason}; check the name, AWS_REGION and the credentials")
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201


if __name__ == "__main__":
    main()

"""Print the variables of a stack, for the commands of docs/runbook.md.

eval "$(python -m infra.env larder-prod)"    a deployed stack
eval "$(python -m infra.env --local)"        the one that runs on this machine
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

import boto3

from infra.local.running import NotRunning, read_variables

# Other variables that the runbook needs: variable -> output of the stack
OUTPUTS = {
    "LARDER_API": "ApiId",
    "LARDER_DEAD_LETTERS": "DeadLettersUrl",
    "LARDER_ENRICH": "EnrichFunctionName",
    "LARDER_SERVE": "ServeFunctionName",
}


def fetch_variables(cloudformation: Any, functions: Any, stack: str) -> dict[str, str]:
    """Return the LARDER_* variables of the stack's enrich function, and the names of OUTPUTS.

    Args:
        cloudformation: a boto3 client.
        functions: a boto3 client of Lambda.
        stack: name of the stack.
    """
    described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in described["Outputs"]}
    function = functions.get_function_configuration(FunctionName=outputs["EnrichFunctionName"])
    variables: dict[str, str] = function["Environment"]["Variables"]
    own = {name: value for name, value in variables.items() if name.startswith("LARDER_")}
    return dict(sorted((own | {name: outputs[output] for name, output in OUTPUTS.items()}).items()))


def main() -> None:
    """Print export lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m infra.env"
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
        sys.exit(f"infra.env: {error}")
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201


if __name__ == "__main__":
    main()

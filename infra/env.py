"""Print the LARDER_* variables of a deployed stack, for the command line of enrich. An edge.

eval "$(python -m infra.env larder-prod)"
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import boto3


def fetch_variables(cloudformation: Any, functions: Any, stack: str) -> dict[str, str]:
    """Return what the stack's enrich function has in its environment.

    Args:
        cloudformation: a boto3 client.
        functions: a boto3 client of Lambda.
        stack: name of the stack.
    """
    described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in described["Outputs"]}
    function = functions.get_function_configuration(FunctionName=outputs["EnrichFunctionName"])
    variables: dict[str, str] = function["Environment"]["Variables"]
    return {name: value for name, value in sorted(variables.items()) if name.startswith("LARDER_")}


def main() -> None:
    """Print export lines."""
    parser = argparse.ArgumentParser(description="Print a stack's variables for the command line of enrich.")
    parser.add_argument("stack")
    options = parser.parse_args()
    for name, value in fetch_variables(boto3.client("cloudformation"), boto3.client("lambda"), options.stack).items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201


if __name__ == "__main__":
    main()

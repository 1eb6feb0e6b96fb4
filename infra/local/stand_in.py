"""The stand-in for AWS together with the local Athena, their clients, and the variables of a stack that runs there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from infra.env import fetch_variables
from infra.local.athena.server import AthenaServer
from infra.local.deploy import Stack
from infra.local.ministack import Ministack, run_ministack

ISSUER = "https://issuer.example.com/"
AUDIENCE = "larder"


@contextmanager
def run_stand_in(log: Path) -> Iterator[tuple[Ministack, AthenaServer]]:
    """Run the stand-in and the local Athena, which the stand-in's functions use, until the block ends."""
    athena = AthenaServer()
    try:
        with run_ministack(log, env={"AWS_ENDPOINT_URL_ATHENA": athena.endpoint}) as ministack:
            athena.start(ministack.endpoint)
            yield ministack, athena
    finally:
        athena.close()


def open_clients(ministack: Ministack) -> Callable[[str], Any]:
    """Return a factory of boto3 clients of the stand-in, one per service; the user's AWS settings are not read."""
    session = boto3.Session(
        aws_access_key_id=ministack.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ministack.env["AWS_SECRET_ACCESS_KEY"],
        region_name=ministack.env["AWS_REGION"],
    )
    make: Any = session.client
    return functools.cache(functools.partial(make, endpoint_url=ministack.endpoint, config=Config(proxies={})))


def build_variables(
    client: Callable[[str], Any], stack: Stack, ministack: Ministack, athena: AthenaServer
) -> dict[str, str]:
    """Build the environment of a command that uses the stack: the variables of the functions, and endpoints."""
    functions = client("lambda")
    variables = fetch_variables(client("cloudformation"), functions, stack.name)
    for function in [variables[name] for name in ("LARDER_SERVE", "LARDER_SCORE") if name in variables]:
        serving = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
        variables |= {name: value for name, value in serving.items() if name.startswith("LARDER_")}
    return {**variables, **ministack.env, "AWS_ENDPOINT_URL_ATHENA": athena.endpoint}

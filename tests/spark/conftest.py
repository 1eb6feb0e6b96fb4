"""AWS over HTTP for processes of Spark: moto's server, and a project with one dataset."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from enrich import aws
from tests.doubles.moto_aws import ENV, create_table

moto_server = pytest.importorskip("moto.server")

PROJECT = Path(__file__).parent / "project"


@dataclass(frozen=True)
class Stack:
    """Tables and buckets of one deployment, and the environment of its processes."""

    name: str
    env: Mapping[str, str]

    def client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(service, endpoint_url=self.env["AWS_ENDPOINT_URL"], region_name="us-east-1")

    def items(self) -> dict[tuple[str, str], Any]:
        """Return the table's items, all attributes, by item key."""
        found = self.client("dynamodb").get_paginator("scan").paginate(TableName=self.env["LARDER_TABLE"])
        return {(row["pk"]["S"], row["sk"]["S"]): row for page in found for row in page["Items"]}


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def stacks(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Stack]:
    """Return two deployments with the same dataset: `local` and `job`."""
    return open_stacks(endpoint, monkeypatch)


def open_stacks(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Stack]:
    """Create tables and buckets of two deployments with the same dataset: `local` and `job`.

    The server forgets those of the test before.
    """
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    aws._clients.cache_clear()  # of the server of another test
    found = {}
    for name in ("local", "job"):
        env = {
            **ENV,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "LARDER_PROJECT": str(PROJECT),
            "LARDER_QUEUE": "none",
            "LARDER_WORKGROUP": "primary",
            **{f"LARDER_{each.upper()}": f"{name}-{each}" for each in ("table", "ledger", "bucket", "outputs")},
        }
        for variable in ENV:
            monkeypatch.setenv(variable, ENV[variable])
        stack = found[name] = Stack(name, env)
        for bucket in ("LARDER_BUCKET", "LARDER_OUTPUTS"):
            stack.client("s3").create_bucket(Bucket=env[bucket])
        for table in ("LARDER_TABLE", "LARDER_LEDGER"):
            create_table(stack.client("dynamodb"), env[table])
    os.environ.pop("SPARK_HOME", None)
    return found

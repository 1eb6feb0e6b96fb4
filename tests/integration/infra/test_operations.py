"""Pages of the runbook, rehearsed on a deployed stack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from examples.flights.tokens import open_issuer
from infra.env import fetch_variables
from tests.integration.infra.deployed import AUDIENCE, ISSUER, Deployed, deploy_larder, run_stand_in


@pytest.fixture(scope="module")
def larder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with run_stand_in(tmp_path_factory.mktemp("operations") / "ministack.log") as found:
        yield deploy_larder(*found, "larder")


def test_signing_key_is_rotated_without_a_gap(larder: Deployed) -> None:
    """Old tokens are good until the old key is taken out; a new key is trusted as soon as its kid is seen."""
    ssm: Any = larder.client("ssm")
    assert larder.get().status == 200
    new = open_issuer(ssm, larder.stack["KeyStorePath"], ISSUER, AUDIENCE, kid="demo-2")
    with_new = Deployed(larder.client, larder.stack, new)
    deadline = time.monotonic() + 60  # an unknown kid makes serve look again, every 30 s at most
    while with_new.get().status != 200 and time.monotonic() < deadline:
        assert larder.get().status == 200
        time.sleep(1)
    assert with_new.get().status == 200
    assert larder.get().status == 200


def test_variables_of_a_stack_are_those_of_its_function(larder: Deployed) -> None:
    """The command line of enrich works on the stack that it is told."""
    found = fetch_variables(larder.client("cloudformation"), larder.client("lambda"), "larder")
    assert found["LARDER_TABLE"] == larder.stack["TableName"]
    assert {f"LARDER_{name}" for name in ("LEDGER", "BUCKET", "OUTPUTS", "QUEUE", "WORKGROUP")} <= set(found)

"""Run a dataset that the README adds, in the copy of the project that has it: from a CSV file on S3 to a response.

Deploys the copy's own template and bundles to a stand-in of its own, and prints what consumers were answered.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pyarrow as pa

from enrich.datasets import load_datasets
from enrich.ledger.records import Run
from enrich.ledger.store import Ledger
from examples.flights import lake
from examples.flights.http import get
from examples.flights.tokens import open_issuer
from infra.local.deploy import Stack, deploy
from tests.integration.infra.deployed import AUDIENCE, ISSUER, run_stand_in

LAKE = "sales-lake"
PRODUCTS = pa.table({"sku": ["a-1", "b-2"], "title": ["Tea", "Café"], "price": [2.5, 10.0]})
STORES = pa.table({"region": ["north"], "store": ["Gate 4"], "city": ["Oslo"]})
SALES = """region,store,sku,day,units
north,Gate 4,a-1,{day},12.34
north,Gate 4,b-2,{day},
south,Gate 4,a-1,{day},7
"""


def main() -> None:
    """Print a JSON document: the run, its items as the API returns them, and what other consumers get."""
    with run_stand_in(Path(sys.argv[1]) / "ministack.log") as (client, endpoint):
        client("s3").create_bucket(Bucket=LAKE)
        lake.load(client("s3"), client("glue"), LAKE, {"products": PRODUCTS, "stores": STORES})
        parameters = {"LakeBucketName": LAKE, "Issuer": ISSUER, "Audience": AUDIENCE}
        stack = deploy(client, endpoint, name="sales", parameters=parameters)
        issuer = open_issuer(client("ssm"), stack["KeyStorePath"], ISSUER, AUDIENCE)

        def ask(path: str, **subject: str) -> list[Any]:
            now = int(time.time())
            claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "test", "iat": now, "exp": now + 600, **subject}
            claims["scope"] = load_datasets()["store-sales"].served.scope
            token = jwt.encode(claims, issuer.private_key, algorithm="ES256", headers={"kid": issuer.kid})
            answer = get(f"{stack.base_url}/store-sales{path}", token)
            return [answer.status, answer.json()]

        day = datetime.now(UTC).date().isoformat()
        object_key = f"store-sales/made={day}/part-0.csv"
        content = SALES.format(day=day).encode()
        client("s3").put_object(Bucket=stack["OutputsBucketName"], Key=object_key, Body=content)
        run = _wait(client("dynamodb"), stack)
        print(
            json.dumps(
                {
                    "run": [run.state, run.error, run.counts.written, run.reasons],
                    "day": day,
                    "item": ask(f"/{day}.a-1", region="north", store="Gate 4"),
                    "no units": ask(f"/{day}.b-2", region="north", store="Gate 4"),
                    "no city": ask(f"/{day}.a-1", region="south", store="Gate 4"),
                    "list": ask("", region="north", store="Gate 4"),
                    "another store": ask(f"/{day}.a-1", region="north", store="Gate 5"),
                    "a claim less": ask(f"/{day}.a-1", region="north"),
                }
            )
        )


def _wait(dynamodb: Any, stack: Stack) -> Run:
    """Wait for the run that the file's event starts."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        runs = Ledger(dynamodb, stack["LedgerName"]).fetch_runs("store-sales")
        if runs and runs[0].state.is_closed:
            return runs[0]
        time.sleep(0.1)
    raise TimeoutError("the event of the file started no run, or it did not close")


if __name__ == "__main__":
    main()

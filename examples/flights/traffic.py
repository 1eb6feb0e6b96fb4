"""Send some minutes of traffic, with errors, to a Larder on the laptop, and return its log lines."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from examples.flights import lake
from examples.flights.http import get
from examples.flights.model import Model, load_or_train
from examples.flights.outputs import build_output, object_key, to_parquet
from examples.flights.site import LAKE, Site, deploy_site
from examples.flights.tokens import Issuer, open_issuer
from infra import synthetic
from infra.local.stand_in import AUDIENCE, ISSUER, run_stand_in

AIRLINES = ("UA", "DL", "B6", "AA")
BROKEN_KEY = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
STEP = 5.0  # seconds


def record(log: Path, seconds: float, say: Callable[[str], None]) -> list[str]:
    """Send traffic for some seconds; return the log lines of serve, enrich and the synthetic check."""
    model, _ = load_or_train(say=say)
    with run_stand_in(log) as (ministack, _athena):
        site = deploy_site(ministack, {})
        today = datetime.now(UTC).date()
        lake.load(site.client("s3"), site.client("glue"), LAKE, lake.build_tables(today))
        issuer = open_issuer(site.client("ssm"), site.stack["KeyStorePath"], ISSUER, AUDIENCE)
        say(f"the API answers at {site.stack.base_url}; {seconds:g} s of traffic")
        began = time.time()
        with consumers(site, issuer):
            checks = list(_live(site, issuer, seconds, _plan(site, model)))
        return [*_read_log(site, "EnrichLogGroup", began), *_read_log(site, "ServeLogGroup", began), *checks]


@contextmanager
def consumers(site: Site, issuer: Issuer) -> Iterator[None]:
    """Send requests for each airline until the block ends: mostly lists and items, some of which are refused."""
    ended = threading.Event()

    def send(airline: str, number: int) -> None:
        url = f"{site.stack.base_url}/flight-delays"
        token = issuer.sign(airline, time.time())
        untrusted = replace(issuer, kid="unknown").sign(airline, time.time())
        names: list[str] = []
        for turn in range(1_000_000):
            if ended.wait(0.15 + 0.1 * math.sin(turn / 20 + number)):
                return
            if turn % 10 == 0 or not names:
                page = get(f"{url}?limit=20", token)
                names = [one["prediction_id"] for one in page.json()["items"]] if page.status == 200 else []
            elif turn % 17 == 0:
                get(f"{url}/no-such-flight", token)
            elif turn % 23 == 0:
                get(url, None if turn % 2 else untrusted)
            else:
                get(f"{url}/{names[turn % len(names)]}", token)

    threads = [threading.Thread(target=send, args=(airline, number)) for number, airline in enumerate(AIRLINES)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _plan(site: Site, model: Model) -> list[tuple[float, Callable[[], object]]]:
    """Plan actions, each at a fraction of the time: four good outputs, one with rejects, one broken; a broken key."""
    today = datetime.now(UTC).date()
    outputs = {ago: build_output(model, today - timedelta(days=ago)) for ago in (2, 1, 0)}
    name = object_key(today).removesuffix("0.parquet")
    with_rejects = pc.if_else(pc.equal(pc.bit_wise_and(outputs[0]["flight"], 255), 0), "ZZ", outputs[0]["carrier"])
    at = outputs[0].schema.get_field_index("carrier")
    rejects = to_parquet(outputs[0].set_column(at, "carrier", pa.chunked_array(with_rejects)))
    ssm, key = site.client("ssm"), f"{site.stack['KeyStorePath']}broken.pem"

    def put(object_key: str, content: bytes) -> Callable[[], object]:
        return lambda: site.put_output(object_key, content)

    return [
        (0.02, put(object_key(today - timedelta(days=2)), to_parquet(outputs[2]))),
        (0.22, put(object_key(today - timedelta(days=1)), to_parquet(outputs[1]))),
        (0.42, put(object_key(today), to_parquet(outputs[0]))),
        (0.55, lambda: ssm.put_parameter(Name=key, Value=BROKEN_KEY, Type="String")),
        (0.60, put(f"{name}1.parquet", to_parquet(outputs[0]))),
        (0.72, lambda: ssm.delete_parameter(Name=key)),
        (0.75, put(f"{name}2.parquet", rejects)),
        (0.88, put(f"{name}3.parquet", b"no Parquet")),
    ]


def _live(site: Site, issuer: Issuer, seconds: float, plan: list[tuple[float, Callable[[], object]]]) -> Iterator[str]:
    """Execute the planned actions at their time, sweep, and yield the synthetic check's lines."""
    began = time.time()
    left = list(plan)
    while (now := time.time()) < began + seconds:
        while left and now >= began + left[0][0] * seconds:
            left.pop(0)[1]()
        site.client("sqs").send_message(QueueUrl=site.stack["QueueUrl"], MessageBody=json.dumps({"sweep": True}))
        token = {"token": issuer.sign(AIRLINES[0], now)}
        faults = synthetic.check(synthetic.send, f"{site.stack.base_url}/flight-delays?limit=1", token)
        yield synthetic.render_line("dev", now, (time.time() - now) * 1000, faults)
        time.sleep(max(0.0, now + STEP - time.time()))


def _read_log(site: Site, group: str, began: float) -> list[str]:
    """Read a log group's JSON lines, a few seconds at a time: the stand-in returns at most some thousand lines."""
    lines: list[str] = []
    for second in range(0, int(time.time() - began) + 1, int(STEP)):
        start = int((began + second) * 1000)
        found = site.client("logs").filter_log_events(
            logGroupName=site.stack[group], startTime=start, endTime=start + int(STEP * 1000) - 1, limit=10_000
        )
        lines += [line for event in found["events"] for line in event["message"].splitlines()]
    return [line for line in lines if line.startswith("{")]

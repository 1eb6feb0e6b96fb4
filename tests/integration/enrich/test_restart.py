"""A run of any length completes, whatever ends its invocations: a deadline of a few seconds, or SIGKILL."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.intake.backfill import find_backfill, run_backfill
from enrich.intake.find import take_arrived
from enrich.intake.worker import run_dataset
from enrich.ledger.records import Counts, Run
from wire.response import Response

ROWS, CHUNK_ROWS = 30_000, 5_000
SECONDS, TICK = 5.0, 0.02  # of an invocation; between two readings of its clock
KILLS = int(os.environ.get("LARDER_KILLS", "3"))
START, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
WORKER = Path(__file__).with_name("kill_worker.py")


def put_large(shop: Any, object_key: str, rows: int, *, salt: int = 0) -> None:
    """Put an output of many shops; it has a rejected row now and then."""
    numbers = np.arange(rows)
    skus = np.array(["a", "b", "c", "d"])[numbers % 4]
    units = np.where(numbers % 1000 == 7, np.nan, numbers + salt)
    table = pa.table({"shop": [f"s{n // 4}" for n in range(rows)], "sku": skus, "units": units})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    shop.put(object_key, sink.getvalue().to_pybytes())


class Ticking:
    """A clock that advances whenever it is read, so that a run takes as long on a busy machine."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        self._now += TICK
        return self._now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.02)  # for the queries of the local Athena
        self._now += seconds


class Table:
    """A table in memory that accepts batches at any rate: the stand-in needs a minute for so many."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Any] = {}
        self._answers: list[tuple[int, Response]] = []
        self._sent = 0

    def send(self, target: str, payload: bytes) -> int:
        assert target.endswith("BatchWriteItem")
        (puts,) = orjson.loads(payload)["RequestItems"].values()
        for put in puts:
            item = put["PutRequest"]["Item"]
            self.items[item["pk"]["S"], item["sk"]["S"]] = item
        self._sent += 1
        self._answers.append((self._sent, Response(200, {}, b'{"UnprocessedItems": {}}')))
        return self._sent

    def wait(self, timeout: float) -> list[tuple[int, Response]]:
        answers, self._answers = self._answers, []
        return answers


def test_a_deadline_of_seconds_and_many_rows(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invocation stops in time at a checkpoint and sends a message; the counts are as without interruption."""
    monkeypatch.setattr("enrich.read.chunks.CHUNK_ROWS", CHUNK_ROWS)
    monkeypatch.setattr("enrich.read.chunks.read_chunks.__kwdefaults__", {"start_row": 0, "chunk_rows": CHUNK_ROWS})
    object_key, table, clock = f"stock/day={shop.day()}/p.parquet", Table(), Ticking(shop.now())
    put_large(shop, object_key, ROWS)
    run = take_arrived(shop.services(), shop.settings.outputs, object_key)
    assert run is not None
    invocations = 0
    shop.sent.append({"continue": {"dataset": "stock"}})
    while shop.sent:
        assert shop.sent.pop() == {"continue": {"dataset": "stock"}}
        invocations += 1
        assert invocations < 1000, "it does not get on"
        services = shop.services(
            clock=clock,
            deadline=clock.now() + SECONDS,
            owner=f"invocation {invocations}",
            open_transport=lambda _: table,
        )
        run_dataset(services, "stock")
    done = shop.services().ledger.get_run("stock", run.run)
    rejected = ROWS // 1000
    assert done is not None
    assert (done.state, done.counts) == ("done", Counts(written=ROWS - rejected, rejected=rejected))
    assert done.attempts == invocations > 1
    assert len(shop.rejects(done)) == rejected
    assert len(table.items) == ROWS - rejected


def test_killed_again_and_again_the_table_ends_right(shop: Any, tmp_path: Path) -> None:
    """A process is killed at any time between first and last write; each run ends as if it had not been killed."""
    rng = random.Random(20_261_120)
    rows, between = 6_000, 0
    for n in range(KILLS):
        object_key = f"stock/day={shop.day()}/{n}.parquet"
        put_large(shop, object_key, rows, salt=n)
        wrote = kill_once(shop, tmp_path, object_key, rng)
        between += wrote
        # without this, the test would wait until the lease of the killed process expires
        shop.offset += 1_000.0
        run = shop.run(object_key, owner=f"after kill {n}")
        assert (run.state, run.counts.rejected) == ("done", rows // 1000)
        assert run.counts.read == rows
        assert run.counts.written == rows - rows // 1000
    items = shop.items()
    expected = {(f"stock#s{n // 4}", "abcd"[n % 4]): n + KILLS - 1.0 for n in range(rows) if n % 1000 != 7}
    assert {key: body["units"] for key, body in items.items()} == expected
    assert between >= KILLS * 4 // 5, f"only {between} of {KILLS} kills came between the first and the last write"


def test_a_backfill_that_is_killed_continues(shop: Any, tmp_path: Path) -> None:
    """SIGKILL within the first of three outputs: the next process continues that run, and completes the others."""
    rows, days = 2_000, (2, 1, 0)
    for n, day in enumerate(days):
        put_large(shop, f"stock/day={shop.day(day)}/p.parquet", rows, salt=n)
    assert kill_once(shop, tmp_path, None, random.Random(1)), "it was killed before its first write or after its last"
    shop.offset += 1_000.0  # until the lease of the killed process has expired
    services = shop.services(owner="the next process")
    (killed,) = services.ledger.fetch_runs("stock")
    found = find_backfill(services, "stock", START, END)
    assert [each.status for each in found.outputs] == ["open", "new", "new"]
    steps = list(run_backfill(services, found))
    assert [(step.run.run, step.run.state, step.run.counts.read) for step in steps if step.run] == [
        (n, "done", rows) for n in (1, 2, 3)
    ]
    assert killed.run == 1
    expected = {(f"stock#s{n // 4}", "abcd"[n % 4]): n + 2.0 for n in range(rows) if n % 1000 != 7}
    assert {key: body["units"] for key, body in shop.items().items()} == expected
    assert find_backfill(services, "stock", START, END).to_run == []


def kill_once(shop: Any, directory: Path, object_key: str | None, rng: random.Random) -> bool:
    """Run an output, or all, in a process and kill it; return whether that was between its first and last write."""
    has_written = directory / "has_written"
    has_written.unlink(missing_ok=True)
    settings = {
        name: getattr(shop.settings, name) for name in ("table", "ledger", "bucket", "outputs", "queue", "workgroup")
    }
    order = {
        "settings": settings,
        "database": shop.database,
        "athena": shop.athena_url,
        **({"object_key": object_key} if object_key else {}),
        "offset": shop.offset,
        "has_written": str(has_written),
    }
    env = {**os.environ, **shop.aws.env, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(WORKER), json.dumps(order)], env=env)
    try:
        while not has_written.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.12))
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait(30)
    run: Run | None = shop.services().ledger.fetch_runs("stock", newest=1)[0]
    killed = process.returncode == -signal.SIGKILL
    return bool(killed and has_written.exists() and run and not run.state.is_closed)

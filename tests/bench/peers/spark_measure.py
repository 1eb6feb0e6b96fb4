# mypy: ignore-errors
"""Open Spark for a peer, and print what it uses from then on, as `tests.bench.scale_worker` does for Larder."""

import json
import os
import time
from contextlib import contextmanager

from pyspark.sql import SparkSession

from tests.bench.processes import measure_tree

TABLE = os.environ["BENCH_TABLE"]


def open_spark():
    """Return a session of one slot, bound to one core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    return (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "1g")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )


@contextmanager
def measured(rows):
    """Print the figures of what the context executes."""
    (before, _), began = measure_tree(), time.perf_counter()
    yield
    after, peak = measure_tree()
    figures = {"rows": rows, "cpu_s": after - before, "worker_mb": peak, "seconds": time.perf_counter() - began}
    print(json.dumps(figures), flush=True)

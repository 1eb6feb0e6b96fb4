# mypy: ignore-errors
"""Load ready items by the code of bulk_executor's `load-export` (awslabs/amazon-dynamodb-tools) on a plain Spark.

Its `load` writes by a connector that only AWS Glue has. `load-export` reads DynamoDB's JSON, as `enrich export` writes
it, and has its own writer of items. What needs AWS is left out: manifest, prices, quotas, and the exchange of rates
of all workers through S3. PYTHONPATH has its folder `server/src`.
"""

import os

from python_modules.shared.errors import ListAccumulator
from python_modules.shared.export.pipeline import _apply_transform_and_resolve
from python_modules.shared.export.pipeline.reader import read_and_parse
from python_modules.shared.export.pipeline.writer import write
from python_modules.shared.rate_limiter import RateLimiterSharedConfig
from spark_measure import TABLE, measured, open_spark

KEYS = {"pk": {"name": "pk", "type": "S"}, "sk": {"name": "sk", "type": "S"}}
UNITS = 10**6  # per second: more than it can write


class Folder:
    """The place of an export."""

    def get_base_path(self):
        """Return the folder of its files."""
        return os.environ["BENCH_OUTPUT"]


def main():
    """Load once."""
    context = open_spark().sparkContext
    names = sorted(os.listdir(os.environ["BENCH_OUTPUT"]))
    rows = context.textFile(os.environ["BENCH_OUTPUT"]).count()
    manifest = {
        "data_files": [{"dataFileS3Key": name, "itemCount": rows} for name in names],
        "export_type": "FULL_EXPORT",
    }
    errors = context.accumulator([], ListAccumulator())
    with measured(rows):
        records, kind, parser, _ = read_and_parse(context, manifest, Folder(), KEYS)
        items, *_ = _apply_transform_and_resolve(context, records, kind, parser, None, "", KEYS, errors)
        shared = RateLimiterSharedConfig(bucket="bench", job_run_id="bench")
        limits = {"aggregate_max_write_rate": UNITS, "worker_max_write_rate": UNITS, "sync_interval": 3600}
        written = write(context, items, kind, TABLE, shared, limits, errors, None)
        assert written.value == rows, (written.value, rows)
    context.stop()


main()

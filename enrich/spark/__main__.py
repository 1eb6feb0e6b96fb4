"""The entry point of a job on Spark: execute the pending runs of one dataset, with pieces on executors.

    spark-submit --py-files larder.zip main.py --dataset flight-delays [--write-units N] [--settings JSON]

`./larder job` builds the files (`infra/job.py`).

- Executors get `larder.zip` as `--py-files` (Glue: `--extra-py-files`), and unpack it once per worker. Wheels: those of
  `enrich/requirements.txt`.
- Settings are the variables of the Lambda: LARDER_TABLE, LARDER_LEDGER, LARDER_BUCKET, LARDER_OUTPUTS, LARDER_QUEUE,
  LARDER_WORKGROUP, and LARDER_ENVIRONMENT, LARDER_VERSION, LARDER_BUS. Where a service has no environment variables
  (Glue), `--settings '{"LARDER_TABLE": "...", ...}'` has them. Executors get them with each task, and credentials from
  their role. Unknown arguments are ignored, since Glue adds some.
- Executors register one by one, so Spark does not know at start how many there will be. `--workers` does: the write
  budget is divided by the slots of all of them.
- A job holds the dataset's lease, which it renews. A second job of a dataset finds the lease held, and ends with 0.
- Exit codes: 0 no run is pending, or another job holds the dataset; 1 a run failed or stopped. A run that stopped
  continues in the next job.

The hand-over: the Lambda commits `engine = "spark"` on the run's record after the stage `order`, releases the lease,
and starts a job: `glue.start_job_run(JobName=$LARDER_JOB, Arguments={"--dataset": NAME})`. LARDER_JOB is empty where
there is no job: then each run stays in the Lambda. A run whose engine is Spark is never executed by the Lambda. If a
job dies while it holds the lease ("Glue Job State Change" of `aws.glue`, sent to enrich's queue), the Lambda starts
another one at once. Otherwise the sweep starts one, if a run still waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from collections.abc import Sequence

from pyspark.sql import SparkSession

from enrich.aws import open_services
from enrich.cli.arguments import positive, positive_int
from enrich.cli.exit_codes import DONE, FAILED
from enrich.intake.job import run_job
from enrich.ledger.run_state import EngineKind
from enrich.read.pieces import PIECE_BYTES
from enrich.spark.code import unpack
from enrich.spark.scheduler import SparkScheduler


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the pending runs of a dataset; return the exit code."""
    parser = argparse.ArgumentParser(prog="enrich.spark", description="Execute a dataset's pending runs on Spark.")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="LARDER_* variables")
    parser.add_argument(
        "--workers", type=positive_int, default=1, metavar="N", help="machines, of which one is the driver's"
    )
    parser.add_argument("--write-units", type=positive, metavar="N", help="spend at most N write units per second")
    pieces = "of an output, per piece; a run that has begun keeps its own"
    parser.add_argument("--piece-bytes", type=positive_int, default=PIECE_BYTES, metavar="N", help=pieces)
    parser.add_argument("--engine", choices=[each.value for each in EngineKind], help="for runs that have not begun")
    options, _ = parser.parse_known_args(arguments)
    os.environ.update(options.settings)
    unpack()
    spark = SparkSession.builder.appName(f"larder-{options.dataset}").getOrCreate()
    try:
        scheduler = SparkScheduler(
            spark.sparkContext, os.environ, executors=options.workers - 1, piece_bytes=options.piece_bytes
        )
        services = open_services(
            os.environ,
            owner=f"job-{uuid.uuid4().hex[:12]}",
            write_units=options.write_units,
            scheduler=scheduler,
            engine=EngineKind(options.engine) if options.engine else None,
        )
        return DONE if run_job(services, options.dataset) else FAILED
    finally:
        spark.stop()


if __name__ == "__main__":
    sys.exit(main())

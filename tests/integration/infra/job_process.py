"""`python -m tests.integration.infra.job_process enqueue KEY ...|run`: what a job's driver does, without Spark.

Settings are those of the job, credentials those of its role (`run`) or an operator's. Tasks are executed in this
process: executors have the same role. Exit code 0: all pending runs are done.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from enrich.aws import open_services
from enrich.intake.find import find_output
from enrich.intake.job import run_job
from enrich.intake.queue import enqueue_output
from enrich.ledger.run_state import EngineKind
from tests.doubles.task_scheduler import TaskScheduler
from tests.integration.infra.deployed import DATASET


def main() -> int:
    """Queue outputs, or execute what is pending."""
    services = open_services(os.environ, owner=f"job-{os.getpid()}", engine=EngineKind.SPARK)
    if sys.argv[1] == "enqueue":
        for object_key in sys.argv[2:]:
            output = find_output(services, services.settings.outputs, object_key)
            assert output is not None
            enqueue_output(services, output)
        return 0
    return 0 if run_job(replace(services, scheduler=TaskScheduler(services)), DATASET) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The entry point of a job on Spark: execute the pending runs of one dataset, with pieces on executors.

    spark-submit --py-files larder.zip main.py --dataset flight-delays [--write-units N] [--settings JSON]

where `main.py` has the line `from enrich.spark.__main__ import main; main()`: Glue and spark-submit take a script.

- `larder.zip` has the folders `enrich`, `serve`, `wire`, `notify` and `datasets` at its top. Executors get it as
  `--py-files` (Glue: `--extra-py-files`), and unpack it once per worker. Wheels: those of `enrich/requirements.txt`.
- Settings are the variables of the Lambda: LARDER_TABLE, LARDER_LEDGER, LARDER_BUCKET, LARDER_OUTPUTS, LARDER_QUEUE,
  LARDER_WORKGROUP, and LARDER_ENVIRONMENT, LARDER_VERSION, LARDER_BUS. Where a service has no environment variables
  (Glue), `--settings '{"LARDER_TABLE": "...", ...}'` has them. Executors get them with each task, and credentials from
  their role. Unknown arguments are ignored, since Glue adds some.
- A job holds the dataset's lease, which it renews. A second job of a dataset finds the lease held, and ends with 0.
- Exit codes: 0 no run is pending, or another job holds the dataset; 1 a run failed or stopped. A run that stopped
  continues in the next job.

The hand-over: the Lambda commits `engine = "job"` on the run's record after the stage `order`, releases the lease,
and starts a job: `glue.start_job_run(JobName=$LARDER_JOB, Arguments={"--dataset": NAME})`. LARDER_JOB is empty where
there is no job: then each run stays in the Lambda. A run whose engine is a job is never executed by the Lambda. The
event of a job that has ended ("Glue Job State Change" of `aws.glue`, sent to enrich's queue) makes the Lambda start
another one, if a run still waits for a job. The sweep does the same.
"""

from __future__ import annotations

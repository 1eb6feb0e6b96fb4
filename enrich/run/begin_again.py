"""Begin a run again whose dataset was changed while it was open: by a deploy between two of its invocations."""

from __future__ import annotations

from dataclasses import replace

from enrich.dataset.identity import identify_definition
from enrich.errors import Failed
from enrich.join.rejects import build_prefix
from enrich.ledger.records import restart
from enrich.ledger.run_state import Stage
from enrich.log import log_line
from enrich.run.close import leave_doubt
from enrich.run.context import RunContext
from enrich.run.fingerprints import delete_superseded
from enrich.run.publish import OUTLIVED, SUPERSEDED_ROWS
from enrich.s3 import list_keys, put

MOST_TIMES = 24


def follow_definition(context: RunContext) -> None:
    """Let the run begin again if it was begun with another definition of its dataset than the present one.

    What was checked, and which rows are written, follows from the definition, so an invocation with another one must
    not continue with these decisions. The run keeps its number and its output. If it had begun to write, its items can
    have bodies of the former definition, or keys that the present one does not give: what the fingerprints say of them
    is left in doubt, so that all of them are written again.

    Raises:
        Failed: it has begun again too often.
    """
    run, services = context.run, context.services
    rules = identify_definition(context.dataset, services.settings.version)
    if run.rules == rules:
        return
    if run.stage is Stage.PIN:  # metadata can be pinned already: of the former definition, unless there was none
        context.run = replace(run, rules=rules, metadata={} if run.rules else run.metadata)
        return
    if run.begun_again >= MOST_TIMES:
        raise Failed(
            f"dataset {run.dataset}, run {run.run}: it has begun again {run.begun_again} times, since each process has "
            "another definition of the dataset; write nothing into its file that is computed anew at each start (the "
            f"time, say), then run `./larder replay {run.dataset} {run.run}`"
        )
    again = replace(
        restart(run),
        rules=rules,
        begun_again=run.begun_again + 1,
        metadata={},
        because={},
        decided_ms=None,
        base=None,
        table_id=None,
    )
    log_line(services.settings, "begins again", dataset=run.dataset, run=run.run, detail="its dataset was changed")
    if run.decided_ms is None:
        context.run = again
        return
    dataset, superseded = leave_doubt(context)
    _forget_results(context)
    context.save(again, dataset=dataset)
    delete_superseded(context, superseded)


def _forget_results(context: RunContext) -> None:
    """Empty the files whose names depend on rows only: the run can reject or supersede other rows now.

    They can't be deleted: enrich's role is allowed to delete only fingerprints.
    """
    s3, bucket = context.services.s3, context.services.settings.bucket
    for object_key in list_keys(s3, bucket, build_prefix(context.run.dataset, context.run.run)):
        put(s3, bucket, object_key, b"")
    for folder in (SUPERSEDED_ROWS, OUTLIVED):
        for name in context.work.list(folder):
            context.write_work(name, b"[]")

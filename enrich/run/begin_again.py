"""Begin a run again whose dataset was changed while it was open: by a deploy between two of its invocations."""

from __future__ import annotations

from dataclasses import replace

from enrich.dataset.identity import identify_definition
from enrich.ledger.records import restart
from enrich.ledger.run_state import Stage
from enrich.log import log_line
from enrich.run.close import leave_doubt
from enrich.run.context import RunContext
from enrich.run.fingerprints import delete_superseded


def follow_definition(context: RunContext) -> None:
    """Let the run begin again if it was begun with another definition of its dataset than the present one.

    What was checked, and which rows are written, follows from the definition, so an invocation with another one must
    not continue with these decisions. The run keeps its number and its output. If it had begun to write, its items can
    have bodies of the former definition, or keys that the present one does not give: what the fingerprints say of them
    is left in doubt, so that all of them are written again.
    """
    run, services = context.run, context.services
    rules = identify_definition(context.dataset, services.settings.version)
    if run.rules == rules:
        return
    is_begun = run.rules is not None or run.stage not in {Stage.PIN, Stage.WITHDRAW_FIRST, Stage.RESTORE_FIRST}
    if not is_begun:
        context.run = replace(run, rules=rules)  # committed when the invocation begins
        return
    again = replace(restart(run), rules=rules, metadata={}, because={}, decided_ms=None, base=None, table_id=None)
    log_line(services.settings, "begins again", dataset=run.dataset, run=run.run, detail="its dataset was changed")
    if run.decided_ms is None:
        context.run = again
        return
    dataset, superseded = leave_doubt(context)
    context.save(again, dataset=dataset)
    delete_superseded(context, superseded)

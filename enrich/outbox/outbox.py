"""The outbox: events are committed with the change that they report, sent afterwards, and then deleted.

So each change is reported at least once, even if an invocation is killed: events that are left in the outbox are sent
after the next run, or by the sweep. A run never waits for the bus (docs/decisions/events.md).
"""

from __future__ import annotations

import math

from botocore.exceptions import BotoCoreError, ClientError

from enrich.errors import NewerFormat
from enrich.ledger.records import OutboxEntry, Run
from enrich.ledger.run_state import RunState
from enrich.ledger.store import ConflictError, Delete
from enrich.log import log_line
from enrich.outbox.lineage import KIND as LINEAGE
from enrich.outbox.lineage import build_lineage_event
from enrich.outbox.run_event import KIND as RUN
from enrich.outbox.run_event import build_run_event
from enrich.services import Bus, Services
from notify.bus import Event, put_events, render_detail, split_batches

LEAST_SECONDS = 20.0  # that the invocation must still have: a bus that does not answer takes time
ENTRIES = 50  # in one commit
REST_SECONDS = 60.0  # after a failed call, so that a run does not wait again and again for a bus that is down


def report(services: Services, run: Run, state: str | None = None, *, ended_before: bool = False) -> list[OutboxEntry]:
    """Return the outbox entry of a change of a run's state: commit it together with the run. Empty without a bus.

    Call it when a run begins (only OpenLineage's START), is closed in any state, is held, and when an operator decides
    about it. Counts, order and error are taken from the record.

    Args:
        services: the services of this invocation.
        run: the run, as it is committed, with the version at which it was read.
        state: the state to report, such as `approved`; None: the record's.
        ended_before: the run had ended and is now withdrawn: its OpenLineage run is already complete.
    """
    settings, at_ms, state = services.settings, int(services.clock.now() * 1000), state or run.state
    if not settings.bus:
        return []
    events = []
    if state != RunState.RUNNING:
        events.append({"kind": RUN, "detail": render_detail(build_run_event(settings, run, state, at_ms))})
    if run.started_ms is not None and not ended_before:
        events.append({"kind": LINEAGE, "detail": render_detail(build_lineage_event(settings, run, state, at_ms))})
    entry = OutboxEntry(dataset=run.dataset, run=run.run, number=run.version + 1, at_ms=at_ms, events=events)
    return [entry]


def send_outbox(services: Services, dataset: str) -> None:
    """Send a dataset's events that are in the outbox, and delete them.

    An event that the bus does not accept stays in the outbox. If the bus does not answer, all of them stay. The log has
    the reason, and the sweep sends them.
    """
    bus, settings, now = services.bus, services.settings, services.clock.now()
    if bus is None or now < bus.rests_until or (services.deadline or math.inf) - now < LEAST_SECONDS:
        return
    try:
        refused = _send(services, bus, services.ledger.fetch_outbox(dataset))
    except ConflictError:  # another invocation has sent them as well
        return
    except (ClientError, BotoCoreError, NewerFormat) as error:
        refused, bus.rests_until = str(error), services.clock.now() + REST_SECONDS
    if refused and services.deadline is not None:  # a command prints nothing about it: the sweep logs it as well
        log_line(settings, "events not sent", level="error", dataset=dataset, bus=settings.bus, detail=refused)


def _send(services: Services, bus: Bus, entries: list[OutboxEntry]) -> str:
    """Send all events; return the reason if the bus refused one, else an empty text."""
    why = ""
    for first in range(0, len(entries), ENTRIES):
        part = entries[first : first + ENTRIES]
        events = [
            (n, Event(each["kind"], each["detail"], entry.at_ms / 1000))
            for n, entry in enumerate(part)
            for each in entry.events
        ]
        owners = iter([n for n, _ in events])
        refused: set[int] = set()
        for batch in split_batches([event for _, event in events]):
            for error in put_events(bus.client, services.settings.bus, batch):
                owner = next(owners)
                if error:
                    refused.add(owner)
                    why = error
        if sent := [entry for n, entry in enumerate(part) if n not in refused]:
            services.ledger.commit(*map(Delete, sent))
    return why

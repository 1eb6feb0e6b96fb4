"""Load and save the fingerprints of a run's dataset."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from botocore.exceptions import BotoCoreError, ClientError

from enrich.delta.changes import Delta
from enrich.delta.fingerprints import (
    Fingerprints,
    FingerprintTrust,
    Target,
    fetch_table_id,
    find_unreferenced,
    read_fingerprints,
)
from enrich.delta.memory import MOST_ITEMS, Memory
from enrich.delta.store import Store
from enrich.ledger.run_state import Stage
from enrich.log import log_line
from enrich.run.context import RunContext
from enrich.s3 import delete

PREFIX = "fingerprints/"


def load_fingerprints(context: RunContext, base: str | None, table_id: str) -> Fingerprints:
    """Load fingerprints into the run's delta, and return them with their trust for this table."""
    known = read_fingerprints(_open_store(context), base, table_id=table_id, scratch=context.scratch)
    context.delta.load_known(known)
    return known.fingerprints


def load_memory(context: RunContext, delta: Delta) -> Memory:
    """Load what is known of live items by their inputs; nothing if all rows must be rendered in any case."""
    services, dataset, base = context.services, context.dataset, context.lease.state.fingerprints
    if context.run.full or base is None:
        return Memory()
    if not context.engine.has_inputs:
        return Memory(is_complete=False)
    folder = context.scratch / "memory"
    folder.mkdir(exist_ok=True)
    table_id = fetch_table_id(services.dynamodb, services.settings.table)
    known = read_fingerprints(_open_store(context), base, table_id=table_id, scratch=folder)
    memory = Memory(is_complete=known.fingerprints.trust is not FingerprintTrust.ALL)
    if known.fingerprints.trust is FingerprintTrust.ALL and known.fingerprints.rows <= MOST_ITEMS:
        enough = dataset.unchanged_life * dataset.ttl.total_seconds()
        memory = delta.build_memory(
            known, now=services.clock.now(), enough=enough, expires_at=context.run.expires_at or 0
        )
    shutil.rmtree(folder)
    return memory


def build_target(context: RunContext, table_id: str) -> Target:
    """Return where this run saves fingerprints; a commit makes them the dataset's fingerprints."""
    run = context.run
    object_key = f"{PREFIX}{run.dataset}/{run.run:08d}-{run.attempts:02d}.parquet"
    return Target(_open_store(context), object_key, table_id)


def save_doubt(context: RunContext, table_id: str) -> Fingerprints:
    """Save fingerprints that allow for any body of this run in the table, and return them."""
    return context.delta.merge_unknown(
        build_target(context, table_id),
        expires_at=context.run.expires_at or 0,
        now=context.services.clock.now(),
        removing=context.run.order.text if context.run.stage in {Stage.REMOVE, Stage.CLOSE} else "",
        step=context.pause,
    )


def find_superseded(context: RunContext, saved: Fingerprints) -> set[str]:
    """Find the dataset's fingerprint files that are unused once `saved` are the dataset's fingerprints.

    Those that this run was compared with stay until the next run closes: a plan can be reading them. Call this before
    the commit: if the commit succeeds, no other invocation has held the lease in between or written these files.
    """
    base = context.delta.known
    return find_unreferenced(_open_store(context), f"{PREFIX}{context.run.dataset}/", [saved, base])


def delete_superseded(context: RunContext, object_keys: Collection[str]) -> None:
    """Delete fingerprint files after the commit. The next run that closes finds those that can't be deleted again."""
    services, dataset = context.services, context.run.dataset
    try:
        refused = delete(services.s3, services.settings.bucket, object_keys)
    except (ClientError, BotoCoreError) as error:
        refused = [str(error)]
    if refused:
        detail = f"{len(refused)} of {len(object_keys)} not deleted, for example {refused[0]}"
        log_line(services.settings, "fingerprints kept", level="warning", dataset=dataset, detail=detail)


def _open_store(context: RunContext) -> Store:
    return Store(context.services.s3, context.services.settings.bucket)

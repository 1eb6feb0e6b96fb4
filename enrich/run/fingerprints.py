"""Load and save the fingerprints of a run's dataset."""

from __future__ import annotations

from enrich.delta.fingerprints import FingerprintTrust, read_fingerprints, write_fingerprints
from enrich.run.context import RunContext


def load_fingerprints(context: RunContext, base: str | None, table_id: str) -> FingerprintTrust:
    """Load fingerprints into the run's delta, and return how far they can be trusted for this table."""
    services = context.services
    bucket, scratch = services.settings.bucket, context.scratch
    return read_fingerprints(services.s3, bucket, base, context.delta, table_id=table_id, scratch=scratch)


def save_fingerprints(context: RunContext, table_id: str) -> str:
    """Save the merged fingerprints and return their object key; only a commit makes them the dataset's."""
    services, run = context.services, context.run
    object_key = f"fingerprints/{run.dataset}/{run.run:08d}-{run.attempts:02d}.parquet"
    write_fingerprints(services.s3, services.settings.bucket, object_key, context.delta, table_id)
    return object_key


def save_doubt(context: RunContext, table_id: str) -> str:
    """Save fingerprints by which any body of this run may be in the table; return their object key."""
    context.delta.merge_unknown(expires_at=context.run.expires_at or 0, now=context.services.clock.now())
    return save_fingerprints(context, table_id)

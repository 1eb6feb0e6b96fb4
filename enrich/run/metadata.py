"""Pin the metadata of a run: rows that are recent enough, otherwise those of new queries, which run in parallel."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from botocore.exceptions import ClientError

from enrich.errors import OutOfTime, Refused, Stopped
from enrich.ledger.run_state import Kind
from enrich.read.metadata import QueryFailed, build_columns_sql, digest_sql, has_rows, save_columns
from enrich.run.context import RunContext
from enrich.s3 import exists, split_location

STARTED = "queries.json"  # in the run's work folder: queries that were started and are not known to have ended
MAX_QUERY_AGE = timedelta(days=1)  # rows of an older query may have been deleted, which would look like no rows
FIRST_POLL, LAST_POLL = 0.3, 3.0  # seconds between two polls of running queries


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was started: its execution id, where it writes rows to, and when it began (epoch ms)."""

    query_id: str
    location: str
    sql_digest: str
    started_ms: int
    columns: str = ""  # if the query has ended without rows: where the query for its columns writes to


def pin_metadata(context: RunContext) -> dict[str, str]:
    """Return the location of the rows of each metadata.

    Queries are started together, and each result is saved as soon as its query has ended. Queries that still run when
    the invocation must end are continued in the next one. So nothing is fetched twice, however slow Athena is.

    Raises:
        OutOfTime: queries are still running.
        Stopped: a query failed, but can succeed later; the others are cancelled.
        Refused: Athena refuses a query, because its SQL, a table or a permission is wrong; the others are cancelled.
    """
    pinned = context.run.metadata
    if pinned and all(_is_kept(context, location) for location in pinned.values()):
        return pinned  # a removal must render exactly what the withdrawn run rendered
    missing = [name for name in context.dataset.metadata if not _is_fresh(context, name)]
    if missing:
        context.services.progress.stage(context.run, f"metadata {', '.join(missing)}")
        _wait(context, _start(context, missing))
    return {name: context.lease.state.metadata[name]["location"] for name in context.dataset.metadata}


def _is_fresh(context: RunContext, name: str) -> bool:
    """Return whether rows that were fetched before can be used: they are recent enough, or fetched for this run."""
    metadata, run = context.dataset.metadata[name], context.run
    earlier = context.lease.state.metadata.get(name)
    if earlier is None or earlier["sql_digest"] != digest_sql(metadata.sql):
        return False
    oldest_ms = context.services.clock.now() * 1000 - metadata.max_age / timedelta(milliseconds=1)
    young = earlier["fetched_ms"] > oldest_ms and run.kind is not Kind.REFRESH
    mine = earlier["location"].startswith(f"{_build_prefix(context, name)}{run.run:08d}-")
    return (young or mine) and _is_kept(context, earlier["location"])


def _is_kept(context: RunContext, location: str) -> bool:
    """Return whether fetched metadata still exists: the bucket's lifecycle rules delete it after a month."""
    return exists(context.services.s3, *split_location(location))


def _start(context: RunContext, names: list[str]) -> dict[str, Query]:
    """Start the queries that no earlier invocation of this run has started; return all queries of `names`, by name."""
    started = _load(context)
    queries: dict[str, Query] = {}
    for name in names:
        sql, now_ms = context.dataset.metadata[name].sql, int(context.services.clock.now() * 1000)
        earlier, oldest_ms = started.get(name), now_ms - MAX_QUERY_AGE / timedelta(milliseconds=1)
        if earlier is not None and earlier.sql_digest == digest_sql(sql) and earlier.started_ms > oldest_ms:
            queries[name] = earlier
            continue
        # a new prefix for each attempt: UNLOAD refuses a prefix that is not empty
        location = f"{_build_prefix(context, name)}{context.run.run:08d}-{context.run.attempts:02d}-{now_ms}/"
        try:
            query_id = context.services.athena.start(sql, location)
        except QueryFailed as error:
            raise _give_up(context, name, queries, error) from error
        queries[name] = Query(query_id, location, digest_sql(sql), now_ms)
        _save(context, queries)
    return queries


def _start_columns(context: RunContext, name: str, query: Query) -> Query:
    """Start the query for the columns of a query that has ended without rows."""
    now_ms = int(context.services.clock.now() * 1000)
    columns = f"{query.location.removesuffix('/')}-columns-{now_ms}/"
    sql = build_columns_sql(context.dataset.metadata[name].sql)
    return replace(query, query_id=context.services.athena.start(sql, columns), columns=columns)


def _wait(context: RunContext, queries: dict[str, Query]) -> None:
    """Wait for queries, and save the rows of each as it ends."""
    services, pause = context.services, FIRST_POLL
    while True:
        for name, query in list(queries.items()):
            try:
                if not services.athena.is_done(query.query_id):
                    continue
                if not query.columns and not has_rows(services.s3, query.location):
                    queries[name] = _start_columns(context, name, query)
                    _save(context, queries)
                    continue
            except QueryFailed as error:
                raise _give_up(context, name, queries, error) from error
            if query.columns:
                save_columns(services.s3, query.columns, query.location)
            state = context.lease.state
            fetched = {"location": query.location, "sql_digest": query.sql_digest, "fetched_ms": query.started_ms}
            context.save(context.run, dataset=replace(state, metadata={**state.metadata, name: fetched}))
            del queries[name]
            _save(context, queries)
        if not queries:
            return
        context.lease.keep()
        if context.ends_within(pause):
            raise OutOfTime(f"dataset {context.dataset.name}: Athena is still running {', '.join(queries)}")
        services.clock.sleep(pause)
        pause = min(LAST_POLL, 1.5 * pause)


def _give_up(context: RunContext, name: str, queries: dict[str, Query], error: QueryFailed) -> Stopped:
    """Cancel the running queries, and return the error that stops the run; the next attempt starts them again."""
    for other, query in queries.items():
        if other != name:
            with suppress(ClientError):  # the query ends by itself
                context.services.athena.cancel(query.query_id)
    _save(context, {})
    if error.is_transient:
        return Stopped(f"metadata {name!r}: Athena failed to run the query: {error}")
    return Refused(
        f"metadata {name!r}: Athena refuses the query: {error}; fix its SQL, the table or the permissions of "
        "enrich's role"
    )


def _build_prefix(context: RunContext, name: str) -> str:
    return f"s3://{context.services.settings.bucket}/metadata/{context.dataset.name}/{name}/"


def _load(context: RunContext) -> dict[str, Query]:
    if not exists(context.services.s3, context.services.settings.bucket, context.work_key(STARTED)):
        return {}
    return {name: Query(**query) for name, query in json.loads(context.read_work(STARTED)).items()}


def _save(context: RunContext, queries: dict[str, Query]) -> None:
    content = {name: asdict(query) for name, query in queries.items()}
    context.write_work(STARTED, json.dumps(content).encode())

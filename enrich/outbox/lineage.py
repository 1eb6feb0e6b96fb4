"""Build OpenLineage run events: which output and metadata a run read, and which table it wrote.

https://openlineage.io/spec/2-0-2/OpenLineage.json, and its naming: https://openlineage.io/docs/spec/naming.
"""

from __future__ import annotations

import uuid
from typing import Any

from enrich.ledger.records import Run
from enrich.outbox.run_event import first_line
from enrich.release import RELEASE
from enrich.settings import Settings
from notify.bus import render_time

KIND = "OpenLineage Run Event"
_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_PRODUCER = f"urn:larder:{RELEASE}"
_TYPES = {  # reported state -> the event's type; any other state: OTHER
    "running": "START",
    "done": "COMPLETE",
    "failed": "FAIL",
    "overwritten": "ABORT",
    "rejected": "ABORT",
    "withdrawn": "ABORT",
}


def build_lineage_event(settings: Settings, run: Run, state: str, at_ms: int) -> dict[str, Any]:
    """Build the OpenLineage event of a run that begins, is held or has ended.

    Args:
        settings: the settings of this deployment.
        run: the run, as it is committed.
        state: the state to report.
        at_ms: the time of the change, in epoch milliseconds.
    """
    kind = _TYPES.get(state, "OTHER")
    facets: dict[str, Any] = {
        "processing_engine": _facet("1-1-1/ProcessingEngineRunFacet", version=RELEASE, name="Larder")
    }
    if run.as_of_ms is not None:
        facets["nominalTime"] = _facet("1-0-1/NominalTimeRunFacet", nominalStartTime=render_time(run.as_of_ms / 1000))
    if run.error and kind in {"FAIL", "ABORT"}:
        error = {"message": first_line(run.error), "programmingLanguage": "Python"}
        facets["errorMessage"] = _facet("1-0-1/ErrorMessageRunFacet", **error)
    output = _dataset(run.bucket, run.object_key)
    output["facets"] = {"version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=run.identity)}
    table: dict[str, Any] = {"namespace": "dynamodb", "name": settings.table}
    if kind == "COMPLETE":
        rows = run.counts.written + run.counts.removed
        table["outputFacets"] = {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=rows)}
    return {
        "eventType": kind,
        "eventTime": render_time(at_ms / 1000),
        "run": {"runId": build_run_id(settings, run), "facets": facets},
        "job": {"namespace": f"larder.{settings.environment}", "name": run.dataset},
        "inputs": [output, *(_dataset(*_split(each)) for _, each in sorted(run.metadata.items()))],
        "outputs": [table],
        "producer": _PRODUCER,
        "schemaURL": _SPEC,
    }


def build_run_id(settings: Settings, run: Run) -> str:
    """Build the id of a run, the same in each of its events: a UUID of the names of ledger, dataset and run."""
    name = f"larder:{settings.environment}/{settings.ledger}/{run.dataset}/{run.run}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _facet(schema: str, **members: Any) -> dict[str, Any]:
    name = schema.partition("/")[2]
    return {"_producer": _PRODUCER, "_schemaURL": f"{_FACETS}/{schema}.json#/$defs/{name}", **members}


def _dataset(bucket: str, object_key: str) -> dict[str, Any]:
    return {"namespace": f"s3://{bucket}", "name": object_key}


def _split(location: str) -> tuple[str, str]:
    bucket, _, object_key = location.removeprefix("s3://").partition("/")
    return bucket, object_key

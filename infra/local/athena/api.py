"""The operations of the Athena API: from the members of a request to those of the response, or an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from infra.local.athena.errors import InvalidRequestError, QueryFailedError
from infra.local.athena.executions import Execution, Executions
from infra.local.athena.statement import Statement, parse_statement

Members = dict[str, Any]


class Api:
    """The operations that PyAthena's cursor needs; work groups are those of the stand-in."""

    def __init__(self, executions: Executions, work_groups: Any) -> None:
        self._executions = executions
        self._work_groups = work_groups  # a boto3 Athena client of the stand-in
        self._operations: Mapping[str, Callable[[Members], Members]] = {
            "StartQueryExecution": self._start,
            "GetQueryExecution": lambda request: {"QueryExecution": describe(self._find(request))},
            "GetQueryResults": lambda request: build_results(self._find(request)),
            "StopQueryExecution": self._stop,
        }

    def answer(self, operation: str, request: Members) -> Members:
        """Respond to one request.

        Raises:
            InvalidRequestError: the request is refused.
        """
        if operation not in self._operations:
            raise InvalidRequestError(f"The local Athena has no operation {operation}")
        return self._operations[operation](request)

    def _start(self, request: Members) -> Members:
        database = request.get("QueryExecutionContext", {}).get("Database", "default")
        work_group = request.get("WorkGroup", "primary")
        statement: Statement | QueryFailedError
        try:
            statement = parse_statement(request["QueryString"], database)
        except QueryFailedError as error:
            statement = error  # the query is started and fails, as on AWS
        output = self._output(request, self._work_group(work_group))
        execution = Execution(request["QueryString"].strip(), statement, output, database, work_group)
        self._executions.start(execution)
        return {"QueryExecutionId": execution.query_id}

    def _output(self, request: Members, work_group: Members) -> str:
        configured = work_group.get("Configuration", {})
        enforced = configured.get("EnforceWorkGroupConfiguration", False)
        of_group = configured.get("ResultConfiguration", {}).get("OutputLocation")
        of_request = request.get("ResultConfiguration", {}).get("OutputLocation")
        location = of_group if enforced and of_group else of_request or of_group
        if not location:
            raise InvalidRequestError(
                "No output location provided. An output location is required either through the Workgroup result "
                "configuration setting or as an API input."
            )
        if not re.fullmatch(r"s3://[^/]+(/.*)?", location):
            raise InvalidRequestError(f"outputLocation is not a valid S3 path: {location}")
        return str(location).rstrip("/") + "/"

    def _work_group(self, name: str) -> Members:
        try:
            group: Members = self._work_groups.get_work_group(WorkGroup=name)["WorkGroup"]
        except ClientError as error:
            raise InvalidRequestError(f"WorkGroup {name} is not found.") from error
        return group

    def _find(self, request: Members) -> Execution:
        query_id = request["QueryExecutionId"]
        execution = self._executions.get(query_id)
        if execution is None:
            raise InvalidRequestError(f"QueryExecution {query_id} was not found")
        return execution

    def _stop(self, request: Members) -> Members:
        self._executions.stop(self._find(request))
        return {}


def describe(execution: Execution) -> Members:
    """Build the `QueryExecution` of an execution."""
    with execution.lock:
        state, reason, completed = execution.state, execution.reason, execution.completed
    millis = int(((completed or execution.submitted) - execution.submitted) * 1000)
    status: Members = {"State": state, "SubmissionDateTime": execution.submitted}
    if completed is not None:
        status["CompletionDateTime"] = completed
    if reason:
        status["StateChangeReason"] = reason
    if state == "FAILED":
        status["AthenaError"] = {"ErrorCategory": 2, "ErrorType": 1, "Retryable": False, "ErrorMessage": reason}
    statistics: Members = {
        "EngineExecutionTimeInMillis": millis,
        "TotalExecutionTimeInMillis": millis,
    }
    if execution.manifest_location:
        statistics["DataManifestLocation"] = execution.manifest_location
    return {
        "QueryExecutionId": execution.query_id,
        "Query": execution.query,
        "StatementType": "DML",
        "SubstatementType": "UNLOAD" if execution.is_unload else "SELECT",
        "ResultConfiguration": {"OutputLocation": execution.output_location},
        "QueryExecutionContext": {"Database": execution.database, "Catalog": "awsdatacatalog"},
        "Status": status,
        "Statistics": statistics,
        "WorkGroup": execution.work_group,
        "EngineVersion": {"SelectedEngineVersion": "AUTO", "EffectiveEngineVersion": "Athena engine version 3"},
    }


def build_results(execution: Execution) -> Members:
    """Build the results of a query: its columns, and the row of their names that comes first for a SELECT.

    Raises:
        InvalidRequestError: the query has not succeeded, or has rows, which only UNLOAD writes here.
    """
    if execution.state != "SUCCEEDED":
        ended = execution.state in {"FAILED", "CANCELLED"}
        what = "Query did not finish successfully. Final query" if ended else "Query has not yet finished. Current"
        raise InvalidRequestError(f"{what} state: {execution.state}", "INVALID_QUERY_EXECUTION_STATE")
    if execution.has_rows:
        raise InvalidRequestError("The local Athena returns no rows of a SELECT; use UNLOAD", "UNSUPPORTED")
    header = [] if execution.is_unload else [[{"VarCharValue": column["Name"]} for column in execution.columns]]
    return {
        "UpdateCount": execution.update_count,
        "ResultSet": {
            "ResultSetMetadata": {"ColumnInfo": execution.columns},
            "Rows": [{"Data": row} for row in header],
        },
    }

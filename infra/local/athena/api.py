"""Answer the operations of the Athena API: a request's members to a response's, or an error. An edge only for Glue."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from infra.local.athena.errors import InvalidRequestError, QueryFailedError
from infra.local.athena.executions import Execution, Executions
from infra.local.athena.statement import Statement, parse_statement

MAX_RESULTS = 1000
Members = dict[str, Any]


class Api:
    """The operations that clients such as PyAthena need; work groups are those of the stand-in."""

    def __init__(self, executions: Executions, work_groups: Any) -> None:
        self._executions = executions
        self._work_groups = work_groups  # a boto3 Athena client of the stand-in
        self._tokens: dict[str, str] = {}
        self._operations: Mapping[str, Callable[[Members], Members]] = {
            "StartQueryExecution": self._start,
            "GetQueryExecution": lambda request: {"QueryExecution": describe(self._find(request))},
            "BatchGetQueryExecution": self._batch_get,
            "GetQueryResults": lambda request: build_page(self._find(request), request),
            "StopQueryExecution": self._stop,
            "GetWorkGroup": lambda request: {"WorkGroup": self._work_group(request["WorkGroup"])},
        }

    def answer(self, operation: str, request: Members) -> Members:
        """Answer one request.

        Raises:
            InvalidRequestError: the request is refused.
        """
        if operation not in self._operations:
            raise InvalidRequestError(f"The local Athena has no operation {operation}")
        return self._operations[operation](request)

    def _start(self, request: Members) -> Members:
        token = request.get("ClientRequestToken")
        if token in self._tokens:
            return {"QueryExecutionId": self._tokens[token]}
        database = request.get("QueryExecutionContext", {}).get("Database", "default")
        work_group = request.get("WorkGroup", "primary")
        statement: Statement | QueryFailedError
        try:
            statement = parse_statement(request["QueryString"], database, request.get("ExecutionParameters", []))
        except QueryFailedError as error:
            statement = error  # it starts and fails, as it would on AWS
        output = self._output(request, self._work_group(work_group))
        execution = Execution(request["QueryString"].strip(), statement, output, database, work_group)
        self._executions.start(execution)
        if token:
            self._tokens[token] = execution.query_id
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
        return {member: value.timestamp() if isinstance(value, datetime) else value for member, value in group.items()}

    def _find(self, request: Members) -> Execution:
        query_id = request["QueryExecutionId"]
        execution = self._executions.get(query_id)
        if execution is None:
            raise InvalidRequestError(f"QueryExecution {query_id} was not found")
        return execution

    def _stop(self, request: Members) -> Members:
        self._executions.stop(self._find(request))
        return {}

    def _batch_get(self, request: Members) -> Members:
        found = [(query_id, self._executions.get(query_id)) for query_id in request["QueryExecutionIds"]]
        return {
            "QueryExecutions": [describe(execution) for _, execution in found if execution],
            "UnprocessedQueryExecutionIds": [
                {"QueryExecutionId": query_id, "ErrorCode": "INVALID_INPUT", "ErrorMessage": "was not found"}
                for query_id, execution in found
                if not execution
            ],
        }


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
        "DataScannedInBytes": execution.scanned,
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


def build_page(execution: Execution, request: Members) -> Members:
    """Build a page of results; the very first row of a SELECT's first page are the names of its columns.

    Raises:
        InvalidRequestError: the query has not succeeded, or the page is none.
    """
    if execution.state != "SUCCEEDED":
        ended = execution.state in {"FAILED", "CANCELLED"}
        what = "Query did not finish successfully. Final query" if ended else "Query has not yet finished. Current"
        raise InvalidRequestError(f"{what} state: {execution.state}", "INVALID_QUERY_EXECUTION_STATE")
    limit, token = request.get("MaxResults", MAX_RESULTS), request.get("NextToken", "0")
    if not 1 <= limit <= MAX_RESULTS:
        raise InvalidRequestError(f"MaxResults is more than maximum allowed length {MAX_RESULTS}.")
    if not token.isdecimal():
        raise InvalidRequestError("Invalid pagination token")
    first = int(token)
    header = [] if execution.is_unload else [tuple(column["Name"] for column in execution.columns)]
    total = len(header) + (len(execution.texts[0]) if execution.texts else 0)
    rows = header[first : first + limit]
    begin = max(0, first - len(header))
    columns = (islice(texts, begin, begin + limit - len(rows)) for texts in execution.texts)
    rows += zip(*columns, strict=True)
    page: Members = {
        "UpdateCount": execution.update_count,
        "ResultSet": {
            "ResultSetMetadata": {"ColumnInfo": execution.columns},
            "Rows": [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in rows],
        },
    }
    if first + limit < total:
        page["NextToken"] = str(first + limit)
    return page

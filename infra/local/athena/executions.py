"""Run queries in threads and keep their states: QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from infra.local.athena.catalog import read_table
from infra.local.athena.column_types import column_info
from infra.local.athena.engine import run_statement
from infra.local.athena.errors import QueryCancelledError, QueryFailedError
from infra.local.athena.results import write_manifest, write_unload
from infra.local.athena.statement import Statement

AT_ONCE = 4
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass
class Execution:
    """One query execution; its state changes only under `lock`, and a terminal state is final."""

    query: str
    statement: Statement | QueryFailedError
    output: str  # s3://bucket/prefix/ for results
    database: str
    work_group: str
    query_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "QUEUED"
    reason: str | None = None
    submitted: float = field(default_factory=time.time)
    completed: float | None = None
    update_count: int = 0
    columns: list[dict[str, Any]] = field(default_factory=list)
    has_rows: bool = False  # of a SELECT only
    interrupt: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_unload(self) -> bool:
        """Whether the query is an UNLOAD."""
        return isinstance(self.statement, Statement) and self.statement.unload is not None

    @property
    def output_location(self) -> str:
        """Where Athena would put the result of a SELECT, or the prefix of an UNLOAD's manifest."""
        return f"{self.output}{self.query_id}" + ("" if self.is_unload else ".csv")

    @property
    def manifest_location(self) -> str | None:
        """The object that lists the files of an UNLOAD."""
        return f"{self.output}{self.query_id}-manifest.csv" if self.is_unload else None

    def change(self, state: str, reason: str | None = None) -> None:
        """Change the state, unless it is terminal."""
        with self.lock:
            if self.state not in TERMINAL:
                self.state, self.reason = state, reason
                self.completed = time.time() if state in TERMINAL else None

    def check_cancelled(self, interrupt: Callable[[], None] | None = None) -> None:
        """Keep the function that interrupts the next step.

        Raises:
            QueryCancelledError: the query was stopped.
        """
        with self.lock:
            if self.state == "CANCELLED":
                raise QueryCancelledError
            self.interrupt = interrupt or self.interrupt


class Executions:
    """The query executions of one local Athena."""

    def __init__(self, s3: Any, glue: Any) -> None:
        self._s3 = s3
        self._glue = glue
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="athena")
        self._by_id: dict[str, Execution] = {}
        self._running: set[Future[None]] = set()

    def start(self, execution: Execution) -> None:
        """Register an execution and run it when a thread is free."""
        self._by_id[execution.query_id] = execution
        running = self._pool.submit(self._run, execution)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def get(self, query_id: str) -> Execution | None:
        """Return an execution; None if there is none with this id."""
        return self._by_id.get(query_id)

    def stop(self, execution: Execution) -> None:
        """Cancel an execution, unless it has ended."""
        execution.change("CANCELLED", "Query cancelled by user")
        execution.interrupt()

    def close(self) -> None:
        """Cancel the running queries and wait for their threads."""
        while self._running:
            for execution in list(self._by_id.values()):
                self.stop(execution)
            wait(set(self._running), timeout=0.1)  # repeated: an interrupt just before a query begins has no effect
        self._pool.shutdown()

    def _run(self, execution: Execution) -> None:
        try:
            execution.change("RUNNING")
            self._compute(execution)
            execution.change("SUCCEEDED")
        except (QueryCancelledError, duckdb.InterruptException):
            execution.change("CANCELLED", "Query cancelled by user")
        except QueryFailedError as error:
            execution.change("FAILED", str(error))
        except Exception as error:  # noqa: BLE001 - after any error the query must not stay RUNNING for ever
            execution.change("FAILED", f"GENERIC_INTERNAL_ERROR: {type(error).__name__}: {error}")

    def _compute(self, execution: Execution) -> None:
        if isinstance(execution.statement, QueryFailedError):
            raise execution.statement
        tables = {}
        for name in execution.statement.tables:
            execution.check_cancelled()
            tables[name] = read_table(self._glue, self._s3, name)
        rows = run_statement(execution.statement, tables, started=execution.check_cancelled)
        execution.check_cancelled(lambda: None)
        self._keep(execution, execution.statement, rows)

    def _keep(self, execution: Execution, statement: Statement, rows: pa.Table) -> None:
        if statement.unload and execution.manifest_location:
            written = write_unload(self._s3, statement.unload, execution.query_id, rows)
            write_manifest(self._s3, execution.manifest_location, written)
            execution.columns = [column_info(pa.field("rows", pa.int64()))]
            execution.update_count = rows.num_rows
            return
        execution.columns = [column_info(column) for column in rows.schema]
        execution.has_rows = rows.num_rows > 0

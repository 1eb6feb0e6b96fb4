"""Write log lines to standard output from a thread of its own: a full disk or a slow reader never delays a request."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from queue import Empty, Full, Queue
from select import PIPE_BUF, select
from threading import Thread
from typing import Any

from serve.log import note_fault

MAX_WAITING = 10_000  # lines; some 5 MB
_MOST = 1000  # lines that are collected
# Lines are collected for so long before they are written. A thread that woke up for each line would want the
# interpreter's lock just when the next request comes.
COLLECT_SECONDS = 0.05
FAULT_SECONDS = 10.0  # between two faults of the event loop that are reported


class LogWriter:
    """Lines that wait to be written. What cannot be written is dropped and counted."""

    def __init__(self, file: int, lost: Callable[[int], None], read: Callable[[str], None]) -> None:
        """Start the thread.

        Args:
            file: a file descriptor: 1 is standard output.
            lost: takes the number of lines that were dropped.
            read: takes each line, for metrics.
        """
        self._file = file
        self._lost = lost
        self._read = read
        self._waiting: Queue[str | None] = Queue(MAX_WAITING)
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Leave a line to be written; never waits."""
        try:
            self._waiting.put_nowait(line)
        except Full:
            self._lost(1)

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, within a time."""
        try:
            self._waiting.put(None, timeout=seconds)
        except Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            lines = [self._waiting.get()]
            time.sleep(COLLECT_SECONDS)
            try:
                while len(lines) < _MOST and lines[-1] is not None:
                    lines.append(self._waiting.get_nowait())
            except Empty:
                pass
            found = [line for line in lines if line is not None]
            for data, number in _join(found):
                self._write(data, number)
            for line in found:
                with suppress(Exception):  # a line without metrics is still a line
                    self._read(line)
                time.sleep(0)  # lets a request have the lock
            if lines[-1] is None:
                return

    def _write(self, data: bytes, number: int) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            self._lost(number)


def _join(lines: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    """Yield the lines as bytes, as many at a time as a pipe takes in one piece, and their number.

    Other processes write to the same pipe: their lines could get between the parts of a larger write.
    """
    data, number = b"", 0
    for line in lines:
        one = f"{line}\n".encode()
        if number and len(data) + len(one) > PIPE_BUF:
            yield data, number
            data, number = b"", 0
        data += one
        number += 1
    if number:
        yield data, number


def report(level: str, event: str, **details: object) -> None:
    """Print a line of the server itself to standard error; one that cannot be written, or must wait, is dropped."""
    with suppress(OSError):
        if select([], [2], [], 0)[1]:  # a pipe that nobody reads would stop the event loop
            print(json.dumps({"level": level, "event": event, **details}), file=sys.stderr, flush=True)  # noqa: T201


def report_fault(error: Exception) -> None:
    """Report a fault by its place, since its message can have data; for one of the system, also what it is."""
    seen: dict[str, object] = {}
    note_fault(error, seen)
    if isinstance(error, OSError):
        seen["error"] = error.strerror
    report("ERROR", "server", **seen)


class FaultReporter:
    """Reports what the event loop cannot handle, such as a connection for which no file can be opened."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def __call__(self, _: object, context: Mapping[str, Any]) -> None:
        """Report a fault, unless another was a moment ago: some come thousands of times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + FAULT_SECONDS
        error = context.get("exception")
        if isinstance(error, Exception):
            report_fault(error)
        else:
            report("ERROR", "server", message=context["message"])

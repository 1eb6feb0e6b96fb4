"""Log lines are written by a thread; a disk that is full or a reader that is slow costs lines, never a request."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server import logs
from server.logs import FAULT_SECONDS, FaultReporter, LogWriter, report

FULL = Path("/dev/full")


def test_lines_are_written_whole_and_in_order(tmp_path: Path) -> None:
    """All lines that waited are there after `close`."""
    seen: list[str] = []
    with (tmp_path / "log").open("wb") as file:
        log = LogWriter(file.fileno(), lambda number: None, seen.append)
        lines = [f"{number} é" for number in range(1000)]
        for line in lines:
            log.write(line)
        log.close()
    assert (tmp_path / "log").read_text().splitlines() == lines == seen


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_full_disk_loses_lines_and_counts_them() -> None:
    """The writer continues; metrics get the lines all the same."""
    lost: list[int] = []
    seen: list[str] = []
    with FULL.open("wb", buffering=0) as file:
        log = LogWriter(file.fileno(), lost.append, seen.append)
        for number in range(5):
            log.write(str(number))
        log.close()
    assert sum(lost) == 5
    assert len(seen) == 5


def test_a_reader_that_does_not_read_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe: `write` returns at once, and what does not fit is dropped and counted."""
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    lost: list[int] = []
    reads, writes = os.pipe()
    log = LogWriter(writes, lost.append, lambda line: None)
    began = time.monotonic()
    for _ in range(200):
        log.write("x" * 10_000)
    assert time.monotonic() - began < 5, "nothing is read"
    assert sum(lost) > 50
    log.close(0.05)
    os.close(reads)


def test_a_line_without_metrics_is_still_a_line(tmp_path: Path) -> None:
    """What reads the lines cannot end the writer."""

    def read(line: str) -> None:
        raise ValueError(line)

    with (tmp_path / "log").open("wb") as file:
        log = LogWriter(file.fileno(), lambda number: None, read)
        log.write("a")
        log.write("b")
        log.close()
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_processes_that_share_a_pipe_do_not_mix_their_lines() -> None:
    """Not even when it is full."""
    reads, writes = os.pipe()
    logs = [LogWriter(writes, lambda number: None, lambda line: None) for _ in range(2)]
    for log, letter in zip(logs, "ab", strict=True):
        for _ in range(1000):
            log.write(letter * 299)
    data = b""
    while len(data) < 2 * 1000 * 300:
        data += os.read(reads, 1000)
    for log in logs:
        log.close()
    os.close(reads)
    os.close(writes)
    assert sorted(data.splitlines()) == [b"a" * 299] * 1000 + [b"b" * 299] * 1000


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_line_of_the_server_that_cannot_be_written_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error can be a file on a full disk."""
    with FULL.open("wb", buffering=0) as file:
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(file, write_through=True))
        report("ERROR", "server", message="x")
        monkeypatch.undo()


def test_a_line_of_the_server_that_nobody_reads_delays_nobody() -> None:
    """Standard error can be a pipe that is full: its lines are dropped."""
    code = "from server.logs import report\nfor _ in range(2000): report('ERROR', 'server', message='x' * 100)"
    reads, writes = os.pipe()
    assert subprocess.run([sys.executable, "-c", code], stderr=writes, timeout=20).returncode == 0
    os.close(writes)
    with open(reads) as pipe:
        assert {json.loads(line)["message"] for line in pipe} == {"x" * 100}


def test_faults_of_the_event_loop_are_a_line_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no data of a request: those are in messages of exceptions and in the representation of callbacks."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    report_next = FaultReporter()
    for _ in range(100):
        report_next(None, {"message": "Exception in callback f('secret')", "exception": ValueError("secret")})
    now = FAULT_SECONDS
    report_next(None, {"message": "Task was destroyed but it is pending!"})
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["reason"] == "ValueError"
    assert "secret" not in json.dumps(first)
    assert second == {"level": "ERROR", "event": "server", "message": "Task was destroyed but it is pending!"}

"""What a process opens: one transport, whose connections are kept, but whose requests belong to one run; a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enrich import aws
from tests.unit.wire.faulty_server import Behaviour, FaultyServer, answer, late, silence
from wire.errors import TransportError

TARGET = "DynamoDB_20120810.BatchWriteItem"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a server that acts as DynamoDB for `enrich.aws`."""
    opened: list[FaultyServer] = []

    def start(*script: Behaviour) -> FaultyServer:
        opened.append(FaultyServer(*script))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{opened[0].port}")
        return opened[0]

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "eu-west-1")
    yield start
    for server in opened:
        server.__exit__()


def collect(transport: Any, count: int) -> dict[int, Any]:
    """Wait for `count` reports."""
    reports: dict[int, Any] = {}
    ends = time.monotonic() + 20
    while len(reports) < count and time.monotonic() < ends:
        reports |= dict(transport.wait(0.1))
    return reports


def test_runs_share_their_connections(serve: Any) -> None:
    """A warm Lambda makes run after run; none leaves a socket, or anything else, open."""
    server = serve(late(0.02, answer()))
    open_files = []
    for _ in range(5):
        transport = aws._open_transport(1.0)
        for number in range(8):
            transport.send(TARGET, b"%d" % number)
        assert {report.status for report in collect(transport, 8).values()} == {200}
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert len(server.seen) == 40
    assert len(server.peers) <= 8
    assert max(open_files[1:]) <= open_files[0]


def test_a_handle_of_an_earlier_run_is_not_reported_to_a_later_one(serve: Any) -> None:
    """Requests that a run left in flight, or whose reports it did not collect, do not affect the next run."""
    server = serve(late(0.2, answer(body=b"earlier")), answer(body=b"earlier"), answer(body=b"later"))
    earlier = aws._open_transport(5.0)
    left = [earlier.send(TARGET, b"%d" % number) for number in range(2)]
    while len(server.seen) < 2:
        earlier.wait(0.0)  # connects; the second response arrives, and is in the socket
    later = aws._open_transport(5.0)
    handle = later.send(TARGET, b"later")
    time.sleep(0.3)
    reports = collect(later, 1)
    assert [(one, report.body) for one, report in reports.items()] == [(handle, b"later")]
    assert handle not in left
    assert later.wait(0.1) == []


def test_each_run_has_its_own_timeout(serve: Any) -> None:
    """The time-out of requests is that of the run's lease, whatever the time-out of the run before."""
    serve(answer(), silence)
    first = aws._open_transport(60.0)
    first.send(TARGET, b"")
    collect(first, 1)
    second = aws._open_transport(0.2)
    handle = second.send(TARGET, b"")
    began = time.monotonic()
    assert isinstance(collect(second, 1)[handle], TransportError)
    assert time.monotonic() - began < 20


RUN = """
import os, sys
from enrich.aws import open_services
from enrich.ledger.run_state import Stage
from enrich.run import lifecycle
from tests.unit.enrich.small_shop import ROWS, SmallShop

def die(context):
    (context.scratch / "spill").write_bytes(b"rows")
    os._exit(9)

names = ("TABLE", "LEDGER", "BUCKET", "OUTPUTS", "QUEUE", "WORKGROUP")
env = {f"LARDER_{name}": name.lower() for name in names}
shop = SmallShop(open_services(env, owner="test", datasets={}).directory)
if sys.argv[1] == "die":
    lifecycle.STAGES[Stage.WRITE] = die
assert shop.run(ROWS).state == "done"
"""


def test_a_process_deletes_what_a_killed_one_left_on_scratch_disk(tmp_path: Path) -> None:
    """E.g. one of a Lambda that ran out of time: the next process can have the same disk, of 4 GB."""
    env = {**os.environ, "TMPDIR": str(tmp_path), "AWS_DEFAULT_REGION": "eu-west-1"}
    for argument, code, spilled in (("die", 9, 1), ("die", 9, 1), ("end", 0, 0)):
        done = subprocess.run([sys.executable, "-c", RUN, argument], env=env, check=False, capture_output=True)
        assert done.returncode == code, done.stderr
        assert len([path for path in tmp_path.rglob("*") if path.name == "spill" and path.is_file()]) == spilled
    assert list(tmp_path.iterdir()) == []

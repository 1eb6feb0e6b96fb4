"""The processes of a server: one that dies is replaced, none outlives the main one, and the end loses no request."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.doors.kit import (
    Storage,
    build_env,
    find_workers,
    needs_server,
    run_server,
    wait_for,
)

pytestmark = [pytest.mark.slow, needs_server]


def test_a_process_that_dies_is_replaced_once_in_seconds(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """If the new one dies at once, the server ends with status 1, and so do the other processes."""
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server:
        first, other = find_workers(server)
        os.kill(first, signal.SIGKILL)
        errors = tmp_path / "serve.err"
        wait_for(lambda: set(find_workers(server)) - {first, other}, server.process, errors)
        (new,) = set(find_workers(server)) - {first, other}
        os.kill(new, signal.SIGKILL)
        assert server.process.wait(10) == 1
        assert not Path(f"/proc/{other}").exists()
        assert errors.read_text().count("a process ended with -9") == 2


def test_no_process_outlives_the_main_one(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """Also if that is killed."""
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server:
        workers = find_workers(server)
        server.process.kill()
        server.process.wait()
        ends = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < ends
            time.sleep(0.05)

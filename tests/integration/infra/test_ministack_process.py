"""Ministack as started here: on loopback only, isolated, and ended with its parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local import ministack
from infra.local.ministack import MinistackError, run_ministack

CHECKOUT = Path(__file__).parents[3]
PARENT = """
import signal, sys, time
from pathlib import Path
from infra.local.ministack import run_ministack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
with run_ministack(Path(sys.argv[1])) as running:
    print(running.endpoint, running.pid, flush=True)
    time.sleep(60)
"""


def test_it_listens_on_loopback_only(aws: Any) -> None:
    """Ministack runs any code that it receives, so it listens on no other interface and on no other port."""
    process = psutil.Process(_pid_of(aws.endpoint))
    listening = {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {int(aws.endpoint.rpartition(":")[2])}


def test_clients_use_the_account_of_the_stack(aws: Any) -> None:
    """A client with the environment's credentials is in the account that ministack was given."""
    assert aws.client("sts").get_caller_identity()["Account"] == aws.account


@pytest.mark.long
def test_the_users_aws_settings_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile or a switch in the user's environment changes nothing in ministack's."""
    monkeypatch.setenv("AWS_PROFILE", "the-user")
    monkeypatch.setenv("AUTH", "true")
    monkeypatch.setenv("PYTHONPATH", "/the/checkout")
    with run_ministack(tmp_path / "log", env={"LARDER_GREETING": "hello"}) as running:
        env = psutil.Process(running.pid).environ()
    assert {"AWS_PROFILE", "AUTH", "PYTHONPATH"}.isdisjoint(env)
    assert env["LARDER_GREETING"] == "hello"


@pytest.mark.long
def test_leaving_the_block_ends_it_and_removes_its_files(tmp_path: Path) -> None:
    """Its process has ended and its files are removed, except for the log."""
    with run_ministack(tmp_path / "log") as running:
        directory = psutil.Process(running.pid).environ()["TMPDIR"]
        assert Path(directory).exists()
    assert not psutil.pid_exists(running.pid)
    assert not Path(directory).exists()
    assert _refuses(running.endpoint)
    assert (tmp_path / "log").read_text()


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_it_ends_with_its_parent(tmp_path: Path, how: Any) -> None:
    """Ministack ends within seconds after its parent, however the parent ends."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as parent:
        assert parent.stdout
        endpoint, pid = parent.stdout.readline().split()
        parent.send_signal(how)
        parent.wait(timeout=120)
    deadline = time.monotonic() + 60
    while not (_refuses(endpoint) and _is_gone(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _refuses(endpoint)
    assert _is_gone(int(pid))


def test_a_failed_start_has_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with the last output of the process."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no ministack here')")
    monkeypatch.setattr(ministack, "_process_file", lambda: str(broken))
    with (
        pytest.raises(MinistackError, match=r"(?s)ended with status 1.*no ministack here"),
        run_ministack(tmp_path / "l"),
    ):
        pass


def test_a_start_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time-out the start fails, and the process is ended."""
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import sys; print('thinking', flush=True); sys.stdin.read()")
    monkeypatch.setattr(ministack, "_process_file", lambda: str(hanging))
    gives_up = pytest.raises(MinistackError, match=r"(?s)did not respond within 3 s.*thinking")
    with gives_up, run_ministack(tmp_path / "log", timeout=3):
        pass


def _pid_of(endpoint: str) -> int:
    port = int(endpoint.rpartition(":")[2])
    return next(
        int(child.pid)
        for child in psutil.Process().children(recursive=True)
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in child.net_connections())
    )


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _refuses(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with socket.socket() as trying:
        return trying.connect_ex((host, int(port))) != 0


def test_it_has_glue(aws: Any) -> None:
    """The health page lists the services."""
    with urllib.request.urlopen(f"{aws.endpoint}/_ministack/health") as answer:
        assert b'"glue": "available"' in answer.read()

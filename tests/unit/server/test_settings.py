"""How many processes and threads, how long a drain; times are those of the deployed functions."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from infra.translate import read_template
from serve.dev.commands import main
from server.ports import check_port
from server.run import KILL_SECONDS
from server.settings import SCORE_SECONDS, SERVE_SECONDS, Settings, parse_settings
from tests.deploy.kubernetes_rules import DRAIN_SECONDS, LIVE, LONGEST_REQUEST, READY
from tests.unit.infra.rules.template import functions


def test_settings_have_defaults_and_bounds() -> None:
    """A message names the variable, what was found, and what was expected."""
    assert parse_settings({}) == Settings(processes=2, threads=8, drain_seconds=DRAIN_SECONDS)
    env = {"LARDER_PROCESSES": "3", "LARDER_THREADS": "4", "LARDER_DRAIN_SECONDS": "0"}
    assert parse_settings(env) == Settings(3, 4, 0)
    for name, bad in (("LARDER_PROCESSES", "0"), ("LARDER_THREADS", "-1"), ("LARDER_DRAIN_SECONDS", "1.5")):
        with pytest.raises(ValueError, match=f"{name} is '{bad}', expected a number from"):
            parse_settings({name: bad})
    with pytest.raises(ValueError, match="LARDER_THREADS"):
        parse_settings({"LARDER_THREADS": "٣"})


def test_times_are_those_of_the_functions() -> None:
    """A request has as long as on Lambda; what is in flight at the end of a drain is answered."""
    deployed = functions(read_template())
    assert tuple(deployed[name]["Timeout"] for name in ("ServeFunction", "ScoreFunction")) == (
        SERVE_SECONDS,
        SCORE_SECONDS,
    )
    assert {"serve": SERVE_SECONDS, "score": SCORE_SECONDS} == LONGEST_REQUEST
    assert KILL_SECONDS > SCORE_SECONDS


def test_probes_are_those_of_the_manifests() -> None:
    """The paths that Kubernetes asks."""
    from server import app

    assert (app.LIVE, app.READY) == (LIVE, READY)


def test_a_port_in_use_is_noticed() -> None:
    """Sockets that are shared between processes would not."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        check_port("127.0.0.1", other.getsockname()[1])
    assert check_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
@pytest.mark.parametrize("bad", ["70000", "-1", "http"])
def test_a_port_out_of_range_is_a_usage_error(option: str, bad: str) -> None:
    """One line, not a traceback."""
    command = [sys.executable, "-m", "server", "serve", f"{option}={bad}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = f"error: argument {option}: invalid port from 0 to 65535 value: '{bad}'"
    assert (found.returncode, found.stderr.splitlines()[-1]) == (2, f"python -m server: {expected}")


def test_the_port_of_the_laptop_server_is_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    """By the same function."""
    with pytest.raises(SystemExit, match="2"):
        main(["--port", "70000"], {})
    assert "invalid port from 0 to 65535 value: '70000'" in capsys.readouterr().err

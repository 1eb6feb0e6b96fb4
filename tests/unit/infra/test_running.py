"""Commands without variables find the stack that runs on this machine, and say what to do if none runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.running import NotRunning, announce, read_variables
from serve.dev.commands import main

ROOT = Path(__file__).parents[3]


def test_the_variables_live_as_long_as_the_stack(tmp_path: Path) -> None:
    """They exist within the block, only for the owner; an older stack does not change those of a newer one."""
    place = tmp_path / "deep" / "running.json"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{listening.getsockname()[1]}", "LARDER_TABLE": "a b"}
        second = {**first, "LARDER_TABLE": "c"}
        older, newer = announce(first, place), announce(second, place)
        replace = older.__enter__()
        assert read_variables(place) == first
        replace({**first, "LARDER_API": "another"})
        assert read_variables(place)["LARDER_API"] == "another"
        assert place.stat().st_mode & 0o077 == 0
        newer.__enter__()
        replace(first)
        older.__exit__(None, None, None)
        assert read_variables(place) == second
        newer.__exit__(None, None, None)
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"LARDER_TABLE": "t"}', "is damaged"),
        ('{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}', "does not respond"),
        ('{"AWS_ENDPOINT_URL": "http://127.0.0.1:x"}', "is damaged"),
    ],
)
def test_a_missing_stack_is_reported(tmp_path: Path, text: str | None, said: str) -> None:
    """No file, a damaged one, or one that a killed process left: the message names it and how to start a stack."""
    place = tmp_path / "running.json"
    if text is not None:
        place.write_text(text)
    with pytest.raises(NotRunning, match=said) as found:
        read_variables(place)
    assert str(place) in str(found.value)
    assert "./larder up" in str(found.value)


def test_serve_without_variables_uses_that_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without variables the settings are those of the file; with them it is not read."""
    monkeypatch.setattr("infra.local.running.read_variables.__defaults__", (tmp_path / "running.json",))
    assert main([], {}) == 1
    assert "no stack runs on this machine" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        (tmp_path / "running.json").write_text(json.dumps({"AWS_ENDPOINT_URL": endpoint, "LARDER_TABLE": "t"}))
        assert main([], {}) == 1
        assert endpoint in (said := capsys.readouterr().err)
        assert "LARDER_ISSUERS is not set" in said
        assert main([], {"LARDER_ISSUERS": "[]"}) == 1
        assert "LARDER_TABLE is not set" in capsys.readouterr().err


def test_env_names_one_stack() -> None:
    """A name or --local, but not both and not neither."""
    for words in ([], ["larder-prod", "--local"]):
        done = subprocess.run([sys.executable, "-m", "infra.env", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2

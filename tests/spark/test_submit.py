"""spark-submit takes the files that `./larder job` builds, and needs nothing else of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra import job
from tests.spark import test_same_table as same_table
from tests.spark.conftest import PROJECT, Stack

pytestmark = pytest.mark.slow
ROWS = 2000


def test_the_files_are_complete(stacks: Mapping[str, Stack], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run is executed with code, datasets and release from the files, outside the checkout; a second job has none."""
    monkeypatch.setattr(same_table, "ROWS", ROWS)
    monkeypatch.setenv("LARDER_PROJECT", str(PROJECT))
    stack = stacks["job"]
    same_table.seed(stack)
    same_table.write(stack, 1, 0, 1)
    (tmp_path / "main.py").write_text(job.MAIN)
    (tmp_path / "larder.zip").write_bytes(job.build_code())
    env = {
        name: value
        for name, value in {**os.environ, **stack.env}.items()
        if name not in {"LARDER_PROJECT", "PYTHONPATH"}
    }
    env |= {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable, "PYTHONSAFEPATH": "1"}
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]"]
    submit += ["--conf", "spark.ui.enabled=false", "--py-files", "larder.zip", "main.py"]
    for _ in range(2):
        done = subprocess.run(
            [*submit, "--dataset", "stock", "--engine", "spark", "--workers", "2", "--write-units", "4000"],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    ((_, state, rows, counts, *_),) = same_table.account(stack)
    assert (state, rows, counts.read) == ("done", ROWS + 1, ROWS + 1)
    assert len(stack.items()) == counts.written > ROWS * 0.9

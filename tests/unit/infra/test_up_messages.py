"""What `./larder up` prints, without a stand-in for AWS: counts of a run, places of tokens, and its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enrich.ledger.records import Counts
from infra.local.up import describe_counts, shorten


def test_every_prediction_is_in_a_count() -> None:
    """Also those that are not served, with the reason."""
    assert describe_counts(Counts(written=2)) == "2 written, 0 unchanged, 0 superseded, 0 expired, 0 rejected"
    said = describe_counts(Counts(superseded=3, expired=4))
    assert said.startswith("0 written, 0 unchanged, 3 superseded, 4 expired, 0 rejected; superseded: a newer output")
    assert said.endswith("; expired: the output is older than the dataset's ttl, so these items would not be served")


def test_a_path_below_the_folder_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README shows it."""
    monkeypatch.chdir(tmp_path)
    assert shorten(tmp_path / ".larder" / "tokens" / "offers") == Path(".larder/tokens/offers")
    assert shorten(tmp_path.parent / "x") == tmp_path.parent / "x"


def test_it_ends_without_a_report_of_leaks() -> None:
    """The last lines that a user sees are the message, not objects of DuckDB."""
    done = subprocess.run([sys.executable, "-c", "import infra.local.up"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

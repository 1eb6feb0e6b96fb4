"""The survivors of `python -m tests.mutation` that count as equivalent are changes of existing lines."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_each_entry_is_of_a_line_that_exists() -> None:
    """Each once, with a reason; an entry whose line was changed must be judged again."""
    entries = yaml.safe_load((ROOT / "tests/mutation/equivalent.yaml").read_text(encoding="utf-8"))
    places = [(entry["module"], entry["before"]) for entry in entries]
    assert len(set(places)) == len(places)
    for entry in entries:
        source = ROOT.joinpath(*entry["module"].split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert entry["before"] in [line.strip() for line in source.splitlines()], entry
        assert entry["before"] not in entry["after"] != []
        assert len(entry["reason"]) > 10

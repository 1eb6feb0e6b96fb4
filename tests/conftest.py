"""Larder's tests use the datasets of the example, whatever the user has in `datasets/`."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# Set on import: test modules load datasets when they are collected, and the processes that they start inherit it.
os.environ["LARDER_PROJECT"] = str(Path(__file__).parents[1] / "examples" / "flights")

# Modules and tests stay until the end: to look for garbage among them takes a seventh of the time of collecting them.
gc.disable()


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what the tests create, and at nothing older."""
    gc.freeze()
    gc.enable()

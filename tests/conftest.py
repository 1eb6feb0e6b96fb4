"""Larder's tests use the datasets of the example, whatever the user has in `datasets/`."""

from __future__ import annotations

import os
from pathlib import Path

# Set on import: test modules load datasets when they are collected, and the processes that they start inherit it.
os.environ["LARDER_PROJECT"] = str(Path(__file__).parents[1] / "examples" / "flights")

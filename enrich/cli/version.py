"""The version of the code that runs, and of the libraries that decide its results."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("boto3", "duckdb", "pyarrow")


def find_version() -> str:
    """Return the release: of a checkout as git describes it, else LARDER_VERSION, which a deployment sets."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "describe", "--tags", "--always", "--dirty"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError:  # no git
            done = None
        if done is not None and done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return os.environ.get("LARDER_VERSION") or "unversioned"


def describe_version() -> str:
    """Return one line: the release, Python, and the libraries."""
    found = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    return f"larder {find_version()} ({', '.join(found)})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

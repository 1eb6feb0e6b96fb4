"""The release and commit of the running code, and the versions of the libraries that affect its results."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from enrich.release import RELEASE

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("boto3", "duckdb", "pyarrow")


def find_code() -> str:
    """Return the version of the code: in a checkout `git describe`, in a deployment LARDER_VERSION."""
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
    """Return one line: Larder's release, the version of the code (possibly a fork), Python, and the libraries."""
    found = [find_code(), f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    return f"larder {RELEASE} ({', '.join(found)})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

"""Install command-line tools that conflict with our libraries (they pin botocore) in separate environments."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "infra" / "tools"
PLACE = (ROOT / ".larder").resolve() / "tools"  # resolved, because the commands contain this path


class ToolError(Exception):
    """A tool could not be installed; the message ends with pip's output."""


def install(name: str) -> Path:
    """Return the folder of a tool's commands; its locked requirements are installed there once.

    Raises:
        ToolError: pip failed.
    """
    lock = LOCKS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = PLACE / f"{name}-{digest}"
    commands = home / ("Scripts" if os.name == "nt" else "bin")
    done = home / "installed"
    PLACE.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")):  # a second process waits, then finds the tool installed
        if not done.exists():
            _install_into(home, commands, lock)
            done.touch()
    return commands


def _install_into(home: Path, commands: Path, lock: Path) -> None:
    venv.create(home, with_pip=True, clear=True)
    pip = [
        str(commands / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--no-deps",
        "-r",
        str(lock),
    ]
    ran = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode:
        raise ToolError(f"cannot install {lock.stem} from {lock.relative_to(ROOT)}:\n{ran.stderr.strip()}")

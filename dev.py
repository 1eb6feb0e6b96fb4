#!/usr/bin/env python3
"""One command from a fresh clone: `python3 dev.py demo` runs the main job, `python3 dev.py test` the tests.

Needs only Python 3.11 or later: it creates a virtual environment in `.venv` with tox, which does the rest.
`python3 dev.py up` runs your own datasets with a stand-in for AWS (`--port N`: port of the API and its documentation).
`python3 dev.py ARGUMENTS...` passes its arguments to tox.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)
TOX = "tox>=4.22"
DEMO_DOWNLOAD = "about 200 MB"  # of examples/requirements.txt
SHORTCUTS = {"demo": ["run", "-e", "demo", "--"], "test": ["run"]}


def main(arguments: list[str]) -> int:
    """Create the environment if needed, and run tox."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(__doc__)  # noqa: T201
        return 0
    if sys.version_info < OLDEST:
        return run_with_newer(arguments)
    check_arguments(arguments[0], arguments[1:])
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not has_tox(python):
        make_venv(python)
    if arguments[0] == "up":
        return run_up(python, arguments[1:])
    shortcut = SHORTCUTS.get(arguments[0])
    announce_download(arguments)
    passed = [*shortcut, *arguments[1:]] if shortcut else arguments
    if arguments[0] == "demo":
        passed[1:1] = recreate("demo")
    return subprocess.call([str(python), "-m", "tox", *passed], cwd=ROOT)


def check_arguments(command: str, arguments: list[str]) -> None:
    """Print the help of a command, or exit with a usage error, before anything is installed."""
    if command == "up":
        from infra.local.arguments import build_parser

        build_parser().parse_args(arguments)
    elif command == "demo":
        from examples.flights.arguments import build_parser

        build_parser().parse_args(arguments)


def is_installed(name: str) -> bool:
    """Return whether an environment of tox has all its packages: tox records them after it has installed them."""
    try:
        recorded = json.loads((ROOT / ".tox" / name / ".tox-info.json").read_text(encoding="utf-8"))
        return bool(recorded["PythonRun"]["deps"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def recreate(name: str) -> list[str]:
    """Return the option by which tox creates an environment again, if its installation was interrupted."""
    return ["--recreate"] if (ROOT / ".tox" / name).exists() and not is_installed(name) else []


def announce_download(arguments: list[str]) -> None:
    """Print how much an environment that does not exist yet will download."""
    if "demo" in arguments and not is_installed("demo"):
        print(f"installing the packages of the demo, once: {DEMO_DOWNLOAD} to download", flush=True)  # noqa: T201


def run_up(python: Path, arguments: list[str]) -> int:
    """Run the user's datasets in the demo's environment; without tox, which would kill the process on Ctrl-C."""
    announce_download(["demo"])
    setup = [str(python), "-m", "tox", "run", "-q", "-e", "demo", "--notest", *recreate("demo")]
    if code := subprocess.call(setup, cwd=ROOT):
        return code
    command = [str(ROOT / ".tox" / "demo" / "bin" / "python"), "-P", "-m", "infra.local.up", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return os.execve(command[0], command, env)  # noqa: S606 - the command gets signals and sets the exit status itself


def run_with_newer(arguments: list[str]) -> int:
    """Run this script with a newer Python, if there is one."""
    for minor in range(20, OLDEST[1] - 1, -1):
        if newer := shutil.which(f"python3.{minor}"):
            return subprocess.call([newer, str(ROOT / "dev.py"), *arguments])
    sys.exit(f"Larder needs Python 3.11 or later; this is {sys.version.split()[0]}, and no newer one is on the PATH")


def has_tox(python: Path) -> bool:
    """Return whether the environment exists and has tox."""
    # This module imports the others: an installation that was interrupted lacks some.
    return python.exists() and subprocess.call([str(python), "-c", "import tox.run"], stderr=subprocess.DEVNULL) == 0


def make_venv(python: Path) -> None:
    """Create the environment; without ensurepip (Debian), the system's pip installs into it."""
    print("creating .venv with tox ...", flush=True)  # noqa: T201
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    pip = [str(python), "-m", "pip"] if has_ensurepip else [sys.executable, "-m", "pip", "--python", str(python)]
    if not has_ensurepip and importlib.util.find_spec("pip") is None:
        sys.exit("Larder needs Python's venv or pip: on Debian and Ubuntu, `apt install python3-venv`, then try again")
    bare = [] if has_ensurepip else ["--without-pip"]
    subprocess.check_call([sys.executable, "-m", "venv", "--clear", *bare, VENV])
    subprocess.check_call([*pip, "install", "--quiet", "--disable-pip-version-check", TOX])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""One command from a fresh clone: `python3 dev.py demo` runs the main job, `python3 dev.py test` the tests.

Needs Python 3.11 or later and nothing else installed: it makes a virtual environment in `.venv` with tox in it, and
everything else is tox's business. `python3 dev.py ANYTHING...` hands its words to tox.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)
TOX = "tox>=4.22"
SHORTCUTS = {"demo": ["run", "-e", "demo", "--"], "test": ["run"]}


def main(words: list[str]) -> int:
    """Run tox, after making the environment that it needs."""
    if not words or words[0] in {"-h", "--help"}:
        print(__doc__)  # noqa: T201
        return 0
    if sys.version_info < OLDEST:
        return run_with_newer(words)
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not has_tox(python):
        make_venv(python)
    shortcut = SHORTCUTS.get(words[0])
    arguments = [*shortcut, *words[1:]] if shortcut else words
    return subprocess.call([str(python), "-m", "tox", *arguments], cwd=ROOT)


def run_with_newer(words: list[str]) -> int:
    """Start again with a Python that is new enough, if there is one."""
    for minor in range(20, OLDEST[1] - 1, -1):
        if newer := shutil.which(f"python3.{minor}"):
            return subprocess.call([newer, str(ROOT / "dev.py"), *words])
    sys.exit(f"Larder needs Python 3.11 or later; this is {sys.version.split()[0]}, and no newer one is on the PATH")


def has_tox(python: Path) -> bool:
    """Return whether the environment is there, and works."""
    return python.exists() and subprocess.call([str(python), "-c", "import tox"], stderr=subprocess.DEVNULL) == 0


def make_venv(python: Path) -> None:
    """Make the environment; where Debian lacks ensurepip, the pip that it has installs into one without it."""
    print("making .venv with tox in it ...", flush=True)  # noqa: T201
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    pip = [str(python), "-m", "pip"] if has_ensurepip else [sys.executable, "-m", "pip", "--python", str(python)]
    if not has_ensurepip and importlib.util.find_spec("pip") is None:
        sys.exit("Larder needs Python's venv or pip: on Debian and Ubuntu, `apt install python3-venv`, then try again")
    bare = [] if has_ensurepip else ["--without-pip"]
    subprocess.check_call([sys.executable, "-m", "venv", "--clear", *bare, VENV])
    subprocess.check_call([*pip, "install", "--quiet", "--disable-pip-version-check", TOX])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Pages name only files, modules, tox environments and test names that exist."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini")
FOLDERS = ("docs", "enrich", "examples", "infra", "serve", "tests", "wire")
NAMES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
# Object keys and folders on S3, files of a discovery bucket, a file that an operator writes
STORED = {
    "athena/",
    "fingerprints/",
    "metadata/",
    "noted/",
    "parts.json",
    "rejects/",
    "service.json",
    "sweep.json",
    "work/",
}
# Folders that are the user's, and what is generated from his environments: there or not
OWN = ("datasets/", "infra/discovery-bucket.yaml", "lake/", "outputs/")
SUFFIXES = r"\.(?:py|md|yaml|toml|ini|txt|svg|json|sql|c)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    """Each path in code style exists from the project's folder, from the page's or from a package's, or as a name."""
    path = rf"`((?:[\w.-]+/)+|(?:[\w.-]+/)*[\w.-]+{SUFFIXES}|(?:{'|'.join(FOLDERS)})/[\w./-]+)`"
    for name in set(re.findall(path, page.read_text())) - STORED:
        if name.startswith(OWN):
            continue
        places = [ROOT / name, page.parent / name, *(ROOT / folder / name for folder in FOLDERS)]
        assert any(place.exists() for place in places) or name in NAMES or name[0] == ".", f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_modules_and_environments_exist(page: Path) -> None:
    """Each `python -m a.b` is a module or a package with a __main__, each `tox -e a` an environment."""
    text = page.read_text()
    for module in set(re.findall(r"python3? -m ((?:enrich|serve|wire|infra|examples|tests)[\w.]*)", text)):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"
    for environment in set(re.findall(r"tox -e ([\w-]+)|dev\.py run -e ([\w-]+)", text)):
        name = "".join(environment)
        assert f"testenv:{name}" in TOX, f"{page.name}: tox -e {name}"

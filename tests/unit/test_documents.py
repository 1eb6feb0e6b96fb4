"""Pages name only files, modules, tox environments and test names that exist."""

from __future__ import annotations

import configparser
import html
import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from enrich.cli.terminal import render_runs
from enrich.ledger.records import Run
from enrich.ledger.run_state import RunState

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini")
FOLDERS = ("docs", "enrich", "examples", "infra", "score", "serve", "server", "tests", "wire")
NAMES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
# Object keys and folders on S3, files of a discovery bucket, a file that an operator writes
STORED = {
    "athena/",
    "fingerprints/",
    "job/",
    "kept/",
    "metadata/",
    "noted/",
    "parts/",
    "rejects/",
    "statistics/",
    "service.json",
    "release.json",
    "sweep.json",
    "work/",
}
# The user's folders, and files that are generated from the user's environments: they can be missing
OWN = ("datasets/", "models/", "infra/discovery-bucket.yaml", "lake/", "outputs/")
SUFFIXES = r"\.(?:py|md|yaml|toml|ini|txt|svg|json|sql|c)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    """Each path in code style exists from the project's folder, the page's or a package's, or is a file name."""
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
    for module in set(re.findall(r"python3? -m ((?:enrich|serve|server|wire|infra|examples|tests)[\w.]*)", text)):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"
    for environment in set(re.findall(r"tox -e ([\w-]+)|dev\.py run -e ([\w-]+)", text)):
        name = "".join(environment)
        assert f"testenv:{name}" in TOX, f"{page.name}: tox -e {name}"


def test_commands_are_named_by_the_launcher() -> None:
    """Each `./larder COMMAND` of a page, message or generated file exists, and none names a module instead."""
    loader = SourceFileLoader("larder", str(ROOT / "larder"))
    launcher = module_from_spec(spec_from_loader("larder", loader) or pytest.fail("larder is not a module"))
    loader.exec_module(launcher)
    commands = {name for group in launcher.COMMANDS.values() for name in group}
    modules = {module for group in launcher.COMMANDS.values() for module, _, _ in group.values()} - {"dev"}
    named = re.compile(r"\./larder ([a-z][\w-]*)")
    # That of a named environment, `.tox/score/bin/python`, is no other name for the launcher.
    replaced = re.compile(rf"(?<!/)python3? -m (?:{'|'.join(map(re.escape, modules))})(?![\w.])|python3? dev\.py up")
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".yaml"}]
    for path in [*pages, *sources, ROOT / "larder", ROOT / "openapi.yaml", ROOT / "samconfig.toml"]:
        text = path.read_text()
        assert set(named.findall(text)) <= commands, path
        assert not replaced.findall(text), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pictures_are_small_and_load_nothing(page: Path) -> None:
    """Each picture exists and has an alternative text; an SVG contains no folder of the machine that drew it."""
    for text, name in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
        picture = page.parent / name
        assert text
        assert picture.stat().st_size < 200_000, name
        if picture.suffix == ".svg":
            found = re.search(r"@font-face|@import|url\(['\"]?http|<script|/home/|/root/|/tmp/", picture.read_text())
            assert not found, name


def read_picture(name: str) -> str:
    """Return the text of an SVG of a terminal, with the lines joined."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", (ROOT / "docs" / name).read_text())
    return " ".join(html.unescape(each).replace("\xa0", " ") for each in found)


def test_pictures_show_what_the_commands_print_today() -> None:
    """After a change of the texts, run `tox -e pictures`."""
    runs = [Run(dataset="d", run=1, identity="i", bucket="b", object_key="k", arrived_ms=0, state=RunState.DONE)]
    head = render_runs(runs, now=1.0).splitlines()[0].split()
    status, plan = read_picture("status.svg"), read_picture("plan.svg")
    assert set(head) <= set(status.split())
    assert "the newest output is" in status
    labels = re.findall(r"^        \(\"([a-z ]+)\",", (ROOT / "enrich/plan/report.py").read_text(), re.MULTILINE)
    assert len(labels) > 5
    assert [label for label in labels if label not in plan] == []
    assert re.search(r"Plan: [\d,]+ to write, [\d,]+ rejected, \$[\d.]+", plan)
    assert "prices as of" in plan


def test_named_sections_exist() -> None:
    """`(docs/page.md, "Section")` in a page or in the template names a heading."""
    named = re.compile(r"\b(README|docs/[\w-]+\.md), \"([^\"]+)\"")
    found = [each for path in [*PAGES, ROOT / "infra/template.yaml"] for each in named.findall(path.read_text())]
    assert len(found) >= 4
    for page, section in found:
        text = (ROOT / (page if page.endswith(".md") else f"{page}.md")).read_text()
        assert re.search(rf"^#+ {re.escape(' '.join(section.split()))}$", text, re.MULTILINE), (page, section)

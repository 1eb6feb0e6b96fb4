"""The README's "Add a dataset in one file", in a copy of the project: the new dataset runs from file to response."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS30Validator

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("## Add a dataset in one file\n")[2].partition("\n## ")[0]
CODE = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)[0]  # the file; others show options
ADDED = "datasets/store_sales.py"
COMMANDS = "\n".join(re.findall(r"^```sh\n(.*?)\n```", SECTION, re.MULTILINE | re.DOTALL)).splitlines()


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy; nothing of this checkout is on its path."""
    env = {**os.environ, "PYTHONPATH": str(copy)}
    del env["LARDER_PROJECT"]
    return subprocess.run([sys.executable, *words], cwd=copy, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with only the README's dataset."""
    target = tmp_path_factory.mktemp("edited")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    wheels = Path(".larder") / "bundles" / "wheels"  # pip installs the same packages: no need to download them again
    (ROOT / wheels).mkdir(parents=True, exist_ok=True)
    (target / wheels).parent.mkdir(parents=True)
    (target / wheels).symlink_to(ROOT / wheels)
    for path in (target / "datasets").glob("*.py"):
        path.unlink()
    (target / ADDED).write_text(CODE)
    for command in COMMANDS:
        program, *words = shlex.split(command)
        done = run(target, program.removeprefix("./"), *words)
        assert done.returncode == 0, done.stderr
        print(done.stdout, done.stderr)
    return target


def test_there_is_one_command() -> None:
    """One file and one command, as the README promises."""
    assert COMMANDS == ["./larder openapi --write"]


def test_check_finds_no_mistakes(copy: Path) -> None:
    """The dataset of the README has no mistakes."""
    done = run(copy, "-m", "enrich", "check", "store-sales")
    assert (done.returncode, done.stdout) == (0, "store-sales: no mistakes found\n"), done.stderr


def test_the_command_again_changes_nothing(copy: Path) -> None:
    """Running it twice leaves the file as it was."""
    before = (copy / "openapi.yaml").read_text()
    done = run(copy, "-m", "enrich", "openapi", "--write")
    assert (done.returncode, "up to date" in done.stdout) == (0, True), done.stderr
    assert (copy / "openapi.yaml").read_text() == before


def test_the_tests_hold(copy: Path) -> None:
    """Larder's tests pass without flight-delays in datasets/; so do those of the new dataset, and the linters."""
    tests = ["tests/contract/test_own_datasets.py", "tests/contract/enrich/test_datasets.py"]  # `tox -e upgrade`: all
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-5000:]
    for words in (["check"], ["format", "--check"]):
        done = run(copy, "-m", "ruff", *words, "--no-cache", ADDED)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def results(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a CSV file in the deployed copy."""
    done = run(copy, "-m", "tests.integration.enrich.edited_copy", str(tmp_path_factory.mktemp("log")))
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_file_becomes_answers(results: Any) -> None:
    """CSV -> EventBridge -> enrich and Athena -> DynamoDB -> serve: the README's body, and only for its store."""
    assert results["run"] == ["done", None, 3, {}]
    day = results["day"]
    body = {
        "product": {"sku": "a-1", "title": "Tea"},
        "store": {"name": "Gate 4", "city": "Oslo"},
        "day": day,
        "forecast": {"units": 12.3, "revenue": 30.85},
    }
    assert results["item"] == [200, body]
    assert results["no units"][1]["forecast"] == {"units": None, "revenue": None}
    assert results["no city"][1]["store"] == {"name": "Gate 4", "city": None}
    assert [one["prediction_id"] for one in results["list"][1]["items"]] == [f"{day}.a-1", f"{day}.b-2"]
    assert results["another store"][0] == 404
    assert results["a claim less"][0] == 401


def test_answers_conform_to_the_contract(copy: Path, results: Any) -> None:
    """Each body that was returned is valid for the schema that the command wrote."""
    document = yaml.safe_load((copy / "openapi.yaml").read_text())
    schema = document["components"]["schemas"]["StoreSalesBody"]
    for name in ("item", "no units", "no city"):
        OAS30Validator(schema).validate(results[name][1])

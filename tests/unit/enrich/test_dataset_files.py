"""Datasets are files in a folder: each file defines one, and its mistakes are reported with file and line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from enrich.datasets import DatasetFileError, load_datasets
from serve.datasets import load_served, parse_served, render_served

GOOD = """from datetime import timedelta
from enrich.datasets import Dataset, LastModified, Served, Source
{name} = Dataset(
    served=Served(name={name!r}, subject=("customer",), scope=None),
    source=Source(prefix="{name}/", format="csv", columns={{"customer": "varchar", "score": "double"}}),
    as_of=LastModified(), ttl=timedelta(days=1), subject={{"customer": "customer"}},
    prediction_id="customer", body={{"score": "score"}},
)
"""
WRONG = [
    ("a.py", "x = (\n", "a.py:1: '(' was never closed"),
    ("a.py", "\nimport no_such_module\n", "a.py:2: there is no module 'no_such_module'; install it"),
    ("a.py", "\n\n1 / 0\n", "a.py:3: ZeroDivisionError: division by zero"),
    ("a.py", "from enrich.datasets import Source\nSource(prefx='a')\n", "a.py:2: Source has no argument 'prefx'"),
    ("a.py", "x = 1\n", "a.py: defines no Dataset; expected one"),
    ("a.py", GOOD.format(name="a") + GOOD.format(name="b"), "a.py: defines 2 datasets"),
    ("a-b.py", GOOD.format(name="a"), "a-b.py: the file name is not a Python module's; rename it"),
    ("z.py", GOOD.format(name="good"), "z.py: defines the dataset 'good', as good.py does; rename one"),
    ("a.py", "import sys\nsys.exit(3)\n", "a.py:2: SystemExit: 3"),
]


@pytest.mark.parametrize(("name", "text", "message"), WRONG, ids=[message[:40] for *_, message in WRONG])
def test_a_wrong_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    """File, line, what is wrong, and what to do."""
    (tmp_path / "good.py").write_text(GOOD.format(name="good"))
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetFileError) as raised:
        load_datasets(tmp_path)
    assert f"{tmp_path}/{message}" in str(raised.value)


def test_every_wrong_file_is_reported(tmp_path: Path) -> None:
    """One pass over the folder reports all mistakes."""
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    with pytest.raises(DatasetFileError) as raised:
        load_datasets(tmp_path)
    assert len(str(raised.value).splitlines()) == 2


def test_files_are_read_again_and_can_share_code(tmp_path: Path) -> None:
    """The next load sees a changed file; `_shared.py` is imported but is no dataset; an empty folder has none."""
    assert load_datasets(tmp_path) == {}
    (tmp_path / "_shared.py").write_text("NAME = 'one'\n")
    (tmp_path / "one.py").write_text("from ._shared import NAME\n" + GOOD.format(name="one"))
    assert list(load_datasets(tmp_path)) == ["one"]
    (tmp_path / "one.py").write_text(GOOD.format(name="other_name"))
    assert list(load_datasets(tmp_path)) == ["other_name"]


def test_what_serve_needs_is_data(tmp_path: Path) -> None:
    """Who can read a dataset is the same after the bundle's JSON; if the file is missing, the message says so."""
    (tmp_path / "one.py").write_text(GOOD.format(name="one"))
    (tmp_path / "two.py").write_text(GOOD.format(name="two").replace("body=", "model_version='score', body="))
    served = {name: one.served for name, one in load_datasets(tmp_path).items()}
    assert served["one"].places == served["two"].places == (("score",),)
    assert (served["one"].version_place, served["two"].version_place) == ((), ("score",))
    assert parse_served(render_served(served)) == served
    (tmp_path / "datasets.json").write_text(render_served(served))
    assert load_served(str(tmp_path / "datasets.json")) == served
    with pytest.raises(
        ValueError, match=r"/nothing.json: is missing; `./larder bundle serve` makes it from datasets/ when it builds"
    ):
        load_served(str(tmp_path / "nothing.json"))


def test_other_names_of_modules_do_not_interfere(tmp_path: Path) -> None:
    """`datasets` is a package on PyPI; whether installed or not, it can still be imported."""
    (tmp_path / "one.py").write_text(GOOD.format(name="one"))
    before = sys.modules.get("datasets")
    load_datasets(tmp_path)
    assert sys.modules.get("datasets") is before

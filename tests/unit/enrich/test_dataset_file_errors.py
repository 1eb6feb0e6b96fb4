"""Mistakes of a dataset file when Python loads it: each is reported with file and line, and a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enrich import __main__ as command_line
from enrich import handler
from enrich.dataset.file_errors import find_repeated_keys
from enrich.datasets import DatasetFileError, load_datasets

IMPORTS = (
    "from enrich.datasets import *\nfrom enrich.datasets import Served\nfrom datetime import timedelta\n"  # 3 lines
)

# The file's text after `IMPORTS` -> the lines of its mistakes, and what each says.
BROKEN: list[tuple[str, list[tuple[int, str]]]] = [
    ("x = Tolerated(sahre=0.1)", [(4, "Tolerated has no argument 'sahre'; did you mean 'share'?")]),
    (
        "x = Dataset(\n    source=1,\n    ttll=2,\n    subjects={},\n)",
        [
            (6, "Dataset has no argument 'ttll'; did you mean 'ttl'?"),
            (7, "Dataset has no argument 'subjects'; did you mean 'subject'?"),
        ],
    ),
    (
        "x = Dataset(\n    source=Source(\n        prefix='x/',\n        fromat='csv',\n        columns={},\n    ),\n)",
        [(7, "Source has no argument 'fromat'; did you mean 'format'?")],
    ),
    ("x = Metadata('select 1', On='a')", [(4, "Metadata has no argument 'On'; did you mean 'on'?")]),
    ("x = FromKey('{}', tz='UTC')", [(4, "FromKey has no argument 'tz'; known are ahead, pattern, zone")]),
    ("x = FromColumn(name='a')", [(4, "FromColumn has no argument 'name'; known are ahead, column, zone")]),
    ("x = Derive(func=len, columns={})", [(4, "Derive has no argument 'func'; did you mean 'function'?")]),
    ("x = LastModified(zone='UTC')", [(4, "LastModified has no argument 'zone'; known are none")]),
    (
        "x = Served('a', subjects=('b',), scope=None)",
        [(4, "Served has no argument 'subjects'; did you mean 'subject'?")],
    ),
    ("x = Dataset(**{'ttll': 1})", [(4, "Dataset has no argument 'ttll'; did you mean 'ttl'?")]),
    ("x = Metadata('select 1')", [(4, "Metadata lacks 'on'; add what is missing; it needs sql, on")]),
    ("x = Source(prefix='x/')", [(4, "Source lacks 'format' and 'columns'; add what is missing; it needs prefix,")]),
    (
        "x = Served('a')",
        [(4, "Served lacks 'subject' and 'scope'; add what is missing; it needs name, subject, scope")],
    ),
    ("x = Source('x/', 'csv', {})", [(4, "Source has too many values without a name; name its arguments: prefix,")]),
    ("x = LastModified('UTC')", [(4, "LastModified has too many values without a name; write LastModified()")]),
    ("x = Metadata('select 1', sql='a')", [(4, "Metadata has 'sql' twice, by position and by name; write it once")]),
    ("x = timedelta(day=7)", [(4, "TypeError: 'day' is an invalid keyword argument for")]),
    ("x = Tolerate()", [(4, "there is no 'Tolerate' here; did you mean 'Tolerated'?")]),
    ("x = datetime(2026, 1, 1)", [(4, "there is no 'datetime' here; import it, or fix the name")]),
    ("x = {}['nope']", [(4, "there is no key 'nope'; fix the key, or add what it names")]),
    ("x = timedelta.day", [(4, "has no attribute 'day'; did you mean 'days'?")]),
    (
        "import nosuch.module",
        [(4, "there is no module 'nosuch'; install it (see enrich/requirements.in), or fix the name")],
    ),
    ("from enrich.datasets import Sauce", [(4, "enrich.datasets has no 'Sauce'; did you mean 'Source'?")]),
    ("x = {\n  'a': 1\n", [(4, "'{' was never closed: 'x = {'; fix the syntax")]),
    ("x = 1\n  y = 2", [(5, "unexpected indent: 'y = 2'; fix the syntax")]),
    ("x = [].pop()", [(4, "IndexError: pop from empty list; fix this line")]),
    ("def f():\n    return 1 / 0\nx = f()", [(5, "ZeroDivisionError: division by zero; fix this line")]),
]


GOOD = """Dataset(served=Served("a", ("b",), None), source=Source(prefix="a/", format="csv", columns={"b": "varchar"}),
    as_of=LastModified(), ttl=timedelta(days=1), subject={"b": "b"}, prediction_id="b", body={"b": "b"})"""


def write(folder: Path, text: str) -> Path:
    """Write a dataset file, and return its path."""
    path = folder / "a.py"
    path.write_text(f"{IMPORTS}{text}\n")
    return path


@pytest.mark.parametrize(("text", "expected"), BROKEN, ids=[text[:40] for text, _ in BROKEN])
def test_an_error_of_a_dataset_file_is_a_mistake_with_its_line(
    tmp_path: Path, text: str, expected: list[tuple[int, str]]
) -> None:
    """Also several wrong arguments of one call, each at its own line."""
    path = write(tmp_path, text)
    with pytest.raises(DatasetFileError) as raised:
        load_datasets(tmp_path)
    found = str(raised.value).splitlines()
    assert [mistake.partition(": ")[0] for mistake in found] == [f"{path}:{line}" for line, _ in expected]
    for mistake, (_, message) in zip(found, expected, strict=True):
        assert message in mistake


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('Served("a", ("b",), None)', "None", "served: is None, of type NoneType; expected Served; write Served(...)"),
        ('Served("a"', "Served(1", 'served.name: is 1, of type int; expected a text; write "1"'),
        ('prefix="a/"', "prefix=None", "source.prefix: is None, of type NoneType; expected a text"),
        ("source=Source(", "source=dict(", "source: is {'prefix': 'a/', 'format': 'csv',"),
    ],
)
def test_a_dataset_to_which_no_object_can_be_assigned_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """No command can work with it, and none ends in a traceback."""
    path = write(tmp_path, f"x = {GOOD}")
    assert list(load_datasets(tmp_path)) == ["a"]
    write(tmp_path, f"x = {GOOD.replace(old, new, 1)}")
    with pytest.raises(DatasetFileError) as refused:
        load_datasets(tmp_path)
    assert str(refused.value).startswith(f"{path}: {message}")


def test_a_key_that_a_dictionary_has_twice_is_found(tmp_path: Path) -> None:
    """Python silently drops the first value; a key of another dictionary is not a duplicate."""
    path = write(tmp_path, "x = {'a': 1,\n     'b': {'a': 1},\n     'a': {'c': 1, 'c': 2}}")
    assert [str(mistake) for mistake in find_repeated_keys(path)] == [
        f"{path}:{line}: the dictionary has the key {key!r} twice, also in line {first}; remove or rename one: "
        "Python keeps only the last one"
        for line, key, first in ((6, "a", 4), (6, "c", 6))
    ]


def test_every_command_and_the_lambda_report_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and one line each; the Lambda logs an event and fails, so that SQS redelivers every message."""
    (tmp_path / "datasets").mkdir()
    path = write(tmp_path / "datasets", f"x = {GOOD.replace('ttl', 'ttll')}")
    expected = f"{path}:5: Dataset has no argument 'ttll'; did you mean 'ttl'?"
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path))
    for words in (["check"], ["list"], ["run", "s3://a/b"], ["status"], ["sweep"], ["withdraw", "a", "1"]):
        assert command_line.main(words) == command_line.FAILED
        assert capsys.readouterr().err == f"{expected}\n"

    for name in ("table", "ledger", "bucket", "outputs", "queue", "workgroup"):
        monkeypatch.setenv(f"LARDER_{name.upper()}", "x")
    handler._datasets.cache_clear()
    context: Any = SimpleNamespace(aws_request_id="a", get_remaining_time_in_millis=lambda: 60_000)
    with pytest.raises(DatasetFileError):
        handler.handler({"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": "{}"}]}, context)
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["level"], event["detail"]) == ("dataset files invalid", "error", expected)

"""What the command line prints: tables, durations, colours, the age of a dataset; and how little it imports."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

import dev
from enrich.__main__ import build_parser
from enrich.cli.table import find_paint, first_line, render_duration, render_table
from enrich.dataset.suggestions import find_close, suggest
from enrich.ledger.freshness import FreshnessState, build_freshness
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from enrich.plan.samples import find_changes

ROOT = Path(__file__).parents[3]
HOUR = 3_600_000
HEAVY = {"boto3", "botocore", "duckdb", "numpy", "pandas", "pyarrow", "pyathena", "sqlglot", "yaml"}
COUNT = """
import sys
from enrich.__main__ import main
try:
    main({words!r})
except SystemExit:
    pass
print("\\n".join(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "heavy", "most"),
    [
        (["--help"], set(), 150),
        (["status", "--help"], set(), 150),
        (["frobnicate"], set(), 150),
        (["list"], set(), 300),
        (["check"], {"duckdb", "numpy", "sqlglot", "yaml"}, 600),
    ],
    ids=["help", "help-of-one", "unknown", "list", "check"],
)
def test_a_command_imports_what_it_needs_only(words: list[str], heavy: set[str], most: int) -> None:
    """Modules are counted, because time depends on the machine: help reads no dataset, and `check` needs no boto3."""
    done = subprocess.run([sys.executable, "-c", COUNT.format(words=words)], cwd=ROOT, capture_output=True, text=True)
    modules = done.stderr.split()
    assert {each for each in modules if each in HEAVY} <= heavy
    assert len(modules) <= most
    assert ("enrich.datasets" in modules) is (words[0] in {"list", "check"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0, "0.0 s"), (9.96, "10 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3605, "1 h"),
        (86_399, "23 h 59 min"), (90_000, "1 d 1 h"), (86_400 * 400, "400 d"), (-5, "-5.0 s"),
    ],
)  # fmt: skip
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert render_duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "env", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),  # no-color.org: only a non-empty value counts
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals(stream: io.StringIO, env: dict[str, str], coloured: bool) -> None:
    assert (find_paint(stream, env)("x", "31") != "x") is coloured


def test_a_table_is_aligned_with_colours_and_without() -> None:
    """Colours do not count as width; control characters of a cell are escaped; a note is below its row."""
    rows = [[1, "done", "a\x1b]0;x\x07"], [1000, "failed", None]]
    plain = render_table(["run", "state", "output"], rows, notes={1: "why\u009b"})
    assert plain.splitlines() == [
        "  run  state   output",
        "    1  done    a\\x1b]0;x\\x07",
        "1,000  failed  -",
        "       why\\x9b",
    ]
    paint = find_paint(Terminal(), {})
    coloured = render_table(["run", "state", "output"], rows, paint=paint, colours={"done": "32"})
    assert "\x1b[32mdone  \x1b[0m" in coloured


def test_the_first_line_of_an_error_is_not_blank() -> None:
    assert (first_line("\n  one\ntwo"), first_line("")) == ("one", "")


def made(number: int, hours: int, **changes: Any) -> Run:
    members = {"dataset": "d", "run": number, "bucket": "b", "object_key": "k", "identity": f"i{number}"}
    times = {"arrived_ms": 0, "generation": 1, "as_of_ms": hours * HOUR, "expires_at": hours * 3600 + 7 * 86_400}
    return Run(**{**members, **times, "state": RunState.DONE, **changes})


DAILY = [made(1, 0), made(2, 24), made(3, 48)]


@pytest.mark.parametrize(
    ("runs", "hours", "state", "age_h"),
    [
        ([], 0, FreshnessState.NONE, None),
        ([made(1, 0, state=RunState.FAILED)], 9, FreshnessState.NONE, None),
        ([made(1, 0)], 9, FreshnessState.UNKNOWN, 9),
        (DAILY, 72, FreshnessState.ON_TIME, 24),
        (DAILY, 84, FreshnessState.ON_TIME, 36),
        (DAILY, 85, FreshnessState.LATE, 37),
        (DAILY, 48 + 7 * 24, FreshnessState.EXPIRED, 7 * 24),
        ([*DAILY, made(4, 72, state=RunState.FAILED)], 85, FreshnessState.LATE, 37),  # a failed run publishes nothing
        ([*DAILY, made(4, 0, kind=Kind.REMOVAL)], 72, FreshnessState.ON_TIME, 24),
        ([*DAILY, made(4, 24, kind=Kind.REPLAY, of_run=2)], 85, FreshnessState.LATE, 37),  # an old output again
        ([*DAILY, made(4, 24, generation=2)], 85, FreshnessState.LATE, 37),  # a late output after a withdrawal
    ],
)
def test_freshness_is_the_age_against_the_interval(
    runs: list[Run], hours: int, state: FreshnessState, age_h: float | None
) -> None:
    found = build_freshness(runs, hours * 3600.0)
    assert (found.state, found.age_s) == (state, None if age_h is None else age_h * 3600)


def test_changes_name_each_place() -> None:
    before = {"a": {"x": 1, "y": [1, 2]}, "gone": 1, "same": None}
    after = {"a": {"x": 2, "y": [1, 3]}, "new": {"z": 1}, "same": None}
    assert find_changes(before, after) == [
        ("a.x", 1, 2), ("a.y", [1, 2], [1, 3]), ("gone", 1, None), ("new", None, {"z": 1}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("run", "s3://b/k", "--write-units"), "--write-units"),
        (("plan", "s3://b/k", "--per-month"), "--per-month"),
        (("new", "x", "--from", "y", "--ttl-days"), "--ttl-days"),
        (("withdraw", "x"), "run"),
    ],
)
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_a_number_that_must_be_above_0(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], option: str, value: str
) -> None:
    """Nothing can be written with 0 write units a second, and -4 outputs a month have no price."""
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(
            [*words[:-1], f"{words[-1]}={value}"] if words[-1] == option else [*words, "--", value]
        )
    assert (ended.value.code, f"argument {option}: invalid" in capsys.readouterr().err) == (2, True)


def larder() -> Any:
    loader = SourceFileLoader("larder_script", str(ROOT / "larder"))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


def run_larder(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {name: os.environ[name] for name in ("PATH", "LARDER_PROJECT")}
    return subprocess.run(
        [sys.executable, str(ROOT / "larder"), *words], cwd=cwd, env=env, capture_output=True, text=True
    )


def test_one_command_has_them_all(tmp_path: Path) -> None:
    """Every command of enrich is a command of larder, in any folder; the exit code is passed on."""
    module = larder()
    offered = {
        command[1][0] for group in module.COMMANDS.values() for command in group.values() if command[0] == "enrich"
    }
    actions = [each for each in build_parser()._actions if each.dest == "command"]
    assert offered == set(actions[0].choices or ())
    for name in offered | {"serve", "env"}:
        assert f"  {name} " in module.render_help()
    (tmp_path / "enrich.py").write_text("raise SystemExit('the wrong module')")
    done = run_larder("list", "--json", cwd=tmp_path)
    assert (done.returncode, type(json.loads(done.stdout))) == (0, list)
    assert run_larder("--version").stdout.startswith("larder ")
    assert "usage: ./larder status" in run_larder("status", "--help").stdout
    done = run_larder("chek")
    assert (done.returncode, "did you mean 'check'?" in done.stderr) == (2, True)
    done = run_larder("check", "flight-delayz")
    assert (done.returncode, "did you mean 'flight-delays'?" in done.stderr) == (2, True)


@pytest.mark.long
def test_help_names_the_command_and_does_nothing() -> None:
    """Also for commands of other modules, and for those that would create an environment or write files."""
    commands = {name: command[0] for group in larder().COMMANDS.values() for name, command in group.items()}
    status = subprocess.check_output(["git", "status", "--porcelain"], cwd=ROOT)
    for name in (name for name, package in commands.items() if package != "enrich"):  # which has one parser for all
        done = run_larder(name, "--help")
        assert done.stdout.startswith(f"usage: ./larder {name} "), name
        assert (done.returncode, done.stderr) == (0, ""), name
    assert "--once" in run_larder("demo", "-h").stdout
    assert "--port" in run_larder("up", "-h").stdout
    assert subprocess.check_output(["git", "status", "--porcelain"], cwd=ROOT) == status


def test_an_interrupted_installation_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tox records the packages when all are installed: without that, an interpreter is not enough."""
    module, commands = larder(), list[list[str]]()
    python = tmp_path / ".tox" / "demo" / "bin" / "python"
    record = tmp_path / ".tox" / "demo" / ".tox-info.json"
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(module, "NEEDED", ("no_such_package",))

    def install(command: list[str], **_: Any) -> int:
        commands.append(command[2:])
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        record.write_text(json.dumps({"Python": {}, "PythonRun": {"deps": {"requirements": ["x"]}}}))
        return 0

    monkeypatch.setattr(module.subprocess, "call", install)
    assert module.find_python(is_lint=False) == str(python)
    assert module.find_python(is_lint=False) == str(python)
    assert commands == [["run", "-e", "demo", "--notest"]], "an environment that is complete is used"
    for text in ('{"Python": {}}', "{", "[]"):
        record.write_text(text)
        assert module.find_existing() is None
        assert module.find_python(is_lint=False) == str(python)
        assert commands.pop() == ["run", "-e", "demo", "--notest", "--recreate"], text


@pytest.mark.parametrize(("words", "option"), [(["up", "--prot", "1"], "--prot"), (["demo", "--onec"], "--onec")])
def test_arguments_are_checked_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], option: str
) -> None:
    """A usage error costs no download; the help is that of the command."""
    monkeypatch.setattr(dev, "has_tox", lambda _: pytest.fail("looks for an environment"))
    with pytest.raises(SystemExit) as ended:
        dev.main(words)
    assert (ended.value.code, f"unrecognized arguments: {option}" in capsys.readouterr().err) == (2, True)
    with pytest.raises(SystemExit) as ended:
        dev.main([words[0], "--help"])
    assert (ended.value.code, {"up": "--port", "demo": "--airline"}[words[0]] in capsys.readouterr().out) == (0, True)


@pytest.mark.parametrize(
    ("name", "known", "suggested"),
    [
        ("Carrier", ["carier", "CARRIER"], "CARRIER"),
        ("carier", ["origin", "carrier"], "carrier"),
        ("x", ["origin"], None),
        ("x", [], None),
    ],
    ids=["case only", "a typing error", "nothing like it", "nothing"],
)
def test_a_name_is_suggested(name: str, known: list[str], suggested: str | None) -> None:
    assert find_close(name, known) == suggested
    expected = f"did you mean {suggested!r}?" if suggested else f"known are {', '.join(known) or 'none'}"
    assert suggest(name, known) == expected

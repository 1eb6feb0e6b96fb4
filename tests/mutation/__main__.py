"""Change serve, wire, notify and the pure parts of enrich in one place at a time, and see whether a test notices.

    python -m tests.mutation --sample 200 --seed 1          # of all places; prints those that no test noticed
    python -m tests.mutation serve.web.page wire.head       # every place of these modules
    python -m tests.mutation --by-hand                      # the bugs of `by_hand`, of which every one must be noticed
    python -m tests.mutation --list wire.head               # say what would be changed, and test nothing

Each mutant runs in a process of its own, forked from one that has imported what tests need: first the tests that run
the changed line (`reach.py`), then, in case what it computes is kept from an earlier test, the other quick ones of its
package (of enrich: those in `ENRICH`), until a test fails twice.
`equivalent.yaml` lists the survivors that no test can notice, with reasons. It ends with 1 if less than 98 % of the
others were noticed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.faults.mutants import Mutant, plant
from tests.mutation.by_hand import list_mutants
from tests.mutation.mutate import differ, list_places, mutate, read
from tests.mutation.reach import Reach, Test, build_reach, read_lines

SHARE = 0.98
SECONDS = 300  # for one test; a test that takes longer, even on a busy machine, waits for something that does not come
CPU_SECONDS = 120  # for all tests of a mutant
QUICK = 1.0  # seconds of CPU time of a test that is run even if it does not run the changed line
# Packages, what is not deployed of them, and where their tests are.
PACKAGES = {
    "serve": ("serve/dev/", "tests/unit/serve"),
    "wire": ("", "tests/unit/wire"),
    "notify": ("", "tests/unit/notify"),
}
# The parts of enrich that only compute, and the test files about them, the fastest first.
ENRICH = {
    "enrich.dataset.as_of": ("pure_parts", "as_of", "contract:dataset_mistakes"),
    "enrich.dataset.coercion": ("pure_parts", "csv_dialects", "engine", "every_type", "text_files", "read"),
    "enrich.dataset.expressions": ("pure_parts", "element_joins", "contract:dataset_mistakes", "engine"),
    "enrich.dataset.field_types": ("pure_parts", "contract:dataset_mistakes", "contract:openapi_command"),
    "enrich.dataset.json_sql": ("pure_parts", "render", "every_type", "engine"),
    "enrich.dataset.nullability": ("pure_parts", "engine", "contract:openapi_command"),
    "enrich.dataset.row_checks": ("pure_parts", "engine", "render_failures"),
    "enrich.dataset.type_names": ("pure_parts", "contract:dataset_mistakes"),
    "enrich.delta.buckets": ("pure_parts", "buckets"),
    "enrich.delta.outcomes": ("pure_parts", "delta"),
    "enrich.intake.events": ("pure_parts", "events"),
    "enrich.join.rejects": ("pure_parts", "counting_once"),
    "enrich.ledger.records": ("pure_parts", "as_of", "counting_once", "withdrawal"),
    "enrich.ledger.run_state": ("pure_parts", "as_of"),
    "enrich.plan.cost": ("pure_parts", "cost"),
    "enrich.read.csv_syntax": ("pure_parts", "csv_dialects", "text_files"),
    "enrich.read.magic": ("pure_parts", "text_files", "unreadable_outputs"),
    "enrich.read.text": ("pure_parts", "csv_dialects", "text_files", "read"),
    "enrich.write.item_size": ("pure_parts", "requests"),
}
_ELSEWHERE = {
    "wire": [f"tests/unit/serve/test_{name}.py" for name in ("bounds", "faulty_storage", "key_places", "key_reading")],
    "serve.datasets": ["tests/unit/enrich/test_dataset_files.py"],
}
# Not run: they notice what others notice sooner, or run code that is not changed.
_LEFT_OUT = ("test_any_input", "test_wycheproof", "test_rfc_vectors", "test_import_set")
_HEAVY = (
    "pytest",
    "hypothesis",
    "jwt.algorithms",
    "cryptography.hazmat.primitives.serialization",
    "botocore.auth",
    "boto3",
    "duckdb",
    "orjson",
    "pandas",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "jsonschema",
    "yaml",
)


Group = tuple[list[str], list[str]]


def list_modules() -> Iterator[str]:
    """List the modules of serve, wire and notify that are deployed, and those of enrich that only compute."""
    for package, (left_out, _) in PACKAGES.items():
        for path in sorted(Path(package).rglob("*.py")):
            if not (left_out and str(path).startswith(left_out)) and not path.name.startswith("__"):
                yield ".".join(path.with_suffix("").parts)
    yield from ENRICH


def list_files(module: str) -> list[str]:
    """List the test files about a module."""
    if module in ENRICH:
        kinds = [name.rpartition(":") for name in ENRICH[module]]
        return [f"tests/{kind or 'unit'}/enrich/test_{name}.py" for kind, _, name in kinds]
    package = module.partition(".")[0]
    files = [str(path) for path in sorted(Path(PACKAGES[package][1]).glob("test_*.py"))]
    files += _ELSEWHERE.get(package, []) + _ELSEWHERE.get(module, [])
    return [file for file in files if not any(name in file for name in _LEFT_OUT)]


class Trial(NamedTuple):
    """A mutant to be tested: its module, how it is printed, how its source is made, and groups of tests.

    Each group is test files with the tests of them to be run, in this order; or with none, for all tests.
    """

    module: str
    change: str
    mutate: Callable[[], str]
    tests: list[Group]


def main() -> None:
    """Run the mutants that were requested, and print those that survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="or, with --by-hand, names of bugs")
    parser.add_argument("--sample", type=int, help="how many places, chosen at random (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--by-hand", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.by_hand:
        share, trials = 1.0, list(_list_by_hand(arguments.modules))
    else:
        share, trials = SHARE, _list_trials(arguments.modules, arguments.sample, arguments.seed)
    if arguments.list:
        print("\n".join(f"{trial.module} {trial.change}" for trial in trials))
        return
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in _HEAVY:
        importlib.import_module(name)
    _calm_hypothesis()
    if not arguments.by_hand:
        files = dict.fromkeys(file for trial in trials for file in list_files(trial.module))
        reach = build_reach(list_modules(), files, arguments.jobs)
        trials = [trial._replace(tests=_order_tests(trial, reach)) for trial in trials]
    noticed = len(trials) - _run(trials, arguments.jobs)
    print(f"{noticed} of {len(trials)} were noticed: {100 * noticed / max(1, len(trials)):.1f} %")
    sys.exit(0 if trials and noticed >= share * len(trials) else 1)


def _list_by_hand(names: list[str]) -> Iterator[Trial]:
    for mutant, tests in list_mutants():
        if not names or mutant.name in names:
            files = [os.path.normpath(f"tests/unit/serve/{name}") for name in tests]
            yield Trial(mutant.module, f"({mutant.name})", partial(_apply, mutant), [(files, [])])


def _apply(mutant: Mutant) -> str:
    return mutant.apply(mutant.read())


def _list_trials(modules: list[str], sample: int | None, seed: int) -> list[Trial]:
    """List the changes of all places, or of a sample, that compile, have an effect, and are not equivalent."""
    equivalent = _read_equivalent()
    places = [place for module in modules or list_modules() for place in list_places(module)]
    if sample and sample < len(places):
        places = random.Random(seed).sample(places, sample)
    trials: dict[tuple[str, str, str], Trial] = {}
    for place in places:
        mutated = mutate(place)
        before, after = differ(read(place.module), mutated)
        change = (place.module, before, after)
        if change not in equivalent and _compiles(mutated):
            text = f"({place.operator})\n  - {before}\n  + {after}"
            trials[change] = Trial(place.module, text, partial(mutate, place), [])
    print(f"{len(places)} places, of which {len(places) - len(trials)} are equivalent or repeat another")
    return list(trials.values())


def _order_tests(trial: Trial, reach: Reach) -> list[Group]:
    """Return the tests that run the changed line, file by file, the most specific first; then the other quick ones."""
    files, modules = list_files(trial.module), list(list_modules())
    before, after = read_lines(trial.module), trial.mutate().splitlines()
    pairs = enumerate(zip(before, after, strict=False), 1)
    line = next((number for number, (old, new) in pairs if old != new), len(before))
    found = [test for test in reach.find_of_change(trial.module, line, modules) if _file(test) in files]
    rest = [test for test in reach.all.difference(found) if _file(test) in files and test.cost < QUICK]
    by_file: dict[str, list[Test]] = {}
    for test in sorted(found, key=lambda test: test.cost):
        by_file.setdefault(_file(test), []).append(test)
    groups = sorted(by_file.values(), key=lambda tests: sum(test.breadth for test in tests) / len(tests))
    groups = [*groups[:3], list(chain.from_iterable(groups[3:])), sorted(rest, key=lambda test: test.cost)]
    return [(list(dict.fromkeys(map(_file, tests))), [test.name for test in tests]) for tests in groups if tests]


def _file(test: Test) -> str:
    return test.name.partition("::")[0]


def _read_equivalent() -> set[tuple[str, str, str]]:
    listed = yaml.safe_load(Path(__file__).with_name("equivalent.yaml").read_text(encoding="utf-8")) or []
    found = {(one["module"], one["before"], after) for one in listed for after in one["after"]}
    assert all(one["reason"] for one in listed)
    return found


def _compiles(source: str) -> bool:
    with warnings.catch_warnings(action="ignore"):
        try:
            compile(source, "mutant", "exec")
        except (SyntaxError, ValueError):
            return False
    return True


def _calm_hypothesis() -> None:
    """Make properties stop at the first failing example, and not look for a smaller one."""
    hypothesis = importlib.import_module("hypothesis")
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", phases=phases, database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutation")


def _run(trials: list[Trial], jobs: int) -> int:
    """Test the mutants, print those that survive, and return their number."""
    waiting, running, survived, done = list(trials), dict[int, Trial](), 0, 0
    began = time.monotonic()
    while waiting or running:
        while waiting and len(running) < jobs:
            trial = waiting.pop()
            running[_start(trial)] = trial
        child, status = os.wait()
        trial = running.pop(child)
        done += 1
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            survived += 1
            print(f"SURVIVED {trial.module} {trial.change}", flush=True)
        elif code not in (1, 2, -signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
            print(f"BROKEN {code} {trial.module} {trial.change}", flush=True)
        if done % 25 == 0:
            print(f"{done} of {len(trials)} in {time.monotonic() - began:.0f} s", flush=True)
    return survived


def _start(trial: Trial) -> int:
    """Start the child that tests a mutant; it ends with 0 if all tests pass, and with a signal if they never end."""
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        signal.alarm(SECONDS)  # to import and collect them; then per test
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        plant(trial.module, lambda _: trial.mutate())
        status = int(any(_is_noticed(*group) for group in trial.tests))
    finally:
        os._exit(status)


class _Failures:
    """A pytest plugin that records which test failed, and limits the time of each."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_runtest_logstart(self) -> None:
        """Start its time."""
        signal.alarm(SECONDS)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note it."""
        if report.failed:
            self.found.append(report.nodeid)


class _Selection:
    """A pytest plugin that runs the tests with these names, in this order."""

    def __init__(self, names: list[str]) -> None:
        self._places = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Drop the others."""
        items[:] = [item for item in items if item.nodeid in self._places]
        items.sort(key=lambda item: self._places[item.nodeid])


def _is_noticed(files: list[str], names: list[str]) -> bool:
    """Return whether a test fails twice: one that fails only once, on a busy machine, has not noticed the mutant."""
    pytest, flaky = importlib.import_module("pytest"), list[str]()
    options = ["-x", "-q", "-p", "no:cacheprovider"]
    for _ in range(3):
        failures = _Failures()
        plugins = [failures, *([_Selection(names)] if names else [])]
        code = pytest.main([*options, *(f"--deselect={name}" for name in flaky), *files], plugins)
        if code in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            return False
        if not failures.found or pytest.main([*options, failures.found[0]]) != 0:
            return True
        flaky.append(failures.found[0])
    return False


if __name__ == "__main__":
    main()

"""Which tests run which lines: so that a mutant costs a second and not a whole suite.

Each test file is run once under coverage.py, test by test, and the result is kept in `build/mutation` until the
file or one of the modules changes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

KEPT = Path("build/mutation")


class Test(NamedTuple):
    """A test: its id, its CPU time in seconds, and how many lines of the modules it runs."""

    name: str
    cost: float
    breadth: int


class Reach:
    """The tests that run each line of each module."""

    def __init__(self) -> None:
        self._tests: dict[tuple[str, int], set[Test]] = {}
        self.all: set[Test] = set()

    def add(self, found: dict[str, Any]) -> None:
        """Add the tests of one file."""
        for name, (cost, lines) in found.items():
            test = Test(name, cost, sum(map(len, lines.values())))
            self.all.add(test)
            for module, numbers in lines.items():
                for number in numbers:
                    self._tests.setdefault((module, number), set()).add(test)

    def find(self, module: str, lines: Iterable[int]) -> set[Test]:
        """Return the tests that run one of these lines."""
        return set[Test]().union(*(self._tests.get((module, line), ()) for line in lines))

    def find_of_change(self, module: str, line: int, modules: Iterable[str]) -> set[Test]:
        """Return the tests that run a statement; of one that runs on import, those that run a line with its names."""
        found, waiting, seen = set[Test](), [(module, line)], set[tuple[str, int]]()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            module, line = place
            lines, names = _read_statement(module, line)
            found |= self.find(module, lines)
            for name in names:
                waiting += [(other, number) for other in modules for number in _mentions(other, name)]
        return found


def read_lines(module: str) -> list[str]:
    """Read the lines of a module."""
    return _path(module).read_text(encoding="utf-8").splitlines()


def build_reach(modules: Iterable[str], files: Iterable[str], jobs: int) -> Reach:
    """Return which of the files' tests run which lines of the modules; runs the files that were changed."""
    modules, reach, running = list(modules), Reach(), dict[int, str]()
    kept = {file: KEPT / f"{_digest(file)}.json" for file in files}
    waiting = [file for file, path in kept.items() if not _is_current(path)]
    KEPT.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        while waiting and len(running) < jobs:
            file = waiting.pop()
            if child := os.fork():
                running[child] = file
            else:
                _trace(file, modules, kept[file])
        child, status = os.wait()
        file = running.pop(child)
        if status:
            raise RuntimeError(f"{file} fails as it is: fix it before it is asked about mutants")
    for path in kept.values():
        reach.add(json.loads(path.read_bytes())["tests"])
    return reach


def _trace(file: str, modules: list[str], result: Path) -> None:
    """Run a test file and write the cost and the lines of each test; ends the process."""
    status = 3
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        coverage = importlib.import_module("coverage")
        paths = {str(_path(module).resolve()): module for module in modules}
        tracer = coverage.Coverage(data_file=None, include=list(paths), config_file=False)
        recorder = _Recorder(tracer)
        tracer.start()
        status = int(importlib.import_module("pytest").main(["-q", "-p", "no:cacheprovider", file], [recorder]))
        tracer.stop()
        found: dict[str, Any] = {name: (cost, {}) for name, cost in recorder.costs.items()}
        for path in tracer.get_data().measured_files():
            for line, names in tracer.get_data().contexts_by_lineno(path).items():
                for name in filter(None, names):
                    found[name][1].setdefault(paths[path], []).append(line)
        if not status:
            ran = {module: _digest_module(module) for _, lines in found.values() for module in lines}
            result.write_text(json.dumps({"modules": ran, "tests": found}), encoding="utf-8")
    finally:
        os._exit(status)


class _Recorder:
    """A pytest plugin that names the test that runs, and measures its CPU time."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._began = 0.0
        self.costs: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Start a test."""
        self._tracer.switch_context(nodeid)
        self._began = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """End a test."""
        self.costs[nodeid] = time.process_time() - self._began
        self._tracer.switch_context("")


def _is_current(kept: Path) -> bool:
    """Return whether no module that the tests of a file ran was changed since."""
    if not kept.exists():
        return False
    ran = json.loads(kept.read_bytes())["modules"]
    return all(_path(module).exists() and _digest_module(module) == digest for module, digest in ran.items())


@cache
def _digest_module(module: str) -> str:
    return hashlib.sha256(_path(module).read_bytes()).hexdigest()


def _digest(file: str) -> str:
    helpers = [path for path in sorted(Path(file).parent.glob("*.py")) if not path.name.startswith("test_")]
    text = b"".join(path.read_bytes() for path in (Path(file), *helpers))
    return hashlib.sha256(file.encode() + text).hexdigest()


def _path(module: str) -> Path:
    return Path(*module.split(".")).with_suffix(".py")


@cache
def _parse(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


@cache
def _mentions(module: str, name: str) -> list[int]:
    word = re.compile(rf"\b{re.escape(name)}\b")
    return [number for number, line in enumerate(read_lines(module), 1) if word.search(line)]


@cache
def _read_statement(module: str, line: int) -> tuple[range, tuple[str, ...]]:
    """Return the lines that run because of a statement, and the names that it gives if it runs on import."""
    innermost: ast.stmt | None = None
    in_function = False
    for statement, inside in _walk(_parse(module), inside=False):
        if _begin(statement) <= line <= (statement.end_lineno or 0):
            innermost, in_function = statement, inside
    if innermost is None:
        return range(line, line + 1), ()
    body = getattr(innermost, "body", None)
    if isinstance(innermost, ast.FunctionDef) and not in_function:
        return range(innermost.lineno, (innermost.end_lineno or 0) + 1), ()
    last = body[0].lineno - 1 if body else innermost.end_lineno or 0
    lines = range(_begin(innermost), max(last, innermost.lineno) + 1)
    return lines, () if in_function else tuple(_names(innermost))


def _walk(node: ast.AST, *, inside: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield statements, outer ones first, and whether each is in a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child, inside
        yield from _walk(child, inside=inside or isinstance(node, ast.FunctionDef))


def _begin(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id

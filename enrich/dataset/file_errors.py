"""Describe the exception that a dataset file raises when it is imported, as mistakes with file, line and remedy.

These files are the only code that users write, so a wrong argument there is reported as a mistake, not as a traceback.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import FrameType

from enrich.dataset import definition
from enrich.dataset.mistakes import Mistake
from enrich.dataset.suggestions import find_close, suggest
from serve.datasets import Served

_CLASSES: dict[str, type] = {
    each.__name__: each for each in (*vars(definition).values(), Served) if each.__class__ is type
}
_CALL = re.compile(r"(\w+)(?:\.__(?:init|new)__)?\(\) (.*)", re.DOTALL)


def find_repeated_keys(path: Path) -> Iterator[Mistake]:
    """Yield the keys that a dictionary in a file has twice: Python silently keeps the last one."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        seen: dict[object, int] = {}
        for key in node.keys if isinstance(node, ast.Dict) else ():
            if not isinstance(key, ast.Constant):
                continue
            if key.value in seen:
                message = f"the dictionary has the key {key.value!r} twice, also in line {seen[key.value]}"
                yield Mistake(f"{path}:{key.lineno}", message, "remove or rename one: Python keeps only the last one")
            seen.setdefault(key.value, key.lineno)


def describe_error(path: Path, error: BaseException) -> list[Mistake]:
    """Describe the exception that importing a file raised: one mistake, or one for each wrong argument of a call."""
    if isinstance(error, SyntaxError):
        found = f": {error.text.strip()!r}" if error.text and error.text.strip() else ""
        return [Mistake(f"{error.filename or path}:{error.lineno or 1}", f"{error.msg}{found}", "fix the syntax")]
    traces = [error.__traceback__]
    while (trace := traces[-1]) is not None:
        traces.append(trace.tb_next)
    own = [each for each in traces if each and Path(each.tb_frame.f_code.co_filename) == path]
    line = own[-1].tb_lineno if own else None
    call = _CALL.match(str(error)) if isinstance(error, TypeError) else None
    kind = _CLASSES.get(call[1]) if call else None
    if call and kind:
        named = _find_keywords(path, line or 0, kind.__name__)
        return [Mistake(_place(path, at or line), *texts) for at, *texts in _describe_call(kind, call[2], named)]
    return [Mistake(_place(path, line), *_describe_other(error, own[-1].tb_frame if own else None))]


def _describe_call(kind: type, problem: str, named: Sequence[tuple[str, int]]) -> Iterator[tuple[int | None, str, str]]:
    """Yield the mistakes in a call of a definition class: line (None if unknown), message and remedy.

    Args:
        kind: the class.
        problem: Python's message, after the name of the function.
        named: the keyword arguments of the call and their lines, as far as the file shows them.
    """
    parameters = signature(kind).parameters
    known = list(parameters)
    if unknown := re.match(r"got an unexpected keyword argument '(\w+)'", problem):
        for name, line in named if unknown[1] in dict(named) else [(unknown[1], None)]:
            if name not in known:
                yield line, f"{kind.__name__} has no argument {name!r}", suggest(name, known)
    elif missing := re.match(r"missing \d+ required .*?arguments?: (.*)", problem):
        needed = [name for name, each in parameters.items() if each.default is each.empty]
        yield None, f"{kind.__name__} lacks {missing[1]}", f"add what is missing; it needs {', '.join(needed)}"
    elif twice := re.search(r"multiple values for argument '(\w+)'", problem):
        yield None, f"{kind.__name__} has {twice[1]!r} twice, by position and by name", "write it once"
    else:  # more positional arguments than parameters
        remedy = f"name its arguments: {', '.join(known)}" if known else f"write {kind.__name__}()"
        yield None, f"{kind.__name__} has too many values without a name", remedy


def _describe_other(error: BaseException, frame: FrameType | None) -> tuple[str, str]:
    """Return message and remedy for any other error."""
    if isinstance(error, ModuleNotFoundError):
        name = f"there is no module {error.name!r}"
        return name, "install it (see enrich/requirements.in), or fix the name"
    if isinstance(error, ImportError):
        found = re.search(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
        if found:
            known = [name for name in dir(import_module(found[2])) if not name.startswith("_")]
            return f"{found[2]} has no {found[1]!r}", _guess(found[1], known, "fix the name")
    if isinstance(error, NameError):
        known = [*(frame.f_globals if frame else {}), *_CLASSES]
        return f"there is no {error.name!r} here", _guess(error.name or "", known, "import it, or fix the name")
    if isinstance(error, AttributeError) and error.name:
        return f"{error}", _guess(error.name, dir(error.obj), "fix the name")
    if isinstance(error, KeyError):
        return f"KeyError: there is no key {error}", "fix the key, or add what it names"
    return f"{type(error).__name__}: {str(error) or 'without a message'}", "fix this line"


def _find_keywords(path: Path, line: int, name: str) -> list[tuple[str, int]]:
    """Return the keyword arguments, with their lines, of the innermost call of a class around a line."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and ast.unparse(node.func).rpartition(".")[2] == name
    ]
    call = max(calls, key=lambda each: each.lineno, default=None)
    return [(each.arg, each.lineno) for each in call.keywords if each.arg] if call else []


def _place(path: Path, line: int | None) -> str:
    return f"{path}:{line}" if line else str(path)


def _guess(name: str, known: Sequence[str], otherwise: str) -> str:
    close = find_close(name, [each for each in known if each != name])
    return f"did you mean {close!r}?" if close else otherwise

"""Run the commands of docs/runbook.md block by block, as an operator does, while a consumer sends requests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from examples.flights.http import Answer
from infra.tools import install
from infra.translate import ROOT

RUNBOOK = ROOT / "docs" / "runbook.md"
CODE = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)


def read_blocks(heading: str) -> list[str]:
    """Return a section's blocks of commands: all lines that are indented by four or more."""
    page = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert page, f"docs/runbook.md has no page {heading!r}"
    return [textwrap.dedent(found) for found in CODE.findall(page[1])]


class Shell:
    """A shell in which blocks run; variables that a block sets are set in the next ones.

    Attributes:
        directory: where commands run, with their files.
    """

    def __init__(self, directory: Path, env: Mapping[str, str], stack: str) -> None:
        self.directory = directory
        self.use(ROOT)
        commands = os.pathsep.join([str(Path(sys.executable).parent), str(install("aws")), os.environ["PATH"]])
        self.variables = {**os.environ, **env, "PATH": commands, "AWS_PAGER": ""}
        self._pages: dict[str, list[str]] = {}
        self.run(read_blocks("Runbook")[0].splitlines()[0].replace("larder-prod", stack))

    def use(self, checkout: Path) -> None:
        """Run the commands `./larder ...` of a checkout from now on."""
        (self.directory / "larder").unlink(missing_ok=True)
        (self.directory / "larder").symlink_to(checkout / "larder")

    def next(self, page: str) -> str:
        """Run the next block of a section; return its output."""
        return self.run(self._pages.setdefault(page, read_blocks(page)).pop(0))

    def left(self) -> list[str]:
        """Return the blocks that were not run, of the sections that were begun."""
        return [block for blocks in self._pages.values() for block in blocks]

    def run(self, commands: str) -> str:
        """Run commands; fail with their output."""
        state = self.directory / "variables"
        script = f"set -aeuo pipefail\n{commands}\nenv -0 > '{state}'"
        done = subprocess.run(
            ["bash", "-c", script], env=self.variables, cwd=self.directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        pairs = (pair.partition("=") for pair in state.read_text().split("\0") if pair)
        self.variables = {name: value for name, _, value in pairs}
        return done.stdout.strip()


class Consumer:
    """Sends requests until the block ends.

    Attributes:
        statuses: number of responses by status.
        bodies: the distinct bodies of responses with 200.
    """

    def __init__(self, *asks: Callable[[], Answer]) -> None:
        self.statuses: Counter[int] = Counter()
        self.bodies: set[bytes] = set()
        self._asks = asks
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Consumer:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End after the response to the present request."""
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(0.05):
            for ask in self._asks:
                answer = ask()
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.bodies.add(answer.body)

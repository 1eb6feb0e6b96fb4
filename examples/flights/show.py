"""Show progress: a line per stage with its time, notes below it, and a bar while the stage runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


@dataclass
class Stage:
    """The stage that is running."""

    progress: Progress
    task: TaskID
    notes: list[str] = field(default_factory=list)

    def update(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Show the current step, and its progress."""
        self.progress.update(self.task, detail=text, completed=done or 0, total=total)

    def note(self, text: str) -> None:
        """Keep a note, which is printed below the stage when the stage has ended."""
        self.notes.append(text)


class Show:
    """The demo's display; without a terminal it prints only the lines."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._started: float = psutil.Process().create_time()  # includes the imports, which take seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the command was started."""
        return time.time() - self._started

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show a stage until the block ends; print how it ended and how long it took."""
        started = time.monotonic()
        with self._progress() as progress:
            stage = Stage(progress, progress.add_task(title, total=None, detail=""))
            try:
                yield stage
                sign = "[green]✓[/]"
            except BaseException:
                sign = "[red]✗[/]"
                raise
            finally:
                progress.stop()
                took = time.monotonic() - started
                self.console.print(f"{sign} [bold]{escape(title)}[/] [dim]{took:.1f} s[/]")
                for note in stage.notes:
                    self.say(note)

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("[dim]{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def say(self, text: str) -> None:
        """Print lines of plain text."""
        for line in text.splitlines():
            self.console.print(f"  {escape(line)}")

    def heading(self, text: str) -> None:
        """Print a line that stands out."""
        self.console.print(f"\n[bold]{escape(text)}[/]")

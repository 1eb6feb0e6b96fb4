"""Text for a terminal: columns, durations, instants, colours. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TextIO

GREEN, YELLOW, RED, DIM, BOLD = "32", "33", "31", "2", "1"
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

Paint = Callable[[str, str], str]  # (text, colour) -> text


def find_paint(stream: TextIO | None = None, env: Mapping[str, str] | None = None) -> Paint:
    """Return a function that colours text, if the stream is a terminal, NO_COLOR is unset and TERM is not `dumb`."""
    stream, env = stream or sys.stdout, os.environ if env is None else env
    if not stream.isatty() or env.get("NO_COLOR") or env.get("TERM") == "dumb":
        return plain
    return lambda text, colour: f"\x1b[{colour}m{text}\x1b[0m" if colour and text else text


def plain(text: str, colour: str) -> str:
    """Return the text without colour."""
    del colour
    return text


def render_table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    paint: Paint = plain,
    colours: Mapping[str, str] | None = None,
    notes: Mapping[int, str] | None = None,
) -> str:
    """Render rows as columns of text; numbers are right-aligned.

    Args:
        head: names of the columns.
        rows: cells; None is shown as `-`.
        paint: function that colours text.
        colours: text of a cell -> its colour.
        notes: index of a row -> text of a line below it.
    """
    texts = [[render_cell(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(head), *texts]) for at in range(len(head))]
    right = [bool(rows) and all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(head))]

    def render(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        padded[-1] = padded[-1].rstrip()
        found = [paint(text, (colours or {}).get(cell, "")) for text, cell in zip(padded, cells, strict=True)]
        return "  ".join(found).rstrip()

    lines = [paint(render(head), BOLD)]
    for number, cells in enumerate(texts):
        lines.append(render(cells))
        if notes and number in notes:
            lines.append(f"{' ' * (widths[0] + 2)}{paint(printable(notes[number]), RED)}")
    return "\n".join(lines)


def render_cell(cell: object) -> str:
    """Render a value: None as `-`, whole numbers with thousands separators, text without control characters."""
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else printable(str(cell))


def printable(text: str) -> str:
    """Escape control characters, which a terminal would execute: text from outputs and object keys is not trusted."""
    return (
        text
        if text.isprintable()
        else "".join(
            each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in text
        )
    )


def first_line(text: str) -> str:
    """Return the first line that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def render_duration(seconds: float | None) -> str:
    """Render seconds in their two largest units: `2 d 4 h`, `45 s`; below ten seconds with one decimal."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return f"-{render_duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rest, found = round(seconds), list[str]()
    for unit, size in _UNITS:
        number, rest = divmod(rest, size)
        if number or found:
            found.append(f"{number} {unit}" if number else "")
    return " ".join(each for each in found[:2] if each)


def render_instant(milliseconds: int | None) -> str | None:
    """Render epoch milliseconds in RFC 3339."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

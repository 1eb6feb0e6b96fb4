"""Draw widgets with matplotlib: one panel each, in the order and with the widths of the dashboard.

Needs matplotlib, which `tox -e pictures` installs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.ticker

from infra.dashboards.widgets import Widget, end_of_axis

COLUMNS = 24  # of a dashboard's grid
WIDTH, PANEL, HEADING, NOTE = 12.0, 2.5, 0.45, 0.3  # inches
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "larder",  # ids of elements are the same each time
}
LINES = {
    **STYLE,
    "font.size": 8,
    "svg.fonttype": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#eceef2",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
}


def draw(dashboards: Mapping[str, Sequence[Widget]], caption: str, path: Path) -> None:
    """Draw all dashboards below one another into an SVG file; widgets without lines are only listed.

    Raises:
        ValueError: no widget has a line.
    """
    widgets = chain.from_iterable(dashboards.values())
    instants = [now for widget in widgets for line in widget.lines for now, _ in line.points]
    if not instants:
        raise ValueError("there is nothing to draw: the log lines have no metric that a widget shows")
    bands = [band for name, shown in dashboards.items() for band in _split(name, shown)]
    heights = [HEADING, *(height for height, _ in bands)]
    with mpl.rc_context(LINES):
        figure = plt.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        _write(parts[0], caption, size=9, colour="#555b66")
        for part, (_, band) in zip(parts[1:], bands, strict=True):
            if isinstance(band, str):
                is_note = ":" in band
                _write(part, band, size=9 if is_note else 14, colour="#555b66" if is_note else "#1d2129")
            else:
                _draw_row(part, band, min(instants), max(instants))
        save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Save a figure as SVG so that equal figures give equal bytes, and close it."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    if path.suffix == ".svg":
        # Numbers of the layout differ by rounding errors from run to run, and the ids of clip paths are their digests.
        text = re.sub(r"\d+\.\d{4,}", lambda found: f"{float(found[0]):.3f}", path.read_text())
        for number, name in enumerate(dict.fromkeys(re.findall(r'clipPath id="(\w+)"', text))):
            text = text.replace(name, f"clip{number}")
        path.write_text(text)


def _split(name: str, widgets: Sequence[Widget]) -> Iterable[tuple[float, str | list[Widget]]]:
    """Split a dashboard into a heading, rows of widgets, and a note; each with its height."""
    yield HEADING, name
    for row in _rows([widget for widget in widgets if widget.lines]):
        yield PANEL, row
    if hidden := [widget.title for widget in widgets if not widget.lines]:
        yield NOTE, f"Metrics that only AWS reports: {'; '.join(hidden)}"


def _rows(widgets: Iterable[Widget]) -> list[list[Widget]]:
    rows: list[list[Widget]] = []
    for widget in widgets:
        if not rows or sum(each.width for each in rows[-1]) + widget.width > COLUMNS:
            rows.append([])
        rows[-1].append(widget)
    return rows


def _write(part: Any, text: str, *, size: float, colour: str) -> None:
    weight = "bold" if size > 9 else "normal"
    part.text(0.005, 0.5, text, fontsize=size, color=colour, fontweight=weight, va="center")


def _draw_row(part: Any, row: list[Widget], begin: float, end: float) -> None:
    axes = part.subplots(1, len(row), width_ratios=[widget.width for widget in row], squeeze=False)[0]
    for axis, widget in zip(axes, row, strict=True):
        right = axis.twinx() if any(line.is_right for line in widget.lines) else None
        for number, line in enumerate(widget.lines):
            label = line.label + (" (right)" if line.is_right else "")
            minutes = [(now - begin) / 60 for now, _ in line.points]
            values = [value for _, value in line.points]
            dashes = ("-", "--", ":")[number // 10 % 3]
            style = {"color": f"C{number % 10}", "linestyle": dashes, "marker": ".", "ms": 4, "label": label}
            side = right if right is not None and line.is_right else axis
            side.plot(minutes, values, linewidth=1.4, clip_on=False, **style)
        for side in (each for each in (axis, right) if each is not None):
            is_right = side is right
            side.set_ylim(0, end_of_axis([line for line in widget.lines if line.is_right is is_right]))
            side.spines[["left", "top"] if is_right else ["right", "top"]].set_visible(False)
            side.spines["right" if is_right else "left"].set_color("#b8bec9")
            side.yaxis.set_major_locator(mpl.ticker.LinearLocator(5))
            side.yaxis.set_major_formatter(
                lambda value, _: f"{value / 1000:g}k" if value >= 10_000 else f"{value:,.4g}"
            )
        if right is not None:
            right.grid(visible=False)
        axis.set_xlim(0, max((end - begin) / 60, 1 / 60))
        axis.xaxis.set_major_locator(mpl.ticker.MultipleLocator(max(1, math.ceil((end - begin) / 60 / 6))))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
        axis.spines["bottom"].set_color("#b8bec9")
        axis.set_title(widget.title, loc="left", fontweight="bold", fontsize=8)
        _add_legend(axis, right)


def _format(value: float, _position: int) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:,.4g}"


def _add_legend(axis: Any, right: Any) -> None:
    """Name the lines below the panel, in two rows; names that do not fit are counted."""
    sides = [axis] if right is None else [axis, right]
    named = [pair for side in sides for pair in zip(*side.get_legend_handles_labels(), strict=True)]
    handles, labels = [handle for handle, _ in named], [label for _, label in named]
    room = axis.get_subplotspec().get_gridspec().get_width_ratios()[axis.get_subplotspec().num1] / COLUMNS
    columns = max(1, math.floor(WIDTH * room / (0.45 + 0.062 * max(map(len, labels)))))
    if len(labels) > 2 * columns:
        labels[2 * columns - 1] = f"+ {len(labels) - 2 * columns + 1} more"
        handles, labels = handles[: 2 * columns], labels[: 2 * columns]
    axis.legend(
        handles, labels, ncols=columns, loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False, borderaxespad=0,
        handlelength=1.2, columnspacing=1,
    )  # fmt: skip

"""Draw widgets as one SVG picture: a panel each, in the order and with the widths that a dashboard gives them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import chain

from infra.dashboards.widgets import Line, Widget

WIDTH, GAP = 1200, 14
PANEL, TOP, BOTTOM, LEFT, RIGHT = 224, 34, 58, 52, 46  # a panel's height, and the room around its plot
COLOURS = ("#2a6fbb", "#e07b21", "#3a9a4a", "#c9393f", "#8459b0", "#7d5a4f", "#c864a8", "#6f7378")
DASHES = ("", "5 3", "2 2")
STYLE = """
text { font: 11px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #555b66; }
.name { font-size: 19px; font-weight: 600; fill: #1d2129; } .note { font-size: 12px; }
.title { font-size: 12.5px; font-weight: 600; fill: #1d2129; }
.panel { fill: #fff; stroke: #d8dce3; } .grid { stroke: #eceef2; } .axis { stroke: #b8bec9; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
""".strip()


def draw(dashboards: Mapping[str, Sequence[Widget]], caption: str) -> str:
    """Draw all dashboards below one another; a widget without lines is named under its dashboard only.

    Raises:
        ValueError: no widget has a line.
    """
    shown = chain.from_iterable(dashboards.values())
    instants = [now for widget in shown for line in widget.lines for now, _ in line.points]
    if not instants:
        raise ValueError("there is nothing to draw: no line tells a metric that a widget shows")
    span = (min(instants), max(instants))
    parts, y = [_text(GAP, 26, caption, "note")], 40
    for name, widgets in dashboards.items():
        y += 26
        parts.append(_text(GAP, y, name, "name"))
        y += 12
        for row in _rows([widget for widget in widgets if widget.lines]):
            x = GAP
            room = WIDTH - GAP * (len(row) + 1)
            for widget in row:
                width = room * widget.width // sum(each.width for each in row)
                parts.append(f'<g transform="translate({x} {y})">{_panel(widget, width, span)}</g>')
                x += width + GAP
            y += PANEL + GAP
        hidden = [widget.title for widget in widgets if not widget.lines]
        if hidden:
            y += 8
            parts.append(_text(GAP, y, f"Without data on a laptop: {'; '.join(hidden)}.", "note"))
            y += 8
    frame = f'<rect width="{WIDTH}" height="{y + GAP}" fill="#f5f6f8"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + GAP}" width="{WIDTH}">'
    return f"{head}\n<style>{STYLE}</style>\n{frame}\n" + "\n".join(parts) + "\n</svg>\n"


def _rows(widgets: Iterable[Widget]) -> list[list[Widget]]:
    rows: list[list[Widget]] = []
    for widget in widgets:
        if not rows or sum(each.width for each in rows[-1]) + widget.width > 24:
            rows.append([])
        rows[-1].append(widget)
    return rows


def _panel(widget: Widget, width: int, span: tuple[float, float]) -> str:
    left, top, bottom = LEFT, TOP, PANEL - BOTTOM
    right = width - (RIGHT if any(line.is_right for line in widget.lines) else LEFT // 2)
    parts = [f'<rect class="panel" width="{width}" height="{PANEL}" rx="6"/>', _text(14, 22, widget.title, "title")]
    begin, end = span
    scales = {side: _scale([line for line in widget.lines if line.is_right is side]) for side in (False, True)}
    for step in range(5):
        y = bottom - (bottom - top) * step / 4
        parts.append(f'<line class="{"grid" if step else "axis"}" x1="{left}" x2="{right}" y1="{y:g}" y2="{y:g}"/>')
        for is_right, anchor, x in ((False, "end", left - 6), (True, "start", right + 6)):
            if any(line.is_right is is_right for line in widget.lines):
                parts.append(_text(x, y + 4, _number(scales[is_right] * step / 4), anchor=anchor))
    minutes = int((end - begin) // 60)
    for minute in range(0, minutes + 1, max(1, math.ceil(minutes / 6))):
        at = left + (right - left) * minute * 60 / max(end - begin, 1)
        parts.append(_text(at, bottom + 15, f"{minute} min", anchor="middle"))
    for number, line in enumerate(widget.lines):
        places = [
            (
                left + (right - left) * (now - begin) / max(end - begin, 1),
                bottom - (bottom - top) * value / scales[line.is_right],
            )
            for now, value in line.points
        ]
        parts.append(_curve(places, number))
    parts.append(_legend(widget.lines, width))
    return "".join(parts)


def _curve(places: list[tuple[float, float]], number: int) -> str:
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in places)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="line" stroke="{colour}" stroke-dasharray="{dash}" points="{path}"/>{dots}'


def _legend(lines: Sequence[Line], width: int) -> str:
    """Name each line, in two rows at most; what does not fit is counted."""
    parts: list[str] = []
    x, y = 16.0, PANEL - 26
    for number, line in enumerate(lines):
        label = line.label + (" (right)" if line.is_right else "")
        room = 20 + 6.3 * len(label)
        if x + room > width - 40 and y < PANEL - 12:
            x, y = 16.0, PANEL - 10
        elif x + room > width - 40:
            parts.append(_text(x, y, f"+ {len(lines) - number}"))
            break
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x:g}" y="{y - 8}" width="9" height="9" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 13, y, label))
        x += room + 8
    return "".join(parts)


def _scale(lines: Iterable[Line]) -> float:
    """Return the end of an axis from 0: the next of 1, 2, 4, 8 times a power of ten, so that quarters are round."""
    highest = max((value for line in lines for _, value in line.points), default=0.0)
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= highest)


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:,.4g}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'

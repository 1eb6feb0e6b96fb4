"""Draw bars as inline SVG. No I/O. Texts are HTML beside the drawing, so that they are readable at any width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 1000.0, 100.0  # of the drawing; CSS stretches it to the available width


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a title, and values by CSS class, stacked from the bottom; `mark` draws a mark even without values."""

    title: str
    values: Mapping[str, float]
    mark: bool = False

    @property
    def total(self) -> float:
        """Its height, in the unit of the values."""
        return sum(self.values.values())


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the texts beside it.

    Attributes:
        title: what is shown.
        svg: the drawing, with a description for screen readers.
        highest: the highest value, as text.
        first, last: the texts at the two ends of the axis.
        legend: a text for each class of values that occurs.
    """

    title: str
    svg: Markup
    highest: str
    first: str
    last: str
    legend: Mapping[str, str]


def draw_bars(bars: Sequence[Bar], description: str, *, highest: float | None = None) -> Markup:
    """Draw bars side by side.

    Args:
        bars: from left to right.
        description: what the drawing shows, in a sentence.
        highest: the value that a bar of full height has; None: the highest value of the bars.
    """
    top = highest or max((bar.total for bar in bars), default=0.0) or 1.0
    step = WIDTH / max(len(bars), 1)
    width = min(step * 0.82, WIDTH / 12)  # so that a few runs are not drawn as wide blocks
    pieces = [
        Markup('<svg role="img" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-label="{}">').format(
            f"{WIDTH:g}", f"{HEIGHT:g}", description
        )
    ]
    for number, bar in enumerate(bars):
        below = HEIGHT
        pieces.append(Markup("<g><title>{}</title>").format(bar.title))
        for kind, value in bar.values.items():
            height = min(HEIGHT, max(0.0, value) / top * HEIGHT)
            if height:
                height = max(height, 0.6)  # one reject of a million is still a line
                below = max(0.0, below - height)
                pieces.append(
                    Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"/>').format(
                        kind, *(f"{each:.2f}" for each in (number * step + (step - width) / 2, below, width, height))
                    )
                )
        if bar.mark:
            pieces.append(
                Markup('<rect class="bar bad" x="{}" y="94" width="{}" height="6"/>').format(
                    *(f"{each:.2f}" for each in (number * step + (step - width) / 2, width))
                )
            )
        # The title appears over the whole column, not only over the bar
        pieces.append(
            Markup('<rect class="whole" x="{}" y="0" width="{}" height="{}"/></g>').format(
                f"{number * step:.2f}", f"{step:.2f}", f"{HEIGHT:g}"
            )
        )
    return Markup("").join([*pieces, Markup("</svg>")])


def render_number(value: float | None) -> str:
    """Render a number: whole numbers with separators, others with four digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:,.4g}"

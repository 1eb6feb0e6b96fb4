"""`python -m tests.bench.plot [--figures FOLDER] [--out FILE] [--limits]`: draw the JSON figures of all benchmarks.

`--limits`: only Larder's, each with its limit as a line, into docs/limit.svg.

Needs matplotlib, which `tox -e bench` installs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt

from infra.dashboards.picture import STYLE, save
from tests.bench.write import SIZES
from tests.bench.write_setup import BENCH, ROOT

OURS, PEERS = "#1b7837", "#9aa5b1"


class Panel(NamedTuple):
    """One plot: bars with a name and a figure, in the unit that the title names."""

    title: str
    bars: list[tuple[str, float]]
    limit: float | None = None  # drawn as a line, with its figure
    limit_is: str = ""


def read_panels(folder: Path) -> list[Panel]:
    """Read the figures of all benchmarks.

    Raises:
        FileNotFoundError: one has not been run yet.
    """

    def read(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text())[name]

    def writers(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
        return [(row["writer"], row["items_per_cpu_s"]) for row in rows]

    handlers = [(row["reader"], row["cpu_us"]) for row in read("read")["handlers"]]
    servers = [(row["server"], row["p50_us"]) for row in read("read")["servers"]]
    return [
        Panel("writing items of 500 B: items per CPU-second (more is better)", writers(read("write"))),
        Panel("336,776 flights, file to wire: items/CPU-s (more is better)", writers(read("pipeline"))),
        Panel("one warm GET, RS256: CPU µs (less is better)", handlers),
        Panel("server on loopback: p50 µs (less is better)", servers),
        Panel("cold start to first GET: CPU ms (less is better)", [(r["process"], r["cpu_ms"]) for r in read("cold")]),
    ]


def read_limits(folder: Path) -> list[Panel]:
    """Read Larder's figures and their limits.

    Raises:
        FileNotFoundError: `read`, `joins` or `write` has not been run yet.
    """
    per_s = {row["writer"]: row["items_per_cpu_s"] for row in json.loads((folder / "write.json").read_text())["write"]}
    shares = json.loads((folder / "read.json").read_text())["read"]["shares_cpu_us"]
    joins = json.loads((folder / "joins.json").read_text())["joins"]
    exchange, signature = shares["limit: sign, send, receive"], shares["signature"]
    return [
        Panel(
            "one warm GET of 2 KB, token seen before: CPU µs",
            [("larder", shares["whole"]), ("larder, without the network", shares["ours"])],
            exchange,
            "sign, send, receive",
        ),
        Panel(
            "one warm GET of 2 KB, token verified anew (RS256): CPU µs",
            [
                ("larder", shares["whole, token not remembered"]),
                ("larder, without the network", shares["ours, token not remembered"]),
            ],
            exchange + signature,
            "sign, send, receive, RS256",
        ),
        Panel(
            "rendering a row that metadata are joined with: CPU µs",
            [(f"larder, {one['metadata']} metadata", one["cpu_us"]) for one in joins if one["metadata"]],
            next(one["cpu_us"] for one in joins if not one["metadata"]),
            "no metadata",
        ),
        Panel(
            "writing an item: CPU, as a multiple of the limit's",
            [(f"larder, {size}", per_s[f"limit, {size}"] / per_s[f"larder, {size}"]) for size in SIZES],
            1.0,
            "gzip, escape, hash, send, receive",
        ),
    ]


def draw(panels: list[Panel], path: Path) -> None:
    """Draw the panels one below the other; Larder's bars have another colour."""
    with mpl.rc_context(STYLE):
        heights = [len(panel.bars) + 1.5 for panel in panels]
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(8, 0.27 * sum(heights)), height_ratios=heights, layout="constrained"
        )
        for axis, panel in zip(axes, panels, strict=True):
            names = [name for name, _ in panel.bars]
            colours = [OURS if _is_ours(name) else PEERS for name in names]
            bars = axis.barh(range(len(names)), [figure for _, figure in panel.bars], color=colours)
            axis.bar_label(
                bars, [f"{figure:,.0f}" if figure >= 10 else f"{figure:.1f}" for _, figure in panel.bars], padding=3
            )
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
            axis.margins(x=0.12)
            axis.xaxis.set_visible(False)
            axis.spines["bottom"].set_visible(False)
            if panel.limit is not None:
                axis.axvline(panel.limit, color="#b2182b", linestyle="--", linewidth=1)
                label = f" limit {panel.limit:,.1f}: {panel.limit_is}"
                axis.text(panel.limit, len(names) - 0.45, label, color="#b2182b", va="top", fontsize=8)
            axis.set_title(panel.title, loc="left", fontweight="bold")
        save(figure, path)


def _is_ours(name: str) -> bool:
    return name.startswith(("larder", "pipeline", "re-run"))


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, default=BENCH, help="folder with write.json, pipeline.json, ...")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench.svg")
    parser.add_argument("--limits", action="store_true", help="draw docs/limit.svg instead")
    arguments = parser.parse_args()
    if arguments.limits:
        draw(read_limits(arguments.figures), ROOT / "docs" / "limit.svg")
        return
    draw(read_panels(arguments.figures), arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()

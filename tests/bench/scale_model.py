"""`python -m tests.bench.scale_model`: print the table and draw the picture of docs/scale.md, by the model of `plan`.

Drawing needs matplotlib, which `tox -e pictures` installs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from enrich.cli.table import render_duration
from enrich.ledger.run_state import EngineKind
from enrich.plan.cost import build_cost
from enrich.plan.scale import Estimate, Load, Quotas, estimate
from enrich.run.engine import read_rates

DOCS = Path(__file__).parents[2] / "docs"
NAMES = {10**7: "10 million", 10**8: "100 million", 10**9: "1 billion", 10**10: "10 billion"}
CASES = {"first load": (1.0, 40_000), "first load, 200,000 units/s": (1.0, 200_000), "nothing changed": (0.0, 40_000)}
REGION = "us-east-1"


def build_load(rows: int, share: float) -> Load:
    """Return a run over Parquet that writes a share of its rows, each one write unit."""
    written = int(rows * share)
    size = rows * int(read_rates()["bytes_per_row"]["parquet"])
    return Load(rows=rows, size=size, written=written, units=written)


def render_table() -> str:
    """Return the table of the page, in Markdown."""
    lines = [
        "| rows | | one Lambda | Spark, 10 workers | pieces | Glue, $ | write units, $ | first limit |",
        "|" + "---|" * 8,
    ]
    for rows, name in NAMES.items():
        for case, (share, units_per_second) in CASES.items():
            load, quotas = build_load(rows, share), Quotas(table_units=units_per_second)
            local, spark = (estimate(load, engine, quotas) for engine in (EngineKind.LOCAL, EngineKind.SPARK))
            cost = build_cost(load.units, 1, REGION)
            assert cost is not None
            alone = "too little scratch disk" if local.refused else render_duration(local.seconds)
            lines.append(
                f"| {name} | {case} | {alone} | {render_duration(spark.seconds)} | {spark.pieces:,} | {spark.usd:,.2f} "
                f"| {cost.run:,.2f} | {spark.limit} |"
            )
    return "\n".join(lines)


def list_curves() -> Iterator[tuple[str, str, list[tuple[int, Estimate]]]]:
    """Yield engine, case, and the estimates by rows of each curve of the picture."""
    rows = [int(10 ** (7 + step / 20)) for step in range(61)]
    for case, (share, units_per_second) in CASES.items():
        for engine in EngineKind:
            quotas = Quotas(table_units=units_per_second)
            found = [(each, estimate(build_load(each, share), engine, quotas)) for each in rows]
            yield engine, case, [each for each in found if not each[1].refused]


def draw(path: Path) -> None:
    """Draw duration by rows, on both engines."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from infra.dashboards.picture import STYLE, save

    colours = dict(zip(CASES, ("#1b7837", "#5aae61", "#9aa5b1"), strict=True))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.2))
        for engine, case, points in list_curves():
            axes.plot(
                [rows for rows, _ in points],
                [found.seconds / 60 for _, found in points],
                "-" if engine == EngineKind.SPARK else "--",
                color=colours[case],
                label=f"{case}, {'Spark' if engine == EngineKind.SPARK else 'one Lambda'}",
            )
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="minutes")
        axes.set_title("Duration of a run by the model of plan", loc="left")
        axes.grid(visible=True, which="major", linewidth=0.4)
        axes.legend(frameon=False, fontsize=8)
        save(figure, path)


if __name__ == "__main__":
    print(render_table())
    draw(DOCS / "scale.svg")

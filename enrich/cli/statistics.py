"""Show the statistics of an output and the verdicts of its guards, as JSON values and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import orjson

from enrich.cli.table import BOLD, DIM, GREEN, RED, Paint, plain, printable, render_table
from enrich.guard.cells import find_number
from enrich.guard.statistics import PERCENTILES, Distribution, Summary
from enrich.ledger.records import RunStatistics

_MARKS = {True: ("passed", GREEN), False: ("failed", RED), None: ("not compared", DIM)}
_SHOWN = ("p5", "p50", "p95")  # percentiles in text


def describe_statistics(statistics: RunStatistics) -> dict[str, Any]:
    """Return statistics and verdicts as JSON values; a value of which only nulls are measured has no numbers."""
    summary, verdicts = Summary.load(statistics.summary), orjson.loads(statistics.verdicts)
    guards = {verdict["guard"] for verdict in verdicts}
    return {
        "rows": summary.rows,
        "changed": summary.changed,
        "reference": statistics.reference,
        "values": {
            name: _describe(of if _is_measured(name, of, guards) else Distribution(of.rows, of.nulls))
            for name, of in summary.values.items()
        },
        "guards": verdicts,
    }


def _is_measured(name: str, of: Distribution, guards: Set[str]) -> bool:
    """Return whether its numbers can be the value's own: a text counts as 0 unless it is null (`Compiled.measured`)."""
    return (of.min, of.max) != (0, 0) or any(guard.endswith(f" of {name}") for guard in guards - {f"nulls of {name}"})


def _describe(of: Distribution) -> dict[str, Any]:
    """Return a distribution as JSON values; a group is named by its upper bound, within 0.2 %."""
    percentiles = {f"p{each}": of.percentiles.get(f"p{each}") for each in PERCENTILES}
    return {**asdict(of), "percentiles": percentiles, "groups": [[find_number(cell), n] for cell, n in of.groups]}


def render_statistics(statistics: Mapping[str, Any], paint: Paint = plain) -> list[str]:
    """Render what `describe_statistics` returned as lines."""
    against = f", compared with run {statistics['reference']}" if statistics["reference"] is not None else ""
    lines = [paint(f"Statistics of {statistics['rows']:,} predictions{against}", BOLD)]
    head = ["value", "nulls", "min", *_SHOWN, "max", "mean"]
    rows = [
        [name, of["nulls"], *map(_number, [of["min"], *(of["percentiles"][p] for p in _SHOWN), of["max"], of["mean"]])]
        for name, of in statistics["values"].items()
    ]
    lines += [f"  {line}" for line in render_table(head, rows).splitlines()] if rows else []
    return [*lines, *render_verdicts(statistics["guards"], paint)]


def render_verdicts(verdicts: Sequence[Mapping[str, Any]], paint: Paint = plain) -> list[str]:
    """Render the guards' verdicts, one line each."""
    lines = []
    for verdict in verdicts:
        mark, colour = _MARKS[verdict["passed"]]
        lines.append(f"  {paint(f'{mark:12}', colour)}  {printable(verdict['says'])}")
    return lines


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:,.4g}"

"""Build the pages from the ledger, S3 and the table: each is one HTML document that includes its style.

A page's address is that of its file in a report, so links are the same on the console and in a report. Templates
escape every value; `Privacy` decides which values are shown.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from enrich.cli.rejects import Rejects, read_rejects
from enrich.cli.statistics import describe_statistics
from enrich.cli.table import GREEN, RED, YELLOW, first_line, printable, render_duration, render_instant
from enrich.cli.terminal import (
    FRESHNESS_COLOURS,
    STATE_COLOURS,
    find_duration,
    list_sections,
    render_counts,
    render_freshness,
)
from enrich.console.actions import OF_DATASETS, OF_RUNS
from enrich.console.charts import Bar, Chart, draw_bars, render_number
from enrich.console.distributions import BINS, Column, Comparison, Summary, choose_runs, compare_runs
from enrich.console.history import History
from enrich.console.privacy import HIDDEN, Privacy
from enrich.console.runs import ATTENTION, DatasetRuns, count_reasons, fetch_dataset, find_resolution
from enrich.dataset.source_sql import KEPT_PARTITIONS, PREDICTION
from enrich.ledger.freshness import FreshnessState
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind
from enrich.plan.cost import build_cost
from enrich.services import Services

TEMPLATES = Path(__file__).with_name("templates")
OUTCOMES = ("written", "unchanged", "superseded", "expired", "rejected")
REJECTS_SHOWN = 50
FEWEST = 10  # values of a distribution that is shown: the mean of one value is that value
_TONES = {GREEN: "good", RED: "bad", YELLOW: "warn"}


@cache
def read_style() -> str:
    """Read the style sheet, which each page contains."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def build_policy() -> str:
    """Build the Content-Security-Policy of each page: its own style, and nothing else is loaded or executed."""
    digest = base64.b64encode(hashlib.sha256(read_style().encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What pages show.

    Attributes:
        region: the AWS region whose prices are used.
        newest: number of runs of each dataset.
        show_data: show subjects, bodies, rejected rows and values in errors.
        operate: offer operations.
        is_report: pages are files, without forms and operations.
        sample_rows: number of rows that are read from each compared output; 0: no comparison.
    """

    region: str
    newest: int = 50
    show_data: bool = False
    operate: bool = False
    is_report: bool = False
    sample_rows: int = 20_000


class Pages:
    """Builds pages over one stack."""

    def __init__(self, services: Services, options: Options) -> None:
        self.services = services
        self.options = options
        # (dataset, run) of the run pages that exist; None: each run has one
        self.run_pages: Collection[tuple[str, int]] | None = None
        self.privacy = Privacy(services.datasets.values(), show_data=options.show_data)
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "shown": lambda text: printable(str(text)),
            "count": lambda number: "-" if number is None else f"{number:,}",
            "number": render_number,
            "percent": _render_percent,
            "duration": render_duration,
            "instant": lambda milliseconds: render_instant(milliseconds) or "-",
            "tone": find_tone,
        }

    def render(self, template: str, *, title: str, depth: int = 0, **values: Any) -> str:
        """Render a template. `depth`: folders between the page and the first page."""
        return self._templates.get_template(template).render(
            title=title,
            root="../" * depth,
            style=read_style(),
            policy=build_policy(),
            options=self.options,
            environment=self.services.settings.environment,
            made=render_instant(int(self.services.clock.now() * 1000)),
            has_page=lambda dataset, number: self.run_pages is None or (dataset, number) in self.run_pages,
            **values,
        )

    # -- the pages

    def build_index(self, found: Sequence[DatasetRuns] | None = None) -> str:
        """Build the first page: what needs attention, and each dataset with its freshness."""
        datasets = found if found is not None else [self.fetch(name) for name in sorted(self.services.datasets)]
        late = {FreshnessState.LATE, FreshnessState.EXPIRED}
        return self.render(
            "index.html",
            title="Datasets",
            rows=[
                {
                    "name": each.name,
                    "problem": each.problem,
                    "freshness": each.freshness,
                    "tone": _TONES.get(FRESHNESS_COLOURS.get(each.freshness.state, ""), "dim"),
                    "newest": self.describe(each.runs[0], each.runs) if each.runs else None,
                    "attention": len(each.attention),
                    "pending": len(each.pending),
                }
                for each in datasets
            ],
            attention=[self.describe(run, each.runs) for each in datasets for run in each.attention],
            late=[each.name for each in datasets if each.freshness.state in late],
        )

    def build_dataset(self, name: str, found: DatasetRuns | None = None) -> str:
        """Build the page of a dataset: freshness, runs over time, what failed, rejects by reason, distributions."""
        dataset = self.services.datasets[name]
        found = found or self.fetch(name)
        runs = [self.describe(run, found.runs) for run in found.runs]
        compared = self._compare(name, found.runs) if self.options.is_report else None
        return self.render(
            "dataset.html",
            title=name,
            depth=1,
            name=name,
            problem=found.problem,
            freshness=render_freshness(found.freshness).removeprefix(f"{found.freshness.state}: "),
            freshness_state=found.freshness.state,
            freshness_tone=_TONES.get(FRESHNESS_COLOURS.get(found.freshness.state, ""), "dim"),
            runs=runs,
            attention=[each for each in runs if each["state"] in ATTENTION],
            pending=found.pending,
            reasons=count_reasons(found.runs),
            charts=self._draw_runs(found.runs),
            cost=self._add_cost(found.runs),
            claims=list(dataset.served.subject),
            comparison=compared,
            actions={name: action.label for name, action in OF_DATASETS.items()} if self.options.operate else {},
        )

    def build_distributions(self, name: str) -> str:
        """Build the page with the distributions of a dataset's newest outputs."""
        comparison = self._compare(name, self.fetch(name).runs)
        title = f"Distributions of {name}"
        return self.render("distributions.html", title=title, depth=1, name=name, comparison=comparison)

    def build_run(self, run: Run, runs: Sequence[Run], reason: str | None = None) -> str:
        """Build the page of a run: its record in the ledger, and its rejects.

        Args:
            run: as in the ledger.
            runs: runs of its dataset, to find what happened to its output later.
            reason: show rejects with this reason only.
        """
        show = self.options.show_data
        rejects = None
        if run.reasons:
            found, problem = Rejects(run.reasons, []), None
            try:
                found = read_rejects(
                    self.services.s3, self.services.settings.bucket, run, limit=REJECTS_SHOWN, reason=reason
                )
            except (ClientError, BotoCoreError) as error:  # the rest of the page needs only the ledger
                problem = str(error)
            rejects = {
                "rows": [
                    {
                        "row": each.get("row"),
                        "reason": each.get("reason"),
                        "detail": each.get("detail") if show else HIDDEN,
                        "partitions": json.dumps(each.get(KEPT_PARTITIONS), ensure_ascii=False) if show else HIDDEN,
                        "prediction": json.dumps(each.get(PREDICTION), ensure_ascii=False) if show else HIDDEN,
                    }
                    for each in found.lines
                ],
                "has_partitions": any(KEPT_PARTITIONS in each for each in found.lines),
                "unreadable": found.unreadable,
                "problem": problem,
            }
        total = sum(run.reasons.values())
        sections = {
            title: [(name.replace("_", " "), self.privacy.hide(run.dataset, text)) for name, text in members]
            for title, members in list_sections(run, self.services.clock.now())
            if not (title == "Guards" and self._is_few(run))
        }
        return self.render(
            "run.html",
            title=f"{run.dataset} run {run.run}",
            depth=3,
            run=self.describe(run, runs),
            error=self._hide_error(run),
            sections=sections,
            reasons=[
                (name, count, count / total) for name, count in sorted(run.reasons.items(), key=lambda each: -each[1])
            ],
            statistics=self._describe_statistics(run),
            total=total,
            reason=reason,
            rejects=rejects,
            actions={name: action.label for name, action in OF_RUNS.items() if action.applies(run)}
            if self.options.operate
            else {},
        )

    def build_item(self, name: str, prediction_id: str, history: History | None, mistake: str | None) -> str:
        """Build the page of an item: what the table serves, and the runs that named it."""
        return self.render(
            "item.html",
            title=f"Item of {name}",
            depth=1,
            name=name,
            prediction_id=prediction_id if history else "",
            claims=list(self.services.datasets[name].served.subject),
            mistake=mistake,
            history=history,
            namings=[
                {
                    "run": self.describe(each.run, [each.run]),
                    "rows": ", ".join(f"{row:,}" for row in each.rows[:5]) + (", …" if len(each.rows) > 5 else ""),
                    "outcome": each.outcome,
                    "body": each.body,
                }
                for each in (history.namings if history else ())
            ],
            unknown=Counter(why for _, why in history.unknown) if history else {},
        )

    # -- their parts

    def fetch(self, name: str) -> DatasetRuns:
        """Fetch the newest runs of a dataset."""
        return fetch_dataset(self.services, name, self.options.newest)

    def describe(self, run: Run, runs: Sequence[Run]) -> dict[str, Any]:
        """Describe a run for a table's row."""
        now = self.services.clock.now()
        cost = build_cost(run.units, 1, self.options.region)
        resolved = find_resolution(run, runs) if run.state in ATTENTION else None
        error = self._hide_error(run)
        return {
            "dataset": run.dataset,
            "number": run.run,
            "state": str(run.state),
            "kind": str(run.kind),
            "of_run": run.of_run,
            "as_of": None if run.kind is Kind.REMOVAL else run.as_of_ms,
            "queued": run.queued_ms,
            "age": max(0.0, now - (run.ended_ms or run.held_ms or run.queued_ms) / 1000),
            "took": find_duration(run, now),
            "read": run.counts.read,
            "counts": {name: getattr(run.counts, name) for name in OUTCOMES},
            "removed": run.counts.removed,
            "reasons": render_counts(run.reasons) if run.reasons else "",
            "units": run.units,
            "cost": None if cost is None else cost.run,
            "object_key": self.privacy.hide_object_key(run.dataset, run.object_key),
            "error": first_line(error),
            "resolved": resolved.run if resolved else None,
        }

    def _is_few(self, run: Run) -> bool:
        """Return whether verdicts of guards could show the value of a row, because few values were measured."""
        return not self.options.show_data and run.measured is not None and run.measured < FEWEST

    def _hide_error(self, run: Run) -> str:
        return HIDDEN if run.shifts and self._is_few(run) else self.privacy.hide(run.dataset, run.error)

    def _describe_statistics(self, run: Run) -> dict[str, Any] | None:
        """Describe what the guards measured of a run's output; None if they measured nothing."""
        measured = self.services.ledger.get_statistics(run.dataset, run.run)
        if measured is None:
            return None
        found = describe_statistics(measured)
        if self._is_few(run):
            found["guards"] = [{**each, "says": HIDDEN} for each in found["guards"]]
        fewest = 1 if self.options.show_data else FEWEST
        for of in found["values"].values():
            if found["rows"] - of["nulls"] < fewest:  # the mean of one value is that value
                of |= {"mean": None, "percentiles": {}, "groups": []}
            of["svg"] = _draw_groups(of["groups"], of["percentiles"].get("p1"), of["percentiles"].get("p99"))
        return found

    def _add_cost(self, runs: Sequence[Run]) -> dict[str, Any]:
        units = sum(run.units for run in runs)
        cost = build_cost(units, 1, self.options.region)
        return {"units": units, "usd": None if cost is None else cost.run, "region": self.options.region}

    def _draw_runs(self, runs: Sequence[Run]) -> list[Chart]:
        """Draw counts, durations and write units of the runs, oldest first."""
        ordered = sorted(runs, key=lambda run: run.run)
        now = self.services.clock.now()
        if not ordered:
            return []
        ends = f"run {ordered[0].run}", f"run {ordered[-1].run}"
        counts, times, units = list[Bar](), list[Bar](), list[Bar]()
        for run in ordered:
            label = f"run {run.run} ({run.state})"
            values = {name: float(getattr(run.counts, name)) for name in OUTCOMES}
            title = f"{label}: {render_counts({name: int(number) for name, number in values.items()})}"
            counts.append(Bar(title, values, mark=run.state in ATTENTION and not run.counts.read))
            took = find_duration(run, now)
            times.append(Bar(f"{label}: {render_duration(took)}", {find_tone(str(run.state)): took or 0.0}))
            units.append(Bar(f"{label}: {run.units:,} write units", {"written": float(run.units)}))
        legend = {name: name for name in OUTCOMES if any(bar.values[name] for bar in counts)}
        legend |= {"bad": "failed or held"} if any(bar.mark for bar in counts) else {}
        most = max(bar.total for bar in counts)
        return [
            Chart(
                "Predictions by outcome",
                draw_bars(counts, f"Predictions of {len(ordered)} runs by outcome; the table of runs has the numbers"),
                render_number(most),
                *ends,
                legend,
            ),
            Chart(
                "Duration",
                draw_bars(times, f"Durations of {len(ordered)} runs; the table of runs has the numbers"),
                render_duration(max(bar.total for bar in times)),
                *ends,
                {},
            ),
            Chart(
                "Write units",
                draw_bars(units, f"Write units of {len(ordered)} runs; the table of runs has their cost"),
                render_number(max(bar.total for bar in units)),
                *ends,
                {},
            ),
        ]

    def _compare(self, name: str, runs: Sequence[Run]) -> dict[str, Any] | None:
        """Compare the newest outputs; None if that is switched off."""
        if not self.options.sample_rows:
            return None
        chosen = choose_runs(runs)
        found = compare_runs(self.services, self.services.datasets[name], chosen, self.options.sample_rows)
        return {
            "runs": [
                {"number": run.run, "as_of": run.as_of_ms, "rows": rows, "of": run.rows}
                for run, rows in zip(found.runs, found.rows, strict=True)
            ],
            "columns": [
                _describe_column(column, found, fewest=1 if self.options.show_data else FEWEST)
                for column in found.columns
            ],
            "problems": [(run.run, self.privacy.hide(run.dataset, why)) for run, why in found.problems],
        }


def find_tone(state: str) -> str:
    """Return the CSS class of a run's state; a state that needs an operator and has no colour is a warning."""
    for known, colour in STATE_COLOURS.items():
        if str(known) == state:
            return _TONES.get(colour, "dim")
    return "warn"


def _render_percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{share * 100:,.1f} %"


def _draw_groups(groups: Sequence[Any], low: float | None, high: float | None) -> Markup | None:
    """Draw a histogram of groups of about equal size, given their upper bounds and numbers of values."""
    if low is None or high is None or not groups:
        return None
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for upto, count in groups:
        counts[min(BINS - 1, max(0, math.floor((upto - low) / width)))] += count
    bars = [
        Bar(
            f"{render_number(low + n * width)} to {render_number(low + (n + 1) * width)}: {count:,}", {"written": count}
        )
        for n, count in enumerate(counts)
    ]
    return draw_bars(bars, "Histogram")


def _build_cell(summary: Summary, svg: Markup | None) -> dict[str, Any]:
    return {"summary": summary, "svg": svg}


def _describe_column(column: Column, found: Comparison, *, fewest: int) -> dict[str, Any]:
    """Describe a column of a comparison, with a histogram for each run on the same axis.

    Where a run has fewer values than `fewest`, no number of the column is shown.
    """
    is_hidden = any(0 < summary.values < fewest for summary in column.summaries)
    if is_hidden:
        cells = [_build_cell(replace(each, mean=None, share_true=None), None) for each in column.summaries]
        return {"name": column.name, "kind": column.kind, "bounds": None, "cells": cells, "hidden": True}
    shares = [[count / (sum(summary.bins) or 1) for count in summary.bins] for summary in column.summaries]
    highest = max((share for some in shares for share in some), default=0.0)
    low, high = column.bounds or (0.0, 0.0)
    width = (high - low) / BINS
    cells = []
    for run, summary, some in zip(found.runs, column.summaries, shares, strict=True):
        bars = [
            Bar(
                f"{render_number(low + number * width)} to {render_number(low + (number + 1) * width)}: "
                f"{_render_percent(share)}",
                {"written": share},
            )
            for number, share in enumerate(some)
        ]
        text = f"Histogram of {column.name} in run {run.run}"
        cells.append(_build_cell(summary, draw_bars(bars, text, highest=highest) if highest else None))
    bounds = (render_number(low), render_number(high)) if column.bounds else None
    return {"name": column.name, "kind": column.kind, "bounds": bounds, "cells": cells, "hidden": False}

"""Draw docs/dashboards.svg from the metrics of a local run. Needs matplotlib: `tox -e pictures`.

python -m examples.flights.dashboards [--seconds 240] [--lines FILE] [--again]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from examples.flights.site import PROJECT
from examples.flights.traffic import record
from infra.dashboards.picture import draw
from infra.dashboards.points import read_points
from infra.dashboards.widgets import read_widgets
from infra.translate import ROOT, read_template

PICTURE = ROOT / "docs" / "dashboards.svg"
LINES = ROOT / ".larder" / "dashboards.jsonl"
PERIOD = 10.0  # seconds; the 300 of the dashboards are longer than the run


def main() -> None:
    """Run for some minutes, or read the lines of an earlier run, and draw."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from the metrics of a local run.")
    parser.add_argument("--seconds", type=float, default=240, help="duration of the run (%(default)s)")
    parser.add_argument(
        "--lines", type=Path, default=ROOT / ".larder" / "dashboards.jsonl", help="file of its log lines"
    )
    parser.add_argument("--again", action="store_true", help="draw the lines of the earlier run")
    given = parser.parse_args()
    os.environ["LARDER_PROJECT"] = str(PROJECT)  # independent of what is in datasets/
    if not given.again:
        lines = record(ROOT / ".larder" / "dashboards.log", given.seconds, print)
        given.lines.write_text("\n".join(lines) + "\n")
    template = read_template()
    points = read_points(template, given.lines.read_text().splitlines())
    widgets = read_widgets(template, "dev", points, PERIOD)
    names = {"ServiceDashboard": "Service", "UseCasesDashboard": "Use cases", "PipelineDashboard": "Pipeline"}
    caption = (
        f"The dashboards of infra/template.yaml over {given.seconds / 60:g} minutes on a laptop, from the log lines of "
        f"enrich, serve and the synthetic check; one point per {PERIOD:g} s"
    )
    draw({title: widgets[name] for name, title in names.items()}, caption, PICTURE)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()

"""Draw docs/dashboards.svg from a local run's own metrics.

python -m examples.flights.dashboards [--seconds 240] [--lines FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.flights.traffic import record
from infra.dashboards.points import read_points
from infra.dashboards.svg import draw
from infra.dashboards.widgets import read_widgets
from infra.translate import ROOT, read_template

PICTURE = ROOT / "docs" / "dashboards.svg"
PERIOD = 10.0  # seconds; CloudWatch's is 300, longer than all that happens here


def main() -> None:
    """Run for a while, or take the lines of a former run, and draw."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from a local run's own metrics.")
    parser.add_argument("--seconds", type=float, default=240, help="how long the run is (%(default)s)")
    parser.add_argument("--lines", type=Path, default=ROOT / ".larder" / "dashboards.jsonl", help="where its lines are")
    parser.add_argument("--again", action="store_true", help="draw the lines that are there, without a run")
    given = parser.parse_args()
    if not given.again:
        lines = record(ROOT / ".larder" / "dashboards.log", given.seconds, print)
        given.lines.write_text("\n".join(lines) + "\n")
    template = read_template()
    points = read_points(template, given.lines.read_text().splitlines())
    widgets = read_widgets(template, "dev", points, PERIOD)
    names = {"ServiceDashboard": "Service", "UseCasesDashboard": "Use cases", "PipelineDashboard": "Pipeline"}
    caption = (
        f"The dashboards of infra/template.yaml over {given.seconds / 60:g} minutes on a laptop, from what enrich, "
        f"serve and the synthetic check logged; a point for {PERIOD:g} s."
    )
    PICTURE.write_text(draw({names[name]: found for name, found in widgets.items()}, caption))
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()

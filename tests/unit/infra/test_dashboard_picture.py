"""The dashboards' widgets show the values of the log lines; the picture shows the widgets."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from enrich.ledger.records import Counts, Run
from enrich.ledger.run_state import RunState
from enrich.log import log_run
from enrich.settings import Settings
from infra.dashboards.points import read_points, summarise
from infra.dashboards.widgets import Line, Widget, end_of_axis, read_dashboards, read_widgets
from infra.synthetic import render_line
from infra.translate import Template, read_template
from serve.log import build_request_line

NOW = 1_763_640_000.0


@pytest.fixture(scope="module")
def template() -> Template:
    return read_template()


@pytest.fixture
def widgets(template: Template, capsys: pytest.CaptureFixture[str]) -> dict[str, Widget]:
    """Return the widgets, by title, over lines that the three functions print."""
    fields = {"request_id": "r", "dataset": "flight-delays"}
    lines = [build_request_line("dev", NOW + n, "get_item", 200, 10.0 + n, fields) for n in range(5)]
    lines.append(build_request_line("dev", NOW, "get_item", 404, 99.0, {**fields, "code": "not_found"}))
    lines.append(build_request_line("test", NOW, "get_item", 200, 1.0, fields))  # another environment's
    settings = Settings(table="t", ledger="l", bucket="b", outputs="o", queue="q", workgroup="w", environment="dev")
    common: Any = {"run": 7, "bucket": "b", "object_key": "k", "identity": "i", "arrived_ms": 0}
    counts = Counts(written=9, rejected=1)
    log_run(
        settings, Run(dataset="d", state=RunState.DONE, rows=10, counts=counts, started_ms=0, ended_ms=1500, **common)
    )
    lines += [*capsys.readouterr().out.splitlines(), render_line("dev", NOW, 12.5, ["no answer"])]
    found = read_widgets(template, "dev", read_points(template, lines), 300)
    return {widget.title: widget for one in found.values() for widget in one}


def values(widget: Widget) -> dict[str, list[float]]:
    return {line.label: [value for _, value in line.points] for line in widget.lines}


def test_widgets_show_what_was_logged(widgets: dict[str, Widget]) -> None:
    """Sums, maxima and percentiles of each widget are those of this environment's lines."""
    assert values(widgets["Latency in serve (ms)"]) == {"p50": [12.0], "p99": [99.0]}
    assert values(widgets["Requests and errors"]) == {"ServerErrors": [0.0], "ClientErrors": [1.0]}
    assert values(widgets["Requests by use case"]) == {"get_item": [6.0]}
    assert values(widgets["Answers by dataset"]) == {"flight-delays get_item": [5.0]}
    assert values(widgets["Refusals by code"]) == {"not_found": [1.0]}
    assert values(widgets["Runs"]) == {"RunsClosed": [1.0], "RunsFailed": [0.0], "RunsHeld": [0.0], "RunSeconds": [1.5]}
    assert [line.is_right for line in widgets["Runs"].lines] == [False, False, False, True]
    assert values(widgets["Reject ratio"]) == {"RejectRatio": [0.1]}
    assert values(widgets["Synthetic check"]) == {"SyntheticFailures": [1.0], "SyntheticLatency": [12.5]}


def test_metrics_of_aws_have_no_line(widgets: dict[str, Widget]) -> None:
    """Widgets on API Gateway, the queue and the firewall are empty: no line is invented."""
    for title in ("Latency at the gateway (ms)", "Queue", "Firewall: blocked, all APIs of this account"):
        assert widgets[title].lines == []


def test_each_metric_widget_is_in_the_picture(template: Template, widgets: dict[str, Widget], tmp_path: Path) -> None:
    """The picture is an SVG that names each metric widget, as a panel or as one of AWS's own, and is repeatable."""
    picture = pytest.importorskip("infra.dashboards.picture", reason="matplotlib is in `tox -e pictures`")
    for name in ("one.svg", "other.svg"):
        picture.draw({"All": list(widgets.values())}, "a caption", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    text = " ".join(ET.parse(tmp_path / "one.svg").getroot().itertext())
    for body in read_dashboards(template).values():
        assert isinstance(body, dict)
        for widget in body["widgets"]:
            assert widget["type"] != "metric" or widget["properties"]["title"] in text
    assert "a caption" in text


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    """Lines without a metric of any widget give an error, not an empty picture."""
    picture = pytest.importorskip("infra.dashboards.picture", reason="matplotlib is in `tox -e pictures`")
    with pytest.raises(ValueError, match="nothing to draw"):
        picture.draw({"All": [Widget("Queue", 24, [])]}, "", tmp_path / "none.svg")


@pytest.mark.parametrize(
    ("stat", "summary"),
    [("Sum", 10.0), ("Average", 2.5), ("Maximum", 4.0), ("Minimum", 1.0), ("SampleCount", 4.0), ("p50", 2.0)],
)
def test_statistics(stat: str, summary: float) -> None:
    """Each statistic of four values in one period; a fifth value is in another period."""
    points = [(float(second), float(second)) for second in (1, 2, 3, 4)] + [(61.0, 7.0)]
    assert summarise(points, stat, 60)[0] == (0.0, summary)
    assert [begin for begin, _ in summarise(points, stat, 60)] == [0.0, 60.0]


@pytest.mark.parametrize(("highest", "end"), [(0.0, 1.0), (0.03, 0.04), (7.0, 8.0), (2639.0, 4000.0), (1.0, 1.0)])
def test_axis_ends_on_a_round_number(highest: float, end: float) -> None:
    """The highest value fits, and quarters are round."""
    assert end_of_axis([Line("", [(0.0, highest)], False)]) == pytest.approx(end)


def test_lines_without_metrics_are_skipped(template: Template) -> None:
    """A line without embedded metrics, such as that of a failed message, gives no data point."""
    assert read_points(template, [json.dumps({"event": "message failed"})]) == {}


def test_metric_without_its_dimension_is_skipped(template: Template) -> None:
    """CloudWatch records no metric for a line that lacks a dimension; here it must not be recorded either."""
    line = json.loads(build_request_line("dev", NOW, "get_item", 200, 10.0, {}))
    del line["UseCase"]
    keys = read_points(template, [json.dumps(line)])
    assert {frozenset(name for name, _ in key.dimensions) for key in keys} == {frozenset({"Service", "Environment"})}

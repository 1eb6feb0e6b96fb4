"""Render a diff as one self-contained HTML page: it includes styles and pictures.

It is built as a tree, so every text of an output is escaped by the serializer.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from enrich.cli.rejects import shorten
from enrich.cli.table import render_instant
from enrich.cli.terminal import render_counts
from enrich.diff.compare import MemberDiff, Value
from enrich.diff.diff import Diff, Sample, SideSummary
from enrich.diff.distributions import QUANTILES
from enrich.diff.report import (
    KINDS,
    judge_psi,
    name_rows,
    name_value,
    render_judgement,
    render_number,
    render_psi,
    render_summary,
)
from enrich.plan.samples import find_changes

_STYLE = """
:root{color-scheme:light dark;--a:#2563eb;--b:#ea580c;--line:#8884;--soft:#8881}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem;margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:right;font-weight:inherit}
th:first-child,td.text{text-align:left}thead th{font-weight:600}
.words th,.words td{text-align:left}.wide{overflow-x:auto}.a{color:var(--a)}.b{color:var(--b)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:1rem;margin-top:1rem}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.8rem;min-width:0}
svg{width:100%;height:auto;display:block;margin:.5rem 0}svg text{font-size:11px;fill:currentColor}
p.name{margin:.2rem 0;overflow-wrap:anywhere}.note{border-left:4px solid #ca8a04;padding-left:.6rem}
.mark{border-radius:1rem;padding:0 .6rem;background:var(--soft);white-space:nowrap}
.moved{background:#ca8a0444}.shifted{background:#dc262644}
code{overflow-wrap:anywhere;font-size:.9em}
@media print{.cards{display:block}.card{break-inside:avoid;margin-bottom:1rem}}
"""
# Nothing can be loaded or executed, even if the texts of an output contain HTML.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_WIDTH, _HEIGHT, _BASE = 320, 110, 92  # size of a histogram, and where its bars are


def render_page(diff: Diff) -> str:
    """Render the page."""
    title = f"{diff.dataset}: what A and B would serve"
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("meta", name="referrer", content="no-referrer"),
        _tag("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        _tag("title", title),
        _tag("style", _STYLE),
    )
    hidden = [] if diff.shows_data else [_tag("p", "Keys, texts and bodies are hidden (--show-data shows them).")]
    main = _tag(
        "main",
        _tag("h1", title),
        _render_side(diff.a),
        _render_side(diff.b),
        _tag("p", render_summary(diff).removeprefix("Diff: ")),
        _wide(_render_counts(diff)),
        *hidden,
        *_render_guards(diff),
        _tag("h2", "Members"),
        _wide(_render_members(diff)),
        _tag("div", *(_render_card(diff, each) for each in diff.members), **{"class": "cards"}),
        *_render_samples(diff),
    )
    page = _tag("html", head, _tag("body", main), lang="en")
    return f"<!doctype html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _tag(name: str, /, *children: Element | str | None, **attributes: str) -> Element:
    """Build an element; a child that is None is omitted."""
    element = Element(name, attributes)
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif child is not None and len(element):
            element[-1].tail = (element[-1].tail or "") + _visible(child)
        elif child is not None:
            element.text = (element.text or "") + _visible(child)
    return element


def _visible(text: str) -> str:
    """Escape the characters that HTML can't contain, and surrogates, which UTF-8 can't."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[Element | str | int | None]]) -> Element:
    """Build a table; the first cell of a row is its heading."""
    body = _tag("tbody")
    for row in rows:
        first, *rest = [each if isinstance(each, Element) else _cell(each) for each in row]
        body.append(_tag("tr", _tag("th", first, scope="row"), *(_tag("td", each) for each in rest)))
    return _tag("table", _tag("thead", _tag("tr", *(_tag("th", each, scope="col") for each in head))), body)


def _cell(value: str | int | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else value


def _wide(element: Element) -> Element:
    # scrollable by keyboard, because it scrolls on a narrow screen
    return _tag("div", element, **{"class": "wide", "tabindex": "0"})


def _render_side(side: SideSummary) -> Element:
    as_of = f", as of {render_instant(side.as_of_ms)}" if side.as_of_ms is not None else ""
    name = _tag(
        "p", _tag("b", side.label, **{"class": side.label.lower()}), f" {side.name}{as_of}", **{"class": "name"}
    )
    return _tag("div", name, *(_tag("p", note, **{"class": "note"}) for note in side.notes))


def _render_counts(diff: Diff) -> Element:
    counts = diff.counts
    return _table(
        ["", "A", "B"],
        [
            ["rows", diff.a.rows, diff.b.rows],
            ["rejected", diff.a.rejected, diff.b.rejected],
            ["why rejected", render_counts(diff.a.reasons), render_counts(diff.b.reasons)],
            ["items", diff.a.items, diff.b.items],
            ["same", counts.same, counts.same],
            ["changed", counts.changed, counts.changed],
            ["only here", counts.only_in_a, counts.only_in_b],
        ],
    )


def _render_guards(diff: Diff) -> list[Element]:
    if not diff.verdicts:
        return []
    rows: list[list[Element | str]] = []
    for verdict in diff.verdicts:
        mark = {True: ("passed", ""), False: ("failed", " shifted"), None: ("not compared", "")}[verdict.passed]
        rows.append([_tag("span", mark[0], **{"class": f"mark{mark[1]}"}), _tag("div", verdict.says)])
    table = _table(["guard", "found"], rows)
    table.set("class", "words")
    return [_tag("h2", "Guards"), _tag("p", f"{render_judgement(diff)}."), _wide(table)]


def _render_members(diff: Diff) -> Element:
    rows: list[list[Element | str | int | None]] = []
    for each in diff.members:
        means = [render_number(numbers.mean) for numbers in each.numbers] if each.numbers else [None, None]
        rows.append([each.member.place, each.changed, _mark(diff, each.psi), *each.nulls, *means])
    return _table(["member", "changed", "PSI", "nulls A", "nulls B", "mean A", "mean B"], rows)


def _mark(diff: Diff, psi: float | None) -> Element | None:
    if psi is None:
        return None
    return _tag("span", render_psi(diff, psi) or "", **{"class": f"mark {judge_psi(diff, psi)}".strip()})


def _render_card(diff: Diff, each: MemberDiff) -> Element:
    card = _tag("section", _tag("h3", each.member.place), **{"class": "card"})
    if each.histogram:
        card.append(_draw_histogram(each))
    if each.numbers:
        a, b = each.numbers
        rows = [
            [name, render_number(a.quantiles.get(name)), render_number(b.quantiles.get(name))] for name in QUANTILES
        ]
        card.append(_wide(_table(["", "A", "B"], [["mean", render_number(a.mean), render_number(b.mean)], *rows])))
    if each.top:
        card.append(_draw_values(diff, each))
    if each.distinct:
        card.append(_tag("p", f"Different values: {each.distinct[0]:,} in A, {each.distinct[1]:,} in B."))
    if each.largest:
        card.append(_tag("p", "Largest changes:"))
        head = ["rows", "A", "B", *(["item"] if diff.keys else [])]
        changes = []
        for one in each.largest:
            key = diff.keys.get(one.row_a)
            item = [f"{key.pk} {key.prediction_id}"] if key else []
            rows_of = name_rows(one.row_a, one.row_b)
            changes.append([rows_of, render_number(one.before), render_number(one.after), *item])
        card.append(_wide(_table(head, changes)))
    if len(card) == 1:
        card.append(_tag("p", f"Compared as a whole: it differs in {each.changed:,} items."))
    return card


def _draw_histogram(each: MemberDiff) -> Element:
    """Draw the shares of both sides, side by side in each bin."""
    edges, *counts = each.histogram or ([], [], [])
    shares = [[count / max(1, sum(side)) for count in side] for side in counts]
    top = max([*shares[0], *shares[1], 1e-9])
    low, high = render_number(edges[0]) or "", render_number(edges[-1]) or ""
    picture = _tag(
        "svg",
        _tag("title", f"Histogram of {each.member.place} from {low} to {high}, A beside B, in shares"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    step = _WIDTH / len(shares[0])
    for n in range(len(shares[0])):
        for side, colour in enumerate(("a", "b")):
            height = shares[side][n] / top * (_BASE - 4)
            bar = {
                "x": f"{n * step + side * step * 0.45:.2f}",
                "y": f"{_BASE - height:.2f}",
                "width": f"{step * 0.45:.2f}",
                "height": f"{height:.2f}",
                "fill": f"var(--{colour})",
            }
            picture.append(_tag("rect", **bar))
    line = {"x1": "0", "x2": str(_WIDTH), "y1": str(_BASE), "y2": str(_BASE), "stroke": "currentColor"}
    picture.append(_tag("line", **line))
    picture.append(_tag("text", low, x="0", y=str(_HEIGHT - 4)))
    picture.append(_tag("text", high, x=str(_WIDTH), y=str(_HEIGHT - 4), **{"text-anchor": "end"}))
    return picture


def _draw_values(diff: Diff, each: MemberDiff) -> Element:
    """Draw the shares of the most frequent values, A above B."""
    row = 34
    totals = [max(1, numbers - nulls) for numbers, nulls in zip((diff.a.items, diff.b.items), each.nulls, strict=True)]
    picture = _tag(
        "svg",
        _tag("title", f"The most frequent values of {each.member.place}, A above B, in shares"),
        viewBox=f"0 0 {_WIDTH} {row * len(each.top)}",
        role="img",
    )
    top = max([share for one in each.top for share in _shares(one, totals)] + [1e-9])
    for n, one in enumerate(each.top):
        label = name_value(diff, each, n)
        label = label if len(label) <= 40 else f"{label[:39]}…"
        picture.append(_tag("text", f"{label}: {one.a:,} and {one.b:,}", x="0", y=str(n * row + 12)))
        for side, share in enumerate(_shares(one, totals)):
            bar = {
                "x": "0",
                "y": str(n * row + 16 + side * 7),
                "width": f"{max(share / top * _WIDTH, 0.5 if share else 0):.2f}",
                "height": "6",
                "fill": f"var(--{'ab'[side]})",
            }
            picture.append(_tag("rect", **bar))
    return picture


def _shares(value: Value, totals: list[int]) -> list[float]:
    return [value.a / totals[0], value.b / totals[1]]


def _render_samples(diff: Diff) -> list[Element]:
    found: list[Element] = []
    for kind, some in diff.samples.items():
        if some:
            found.append(_tag("h2", f"{KINDS[kind]}, the first {len(some):,}"))
            found.append(_wide(_table(["rows", *_sample_head(diff)], [_render_sample(diff, each) for each in some])))
    return found


def _sample_head(diff: Diff) -> list[str]:
    return ["item", "A and B"] if diff.shows_data else ["members that differ"]


def _render_sample(diff: Diff, sample: Sample) -> list[Element | str | int | None]:
    rows = name_rows(sample.pair.row_a, sample.pair.row_b)
    if not diff.shows_data or sample.key is None:
        return [rows, ", ".join(sample.pair.changed)]
    if sample.before is None or sample.after is None:
        body = _tag("code", shorten(sample.before if sample.after is None else sample.after))
    else:
        body = _tag("div")
        for place, before, after in find_changes(sample.before, sample.after):
            body.append(_tag("div", _tag("code", f"{place}: {shorten(before)} → {shorten(after)}")))
    return [rows, f"{sample.key.pk} {sample.key.prediction_id}", body]

"""Render a diff as JSON values and as text. Keys, texts of bodies and bodies are included only if data is requested."""

from __future__ import annotations

from typing import Any

from enrich.cli.rejects import shorten
from enrich.cli.statistics import render_verdicts
from enrich.cli.table import BOLD, DIM, GREEN, RED, YELLOW, Paint, plain, printable, render_instant, render_table
from enrich.cli.terminal import render_counts
from enrich.diff.compare import Change, MemberDiff, Numbers
from enrich.diff.diff import Diff, ItemKey, Sample, SideSummary
from enrich.diff.members import Kind
from enrich.plan.samples import find_changes

STABLE, SHIFTED = 0.1, 0.25  # below and above these, a PSI is usually taken as stable and as shifted
FEW = 200  # with fewer items a PSI has no verdict
HIDDEN = "hidden; --show-data shows it"
KINDS = {"changed": "Changed", "only_in_a": "Only in A", "only_in_b": "Only in B"}


def describe_diff(diff: Diff) -> dict[str, Any]:
    """Return a diff as JSON values."""
    counts = diff.counts
    return {
        "dataset": diff.dataset,
        "a": _describe_side(diff.a),
        "b": _describe_side(diff.b),
        "counts": {
            "same": counts.same,
            "changed": counts.changed,
            "only_in_a": counts.only_in_a,
            "only_in_b": counts.only_in_b,
        },
        "differ": counts.differ,
        "members": [_describe_member(diff, each) for each in diff.members],
        "samples": {kind: [_describe_sample(each) for each in some] for kind, some in diff.samples.items()},
        "shows_data": diff.shows_data,
        "guards": [verdict.describe() for verdict in diff.verdicts],
    }


def _describe_side(side: SideSummary) -> dict[str, Any]:
    return {
        "name": side.name,
        "run": side.run,
        "as_of": render_instant(side.as_of_ms),
        "rows": side.rows,
        "items": side.items,
        "rejected": side.rejected,
        "reasons": side.reasons,
        "notes": side.notes,
    }


def _describe_member(diff: Diff, each: MemberDiff) -> dict[str, Any]:
    numbers = histogram = categories = None
    if each.numbers:
        a, b = map(_describe_numbers, each.numbers)
        numbers = {"a": a, "b": b}
    if each.histogram:
        histogram = dict(zip(("edges", "a", "b"), each.histogram, strict=True))
    if each.distinct:
        top = [{"value": name_value(diff, each, n), "a": one.a, "b": one.b} for n, one in enumerate(each.top)]
        categories = {"distinct_a": each.distinct[0], "distinct_b": each.distinct[1], "top": top}
    return {
        "member": each.member.place,
        "kind": each.member.kind,
        "changed": each.changed,
        "nulls_a": each.nulls[0],
        "nulls_b": each.nulls[1],
        "psi": each.psi,
        "numbers": numbers,
        "histogram": histogram,
        "categories": categories,
        "largest_changes": [_describe_change(diff, change) for change in each.largest],
    }


def _describe_numbers(numbers: Numbers) -> dict[str, Any]:
    return {"values": numbers.values, "mean": numbers.mean, "quantiles": numbers.quantiles}


def _describe_change(diff: Diff, change: Change) -> dict[str, Any]:
    key = diff.keys.get(change.row_a)
    return {
        "row_a": change.row_a,
        "row_b": change.row_b,
        "before": change.before,
        "after": change.after,
        "pk": key.pk if key else None,
        "prediction_id": key.prediction_id if key else None,
    }


def _describe_sample(sample: Sample) -> dict[str, Any]:
    return {
        "row_a": sample.pair.row_a,
        "row_b": sample.pair.row_b,
        "changed": list(sample.pair.changed),
        "pk": sample.key.pk if sample.key else None,
        "prediction_id": sample.key.prediction_id if sample.key else None,
        "before": sample.before,
        "after": sample.after,
    }


def name_value(diff: Diff, each: MemberDiff, n: int) -> str:
    """Return the n-th value of a category, or its place by frequency if texts are hidden; booleans are always shown."""
    value = each.top[n].value
    return value if diff.shows_data or value in {"true", "false"} else f"value {n + 1}"


def render_diff(diff: Diff, paint: Paint = plain) -> str:
    """Render a diff as text."""
    lines = [paint(f"{diff.dataset}: what A and B would serve", BOLD)]
    for side in (diff.a, diff.b):
        as_of = f", as of {render_instant(side.as_of_ms)}" if side.as_of_ms is not None else ""
        lines.append(f"  {side.label}  {printable(side.name)}{as_of}")
        lines += [f"     {paint(printable(note), YELLOW)}" for note in side.notes]
    counts = diff.counts
    rows: list[list[object]] = [
        ["rows", diff.a.rows, diff.b.rows, None],
        ["rejected", diff.a.rejected, diff.b.rejected, _render_reasons(diff)],
        ["items", diff.a.items, diff.b.items, None],
        ["same", counts.same, counts.same, None],
        ["changed", counts.changed, counts.changed, None],
        ["only here", counts.only_in_a, counts.only_in_b, None],
    ]
    shown = [[*row[:3], row[3] or ""] for row in rows]
    lines += ["", render_table(["", "A", "B", ""], shown, paint=paint)]
    if diff.verdicts:
        lines += ["", paint(render_judgement(diff), BOLD)]
        lines += render_verdicts([verdict.describe() for verdict in diff.verdicts], paint)
    if diff.members:
        lines += ["", render_table(_HEAD, [_render_member(diff, each) for each in diff.members], paint=paint)]
    for each in diff.members:
        lines += _render_details(diff, each, paint)
    for kind, some in diff.samples.items():
        if some:
            lines += ["", paint(f"{KINDS[kind]}, the first {len(some):,}", BOLD)]
            lines += [line for sample in some for line in _render_sample(sample, paint)]
    if not diff.shows_data:
        lines += ["", paint("keys, texts and bodies are hidden; --show-data shows them", DIM)]
    return "\n".join([*lines, "", paint(render_summary(diff), BOLD)])


_HEAD = ["member", "changed", "psi", "nulls A", "nulls B", "mean A", "mean B", "p50 A", "p50 B", "p95 A", "p95 B"]


def render_summary(diff: Diff) -> str:
    """Render the last line: `Diff: 940 same, 3 changed, 1 only in A, 2 only in B, 0 and 4 rejected`."""
    counts = diff.counts
    return (
        f"Diff: {counts.same:,} same, {counts.changed:,} changed, {counts.only_in_a:,} only in A, "
        f"{counts.only_in_b:,} only in B, {diff.a.rejected:,} and {diff.b.rejected:,} rejected"
    )


def render_judgement(diff: Diff) -> str:
    """Render what the guards say of B, in a sentence."""
    failed = sum(verdict.passed is False for verdict in diff.verdicts)
    what = f"hold B: {failed} of {len(diff.verdicts)} failed" if failed else "publish B"
    return f"Compared with A, the dataset's guards would {what}"


def _render_reasons(diff: Diff) -> str:
    found = [f"{side.label}: {render_counts(side.reasons)}" for side in (diff.a, diff.b) if side.reasons]
    return "; ".join(found)


def _render_member(diff: Diff, each: MemberDiff) -> list[object]:
    row: list[object] = [each.member.place, each.changed, render_psi(diff, each.psi), *each.nulls]
    if each.numbers:
        a, b = each.numbers
        row += [render_number(a.mean), render_number(b.mean)]
        for name in ("p50", "p95"):
            row += [render_number(side.quantiles.get(name)) for side in (a, b)]
        return row
    return [*row, *([None] * 6)]


def render_psi(diff: Diff, psi: float | None) -> str | None:
    """Render a population stability index with its verdict."""
    return None if psi is None else f"{psi:.3f} {judge_psi(diff, psi)}".rstrip()


def judge_psi(diff: Diff, psi: float) -> str:
    """Return `shifted`, `moved`, or nothing; nothing also for so few items that chance alone moves the index."""
    if psi < STABLE or min(diff.a.items, diff.b.items) < FEW:
        return ""
    return "shifted" if psi > SHIFTED else "moved"


def render_number(value: float | None) -> str | None:
    """Render a number in six digits."""
    return None if value is None else f"{value:.6g}"


def _render_details(diff: Diff, each: MemberDiff, paint: Paint) -> list[str]:
    """Render the largest changes of a number, and the values of a category whose shares differ."""
    lines: list[str] = []
    place = printable(each.member.place)
    if each.largest:
        lines += ["", paint(f"Largest changes of {place}", BOLD)]
        rows = [
            [render_number(one.before), render_number(one.after), _signed(one), name_rows(one.row_a, one.row_b)]
            + ([_name(diff.keys[one.row_a])] if one.row_a in diff.keys else [])
            for one in each.largest
        ]
        lines.append(render_table(["A", "B", "change", "rows", *(["item"] if diff.keys else [])], rows, paint=paint))
    if each.member.kind is Kind.CATEGORY and each.distinct and any(one.a != one.b for one in each.top):
        lines += ["", paint(f"Values of {place}: {each.distinct[0]:,} in A, {each.distinct[1]:,} in B", BOLD)]
        values = [[shorten(name_value(diff, each, n)), one.a, one.b] for n, one in enumerate(each.top)]
        lines.append(render_table(["value", "A", "B"], values, paint=paint))
    return lines


def _signed(change: Change) -> str:
    return f"{change.after - change.before:+.6g}"


def name_rows(row_a: int | None, row_b: int | None) -> str:
    """Name the rows of an item in both outputs."""
    found = [f"{label} row {row}" for label, row in (("A", row_a), ("B", row_b)) if row is not None]
    return ", ".join(found)


def _name(key: ItemKey) -> str:
    return printable(f"{key.pk} {key.prediction_id}")


def _render_sample(sample: Sample, paint: Paint) -> list[str]:
    rows = name_rows(sample.pair.row_a, sample.pair.row_b)
    if sample.key is None:
        changed = f": {', '.join(map(printable, sample.pair.changed))}" if sample.pair.changed else ""
        return [f"  {rows}{changed}"]
    name = f"  {_name(sample.key)}  ({rows})"
    if sample.before is None or sample.after is None:
        return [name, f"      {shorten(sample.before if sample.after is None else sample.after)}"]
    return [
        name,
        *(
            f"      {printable(place)}: {paint(shorten(before), RED)} -> {paint(shorten(after), GREEN)}"
            for place, before, after in find_changes(sample.before, sample.after)
        ),
    ]

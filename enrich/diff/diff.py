"""Compare two outputs of a dataset: read, join and render each as a run does, then join them by item key.

No item, ledger record, lease or reject is written: the stages run over the copy-on-write views of `enrich.plan`. Only
metadata that is too old is fetched, as a plan does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enrich.dataset.definition import Dataset, Tolerated
from enrich.dataset.field_types import require_types
from enrich.dataset.suggestions import suggest
from enrich.diff.compare import Comparison, Counts, MemberDiff, Pair
from enrich.diff.extract import Extracted, extract_side, pin_side, render_rows
from enrich.diff.sides import Side, find_sides
from enrich.errors import Failed, Overwritten, Stopped
from enrich.guard.evaluate import Reference, Verdict, evaluate
from enrich.guard.statistics import Summary
from enrich.ledger.lease import Lease
from enrich.plan.plan import open_overlay
from enrich.read.s3_object import Part
from enrich.run.check import is_tolerated
from enrich.run.context import RunContext
from enrich.run.failures import FAILURES
from enrich.run.lifecycle import open_context
from enrich.services import Services


@dataclass(frozen=True, slots=True)
class SideSummary:
    """What one output would serve.

    Attributes:
        label: `A` or `B`.
        name: the name of the output, or of the run with its output.
        run: the number of the run that was given; None for an output.
        as_of_ms: of that run.
        rows: read.
        items: that would be served.
        rejected: rows that would be rejected.
        reasons: reject reason -> rows.
        notes: what a run of it would do, other than publish it.
    """

    label: str
    name: str
    run: int | None
    as_of_ms: int | None
    rows: int
    items: int
    rejected: int
    reasons: dict[str, int]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class ItemKey:
    """The key of an item."""

    pk: str
    prediction_id: str


@dataclass(frozen=True, slots=True)
class Sample:
    """An item that differs. Its key and both bodies are None unless data is requested."""

    pair: Pair
    key: ItemKey | None = None
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True)
class Diff:
    """How two outputs differ.

    Attributes:
        dataset: the name of their dataset.
        a: the first output.
        b: the second output.
        counts: of items.
        members: the body's members, in its order.
        keys: the keys of the items in `members[].largest`, by their row in A; empty without `shows_data`.
        samples: `changed`, `only_in_a`, `only_in_b`.
        shows_data: keys, texts and bodies are included.
        verdicts: of the dataset's guards on B, compared with A.
    """

    dataset: str
    a: SideSummary
    b: SideSummary
    counts: Counts
    members: list[MemberDiff]
    samples: dict[str, list[Sample]]
    keys: dict[int, ItemKey] = field(default_factory=dict)
    shows_data: bool = False
    verdicts: list[Verdict] = field(default_factory=list)


def diff(
    services: Services,
    a: str,
    b: str,
    *,
    dataset: str | None = None,
    members: Sequence[str] = (),
    show: int = 0,
    show_data: bool = False,
    own_metadata: bool = False,
) -> Diff:
    """Compare two outputs.

    Args:
        services: the stack's services.
        a: a run, an output on S3, or a path (`enrich.diff.sides`).
        b: the same of the other output.
        dataset: the dataset's name, if neither a nor b names it.
        members: places of the body's members to describe; none: all.
        show: number of largest changes of each number, and of samples of each kind.
        show_data: include the keys and bodies of these samples.
        own_metadata: join a run with the metadata that it used; else both are joined with current metadata.

    Raises:
        Failed: an output is missing, was replaced, or can't be read; or neither has an item.
        Stopped: a service that is needed is unavailable.
    """
    definition, one, other = find_sides(services, a, b, dataset)
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        directory = Path(folder)
        inner = open_overlay(services, definition.name, directory)
        lease = inner.acquire(definition.name)
        if lease is None:
            raise Stopped(f"dataset {definition.name}: its lease was acquired meanwhile; try again")
        sides = _Sides(inner, lease, directory, own_metadata)
        extracted = {side.label: sides.extract(side) for side in (one, other)}
        _check_members(members, [member.place for member in extracted["A"].members])
        summaries = [_summarize(side, extracted[side.label], definition.tolerated) for side in (one, other)]
        if not any(each.items for each in extracted.values()):
            why = "; ".join(f"{each.label}, {each.name}: {' '.join(each.notes)}" for each in summaries)
            raise Failed(f"dataset {definition.name}: there is nothing to compare, neither output has an item: {why}")
        services.progress.stage(one.run, "compare")
        with Comparison(extracted["A"], extracted["B"], directory) as comparison:
            pairs = comparison.pairs(show)
            diffs = [each for each in comparison.members(show) if not members or each.member.place in members]
            counts = comparison.counts()
            result = Diff(
                definition.name,
                summaries[0],
                summaries[1],
                counts,
                diffs,
                {kind: [Sample(pair) for pair in some] for kind, some in pairs.items()},
                verdicts=_judge(definition, counts, extracted, other),
            )
        return sides.add_data(result, one, other) if show_data else result


class _Sides:
    """Reads the two outputs over views that keep all writes in a folder."""

    def __init__(self, inner: Services, lease: Lease, directory: Path, own_metadata: bool) -> None:
        self._services, self._lease, self._directory = inner, lease, directory
        self._own_metadata = own_metadata
        self._metadata: dict[str, dict[str, str]] = {}  # by side
        self._parts: dict[str, Sequence[Part]] = {}

    def extract(self, side: Side) -> Extracted:
        """Read, join and render an output.

        Raises:
            Failed: it can't be read or rendered.
        """
        scratch = self._directory / side.label
        scratch.mkdir()
        with self._open(side, scratch) as context:
            shared = None if self._own_metadata else next(iter(self._metadata.values()), None)
            parts, metadata = pin_side(context, side, shared)
            self._parts[side.label], self._metadata[side.label] = parts, metadata
            context.run = replace(context.run, metadata=metadata)
            require_types(context.dataset)
            self._services.progress.stage(side.run, "read")
            return extract_side(context, parts, scratch)

    def add_data(self, result: Diff, one: Side, other: Side) -> Diff:
        """Add keys and bodies to samples, and keys to the largest changes: their rows are rendered again."""
        changes = [change for each in result.members for change in each.largest]
        pairs = [sample.pair for some in result.samples.values() for sample in some]
        rows_a = {change.row_a for change in changes} | {pair.row_a for pair in pairs if pair.row_a is not None}
        a = self._render(one, rows_a)
        b = self._render(other, {pair.row_b for pair in pairs if pair.row_b is not None})

        def fill(sample: Sample) -> Sample:
            before = a.get(sample.pair.row_a) if sample.pair.row_a is not None else None
            after = b.get(sample.pair.row_b) if sample.pair.row_b is not None else None
            pk, prediction_id, _ = before or after or ("", "", "")
            bodies = [None if each is None else json.loads(each[2]) for each in (before, after)]
            return Sample(sample.pair, ItemKey(pk, prediction_id), *bodies)

        samples = {kind: [fill(sample) for sample in some] for kind, some in result.samples.items()}
        keys = {change.row_a: ItemKey(*a[change.row_a][:2]) for change in changes}
        return replace(result, samples=samples, keys=keys, shows_data=True)

    def _render(self, side: Side, rows: set[int]) -> dict[int, tuple[str, str, str]]:
        scratch = self._directory / f"{side.label}-samples"
        scratch.mkdir()
        with self._open(side, scratch) as context:
            context.run = replace(context.run, metadata=self._metadata[side.label])
            return render_rows(context, self._parts[side.label], rows)

    @contextmanager
    def _open(self, side: Side, scratch: Path) -> Iterator[RunContext]:
        """Open what the stages of a run share, for one side; what would end the run as failed ends the diff."""
        # notes of keys are stored by the run's order, and the two sides must not share them
        run = replace(side.run, generation=1, as_of_ms=ord(side.label))
        if not self._own_metadata:
            run = replace(run, metadata={})
        try:
            with open_context(self._services, self._lease, run, scratch) as context:
                yield context
        except Overwritten as error:
            raise Failed(
                f"{side.label} is {side.name}: the output was overwritten or deleted, and its bytes are gone: "
                f"{error}. Compare the current object by its s3:// address"
            ) from error
        except FAILURES as error:
            raise Failed(f"{side.label} is {side.name}: {error}") from error


def _judge(dataset: Dataset, counts: Counts, extracted: Mapping[str, Extracted], other: Side) -> list[Verdict]:
    """Return what the dataset's guards say of B, as if A was what is served and the run before it."""
    if not other.run.kind.is_guarded:  # B is a replay of rejects
        return []
    a, b = (extracted[label].summary for label in "AB")
    both = counts.same + counts.changed
    b = replace(b, changed=counts.changed / both if both else None)
    reference = Reference("A", Summary.load(a.dump())) if a.rows else None  # as the ledger keeps them
    return evaluate(dataset.guards, b, reference)


def _check_members(asked: Sequence[str], known: Sequence[str]) -> None:
    for place in asked:
        if place not in known:
            raise Failed(f"the body has no member {place!r}; {suggest(place, known)}")


def _summarize(side: Side, extracted: Extracted, tolerated: Tolerated) -> SideSummary:
    rejected = sum(extracted.reasons.values())
    notes = []
    if not extracted.rows:
        notes.append("it has no rows.")
    elif rejected == extracted.rows:
        notes.append(f"all of its {rejected:,} rows are rejected: its run publishes nothing.")
    elif not is_tolerated(tolerated, extracted.rows, rejected):
        notes.append(f"{rejected:,} rows are rejected, more than the dataset tolerates: its run fails.")
    if repeated := extracted.rows - rejected - extracted.items:
        notes.append(f"{repeated:,} rows repeat an earlier one, and count once.")
    earlier = side.earlier
    return SideSummary(
        side.label,
        side.name,
        earlier.run if earlier else None,
        earlier.as_of_ms if earlier else None,
        extracted.rows,
        extracted.items,
        rejected,
        extracted.reasons,
        notes,
    )

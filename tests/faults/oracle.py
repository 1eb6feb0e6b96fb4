"""What must be true at the end of a history, calculated from the outputs and not from their runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from enrich.ledger.records import Run, newest_first
from enrich.ledger.run_state import RunState
from enrich.outbox.lineage import KIND as LINEAGE
from enrich.outbox.run_event import KIND as RUN_EVENT
from serve.item import Order
from tests.faults.history import MOST_GROWTH, Story
from tests.faults.served import check_ranked, check_table

GO_FIRST = {"restore", "removal"}  # kinds of runs
PROMPT = 3 * 3600  # seconds within which an output is run if nothing fails


def check(story: Story) -> list[str]:
    """Return every promise that the history broke."""
    problems = story.world.broken[:3]
    for name in story.datasets:
        runs = story.runs(name)
        problems += [f"{name}: run {number} is still pending" for number in story.pending(name)]
        problems += check_states(story, name, runs)
        for run in runs:
            at = f"{run.dataset} run {run.run} ({run.kind})"
            checks = [check_counts(story, run), check_rejects(story, run), check_metadata(story, run)]
            problems += [f"{at}: {problem}" for found in checks for problem in found]
        problems += check_guards(story, name, runs)
        problems += check_superseded(story, name, runs)
        problems += check_withdrawn(story, name, runs)
        problems += check_oldest_first(name, runs)
        problems += check_writes(story, name, runs)
        problems += check_reported(story, name, runs)
        problems += check_pruned(story, name, runs)
        if not problems:
            problems += check_table(story, name, runs)
            problems += check_ranked(story, name)
    problems += [meter.excess for meter in (story.jobs.meters if story.jobs else ()) if meter.excess]
    if story.gentle:
        problems += check_gentle(story)
    return problems


def check_states(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """Every output was run when it had to be, and once; outputs that can't be published were not."""
    outputs = [run.identity for run in runs if run.kind == "output"]
    for identity in {each for each in outputs if outputs.count(each) > 1}:
        yield f"{name}: output {identity} was taken in {outputs.count(identity)} times"
    states = {run.identity: run.state for run in reversed(runs) if run.kind == "output"}
    current = {put.object_key: put for put in story.puts if put.dataset == name}
    for put in current.values():  # they arrive within three days, so none is too old for the sweep
        wanted = {"failed" if put.is_bad(story.datasets[name]) else "done"}
        if story.datasets[name].guards and wanted == {"done"}:  # `check_guards` checks which
            wanted = {"done", "held", "rejected"}
        wanted |= {"withdrawn" for run in runs if run.kind == "removal" and run.identity == put.identity}
        if states.get(put.identity) not in wanted:
            yield f"{name}: output {put.identity} should be {wanted}, and is {states.get(put.identity)}"


def check_guards(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """An output that fails a guard is held, and published only if an operator approved it; no other output is held."""
    numbered, references = {run.run: run for run in runs}, _without_surpassed(story, runs)
    held = {run.run for run in runs if run.state == "held"}
    if held != (marked := {each.run for each in story.ledger.fetch_held(name)}):
        yield f"{name}: runs {held} are held, and {marked} are marked as held"
    for run in runs if story.datasets[name].guards else []:
        at, put = f"{name} run {run.run} ({run.kind})", story.find_put(run)
        statistics = story.ledger.get_statistics(name, run.run)
        if run.kind not in {"output", "replay", "refresh"} or put is None or put.rows is None or statistics is None:
            if run.state in {"held", "rejected"} or run.shifts:
                yield f"{at} is {run.state} for {run.shifts}"
            continue
        rows, of = len(put.rows) - sum(put.rejected()), numbered.get(statistics.reference or 0)
        before = of.measured or 0 if of else rows
        shifted = (put.is_shifted and rows > 0) or abs(rows - before) > MOST_GROWTH * before
        if of and (of.state not in {"done", "withdrawn"} or not of.measured):
            yield f"{at} is compared with run {of.run}, which is {of.state}"
        elif not of and (missed := [each.run for each in references if _is_earlier_reference(each, run)]):
            yield f"{at} is compared with nothing, and runs {missed} were closed before"
        if run.measured not in {rows, None} or (run.measured is not None and bool(run.shifts) != shifted):
            yield f"{at}: {run.shifts} of {run.measured} rows, and of {rows} it should be {shifted}, after {before}"
        late = (run.expires_at or 0) * 1000 <= (run.decided_ms or 0)
        if run.decided_ms is not None and shifted and not run.approved and not late:
            yield f"{at} was published, and fails {run.shifts}"
        if run.state in {"held", "rejected"} and (not shifted or run.approved or run.decided_ms or story.applied(run)):
            yield f"{at} is {run.state}: {run.shifts}, approved: {run.approved}, began to write at {run.decided_ms}"


def _is_earlier_reference(run: Run, later: Run) -> bool:
    """Return whether a run was closed, with statistics, before another began."""
    done = run.state == "done" and run.kind not in {"removal", "rejects"} and bool(run.measured)
    return done and (run.ended_ms or 0) < (later.started_ms or 0)


def check_counts(story: Story, run: Run) -> Iterator[str]:
    """A run's as_of is its output's instant; its counts add up to its rows, and agree with what was done."""
    if run.state not in {"done", "withdrawn"} or run.kind in {"removal", "rejects"} or run.decided_ms is None:
        return
    put = story.find_put(run)
    if put is None or put.rows is None:
        yield f"ran over {run.identity}, which was never written"
        return
    if run.as_of_ms != put.as_of * 1000:
        yield f"as of {run.as_of_ms}, and its output says {put.as_of * 1000}"
    if run.state == "withdrawn" and run.stage != "close":
        return
    good = len(put.rows) - sum(put.rejected())
    if run.counts.read != len(put.rows):
        yield f"counts add up to {run.counts.read}, and {len(put.rows)} rows were read"
    if run.counts.rejected != sum(put.rejected()) or sum(run.reasons.values()) != sum(put.rejected()):
        yield f"{run.counts.rejected} rejected for {run.reasons}, and it should be {sum(put.rejected())}"
    expired = good if put.expires_at <= run.decided_ms / 1000 else 0
    if run.counts.expired != expired:
        yield f"{run.counts.expired} expired, and it should be {expired}"
    own = {each.at for each in story.applied(run) if each.body is not None}
    # a run that starts writing again, because its decisions were lost, can be superseded then
    if run.counts.written != len(own) and not (story.disturbed and run.counts.written < len(own)):
        yield f"{run.counts.written} written, and the table took {len(own)}"


def check_superseded(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """A prediction is superseded if and only if a newer output had named its item before."""
    done = [run for run in runs if run.state == "done" and run.kind != "rejects"]
    began = [run for run in runs if run.decided_ms is not None and run.kind != "rejects"]
    plain = story.datasets[name].source.output == "partial" and not story.disturbed and len(done) == len(began)
    if not plain or any(run.kind == "removal" for run in runs):
        return
    named = {run.run: story.good_keys(run) for run in done}
    for run in done:
        before = [each for each in done if each.order > run.order and (each.ended_ms or 0) <= (run.decided_ms or 0)]
        newer = set[tuple[str, str]]().union(*(named[each.run] for each in before))
        superseded = 0 if run.counts.expired else len(named[run.run] & newer)
        if run.counts.superseded != superseded:
            yield f"{name} run {run.run}: {run.counts.superseded} superseded, and it should be {superseded}"


def check_withdrawn(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """No effect of runs over an output before its withdrawal remains, unless an operator replays it."""
    for removal in (run for run in runs if run.kind == "removal"):
        over_it = [run for run in runs if run.identity == removal.identity and run is not removal]
        numbers = {run.run for run in over_it}
        rejects = []
        for run in reversed(runs):  # also the rejects of rejects
            if run.kind == "rejects" and run.of_run in numbers:
                numbers.add(run.run)
                rejects.append(run)
        for run in over_it + rejects:
            deleted = story.dynamo.pruned_at.get((name, run.sk), float("inf")) < removal.queued_ms / 1000
            if run.run < removal.run and run.state == "done" and run.kind != "removal" and not deleted:
                yield f"{name} run {run.run} is done, and run {removal.run} withdrew its output"
        asked = {run.run for run in over_it if run.kind in {"replay", "refresh"}}
        for run in over_it:
            if run.kind == "restore" and run.run > removal.run and not asked & set(range(removal.run, run.run)):
                yield f"{name} run {run.run} restored an output that run {removal.run} withdrew"


def check_oldest_first(name: str, runs: list[Run]) -> Iterator[str]:
    """No run begins to write before those that were queued earlier; those that restore a table can come between."""
    began = [run for run in reversed(runs) if run.kind not in GO_FIRST and run.decided_ms is not None]
    began = [run for run in began if not run.approved]
    for earlier, later in pairwise(began):
        if (earlier.decided_ms or 0) > (later.decided_ms or 0):
            yield f"{name} run {later.run} began before run {earlier.run}, which was queued first"


def check_rejects(story: Story, run: Run) -> Iterator[str]:
    """Each rejected row is saved once, unchanged, with its place and reason."""
    put = story.find_put(run)
    if put is None or put.rows is None or run.kind == "removal":
        return
    too_many = run.state == "failed" and put.rejected_too_many(story.datasets[put.dataset])
    too_many = too_many and not put.lacks_part and not put.is_from_the_future
    if not too_many and (run.state != "done" or run.decided_ms is None):
        return
    wanted = [[row, prediction] for row, prediction in enumerate(put.rows) if put.rejected()[row]]
    lines = story.rejects(run)
    if sorted(([line["row"], line["prediction"]] for line in lines), key=str) != sorted(wanted, key=str):
        yield f"kept {lines} as rejects, and it should be {wanted}"
    if not all(line["reason"] and line["detail"] for line in lines):
        yield f"rejects lack a reason: {lines}"
    if too_many and (run.decided_ms is not None or story.applied(run)):
        yield "began to write though it has more rejects than are tolerated"


def check_metadata(story: Story, run: Run) -> Iterator[str]:
    """A run joins metadata that was fetched for it, or is young enough."""
    if not run.metadata or run.kind == "removal":
        return
    fetched_at, _ = story.athena.fetched[run.metadata["m"]]
    max_age = story.datasets[run.dataset].metadata["m"].max_age.total_seconds() if run.kind != "refresh" else 0
    if fetched_at < run.queued_ms / 1000 - max_age:
        yield f"joined rows fetched {run.queued_ms / 1000 - fetched_at} s before it was queued"


def check_writes(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """Every write that the table applied has the body of its run's output, and its expiry."""
    numbered = {run.run: run for run in runs}
    snapshot = story.datasets[name].source.output == "snapshot"
    for each in story.items.applied:
        if not each.at[0].startswith(f"{name}#"):
            continue
        run = numbered[Order.parse(each.order).run]
        put = story.find_put(run)
        rows = dict(zip(put.item_keys(), [row[2] for row in put.rows or []], strict=True)) if put else {}
        if each.body is None:
            if (each.at in rows) != (run.kind == "removal") or (run.kind != "removal" and not snapshot):
                yield f"run {run.run} ({run.kind}) removed {each.at}"
            if each.expires_at < each.hides_until and not story.lost:
                yield f"run {run.run} removed {each.at} with a tombstone that expires before what it hides"
            continue
        if put is None or each.at not in put.good_keys() or each.body != story.render(run, rows[each.at]):
            yield f"run {run.run} wrote {each.body} to {each.at}, and its output says {rows.get(each.at)!r}"
        elif each.expires_at != put.expires_at:
            yield f"run {run.run} wrote {each.at} until {each.expires_at}, and it should be {put.expires_at}"


def check_reported(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """The bus got each state in which a run was closed or held, with its counts, and no other; no event is unsent."""
    if story.bus is None:
        return
    if left := story.unsent(name):
        yield f"{name}: {left} events were never sent"
    reported = {(each["run"], each["state"]): each for each in story.bus.details(RUN_EVENT) if each["dataset"] == name}
    kept = {
        (int(sk.removeprefix("run#")), state): row
        for (dataset, sk, state), row in story.dynamo.states.items()
        if dataset == name and not RunState(state).is_open
    }
    approved = {number for number, state in reported if state == "approved"}
    if approved != {run.run for run in runs if run.approved}:
        yield f"{name}: runs {approved} were reported as approved"
    reported = {at: each for at, each in reported.items() if at[1] != "approved"}
    for number, state in reported.keys() ^ kept.keys():
        was = "was reported, and never committed" if (number, state) in reported else "was never reported"
        yield f"{name} run {number}: that it is {state} {was}"
    for number, state in reported.keys() & kept.keys():
        counts = {each: int(value["N"]) for each, value in kept[number, state]["counts"]["M"].items()}
        if reported[number, state]["counts"] != counts:
            yield f"{name} run {number} is {state}: reported {reported[number, state]['counts']}, expected {counts}"
    lineage = [each for each in story.bus.details(LINEAGE) if each["job"]["name"] == name]
    began = [each for each in runs if each.started_ms is not None]
    wanted = Counter({"START": len(began), "COMPLETE": sum(state == "done" for _, state in kept)})
    found = Counter(kind for kind, _ in {(each["eventType"], each["run"]["runId"]) for each in lineage})
    for kind, number in wanted.items():
        if found[kind] != number:
            yield f"{name}: OpenLineage has {found[kind]} runs with {kind}, expected {number}"


def check_pruned(story: Story, name: str, runs: list[Run]) -> Iterator[str]:
    """The ledger lacks no run that waits or whose items were alive, nor the newest one that was published."""
    for run in runs:
        at, put = f"{name} run {run.run}", story.find_put(run)
        pruned_at = story.dynamo.pruned_at.get((name, run.sk))
        if pruned_at is None:
            continue
        if not run.state.is_closed:
            yield f"{at} was deleted while it was {run.state}"
        if put and run.decided_ms is not None and run.kind != "removal" and put.expires_at > pruned_at:
            yield f"{at} was deleted at {pruned_at}, and its items expire at {put.expires_at}"
    published = newest_first(_without_surpassed(story, runs))
    if published and story.is_pruned(published[0]):
        yield f"{name} run {published[0].run} was deleted, and is the newest that was published"


def _without_surpassed(story: Story, runs: list[Run]) -> list[Run]:
    """Return the runs, without those that were deleted if a withdrawal can have made one of them the newest."""
    withdraws = any(run.kind == "removal" for run in runs)
    return [run for run in runs if not (withdraws and story.is_pruned(run))]


def check_gentle(story: Story) -> Iterator[str]:
    """If nothing failed, nothing waits long, and only outputs that can't be published reach the dead-letter queue."""
    runs = [run for name in story.datasets for run in story.runs(name)]
    for run in runs:
        if (
            run.ended_ms
            and not run.approved
            and run.state != "rejected"
            and run.ended_ms - run.queued_ms > PROMPT * 1000
        ):
            yield f"{run.dataset} run {run.run} took {(run.ended_ms - run.queued_ms) / 1000} s, and nothing failed"
    bad = {put.object_key for put in story.puts if put.is_bad(story.datasets[put.dataset])}
    current = {put.object_key: put for put in story.puts}
    removed = {run.identity for run in runs if run.kind == "removal"}
    for object_key, put in current.items():
        failed = put.is_bad(story.datasets[put.dataset]) and put.identity not in removed
        if failed and not any(json.dumps(object_key) in sent.body for sent in story.queue.dead):
            yield f"{object_key} can't be published, and no message of it is in the dead-letter queue"
    for sent in story.queue.dead:
        if not any(json.dumps(object_key) in sent.body for object_key in bad):
            yield f"nothing failed, and yet a message is in the dead-letter queue: {sent.body}"

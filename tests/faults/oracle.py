"""What must be true when a history has come to rest, told from the outputs alone, and not from how they were run."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from enrich.records import Run
from serve.item import BODY, EXPIRES_AT, build_pk
from tests.faults.history import TTL, Put, Story
from tests.faults.model_engine import render_body, render_reason

LIFE = TTL.total_seconds()


def check(story: Story) -> list[str]:
    """Return every promise that the history broke."""
    problems: list[str] = []
    for name in story.datasets:
        runs = story.ledger.fetch_runs(name)
        problems += [f"{name}: run {each.run} is still pending" for each in story.ledger.fetch_pending(name)]
        problems += check_states(story, name, runs)
        problems += [problem for run in runs for problem in check_counts(story, run)]
        if not problems:
            problems += check_table(story, name, runs)
    if story.gentle and any(put.rows is None for put in story.puts) is False and story.queue.dead:
        problems.append(f"nothing failed, and yet messages are in the dead-letter queue: {story.queue.dead}")
    return problems


def check_states(story: Story, name: str, runs: list[Run]) -> list[str]:
    """Every output that lies there now was run, once it was worth it."""
    problems = []
    states = {run.identity: run.state for run in reversed(runs) if run.kind == "output"}
    current = {put.object_key: put for put in story.puts if put.dataset == name}
    for put in current.values():
        state = states.get(put.identity)
        arrived = float(put.number)  # outputs arrive within three days, so none is too old for the sweep
        wanted = {"failed"} if put.rows is None else {"done", "withdrawn"}
        if state not in wanted:
            problems.append(f"{name}: output {put.identity} ({arrived:.0f}) should be {wanted}, and is {state}")
    return problems


def check_counts(story: Story, run: Run) -> list[str]:
    """The counts of a run add up to its rows, and say what was really done."""
    if run.state not in {"done", "withdrawn"} or run.kind in {"removal", "rejects"} or run.decided_ms is None:
        return []
    put = find_put(story, run)
    if put is None or put.rows is None:
        return [f"run {run.run} of {run.dataset} ran over {run.identity}, which was never written"]
    if run.state == "withdrawn" and run.stage != "close":
        return []
    named = rejected_rows(put)
    problems = []
    at = f"{run.dataset} run {run.run} ({run.kind})"
    if run.counts.read != len(put.rows):
        problems.append(f"{at}: counts add up to {run.counts.read}, and {len(put.rows)} rows were read")
    if run.counts.rejected != sum(named):
        problems.append(f"{at}: {run.counts.rejected} rejected, and it should be {sum(named)}")
    if sum(run.reasons.values()) != sum(named):
        problems.append(f"{at}: reasons {run.reasons}, and {sum(named)} rows should be rejected")
    applied = {key for order, key, tombstone in story.items.applied if order == run.order.text and not tombstone}
    own = {key for key in applied if key[0].startswith(f"{run.dataset}#")}
    # a run that begins to write anew, since what its decisions rested on was lost, may be superseded then
    reopened = story.lost or story.dynamo.table_id != "table-1"
    if run.counts.written != len(own) and not (reopened and run.counts.written < len(own)):
        problems.append(f"{at}: {run.counts.written} written, and the table took {len(own)}")
    lines = sum(
        len(kept[-1].body.splitlines())
        for (bucket, key), kept in story.s3.objects.items()
        if bucket == "larder" and key.startswith(f"rejects/{run.dataset}/{run.run:08d}/")
    )
    if lines != run.counts.rejected:
        problems.append(f"{at}: {run.counts.rejected} rejected, and {lines} kept")
    return problems


def check_table(story: Story, name: str, runs: list[Run]) -> list[str]:
    """The table holds, of each item key, what the newest output that names it says."""
    now = story.world.time
    expected = fold(story, name, runs)
    doubtful = find_doubtful(story, runs)
    problems = []
    keys = {at for at in story.items.rows if at[0].startswith(f"{name}#")} | set(expected)
    for key in sorted(keys):
        item = story.items.rows.get(key)
        alive = item is not None and BODY in item and int(item[EXPIRES_AT]["N"]) > now
        stored = json.loads(item[BODY]["S"])["value"] if alive and item is not None else None
        allowed, until = expected.get(key, ({None}, now))
        allowed = allowed | doubtful.get(key, set())
        if until <= now or key in doubtful:
            allowed = allowed | {None}
        if stored not in allowed:
            problems.append(f"{key}: the table serves {stored!r}, and the outputs say {sorted(map(str, allowed))}")
    return problems


def fold(story: Story, name: str, runs: list[Run]) -> dict[Any, tuple[set[str | None], float]]:
    """Run the outputs in their order, in plain words: item key to its possible values, and until when it must last."""
    withdrawn = {run.identity for run in runs if run.kind == "removal"}
    newest: dict[str, Run] = {}
    for run in sorted((run for run in runs if run.state == "done" and run.decided_ms is not None), key=_when):
        if run.kind not in {"removal", "rejects"} and run.identity not in withdrawn:
            newest[run.identity] = run
    snapshot = story.datasets[name].source.output == "snapshot"
    state: dict[Any, tuple[set[str | None], float]] = {}
    for run in sorted(newest.values(), key=_when):
        put = find_put(story, run)
        assert put is not None
        assert put.rows is not None
        if put.as_of + LIFE <= (run.decided_ms or 0) / 1000:
            continue
        least = min(put.as_of + LIFE, (run.decided_ms or 0) / 1000 + 0.5 * LIFE)
        flags = rejected_rows(put)
        keys = [(build_pk(name, [row[0]]), row[1]) for row in put.rows]
        if snapshot:
            # Such a leftover is not found any more once fingerprints were lost, and stays to its expiry.
            gone = {key for key in state if key not in keys and not (story.lost and len(state[key][0]) > 1)}
            state |= {key: ({None}, state[key][1]) for key in gone}
            # What a snapshot rejects keeps its previous item to its expiry. Which one that is, when an older snapshot
            # comes later or fingerprints were lost, nobody promises.
            for key in {key for key, flag in zip(keys, flags, strict=True) if flag and key[1] is not None}:
                state[key] = (named_values(story, name, key) | {None}, put.as_of + LIFE)
        for key, row, flag in zip(keys, put.rows, flags, strict=True):
            if not flag:
                state[key] = ({json.loads(render_body(row[2]))["value"]}, least)
    return state


def named_values(story: Story, name: str, key: tuple[str, str]) -> set[str | None]:
    """Return every value that any output had for an item key."""
    rows = [row for put in story.puts if put.dataset == name for row in put.rows or []]
    return {row[2] for row in rows if (build_pk(name, [row[0]]), row[1]) == key}


def find_doubtful(story: Story, runs: list[Run]) -> dict[Any, set[str | None]]:
    """Return what runs that began to write and never closed may have left: nobody promises that it is gone."""
    found: dict[Any, set[str | None]] = {}
    for run in runs:
        began = run.decided_ms is not None and run.state not in {"done", "withdrawn"}
        # where old versions are not kept, an output that was overwritten can be neither restored nor taken back
        lost = run.state == "overwritten" and run.kind in {"restore", "removal"}
        if not began and not lost:
            continue
        put = find_put(story, run)
        for row in (put.rows if put else None) or []:
            key = (build_pk(run.dataset, [row[0]]), row[1])
            found.setdefault(key, set()).update(named_values(story, run.dataset, key))
    return found


def find_put(story: Story, run: Run) -> Put | None:
    """Return the write of the output that a run ran over."""
    return next((put for put in story.puts if put.identity == run.identity), None)


def rejected_rows(put: Put) -> list[bool]:
    """Tell for each row of an output whether it must be rejected."""
    rows = put.rows or []
    good = Counter((row[0], row[1]) for row in rows if render_reason(row[1], row[2]) is None)
    return [render_reason(row[1], row[2]) is not None or good[row[0], row[1]] > 1 for row in rows]


def _when(run: Run) -> tuple[int, int]:
    return (run.as_of_ms or 0, run.run)

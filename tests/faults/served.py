"""What the table must serve at the end of a history, computed from the outputs in their order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from enrich.ledger.records import Run
from serve.item import BODY, EXPIRES_AT
from serve.storage import Storage
from serve.web.page import gather
from serve.web.route import TopQuery
from tests.doubles.query import answer_query
from tests.doubles.table import read_body
from tests.faults.history import Story
from tests.faults.model_engine import render_rank
from tests.faults.outputs import TTL

Body = str | None  # None: a reader finds nothing


def check_table(story: Story, name: str, runs: list[Run]) -> list[str]:
    """For each item key, the table has what the newest output that names it says."""
    now = story.world.time
    expected = fold(story, name, runs)
    doubtful = find_doubtful(story, runs)
    problems = []
    keys = {at for at in story.items.rows if at[0].startswith(f"{name}#")} | set(expected)
    for key in sorted(keys):
        item = story.items.rows.get(key)
        alive = item is not None and BODY in item and int(item[EXPIRES_AT]["N"]) > now
        stored = read_body(item) if alive and item is not None else None
        allowed, until = expected.get(key, ({None}, now))
        allowed = allowed | doubtful.get(key, set())
        if until <= now or key in doubtful:
            allowed = allowed | {None}
        if stored not in allowed:
            problems.append(f"{key}: the table serves {stored!r}, and the outputs say {sorted(map(str, allowed))}")
        elif alive and item is not None and len(allowed) == 1 and int(item[EXPIRES_AT]["N"]) < until:
            problems.append(f"{key}: expires at {item[EXPIRES_AT]['N']}, and it must last until {until}")
    return problems


def check_ranked(story: Story, name: str) -> Iterator[str]:
    """A subject's ranked list is in order, and has every live item that was written with its current rank."""
    now, dataset = story.world.time, story.datasets[name]
    if dataset.rank is None:
        return

    def send(_: str, payload: bytes) -> bytes:
        return json.dumps(answer_query(story.items.rows.values(), json.loads(payload))).encode()

    live: dict[str, dict[str, str]] = {}
    for (pk, sk), item in story.items.rows.items():
        body = read_body(item) if int(item[EXPIRES_AT]["N"]) > now else None
        if pk.startswith(f"{name}#") and body is not None:
            live.setdefault(pk, {})[sk] = str(render_rank(dataset, sk, json.loads(body)["value"]))
    for pk, places in live.items():
        query = partial(Storage(send, "items").query_ranked, pk, dataset.rank_tag, now)
        ids = [entry.prediction_id for entry in gather(query, TopQuery(100, 100, ""), now).entries]
        expected = sorted(places, key=lambda sk: places[sk])
        whole = name not in story.reranked
        must = [sk for sk in expected if whole or (pk, sk) in story.repeated.get(name, ())]
        if ids != [sk for sk in expected if sk in ids]:
            yield f"{pk}: the ranked list has {ids}, expected the order {expected}"
        if not set(must) <= set(ids):
            yield f"{pk}: the ranked list has {ids}, expected all of {must}"


def fold(story: Story, name: str, runs: list[Run]) -> dict[Any, tuple[set[Body], float]]:
    """Run the outputs in their order: item key to its possible bodies, and until when it must exist."""
    newest: dict[str, Run] = {}
    for run in sorted((run for run in runs if run.state == "done" and run.decided_ms is not None), key=_when):
        if run.kind not in {"removal", "rejects"}:
            newest[run.identity] = run
    snapshot = story.datasets[name].source.output == "snapshot"
    state: dict[Any, tuple[set[Body], float]] = {}
    doubtful: set[Any] = set()  # items that a snapshot rejected
    for run in sorted(newest.values(), key=_when):
        put = story.find_put(run)
        assert put is not None
        assert put.rows is not None
        if put.expires_at <= (run.decided_ms or 0) / 1000:
            continue
        least = min(put.expires_at, (run.decided_ms or 0) / 1000 + 0.5 * TTL.total_seconds())
        flags, keys = put.rejected(), put.item_keys()
        if snapshot:
            for key in [key for key in state if key not in keys]:
                # After fingerprints were lost, such an item is no longer found, and stays until it expires; also if an
                # output names it that comes too late to write it.
                stays = written_bodies(story, key) if story.lost and key in doubtful else set[Body]()
                state[key] = (stays | {None}, state[key][1])
            # An item that a snapshot rejects keeps its previous body until it expires. Which one, if an older snapshot
            # comes later or fingerprints were lost, is not promised.
            for key in {key for key, flag in zip(keys, flags, strict=True) if flag and key[1] is not None}:
                state[key] = (written_bodies(story, key) | {None}, put.expires_at)
                doubtful.add(key)
        for key, row, flag in zip(keys, put.rows, flags, strict=True):
            if not flag:
                state[key] = ({story.render(run, row[2])}, least)
    return state


def written_bodies(story: Story, key: tuple[str, str]) -> set[Body]:
    """Return every body that was ever written to an item key; each of them was correct at that time."""
    return {each.body for each in story.items.applied if each.at == key}


def find_doubtful(story: Story, runs: list[Run]) -> dict[Any, set[Body]]:
    """Return what runs that began to write and never closed can have left: its removal is not guaranteed."""
    found: dict[Any, set[Body]] = {}
    for run in runs:
        began = run.decided_ms is not None and run.state not in {"done", "withdrawn"}
        # if old versions are not kept, an output that was overwritten can be neither restored nor withdrawn
        lost = run.state == "overwritten" and run.kind in {"restore", "removal"}
        if not began and not lost:
            continue
        put = story.find_put(run)
        keys = set(put.item_keys()) if put else set()
        if not lost:  # the next newer run that names an item writes it
            keys -= {key for each in runs if _came_after(each, run) for key in story.good_keys(each)}
        if lost and story.datasets[run.dataset].source.output == "snapshot":  # it named every live item
            keys = {each.at for each in story.items.applied if each.at[0].startswith(f"{run.dataset}#")}
        for key in keys:
            found.setdefault(key, set()).update(written_bodies(story, key))
    return found


def _came_after(run: Run, failed: Run) -> bool:
    """Return whether a newer run, whose items had not expired, began to write after a failed one had ended."""
    if run.state != "done" or run.kind in {"removal", "rejects"} or run.decided_ms is None or run.born_expired:
        return False
    return run.order > failed.order and run.decided_ms >= (failed.ended_ms or 0)


def _when(run: Run) -> tuple[int, int]:
    return (run.as_of_ms or 0, run.run)

"""The ledger over boto3 and moto's DynamoDB: commits are atomic, no change is lost, and queries read many pages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from enrich.ledger.records import Counter, Counts, Pending, Run, SeenOutput, bump
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.ledger.store import WALKED, ConflictError, Delete, Ledger
from tests.doubles.moto_aws import moto_aws

NAME = "stock"


@pytest.fixture
def dynamodb() -> Iterator[Any]:
    with moto_aws("ledger") as client:
        yield client("dynamodb")


@pytest.fixture
def ledger(dynamodb: Any) -> Ledger:
    return Ledger(dynamodb, "ledger")


def build_run(number: int, **changes: Any) -> Run:
    """Build a run over an output."""
    run = Run(dataset=NAME, run=number, bucket="outputs", object_key=f"{number}", identity=f"id-{number}", arrived_ms=1)
    return replace(run, **changes)


def test_the_time_of_dynamodb_comes_with_a_state(ledger: Ledger) -> None:
    """It is that of the response, so a machine whose clock is wrong can see it."""
    for _ in range(2):
        before = time.time()
        state, theirs = ledger.read_state(NAME)
        assert int(before) <= (theirs or 0) <= time.time()
        ledger.commit(replace(state, generation=2))
    assert state.generation == 2


def test_a_run_is_read_as_it_was_committed(ledger: Ledger) -> None:
    """Enums, counts, mappings, large numbers and None survive the ledger."""
    run = build_run(
        7,
        kind=Kind.REPLAY,
        state=RunState.STOPPED,
        stage=Stage.WRITE,
        counts=Counts(written=3, rejected=2),
        reasons={"null-key": 2},
        metadata={"products": "s3://larder/metadata/1/"},
        decided_ms=1_800_000_000_123,
        size=2**53 + 1,
    )
    ledger.commit(run)
    found = ledger.get_run(NAME, 7)
    assert found == run
    assert found is not None
    assert (found.version, found.kind, found.stage) == (1, Kind.REPLAY, Stage.WRITE)
    assert ledger.get_run(NAME, 8) is None


def test_a_commit_is_done_whole_or_not_at_all(ledger: Ledger) -> None:
    """If one record has changed since it was read, none is written, and the error names it."""
    ledger.commit(build_run(1), Counter(dataset=NAME, next_run=2))
    with pytest.raises(ConflictError, match="counter"):
        ledger.commit(build_run(2), Pending(dataset=NAME, run=2, queued_ms=1), Counter(dataset=NAME, next_run=3))
    assert ledger.get_run(NAME, 2) is None
    assert ledger.fetch_pending(NAME) == []
    assert ledger.get_counter(NAME).next_run == 2


def test_the_second_of_two_changes_is_refused(ledger: Ledger) -> None:
    """If two changes are based on the same version, the second is a conflict; after reading again it succeeds."""
    ledger.commit(build_run(1))
    read = ledger.get_run(NAME, 1)
    assert read is not None
    ledger.commit(replace(read, next_row=10))
    for change in (replace(read, next_row=20), Delete(read)):
        with pytest.raises(ConflictError):
            ledger.commit(change)
    ledger.commit(replace(bump(read), next_row=30))
    found = ledger.get_run(NAME, 1)
    assert found is not None
    assert (found.next_row, found.version) == (30, 3)


def test_what_was_deleted_can_be_neither_changed_nor_deleted(ledger: Ledger) -> None:
    """A pending record that was read before its deletion is refused."""
    ledger.commit(Pending(dataset=NAME, run=1, queued_ms=1))
    (pending,) = ledger.fetch_pending(NAME)
    ledger.commit(Delete(pending))
    assert ledger.fetch_pending(NAME) == []
    for change in (pending, Delete(pending)):
        with pytest.raises(ConflictError):
            ledger.commit(change)


def test_runs_are_walked_from_the_oldest_as_far_as_they_are_needed(ledger: Ledger, dynamodb: Any) -> None:
    """A request for some of them at a time, each run once."""
    for first in range(1, 91, 30):
        ledger.commit(*(build_run(number) for number in range(first, first + 30)))
    pages: list[int] = []
    query = dynamodb.query

    def count(**request: Any) -> Any:
        page = query(**request)
        pages.append(len(page["Items"]))
        return page

    dynamodb.query = count
    walked = ledger.walk_runs(NAME)
    assert [next(walked).run for _ in range(26)] == list(range(1, 27))
    assert pages == [WALKED, WALKED]
    assert [run.run for run in walked] == list(range(27, 91))
    pages.clear()
    assert len(ledger.fetch_runs(NAME, newest=12)) == sum(pages) == 12


def test_outputs_are_fetched_by_a_range_of_object_keys_and_their_arrival(ledger: Ledger) -> None:
    """All versions of the first and the last object, and no object that only begins with the name of the last one."""
    keys = ["a", "b", "b", "b.csv", "ba", "c"]
    for number, object_key in enumerate(keys):
        identity = f"{object_key}@v{number}"
        ledger.commit(
            SeenOutput(dataset=NAME, identity=identity, run=1, object_key=object_key, etag="", arrived_ms=number)
        )

    def fetch(first: str, last: str, since_ms: int = 0) -> list[str]:
        return [each.identity for each in ledger.fetch_seen_between(NAME, first, last, since_ms=since_ms)]

    assert fetch("a", "z") == ["a@v0", "b.csv@v3", "b@v1", "b@v2", "ba@v4", "c@v5"]
    assert fetch("b", "b") == ["b@v1", "b@v2"]
    assert fetch("b", "b", 2) == ["b@v2"]
    assert set(fetch("b", "ba")) == {"b@v1", "b@v2", "ba@v4"}


def test_queries_read_all_pages_in_order(ledger: Ledger) -> None:
    """Three megabytes of runs come in several pages: newest first, as many as requested, and of one dataset only."""
    for number in range(1, 31):
        ledger.commit(build_run(number, error="x" * 100_000))
        ledger.commit(Pending(dataset=NAME, run=number, queued_ms=number))
    ledger.commit(replace(build_run(99), dataset="stock-2"))
    assert [run.run for run in ledger.fetch_runs(NAME)] == list(range(30, 0, -1))
    assert [run.run for run in ledger.fetch_runs(NAME, newest=12)] == list(range(30, 18, -1))
    assert [each.run for each in ledger.fetch_pending(NAME)] == list(range(1, 31))


def test_an_output_is_found_by_its_identity(ledger: Ledger) -> None:
    """A second event of an output finds the run that the first one queued."""
    seen = SeenOutput(dataset=NAME, identity="a/b#1@v 1", run=4, object_key="a/b#1", etag='"e"', arrived_ms=5)
    ledger.commit(seen)
    assert ledger.get_seen(NAME, "a/b#1@v 1") == seen
    assert ledger.get_seen(NAME, "a/b#1@v 2") is None
    assert ledger.fetch_seen(NAME) == [seen]


def test_what_dynamodb_refuses_for_another_reason_is_no_conflict(dynamodb: Any) -> None:
    """A missing table is a different error: reading again would not help."""
    with pytest.raises(ClientError, match="ResourceNotFound"):
        Ledger(dynamodb, "another").commit(build_run(1))

"""A message is acknowledged only when its work is done, or another invocation holds the lease and will do it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ClientError

from enrich.intake.events import Arrived, JobEnded, Sweep
from enrich.intake.worker import handle_requests
from enrich.ledger.lease import QUIET_PERIOD_OWNER, Lease
from enrich.ledger.records import Counts
from enrich.ledger.run_state import EngineKind
from enrich.services import Services
from tests.faults.world import build_error
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop, parquet


def test_a_commit_that_is_reported_as_failed_brings_the_message_again(tmp_path: Path) -> None:
    """After any commit: the ledger differs from what the invocation knows, so it can't know who holds the lease."""
    raised = 0
    for lied in count():
        shop = SmallShop(tmp_path / str(lied))
        shop.directory.mkdir()
        shop.put(shop.key(), parquet(ROWS))
        message = Arrived(SETTINGS.outputs, shop.key())
        seen = count()
        commit = shop.dynamo.transact_write_items

        def lie(TransactItems: Any, commit: Any = commit, seen: Any = seen, lied: int = lied) -> None:  # noqa: N803
            commit(TransactItems)
            if next(seen) == lied:
                raise build_error("TransactWriteItems", "InternalServerError")

        acknowledged = False
        with mock.patch.object(shop.dynamo, "transact_write_items", lie), contextlib.suppress(Exception):
            handle_requests(replace(shop.services(), owner="first", deadline=shop.world.now() + 900), [message])
            acknowledged = True
        left = shop.ledger.fetch_pending("stock")
        assert not (acknowledged and left), f"after commit {lied}"
        if next(seen) <= lied:
            break
        raised += not acknowledged
        shop.world.sleep(960)  # the queue's visibility time-out
        handle_requests(replace(shop.services(), owner="second"), [message])
        (run,) = shop.ledger.fetch_runs("stock")
        assert (run.state, run.counts) == ("done", Counts(written=3))
    assert raised > 3


def test_a_lease_that_could_not_be_released_is_an_error(tmp_path: Path) -> None:
    """Also if it was released because something else had failed: the error of the ledger is raised."""
    shop = SmallShop(tmp_path)
    shop.put(shop.key(), b"no Parquet")

    def send(_message: Any) -> None:
        shop.dynamo.transact_write_items = partial(refuse, "TransactWriteItems")  # type: ignore[method-assign]
        refuse("SendMessage")

    def refuse(operation: str, **_request: Any) -> None:
        raise build_error(operation, "InternalServerError")

    with pytest.raises(ClientError, match="TransactWriteItems"):
        handle_requests(replace(shop.services(), send=send), [Sweep("stock")])


def test_what_is_queued_while_the_lease_is_given_back_is_run(tmp_path: Path) -> None:
    """Its producer finds the dataset busy and leaves, after the holder has read the queue for the last time.

    So the holder looks again after it has released the lease. Seeded histories meet this instant seldom.
    """
    shop = SmallShop(tmp_path)
    release, late = Lease.release, [shop.key(1)]

    def queue_and_release(lease: Lease) -> None:
        if late:
            shop.put(late[0], parquet(ROWS))
            handle_requests(replace(shop.services(), owner="another"), [Arrived(SETTINGS.outputs, late.pop())])
        release(lease)

    shop.put(shop.key(2), parquet(ROWS))
    with mock.patch.object(Lease, "release", queue_and_release):
        handle_requests(shop.services(), [Arrived(SETTINGS.outputs, shop.key(2))])
    assert [run.state for run in shop.ledger.fetch_runs("stock")] == ["done", "done"]
    assert shop.ledger.fetch_pending("stock") == []


@dataclass
class JobShop(SmallShop):
    """The small shop with a job, which records what it is started for; all runs are handed over to it."""

    started: list[str] = field(default_factory=list)

    def services(self) -> Services:
        return replace(super().services(), start_job=self.started.append, engine=EngineKind.SPARK)

    def hand_over(self) -> None:
        """Put an output and let its event hand it over to a job."""
        self.put(self.key(), parquet(ROWS))
        handle_requests(self.services(), [Arrived(SETTINGS.outputs, self.key())])

    def end_job(self) -> list[str]:
        """Report that a job has ended now; return the datasets for which one is started."""
        self.started.clear()
        handle_requests(self.services(), [JobEnded(int(self.world.now() * 1000))])
        return self.started


def test_a_run_is_handed_over_once(tmp_path: Path) -> None:
    """The event starts a job and leaves the run to it; so does the sweep, as long as no job holds the lease."""
    shop = JobShop(tmp_path)
    shop.hand_over()
    assert shop.started == ["stock"]
    (run,) = shop.ledger.fetch_runs("stock")
    assert (run.state, run.engine, run.rows) == ("running", EngineKind.SPARK, None)
    handle_requests(shop.services(), [Sweep("stock")])
    assert shop.started == ["stock", "stock"]
    assert replace(shop.services(), owner="job-1").acquire("stock")
    handle_requests(shop.services(), [Sweep("stock")])
    assert shop.started == ["stock", "stock"]


def test_a_job_that_died_is_started_again(tmp_path: Path) -> None:
    """If it died while it held the lease; one that never held it would fail again at once, and waits for the sweep."""
    shop = JobShop(tmp_path)
    shop.hand_over()
    assert shop.end_job() == []
    lease = replace(shop.services(), owner="job-1").acquire("stock")
    assert lease is not None
    shop.world.sleep(60)
    lease.keep()
    assert shop.end_job() == ["stock"]
    shop.world.sleep(180)
    assert shop.end_job() == []


def test_a_job_that_stopped_is_not_started_again(tmp_path: Path) -> None:
    """It has released its lease, which is only quiet: it would stop again at once, so it waits for the sweep."""
    shop = JobShop(tmp_path)
    shop.hand_over()
    lease = replace(shop.services(), owner="job-1").acquire("stock")
    assert lease is not None
    lease.note_unknown(shop.world.now())
    lease.release()
    assert shop.ledger.get_state("stock").lease_owner == QUIET_PERIOD_OWNER
    assert shop.end_job() == []
    handle_requests(shop.services(), [Sweep("stock")])
    assert shop.started == ["stock"]


def test_a_job_that_died_is_not_started_without_a_run(tmp_path: Path) -> None:
    """The lease of the function, or of a run that needs no job, starts none."""
    shop = JobShop(tmp_path)
    shop.enqueue(ROWS)
    assert shop.services().acquire("stock")
    assert shop.end_job() == []

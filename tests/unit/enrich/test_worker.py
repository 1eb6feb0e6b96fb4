"""A message is acknowledged only when its work is done, or another invocation holds the lease and will do it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ClientError

from enrich.intake.events import Arrived, Sweep
from enrich.intake.worker import handle_requests
from enrich.ledger.lease import Lease
from enrich.ledger.records import Counts
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

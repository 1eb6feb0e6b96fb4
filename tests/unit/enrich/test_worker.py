"""A message is acknowledged only when nothing of it is left to do, or somebody else is there to do it."""

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
from enrich.ledger.records import Counts
from tests.faults.world import build_error
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop, parquet


def test_a_commit_that_is_reported_as_failed_brings_the_message_again(tmp_path: Path) -> None:
    """Whichever commit it is: the ledger differs from what the invocation knows, so it can't tell who holds what."""
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
        shop.world.sleep(960)  # as long as the queue hides it
        handle_requests(replace(shop.services(), owner="second"), [message])
        (run,) = shop.ledger.fetch_runs("stock")
        assert (run.state, run.counts) == ("done", Counts(written=3))
    assert raised > 3


def test_a_dataset_that_could_not_be_given_back_is_told(tmp_path: Path) -> None:
    """Not even when it was given back because something else failed: the ledger's answer must not get lost."""
    shop = SmallShop(tmp_path)
    shop.put(shop.key(), b"no Parquet")

    def send(_message: Any) -> None:
        shop.dynamo.transact_write_items = partial(refuse, "TransactWriteItems")  # type: ignore[method-assign]
        refuse("SendMessage")

    def refuse(operation: str, **_request: Any) -> None:
        raise build_error(operation, "InternalServerError")

    with pytest.raises(ClientError, match="TransactWriteItems"):
        handle_requests(replace(shop.services(), send=send), [Sweep("stock")])

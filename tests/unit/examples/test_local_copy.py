"""The example's copy equals the table, in whatever order events arrive and wherever the process dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from examples.local_copy.__main__ import DAY, apply, load_if_needed
from examples.local_copy.copy import LocalCopy, Read, Unknown, parse_time
from notify.changes import Watched, build_event
from serve.item import Item, Order, build_pk, encode

START = 1_800_000_000.0
SUBJECT = {"shop": "x"}


class Table:
    """Items as Larder writes them, the stream's records of all changes, and the responses of the read API."""

    def __init__(self, random: Random, watched: Watched) -> None:
        self.random, self.watched = random, {"stock": watched}
        self.now, self.run, self.sequence = START, 1, 100
        self.items: dict[str, Item] = {}
        self.began = 0.0
        self.reads = 0
        self.lags = True
        self.history = [(self.now, self.items)]

    def change(self) -> dict[str, Any] | None:
        """Change one item as a run or TTL does; return the event, if there is one."""
        self.now += self.random.choice([0.1, 0.1, 5, 5, 20, 200, 4000])
        self.run += self.random.choice([0, 1])
        self.sequence += 1
        name = self.random.choice("abcde")
        old = self.items.get(name)
        more: dict[str, Any] = {}
        if old and old.expires_at <= self.now and self.random.random() < 0.5:  # deleted by TTL
            new = None
            more = {"userIdentity": {"type": "Service", "principalId": "dynamodb.amazonaws.com"}}
        else:
            body = self.random.choice([None, *(f'{{"n":{n}}}' for n in range(4))])
            # after a deletion by TTL, a late run can write the item with an older order
            run = self.run if old else self.random.randint(1, self.run)
            order = Order(1, int(START) * 1000 + run, run).text
            expires_at = int(self.now) + self.random.choice([2, 30, 20_000])
            new = Item(build_pk("stock", SUBJECT.values()), name, body, order, expires_at)
        images = {"OldImage": old and encode(old), "NewImage": new and encode(new)}
        keys = {"pk": {"S": build_pk("stock", SUBJECT.values())}, "sk": {"S": name}}
        stream = {**images, "Keys": keys, "SequenceNumber": str(self.sequence)}
        record = {
            "eventID": str(self.sequence),
            "dynamodb": {**stream, "ApproximateCreationDateTime": self.now},
            **more,
        }
        self.items = {**self.items, name: new} if new else {key: one for key, one in self.items.items() if key != name}
        self.history.append((self.now, self.items))
        if old is new is None:
            return None
        event = build_event(record, self.watched, "test")
        found: dict[str, Any] | None = json.loads(event.detail) if event else None
        return found

    def live(self) -> dict[str, Any]:
        return {
            name: json.loads(one.body) for name, one in self.items.items() if one.body and one.expires_at > self.now
        }

    def list(self) -> Iterator[Read]:
        """List the items of a moment ago: the API's reads are eventually consistent."""
        self.began = self.now
        items = self._see()
        for name in sorted(items):
            yield self._read(name, items[name])

    def get(self, prediction_id: str) -> Read | None:
        self.reads += 1
        item = self._see().get(prediction_id)
        return self._read(prediction_id, item) if item else None

    def _see(self) -> dict[str, Item]:
        seen = [items for time, items in self.history if time > self.now - 30] if self.lags else []
        items = self.random.choice([*seen, self.items])
        return {name: one for name, one in items.items() if one.body and one.expires_at > self.now}

    def _read(self, name: str, item: Item) -> Read:
        order = Order.parse(item.order)
        return Read(name, json.loads(item.body or ""), item.expires_at, order.as_of_ms / 1000, order.run)


class Crash(Exception):
    """The process died."""


def die_within(copy: LocalCopy, name: str, now: float) -> None:
    """Die in the middle of a transaction that has written something wrong."""
    with copy._transaction():
        copy._put(name, '"torn"', now + 1e9, "9", now)
        raise Crash


def deliver(copy: LocalCopy, table: Table, event: dict[str, Any]) -> bool:
    """Deliver an event; return whether it can be acknowledged."""
    with suppress(LookupError):
        apply(copy, table, event, table.now)  # type: ignore[arg-type]
        return True
    return False


@pytest.mark.parametrize("bodies", [True, False], ids=["with bodies", "without bodies"])
@pytest.mark.parametrize("seed", range(25))
def test_copy_equals_the_table(tmp_path: Path, seed: int, bodies: bool) -> None:
    """Events arrive twice, late and in another order; the process dies within a transaction; all items are reloaded."""
    random = Random(seed)
    table = Table(random, Watched(("shop",), bodies=bodies, renewals=True))
    copy = LocalCopy(tmp_path / "copy.db", "stock", SUBJECT)
    queue: list[dict[str, Any]] = []
    reloads = random.choice([0.0, 0.05, 0.2])
    for _ in range(80):
        event = table.change()
        queue += [event] * random.choice([1, 1, 2]) if event else []
        while queue and random.random() < 0.6:
            at = random.randrange(len(queue))
            if random.random() < 0.1:  # it dies within the transaction
                with pytest.raises(Crash):
                    die_within(copy, queue[at]["prediction_id"], table.now)
                copy.close()
                copy = LocalCopy(tmp_path / "copy.db", "stock", SUBJECT)
            elif deliver(copy, table, queue[at]) and random.random() < 0.9:  # else it dies before it acknowledges
                del queue[at]
        if random.random() < reloads:
            copy.load(list(table.list()), table.now)
    table.lags = False
    for event in random.sample(queue, len(queue)) * 2:
        deliver(copy, table, event)
    assert copy.items(table.now) == table.live()
    assert (table.reads > 0) is not bodies


def test_copy_after_a_day_without_events(tmp_path: Path) -> None:
    """A consumer that was down for a day, and has lost events, loads all items and continues with events."""
    random = Random(3)
    table = Table(random, Watched(("shop",), bodies=True, renewals=True))
    copy = LocalCopy(tmp_path / "copy.db", "stock", SUBJECT)
    assert load_if_needed(copy, table, table.now, DAY)  # type: ignore[arg-type]
    copy.keep("received_at", table.now)
    lost = [event for _ in range(200) if (event := table.change())]
    assert table.now - START > DAY
    assert load_if_needed(copy, table, table.now, DAY)  # type: ignore[arg-type]
    copy.keep("received_at", table.now)
    assert copy.items(table.now) == table.live()
    late = [event for event in lost if parse_time(event["time"]) < table.now - 100]
    assert [copy.apply(event) for event in late[:50]] == [False] * len(late[:50])
    later = [event for _ in range(20) if (event := table.change())]
    for event in random.sample(later, len(later)):
        copy.apply(event)
    assert copy.items(table.now) == table.live()
    assert not load_if_needed(copy, table, copy.get("received_at") + DAY - 1, DAY)  # type: ignore[arg-type]


def test_event_of_another_subject_is_ignored(tmp_path: Path) -> None:
    """The copy stays correct if the rule of the bus matches too much."""
    table = Table(Random(1), Watched(("shop",), bodies=True))
    event = next(event for _ in range(9) if (event := table.change()))
    copy = LocalCopy(tmp_path / "copy.db", "stock", SUBJECT)
    for other in ({"dataset": "other"}, {"subject": {"shop": "y"}}):
        assert not copy.apply({**event, **other})
    assert copy.apply(event)


def test_rows_of_removed_items_are_deleted_later(tmp_path: Path) -> None:
    """Their versions are stored as long as an event of them can arrive."""
    table = Table(Random(1), Watched(("shop",), bodies=True))
    copy = LocalCopy(tmp_path / "copy.db", "stock", SUBJECT)
    for event in [event for _ in range(60) if (event := table.change())]:
        copy.apply(event)
    copy.discard_old(table.now + DAY, 3 * DAY)
    assert copy._db.execute("select count(*) from items").fetchone()[0] == 5
    copy.discard_old(table.now + 9 * DAY, 3 * DAY)
    assert copy._db.execute("select count(*) from items").fetchone()[0] == 0


def test_body_is_missing(tmp_path: Path) -> None:
    """An event without a body does not change the copy until the item is read."""
    table = Table(Random(1), Watched(("shop",)))
    event = next(event for _ in range(9) if (event := table.change()) and event["change"] == "created")
    copy = LocalCopy(tmp_path / "copy.db", "stock", SUBJECT)
    with pytest.raises(Unknown):
        copy.apply(event)
    assert copy.items(0.0) == {}

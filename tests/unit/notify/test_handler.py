"""Events are sent at least once, in order per item; refused ones are sent again, and bad records block no others."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from notify import handler as handler_module
from notify.bus import MAX_BYTES, MAX_ENTRIES, Event, put_events, render_detail, split_batches
from notify.changes import Watched
from notify.handler import Services, handle, render_watched
from serve.item import Item, Order, build_pk, encode

NOW = 1_800_000_000
WATCHED = {"stock": Watched(("shop",), bodies=True)}


class Bus:
    """Accepts all entries except those whose number over all calls is in `refused`; raises in the calls in `fails`."""

    def __init__(self, refused: set[int] = frozenset(), fails: dict[int, Exception] | None = None) -> None:  # type: ignore[assignment]
        self.refused, self.fails = refused, fails or {}
        self.calls = self.entries = 0
        self.accepted: list[Any] = []

    def put_events(self, Entries: list[Any]) -> Any:  # noqa: N803
        self.calls += 1
        if error := self.fails.get(self.calls):
            raise error
        assert 0 < len(Entries) <= MAX_ENTRIES
        answers = []
        for entry in Entries:
            self.entries += 1
            assert (entry["Source"], entry["EventBusName"], entry["DetailType"]) == (
                "larder",
                "bus",
                "Larder Item Change",
            )
            assert entry["Time"] == datetime.fromtimestamp(NOW, UTC)
            if self.entries in self.refused:
                answers.append({"ErrorCode": "InternalFailure", "ErrorMessage": "again"})
            else:
                self.accepted.append(json.loads(entry["Detail"]))
                answers.append({"EventId": str(self.entries)})
        return {"Entries": answers, "FailedEntryCount": 0}


class Letters:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_message(self, QueueUrl: str, MessageBody: str) -> None:  # noqa: N803
        assert QueueUrl == "url"
        self.sent.append(json.loads(MessageBody))


def record(n: int, sk: str, **changes: Any) -> Any:
    item = encode(Item(build_pk("stock", ["x"]), sk, f'{{"n":{n}}}', Order(1, NOW, n).text, NOW + 60)) | changes
    stream = {"Keys": {"pk": item["pk"], "sk": item["sk"]}, "NewImage": item, "SequenceNumber": str(100 + n)}
    return {"eventID": f"e{n}", "dynamodb": {**stream, "ApproximateCreationDateTime": NOW}}


def play(bus: Bus, records: list[Any], letters: Letters | None = None) -> list[int]:
    """Call the handler as Lambda does, from the returned record on, until all are sent; return the sizes of batches."""
    services, left, calls = Services(bus, letters or Letters(), "bus", "url", "test", WATCHED), records, []
    while left:
        failed = handle(services, {"Records": left})["batchItemFailures"]
        calls.append(len(left))
        numbers = [each["dynamodb"]["SequenceNumber"] for each in left]
        left = left[numbers.index(failed[0]["itemIdentifier"]) :] if failed else []
        assert len(calls) < 100
    return calls


ACCESS = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "PutEvents")
FAULTS: dict[str, tuple[set[int], dict[int, Exception]]] = {
    "none": (set(), {}),
    "one entry refused": ({4}, {}),
    "the first and the last refused": ({1, 30}, {}),
    "most refused": (set(range(1, 60, 2)), {}),
    "a call fails": (set(), {2: ACCESS}),
    "the bus does not respond": ({7}, {1: ConnectTimeoutError(endpoint_url="https://events"), 3: ACCESS}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("items", [1, 3, 30])
def test_each_event_is_sent_in_order_per_item(fault: str, items: int) -> None:
    """With each fault every event is accepted, and no later event of an item before an earlier one."""
    bus = Bus(*FAULTS[fault])
    play(bus, [record(n, f"p{n % items}") for n in range(30)])
    first: dict[int, int] = {}
    for at, detail in enumerate(bus.accepted):
        first.setdefault(detail["run"], at)
    assert sorted(first) == list(range(30))
    for item in range(items):
        mine = [n for n in range(30) if n % items == item]
        assert [first[n] for n in mine] == sorted(first[n] for n in mine)


def test_a_batch_is_retried_from_the_first_refused_event() -> None:
    """The response has the first record that was not sent; records before it are not sent twice."""
    bus = Bus({14})
    assert play(bus, [record(n, f"p{n}") for n in range(30)]) == [30, 17]
    twice = [n for n, times in Counter(each["run"] for each in bus.accepted).items() if times > 1]
    assert twice == list(range(14, 20))  # the rest of that request


def test_a_bad_record_goes_to_the_dead_letter_queue() -> None:
    """The letter has its item key and no body; the record blocks no others."""
    bus, letters = Bus(), Letters()
    play(bus, [record(0, "a"), record(1, "b", f={"N": "2"}), record(2, "b")], letters)
    assert [each["run"] for each in bus.accepted] == [0, 2]
    (letter,) = letters.sent
    assert letter["keys"] == {"pk": {"S": "stock#x"}, "sk": {"S": "b"}}
    assert "deploy the newer release" in letter["reason"]
    assert '{"n"' not in json.dumps(letter)


def test_a_letter_has_nothing_but_what_an_operator_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what is not a record; a reason is cut to 1,000 characters."""
    monkeypatch.setattr("time.time", lambda: NOW + 0.25)
    letters = Letters()
    play(Bus(), [record(1, "b" * 2000, f={"N": "2"})], letters)
    services = Services(None, letters, "bus", "url", "test", WATCHED)
    handle(services, {"Records": [None, {"dynamodb": {}}, {}]})
    first, *others = letters.sent
    assert len(first.pop("reason")) == 1000
    letter = {"environment": "test", "time": "2027-01-15T08:00:00.250Z"}
    assert first == letter | {"keys": {"pk": {"S": "stock#x"}, "sk": {"S": "b" * 2000}}}
    assert [other.pop("reason").partition(":")[0] for other in others] == ["stream record without item key"] * 3
    assert others == [letter | {"keys": None}] * 3


def test_a_bad_record_is_not_lost_if_the_dead_letter_queue_fails() -> None:
    """The whole batch is retried."""

    class Down:
        def send_message(self, **_: Any) -> None:
            raise ACCESS

    with pytest.raises(ClientError):
        play(Bus(), [record(1, "b", f={"N": "2"})], Down())  # type: ignore[arg-type]


def test_log_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Each batch has a line with the metrics of the alarms and the dashboard."""
    play(Bus({2}), [record(n, f"p{n}") for n in range(3)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["ItemEventsSent"], each["ItemEventsRefused"], each["level"]) for each in lines] == [
        (1, 1, "error"),
        (2, 0, "info"),
    ]
    assert "InternalFailure: again" in lines[0]["detail"]


def test_a_log_line_has_its_metrics(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """CloudWatch makes metrics only of a line of exactly this form; dead letters alone are an error, too."""
    monkeypatch.setattr("time.time", lambda: NOW + 0.25)
    handle(Services(Bus(), Letters(), "bus", "url", "test", WATCHED), {"Records": [record(0, "a"), {}]})
    names = ["ItemEventsSent", "ItemEventsRefused", "ItemEventsDead"]
    assert json.loads(capsys.readouterr().out) == {
        "service": "notify",
        "environment": "test",
        "event": "items reported",
        "level": "error",
        "detail": "",
        "Service": "notify",
        "Environment": "test",
        **dict(zip(names, [1, 0, 1], strict=True)),
        "_aws": {
            "Timestamp": NOW * 1000 + 250,
            "CloudWatchMetrics": [
                {
                    "Namespace": "Larder",
                    "Dimensions": [["Service", "Environment"]],
                    "Metrics": [{"Name": name, "Unit": "Count"} for name in names],
                }
            ],
        },
    }


def test_the_services_are_opened_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once, with time-outs that leave Lambda time to retry, and the datasets of the bundle."""
    watched = {"stock": Watched(("shop",), bodies=True), "b": Watched(("x", "y"), renewals=True)}
    (tmp_path / "datasets.json").write_text(render_watched(watched), encoding="utf-8")
    assert render_watched({}) == "{}\n"
    assert render_watched({"a": Watched(())}).splitlines()[:2] == ["{", ' "a": {']
    assert Path(handler_module.__file__).parent / "datasets.json" == handler_module.WATCHED
    monkeypatch.setattr(handler_module, "WATCHED", tmp_path / "datasets.json")
    for name in ("BUS", "DEAD_LETTERS", "ENVIRONMENT"):
        monkeypatch.setenv(f"LARDER_{name}", name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    handler_module._open.cache_clear()
    try:
        opened = handler_module._open()
        assert handler_module._open() is opened
        assert handler_module.handler({"Records": []}, None) == {"batchItemFailures": []}
    finally:
        handler_module._open.cache_clear()
    assert opened[2:] == ("BUS", "DEAD_LETTERS", "ENVIRONMENT", watched)
    for client, service in ((opened.events, "events"), (opened.sqs, "sqs")):
        config = client.meta.config
        assert (client.meta.service_model.service_name, config.connect_timeout, config.read_timeout) == (service, 2, 5)
        assert config.retries == {"mode": "standard", "total_max_attempts": 4}  # the first and three more


def test_the_answer_of_the_bus_is_read() -> None:
    """An entry has an error code if it was refused, and not always a message."""
    assert (MAX_ENTRIES, MAX_BYTES, Event("kind", "é", NOW).size) == (10, 256_000, 70)
    assert render_detail({"a": "é", "b": 1}) == '{"a":"é","b":1}'

    class Client:
        def put_events(self, **_: Any) -> Any:
            return {"Entries": [{"EventId": "1"}, {"ErrorCode": "A"}, {"ErrorCode": "B", "ErrorMessage": "c"}]}

    assert put_events(Client(), "bus", []) == ["", "A: ", "B: c"]


@pytest.mark.parametrize("seed", range(20))
def test_batches(seed: int) -> None:
    """Batches have all events in order, fit into a request, and no two have the same `about`; none is too short."""
    random = Random(seed)
    sizes = [10, 1000, 100_000, MAX_BYTES - 2000, MAX_BYTES]
    events = [
        Event("k", "é" * (random.choice(sizes) // 2), n, random.choice(["", "a", "b", str(n)])) for n in range(40)
    ]
    batches = list(split_batches(events))
    assert [event for batch in batches for event in batch] == events
    assert all(batches)
    for batch in batches:
        about = [event.about for event in batch if event.about]
        assert len(about) == len(set(about))
        assert len(batch) <= MAX_ENTRIES
        assert len(batch) == 1 or sum(event.size for event in batch) <= MAX_BYTES
    for batch, (event, *_) in itertools.pairwise(batches):  # the event did not fit
        has_room = len(batch) < MAX_ENTRIES and sum(one.size for one in (*batch, event)) <= MAX_BYTES
        assert not has_room or (event.about and event.about in {one.about for one in batch})
    assert list(split_batches([])) == []


@pytest.mark.parametrize("more", [0, 1])
def test_a_request_is_filled_to_its_last_byte(more: int) -> None:
    """Names, details and 64 bytes of each event count; the count starts again with each request."""
    sizes = [MAX_BYTES - 100, 100 + more, MAX_BYTES - 100, 100 + more, MAX_BYTES]
    events = [Event("kind", "x" * (size - 68), n) for n, size in enumerate(sizes)]
    assert [len(batch) for batch in split_batches(events)] == ([1, 1, 1, 1, 1] if more else [2, 2, 1])

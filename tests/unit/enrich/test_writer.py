"""The writer over a modelled table: under every fault it accounts for every item, adapts its rate, and ends in time."""

import json
import random
from bisect import bisect_left
from typing import Any

import pyarrow as pa
import pytest

from enrich.errors import OutOfTime
from enrich.write.requests import interleave
from enrich.write.responses import WriteFailed, WriteThrottled
from enrich.write.writer import Budget, Writer
from serve.item import Item, Order, encode
from tests.doubles.modelled_table import ModelledTable, refuse
from wire.response import Response

OLDER, OURS, NEWER = Order(1, 1000, 1), Order(1, 2000, 2), Order(1, 3000, 3)
EXPIRES = 2_000_000_000


def chunk_of(count: int, *, subjects: Any = 16, first: int = 0, size: int = 300) -> Any:
    """Build `count` rows of `size` bytes, round-robin over subjects unless `subjects` is a function of the row."""
    subject = subjects if callable(subjects) else lambda row: row % subjects
    rows = range(first, first + count)
    return pa.table(
        {
            "pk": [f"d#{subject(row)}" for row in rows],
            "sk": [str(row) for row in rows],
            "body": [f'{{"n":{row},"x":"{"y" * size}"}}' for row in rows],
            "row": pa.array(rows, pa.int64()),
            "rank": pa.nulls(count, pa.string()),
            "entries": pa.array([0] * count, pa.int64()),
        }
    )


def writer_to(table: Any, seed: int = 1, **options: Any) -> Any:
    return Writer(table, "larder", clock=table.clock, random=random.Random(seed).random, **options)


def expect(table: Any, chunk: Any, order: Any = OURS) -> None:
    """Assert that the table has exactly the chunk's items."""
    expected = {
        (row["pk"], row["sk"]): Item(row["pk"], row["sk"], row["body"], order.text, EXPIRES)
        for row in chunk.select(["pk", "sk", "body"]).to_pylist()
    }
    assert table.items == expected


def write(table: Any, chunk: Any, *, conditional: bool = False, order: Any = OURS, **options: Any) -> Any:
    return write_all(writer_to(table, **options), chunk, conditional=conditional, order=order)


def write_all(writer: Any, chunk: Any, *, conditional: bool = False, order: Any = OURS) -> Any:
    writer.put(chunk, order=order, expires_at=EXPIRES, conditional=conditional)
    return writer.flush()


FAULTS: list[str | Response] = [
    "lost",
    "applied, then lost",
    refuse("InternalServerError", 500),
    Response(503, {}, b""),
    refuse("ThrottlingException"),
    refuse("ProvisionedThroughputExceededException"),
    refuse("RequestLimitExceeded"),
    Response(200, {}, b"<html>"),
]


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_item_is_written_whatever_goes_wrong(seed: int, conditional: bool) -> None:
    """If every third request fails in some way and items are left unprocessed, table and counts are still right."""
    rng = random.Random(seed)
    table = ModelledTable(
        units_per_second=rng.choice([1e9, 3000.0]),
        fault=lambda _: rng.choice(FAULTS) if rng.random() < 0.3 else None,
    )
    chunk = chunk_of(800)
    written = write(table, chunk, conditional=conditional, seed=seed)
    assert (written.written, written.superseded) == (800, 0)
    expect(table, chunk)


def test_same_randomness_gives_the_same_requests() -> None:
    """With the same transport, clock and random numbers, the same requests leave at the same times."""

    def history(seed: int) -> Any:
        rng = random.Random(5)
        table = ModelledTable(units_per_second=500, fault=lambda _: "lost" if rng.random() < 0.2 else None)
        write(table, chunk_of(1000), seed=seed)
        return table.sent

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_only_unprocessed_items_are_sent_again() -> None:
    """Items that were written are not."""
    table = ModelledTable(units_per_second=300)
    chunk = chunk_of(2000)
    assert write(table, chunk).written == 2000
    expect(table, chunk)
    assert set(table.puts.values()) == {1}


def test_counts_restart_with_each_flush() -> None:
    """Each flush returns what was written since the last one, for any number of chunks."""
    table = ModelledTable()
    writer = writer_to(table)
    counts = []
    for chunks in (1, 2):
        for n in range(chunks):
            chunk = chunk_of(70, first=1000 * chunks + 100 * n)
            writer.put(chunk, order=OURS, expires_at=EXPIRES, conditional=False)
        counts.append(writer.flush().written)
    assert counts == [70, 140]
    assert writer.flush().written == 0


def test_older_run_is_superseded_and_its_own_writes_count() -> None:
    """With conditions, newer items stay and their rows are returned; older ones are replaced; ours count as written."""
    table = ModelledTable()
    chunk = chunk_of(90)
    for row in range(90):
        stored = (OLDER, OURS, NEWER)[row % 3]
        stored_item = Item(f"d#{row % 16}", str(row), "{}", stored.text, EXPIRES)
        table.stored.put(encode(stored_item), conditional=False)
    written = write(table, chunk, conditional=True)
    assert (written.written, written.superseded) == (60, 30)
    assert sorted(written.superseded_rows) == list(range(2, 90, 3))
    orders = {int(sk): item.order for (_, sk), item in table.items.items()}
    assert all(orders[row] == (NEWER if row % 3 == 2 else OURS).text for row in range(90))


def test_write_applied_and_reported_as_failed_counts_as_written() -> None:
    """A conditional put that was applied before its response was lost replaces its own item, which is no newer one."""
    table = ModelledTable(fault=lambda number: "applied, then lost" if number < 40 else None)
    written = write(table, chunk_of(40), conditional=True)
    assert (written.written, written.superseded) == (40, 0)
    assert len(table.puts) == 40


PERMANENT = [
    ("ValidationException", "Larder.s stack"),
    ("AccessDeniedException", "dynamodb:BatchWriteItem"),
    ("ResourceNotFoundException", "name and the region"),
    ("UnrecognizedClientException", "credentials"),
    ("ItemCollectionSizeLimitExceededException", "API reference"),
]


@pytest.mark.parametrize(("code", "remedy"), PERMANENT)
@pytest.mark.parametrize("conditional", [False, True])
def test_permanent_error_fails_at_once_with_a_remedy(code: str, remedy: str, conditional: bool) -> None:
    """What DynamoDB refuses permanently is not retried; the error has table, code and remedy; nothing is in flight."""
    table = ModelledTable(fault=lambda _: refuse(code))
    with pytest.raises(WriteFailed, match=rf"larder.*{code}.*because.*{remedy}"):
        write(table, chunk_of(5000), conditional=conditional)
    assert len(table.sent) <= 16
    assert table.wait(10) == []


def test_item_without_an_order_is_not_overwritten_silently() -> None:
    """An item that Larder did not write is neither replaced nor called superseded: the run reports it."""
    answer = refuse("ConditionalCheckFailedException", Item={"pk": {"S": "d#0"}, "sk": {"S": "0"}})
    with pytest.raises(WriteFailed, match="did not write"):
        write(ModelledTable(fault=lambda _: answer), chunk_of(1), conditional=True)


@pytest.mark.parametrize("conditional", [False, True])
def test_throttling_of_everything_slows_the_writer_down(conditional: bool) -> None:
    """While everything is throttled, a handful of requests are sent in 3 seconds (peers: 360 to 570), ever fewer."""
    table = ModelledTable(latency=0.002, fault=lambda _: refuse("ProvisionedThroughputExceededException"))
    with pytest.raises(WriteThrottled, match="capacity"):
        write(table, chunk_of(5000), conditional=conditional)
    began = table.sent[0][0]
    first, later = (sum(1 for at, *_ in table.sent if low <= at - began < low + 3) for low in (0, 12))
    assert first <= 60
    assert later <= first


def test_throttling_that_ends_costs_no_item() -> None:
    """After ten seconds of full throttling the writer continues and finishes."""
    table = ModelledTable()
    table._fault = lambda _: refuse("ThrottlingException") if table.now < 1010 else None
    chunk = chunk_of(5000)
    assert write(table, chunk).written == 5000
    expect(table, chunk)
    assert table.now < 1060


@pytest.mark.parametrize("fault", ["lost", refuse("InternalServerError", 500)], ids=["lost", "500"])
def test_budget_ends_in_a_message(fault: Any) -> None:
    """If a service accepts nothing within the limits of tries and time, the run stops with a remedy and can resume."""
    table = ModelledTable(fault=lambda _: fault)
    with pytest.raises(WriteFailed, match="reachable and healthy") as caught:
        write(table, chunk_of(100), budget=Budget(tries=1000, seconds=20.0))
    assert not isinstance(caught.value, WriteThrottled)
    assert 1020 <= table.now < 1030
    assert table.wait(10) == []


def test_tries_are_bounded_too() -> None:
    """If one request is never accepted, the run ends after its tries, even while others succeed."""
    table = ModelledTable()
    stuck = b'"sk":{"S":"7"}'
    table._fault = lambda number: refuse("InternalServerError", 500) if stuck in table.sent[number][2] else None
    with pytest.raises(WriteFailed):
        write(table, chunk_of(5000), budget=Budget(tries=5, seconds=1e9))
    assert sum(1 for _, _, payload in table.sent if stuck in payload) == 5


@pytest.mark.parametrize("given", [50.0, 1000.0, 4000.0])
def test_given_budget_is_kept_and_used(given: float) -> None:
    """No second has more than the given write units, except for one request; at least 80 % are used."""
    table = ModelledTable()
    count = int(given * 8)
    write(table, chunk_of(count, subjects=50), budget=Budget(units_per_second=given))
    times = [at for at, _ in table.landed]
    starts = range(0, count, 25)
    worst = max(bisect_left(times, times[start] + 1.0) - start for start in starts)
    assert worst <= given * 1.1 + 25
    assert table.now - 1000 < 8 / 0.8 + 1


@pytest.mark.parametrize("capacity", [100.0, 2000.0])
def test_rate_is_learned(capacity: float) -> None:
    """Without a budget the writer learns the table's limit, uses most of it, and wastes few requests."""
    table = ModelledTable(units_per_second=capacity)
    count = int(capacity * 20)
    write(table, chunk_of(count, subjects=50))
    assert table.now - 1000 < 20 / 0.6
    assert len(table.sent) < count / 25 * 2.5


def test_rate_is_shown() -> None:
    """The rate is what was recently delivered, in units per second."""
    table = ModelledTable()
    writer = writer_to(table, budget=Budget(units_per_second=1000))
    writer.put(chunk_of(5000), order=OURS, expires_at=EXPIRES, conditional=False)
    assert writer.rate == pytest.approx(1000, rel=0.1)
    writer.flush()


def test_window_grows_where_that_helps() -> None:
    """With a slow table that accepts everything, more requests are in flight than at first, up to a bound."""
    table = ModelledTable(latency=0.05)
    write(table, chunk_of(40_000, size=10))
    assert 32 <= table.most_in_flight <= 64


def test_skewed_output_does_not_starve_the_rest() -> None:
    """If half of the rows are one subject's, which takes 1,000 units/s, the others keep pace, and all end in time."""
    table = ModelledTable(units_per_pk=1000)
    chunk = chunk_of(12_000, subjects=lambda row: 0 if row % 2 else row, size=10)
    chunk = chunk.take(interleave(chunk["pk"]))
    write(table, chunk)
    expect(table, chunk)
    hot = [at for at, pk in table.landed if pk == "d#0"]
    rest = [at for at, pk in table.landed if pk != "d#0"]
    assert rest[-1] <= hot[-1]
    assert table.now - 1000 < 6 * 1.7
    half = sum(1 for at in rest if at <= hot[len(hot) // 2])
    assert half >= len(rest) * 0.45


def test_a_hot_subject_gains_by_a_split_only_out_of_order() -> None:
    """DynamoDB splits a hot partition; that helps if writes reach both parts, and hardly if sort keys ascend."""
    rows, seconds = 16_000, {}
    whole = chunk_of(rows, subjects=1, size=10)
    whole = whole.set_column(1, "sk", pa.array([f"{row:06d}" for row in range(rows)]))
    for strides in (1, 8):
        length = rows // strides
        order = [at for first in range(length) for at in range(first, rows, length)]
        table = ModelledTable(units_per_pk=1000, splits_after=2)
        writer = writer_to(table)
        for first in range(0, rows, 1000):
            chunk = whole.take(order[first : first + 1000])
            writer.put(chunk, order=OURS, expires_at=EXPIRES, conditional=False)
        assert writer.flush().written == rows
        assert len(table.partitions["d#0"]) > 1
        seconds[strides] = table.now - 1000
    assert seconds[1] > 12.5
    assert seconds[8] < 11.5


def test_rows_sorted_by_subject_are_spread() -> None:
    """An output that is sorted by subject is written at the table's rate, not at that of one subject after another."""
    table = ModelledTable(units_per_pk=1000)
    chunk = chunk_of(16_000, subjects=lambda row: row // 2000, size=10)
    write(table, chunk.take(interleave(chunk["pk"])))
    assert table.now - 1000 < 2 * 2


@pytest.mark.parametrize("conditional", [False, True])
def test_nothing_is_sent_after_the_stop(conditional: bool) -> None:
    """After the stop nothing is sent, requests in flight are waited for, and `OutOfTime` is raised."""
    table = ModelledTable(latency=0.3)
    writer = writer_to(table, stop_at=lambda: 1002.0)
    with pytest.raises(OutOfTime):
        writer.put(chunk_of(50_000), order=OURS, expires_at=EXPIRES, conditional=conditional)
    assert max(at for at, *_ in table.sent) < 1002.0
    assert table.wait(10) == []
    assert table.now < 1013


def test_what_is_in_flight_at_the_stop_is_still_counted() -> None:
    """A flush that sent everything in time succeeds, even if the responses come after the stop."""
    table = ModelledTable(latency=0.5)
    writer = writer_to(table, stop_at=lambda: 1000.2)
    writer.put(chunk_of(100), order=OURS, expires_at=EXPIRES, conditional=False)
    assert writer.flush().written == 100


def test_retry_after_the_stop_is_out_of_time() -> None:
    """What must be sent again after the stop is left for the next invocation."""
    table = ModelledTable(latency=0.5, fault=lambda _: "lost")
    writer = writer_to(table, stop_at=lambda: 1000.2)
    writer.put(chunk_of(100), order=OURS, expires_at=EXPIRES, conditional=False)
    with pytest.raises(OutOfTime):
        writer.flush()
    assert len(table.sent) == 4


def test_unknown_outcome_is_remembered() -> None:
    """The writer knows when a request last ended without a response, because it can still be applied."""
    table = ModelledTable(fault=lambda number: "lost" if number == 0 else None)
    writer = writer_to(table)
    assert writer.unknown_at is None
    writer.put(chunk_of(25), order=OURS, expires_at=EXPIRES, conditional=False)
    writer.flush()
    assert writer.unknown_at == pytest.approx(1000.005)


def test_settle_waits_for_what_is_in_flight() -> None:
    """After `settle` nothing can be applied any more, except writes without a response, which the writer records."""
    table = ModelledTable(latency=0.5, fault=lambda number: "lost" if number == 2 else None)
    writer = writer_to(table)
    writer.put(chunk_of(100), order=OURS, expires_at=EXPIRES, conditional=False)
    assert writer.unknown_at is None
    writer.settle()
    assert table.wait(10) == []
    assert writer.unknown_at == pytest.approx(1000.6)


def test_unknown_outcome_beside_a_failure_is_remembered() -> None:
    """A response that ends the writing does not hide a lost response of the same moment."""
    faults: list[str | Response] = [refuse("AccessDeniedException"), *["lost"] * 7]
    table = ModelledTable(latency=0.0, fault=lambda number: faults[number])
    writer = writer_to(table)
    with pytest.raises(WriteFailed):
        write_all(writer, chunk_of(200))
    assert writer.unknown_at == 1000.0


def test_large_bodies_take_bounded_memory() -> None:
    """A request has only a few items of 300 KB, and all of them arrive."""
    table = ModelledTable()
    rng = random.Random(1)
    bodies = [json.dumps("".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=300_000))) for _ in range(30)]
    chunk = chunk_of(30).set_column(2, "body", pa.array(bodies))
    assert write(table, chunk).written == 30
    assert max(len(payload) for *_, payload in table.sent) < 2 * 1024 * 1024


def test_a_rest_pays_for_what_was_sent() -> None:
    """Writers that follow one another, each with the same budget, stay within it together."""
    table = ModelledTable(units_per_second=10_000)
    began = table.clock()
    for n in range(5):
        writer = writer_to(table, budget=Budget(units_per_second=10.0))
        assert write_all(writer, chunk_of(20, first=20 * n)).units == 20
        writer.rest()
    assert table.clock() - began >= 5 * 20 / 10 - 0.5

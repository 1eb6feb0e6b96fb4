"""Requests that are built from a chunk: exact JSON, gzip if it saves units, within quotas, subjects interleaved."""

import gzip
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.write.item_size import count_units, find_too_large, find_too_long, item_bytes
from enrich.write.item_size import gzip as compress
from enrich.write.requests import (
    BATCH,
    BLOCK_ROWS,
    CONDITION,
    PUT,
    build_batches,
    build_puts,
    interleave,
)
from serve.item import MAX_BODY_BYTES, MAX_ITEM_BYTES, Item, Order, body_text, decode, encode

ORDER = Order(1, 1_763_640_000_000, 12)
EXPIRES = 1_764_244_800
TEXT = st.text(st.characters(codec="utf-8"), max_size=50)  # every code point that UTF-8 can encode


def chunk_of(rows: Any, entries: int = 0) -> Any:
    """Build a chunk of (pk, sk, body), or (pk, sk, body, rank); each write changes so many entries of the index."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [[], [], []]
    columns += [[None] * len(rows)] * (4 - len(columns))
    names = ["pk", "sk", "body", "rank"]
    table = {name: pa.array(values, pa.string()) for name, values in zip(names, columns, strict=True)}
    numbers = {"row": range(100, 100 + len(rows)), "entries": [entries] * len(rows)}
    return pa.table({**table, **{name: pa.array(values, pa.int64()) for name, values in numbers.items()}})


def batched(chunk: Any) -> Any:
    """Return the items of all batches, decoded."""
    items = []
    for request in build_batches(chunk, "larder", ORDER, EXPIRES):
        assert request.target == BATCH
        ((table, writes),) = json.loads(request.payload)["RequestItems"].items()
        assert table == "larder"
        assert len(writes) == request.items
        items += [write["PutRequest"]["Item"] for write in writes]
    return items


def single(chunk: Any) -> Any:
    """Return the items of all conditional puts."""
    requests = list(build_puts(chunk, "larder", ORDER, EXPIRES))
    assert {request.target for request in requests} <= {PUT}
    return [json.loads(request.payload)["Item"] for request in requests]


@pytest.mark.parametrize("make", [batched, single])
@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, st.none() | TEXT, st.none() | TEXT), max_size=60, unique_by=lambda row: row[:2])
)
def test_any_text_arrives_as_the_reader_decodes_it(make: Any, rows: Any) -> None:
    """Whatever Unicode an item holds, the JSON is what serve.item encodes, item by item; a null body is a tombstone."""
    expected = [encode(Item(pk, sk, body, ORDER.text, EXPIRES, rank)) for pk, sk, body, rank in rows]
    made = make(chunk_of(rows))
    assert sorted(made, key=lambda item: (item["pk"]["S"], item["sk"]["S"])) == sorted(
        expected, key=lambda item: (item["pk"]["S"], item["sk"]["S"])
    )


SPECIAL = ["\u2028\u2029", "\x00\x1f\x7f", '","', '\\u001f"\\', "\U0001f6eb", "é\r\n\t", '",', "\x7f"]


def test_special_texts_survive_in_one_batch() -> None:
    """Separators, controls, quotes and backslashes do not affect their neighbours."""
    rows = [(text, text, text) for text in SPECIAL]
    assert {item["b"]["S"] for item in batched(chunk_of(rows))} == set(SPECIAL)


def test_items_keep_nothing_of_earlier_items() -> None:
    """Blocks with ranks, without, with gzip and of tombstones alternate; each item is encoded as if alone."""
    rows: list[tuple[str, str, str | None, str | None]] = []
    for n in range(6 * BLOCK_ROWS + 7):
        kind = n // BLOCK_ROWS
        body = None if kind == 3 else json.dumps({"n": n, "note": "x" * (2000 if kind == 2 and n % 2 else 20)})
        rows.append((f"a#{n}", f"x{n}", body, f"rank{n}" if kind in {1, 4} or (kind == 5 and n % 3) else None))
    items = batched(chunk_of(rows))
    assert len(items) == len(rows)
    gzipped = 0
    for item, (pk, sk, body, rank) in zip(items, rows, strict=True):
        if "B" in item.get("b", {}):
            assert body_text(decode(item).body or "") == body
            item["b"], gzipped = {"S": body}, gzipped + 1
        assert item == encode(Item(pk, sk, body, ORDER.text, EXPIRES, rank))
    assert gzipped == BLOCK_ROWS // 2


def test_puts_carry_condition_and_ask_for_the_old_item() -> None:
    """A conditional put refuses to replace a newer order, asks for the existing item, and knows its row."""
    (request,) = build_puts(chunk_of([("a#1", "x", "{}")]), "larder", ORDER, EXPIRES)
    sent = json.loads(request.payload)
    assert sent["TableName"] == "larder"
    assert sent["ConditionExpression"] == CONDITION == "attribute_not_exists(pk) OR o <= :o"
    assert sent["ExpressionAttributeValues"] == {":o": {"S": ORDER.text}}
    assert sent["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
    assert (request.items, request.units, request.row) == (1, 1, 100)


@pytest.mark.parametrize("length", [0, 900, 940, 941, 1100, 3000, 50_000])
def test_units_are_those_of_the_stored_item(length: Any) -> None:
    """The units of a request are the stored bytes over 1,024, rounded up; gzip is used where it saves one."""
    row = ("flight-delays#UA", "2025-11-20", "".join(chr(65 + n * n % 26) for n in range(length)))
    (request,) = build_batches(chunk_of([row]), "larder", ORDER, EXPIRES)
    item = decode(json.loads(request.payload)["RequestItems"]["larder"][0]["PutRequest"]["Item"])
    assert item.body is not None
    stored = len(item.body if isinstance(item.body, bytes) else item.body.encode())
    rest = len(row[0]) + len(row[1]) + len(ORDER.text) + 7 + 7
    assert request.units == -(-(stored + rest) // 1024)
    assert isinstance(item.body, bytes) == (-(-(len(row[2]) + rest) // 1024) > request.units)
    assert isinstance(item.body, bytes) == (length > 941)
    assert body_text(item.body) == row[2]


@pytest.mark.parametrize("entries", [0, 1, 2])
@pytest.mark.parametrize(("length", "units"), [(900, 1), (1500, 2)])
def test_units_include_the_entries_of_the_index(length: int, units: int, entries: int) -> None:
    """Each entry that a write adds or removes costs as much as the item: the index has all attributes."""
    body = noise_of(length)
    rank = "0123ABCD:1400FFFFFFFFFFFFF:x"
    (request,) = build_batches(chunk_of([("a#1", "x", body, rank)], entries), "larder", ORDER, EXPIRES)
    assert request.units == units * (1 + entries)
    sizes = item_bytes(chunk_of([("a#1", "x", "", rank), ("a#1", "x", "", None)])).to_pylist()
    assert sizes[0] - sizes[1] == len("r" + rank)


def test_gzip_is_the_same_every_time() -> None:
    """A gzipped body does not contain the time, so the same body is the same item."""
    chunk = chunk_of([("a#1", "x", json.dumps(list(range(2000))))])
    (first,), (second,) = (list(build_batches(chunk, "t", ORDER, EXPIRES)) for _ in range(2))
    assert first.payload == second.payload
    packed = decode(json.loads(first.payload)["RequestItems"]["t"][0]["PutRequest"]["Item"]).body
    assert isinstance(packed, bytes)
    assert packed[4:8] == b"\0\0\0\0"
    assert gzip.decompress(packed).decode() == chunk["body"][0].as_py()


def test_incompressible_body_stays_text() -> None:
    """A body that gzip does not make cheaper is stored as text, which readers need not decompress."""
    noise = noise_of(1400)
    (item,) = batched(chunk_of([("a#1", "x", noise)]))
    assert item["b"] == {"S": noise}


def noise_of(size: int) -> Any:
    """Return text that gzip makes at most a quarter smaller: random hex digits would halve, this has 64 characters."""
    state, out = 1, []
    for _ in range(size):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        out.append("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[state >> 58])
    return "".join(out)


def test_an_item_is_too_large_only_if_gzip_does_not_help() -> None:
    """An item over 400 KB is too large only if it still is after gzip; the error has its row number."""
    noise = noise_of(600_000)
    rows = [("a#1", "1", "x"), ("a#1", "2", "z" * 3_000_000), ("a#1", "3", noise), ("a#1", "4", noise[:400_000])]
    assert find_too_large(chunk_of([*rows, ("a#1", "5", None)])) == [102]
    assert find_too_large(chunk_of([])) == []
    # with 1,000 bytes to spare for the rest of the item, which a long key exceeds
    fitting = noise[: len(noise) * (MAX_ITEM_BYTES - 1000) // len(compress(noise))]
    assert abs(len(compress(fitting)) - (MAX_ITEM_BYTES - 1000)) < 300
    (rest,) = item_bytes(chunk_of([("", "1", fitting)])).to_pylist()
    room = MAX_ITEM_BYTES - (rest - len(fitting) + len(compress(fitting)))
    assert find_too_large(chunk_of([("a" * room, "1", fitting), ("a" * (room + 1), "1", fitting)])) == [101]


def test_a_body_is_too_long_if_the_reader_does_not_unzip_it() -> None:
    """A body above its bound, however small its gzip is; the error has its row number."""
    bodies = ["x", "z" * MAX_BODY_BYTES, "z" * (MAX_BODY_BYTES + 1), None, "\u00e9" * (MAX_BODY_BYTES // 2 + 1)]
    rows = [("a#1", str(n), text) for n, text in enumerate(bodies)]
    assert find_too_long(chunk_of(rows)) == [102, 104]


def test_batches_keep_the_quotas() -> None:
    """No batch has more than 25 items or a payload near 16 MB, however large the items are; none is lost."""
    rows = [("a#1", str(n), "\x01" * (1 if n % 3 else 350_000) + noise_of(3000 * (n % 5))) for n in range(90)]
    requests = list(build_batches(chunk_of(rows), "t", ORDER, EXPIRES))
    assert all(request.items <= 25 and len(request.payload) < 8 * 1024 * 1024 for request in requests)
    assert sum(request.items for request in requests) == 90


def test_full_batches_are_made_of_small_items() -> None:
    """There are 25 small items in a batch: fewer requests can't carry them."""
    rows = [(f"a#{n % 7}", str(n), "{}") for n in range(1000)]
    assert [request.items for request in build_batches(chunk_of(rows), "t", ORDER, EXPIRES)] == [25] * 40


def test_empty_chunk_makes_no_request() -> None:
    """Without rows, nothing is sent."""
    assert list(build_batches(chunk_of([]), "t", ORDER, EXPIRES)) == []
    assert list(build_puts(chunk_of([]), "t", ORDER, EXPIRES)) == []


@given(pks=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=300))
def test_every_row_comes_once_and_subjects_are_spread(pks: Any) -> None:
    """Interleaving is a permutation; any part of it has each subject's fair share, within a row or two."""
    order = interleave(pa.chunked_array([pks])).to_pylist()
    assert sorted(order) == list(range(len(pks)))
    for subject in set(pks):
        share = pks.count(subject) / len(pks)
        places = [place for place, row in enumerate(order) if pks[row] == subject]
        for rank, place in enumerate(places):
            assert abs(place - (rank + 0.5) / share) <= 0.5 / share + len(set(pks))


def test_subjects_of_one_row_do_not_meet_in_one_place() -> None:
    """If half of the rows are one subject's, and the others have one each, every part of the order is half and half."""
    pks = ["hot" if row % 2 else str(row) for row in range(4000)]
    order = interleave(pa.chunked_array([pks])).to_pylist()
    for start in range(0, 4000, 200):
        hot = sum(1 for row in order[start : start + 200] if row % 2)
        assert 90 <= hot <= 110


def test_item_bytes_counts_utf8() -> None:
    """Sizes are octets, of every value and attribute name."""
    chunk = chunk_of([("ä", "b", "€"), ("a", "b", None)])
    assert item_bytes(chunk).to_pylist() == [2 + 1 + 3 + 7 + 27 + 7, 1 + 1 + 7 + 27 + 7]


@pytest.mark.parametrize("entries", [0, 1, 2])
def test_units_are_counted_before_anything_is_written(entries: int) -> None:
    """One for each kilobyte that the item begins, and as many for each entry of the index; a tombstone has one."""
    units = {None: 1, "": 1, "x" * 981: 1, "x" * 982: 2, "x" * 2005: 2, "x" * 2006: 3}
    chunk = chunk_of([("a", "b", body) for body in units], entries)
    assert count_units(chunk).to_pylist() == [count * (1 + entries) for count in units.values()]

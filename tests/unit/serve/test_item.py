"""The stored item, attribute by attribute: items of older releases can be read, and this release's stay readable."""

from __future__ import annotations

import gzip
import tracemalloc
import unicodedata
import zlib
from typing import Any

import pytest

from serve.item import (
    UNPRINTABLE,
    BodyTooLarge,
    Item,
    Order,
    body_text,
    build_pk,
    decode,
    encode,
    is_expired,
    is_subject,
)

CATEGORIES = ("Cc", "Cf", "Cs", "Co")
ORDER = "0001.1763640000000.00000012"
GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00"  # of `{}`
STORED: tuple[tuple[str | bytes | None, dict[str, dict[str, str]]], ...] = (
    ("{}", {"b": {"S": "{}"}}),
    (b"\x00\xff", {"b": {"B": "AP8="}}),
    ("", {"b": {"S": ""}}),
    (b"", {"b": {"B": ""}}),
    (None, {}),  # a tombstone
)
OTHERS = {"pk": {"S": "d#s"}, "sk": {"S": "p"}, "o": {"S": ORDER}, "e": {"N": "17"}}


@pytest.mark.parametrize(("body", "stored"), STORED)
def test_an_item_has_its_stored_form(body: str | bytes | None, stored: dict[str, dict[str, str]]) -> None:
    """It is read back unchanged; additional attributes are ignored."""
    item, attributes = Item("d#s", "p", body, ORDER, 17), OTHERS | stored
    assert encode(item) == attributes
    assert decode(attributes) == item
    assert decode({**attributes, "x": {"S": "later"}}) == item


@pytest.mark.parametrize("value", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff"), "AP8="])
def test_binary_is_read_from_the_wire_and_from_boto3(value: Any) -> None:
    """It is base64 text on the wire, and bytes of some type from a client library."""
    found = decode({**OTHERS, "b": {"B": value}}).body
    assert found == b"\x00\xff"
    assert isinstance(found, bytes)


@pytest.mark.parametrize(
    ("dataset", "subject", "pk"),
    [("d", ["s"], "d#s"), ("d", ["a", "b"], "d#a#b"), ("d", ["a#b"], "d#a%23b"), ("d", ["a%", "/ ~"], "d#a%25#%2F%20~"),
     ("d", ["\u00e9"], "d#%C3%A9"), ("d", [], "d"), ("d-e", ["A"], "d-e#A")],
)  # fmt: skip
def test_a_partition_key_has_its_stored_form(dataset: str, subject: list[str], pk: str) -> None:
    """The dataset's name unchanged, each value percent-encoded, joined by `#`."""
    assert build_pk(dataset, subject) == pk


def test_orders_compare_as_their_texts() -> None:
    """By generation, then by when the output was made, then by run; each text is parsed to the same order."""
    orders = [
        Order(1, 1_763_640_000_000, 12),
        Order(1, 1_763_640_000_000, 13),
        Order(1, 1_763_640_000_001, 1),
        Order(2, 0, 0),
    ]
    assert orders[0].text == ORDER
    assert sorted(orders) == orders
    assert sorted(order.text for order in orders) == [order.text for order in orders]
    assert [Order.parse(order.text) for order in orders] == orders


def test_an_item_has_expired_from_its_very_second_on() -> None:
    """Not a moment before."""
    assert [is_expired(17, now) for now in (16, 16.999, 17, 17.001)] == [False, False, True, True]


def test_a_body_is_text_or_its_gzip() -> None:
    """Up to the bound, including that byte."""
    assert body_text("{}") == body_text(GZIP) == body_text(GZIP, 2) == "{}"
    assert body_text("x" * 9, 2) == "x" * 9, "a stored text has no bound but DynamoDB's"
    for damaged in (b"", GZIP[:-1], GZIP[:-9], b"{}", b"x" + GZIP, GZIP[:-8] + bytes(8), zlib.compress(b"{}")):
        with pytest.raises(ValueError, match=r"stored body is (not|truncated)"):
            body_text(damaged)
    with pytest.raises(BodyTooLarge, match="more than 1 bytes"):
        body_text(GZIP, 1)


def test_a_body_is_unzipped_up_to_the_bound_only() -> None:
    """64 KB that would grow to 64 MB take no more memory than the bound and zlib's own."""
    bomb = gzip.compress(bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(BodyTooLarge, match="more than 1000 bytes"):
        body_text(bomb, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_invisible_characters_are_not_part_of_a_subject() -> None:
    """Unicode's control, format, surrogate and private use characters, and separators other than the space.

    And what is reserved for format characters: hieroglyphs' (in Unicode 15) and tags.
    """
    unseen = {code for code in range(0x110000) if unicodedata.category(chr(code)) in {*CATEGORIES, "Zl", "Zp", "Zs"}}
    unseen |= {0x2065, *range(0x13430, 0x13440), *range(0xE0000, 0xE0020)}
    listed = {code for first, last in UNPRINTABLE for code in range(first, last + 1)}
    assert listed == unseen - {ord(" ")}
    assert sum(last - first + 1 for first, last in UNPRINTABLE) == len(listed), "no range overlaps another"
    for first, last in UNPRINTABLE:
        assert not is_subject(f"a{chr(first)}")
        assert not is_subject(f"{chr(last)}a")

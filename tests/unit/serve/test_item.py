"""The stored item, attribute by attribute: items of older releases can be read, and this release's stay readable."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
import unicodedata
import zlib
from typing import Any

import pytest

from serve.item import (
    DOT_SEGMENTS,
    PREDICTION_ID,
    RANK_PLACE,
    RANKED,
    UNPRINTABLE,
    BodyTooLarge,
    Item,
    NewerItem,
    Order,
    body_text,
    build_pk,
    build_rank_tag,
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


def test_names_of_attributes_are_those_of_stored_items() -> None:
    """Also of those that few items have; an item of a later format is refused, and two names are no prediction_ids."""
    ranked = Item("d#s", "p", None, ORDER, 17, "0a1b2c3d:0F:p")
    assert encode(ranked) == OTHERS | {"r": {"S": "0a1b2c3d:0F:p"}}
    assert decode(encode(ranked)) == ranked
    assert decode(OTHERS) == ranked._replace(rank=None)
    with pytest.raises(NewerItem, match=r"^item d#s p: its format is 2, and this release knows only format 1: deploy"):
        decode(OTHERS | {"f": {"N": "2"}})
    assert (RANKED, DOT_SEGMENTS) == ("ranked", (".", ".."))
    assert build_rank_tag("score desc") == "f35e3a8d"
    assert {name: bool(RANK_PLACE.match(name)) for name in RANKS} == RANKS
    assert {name: bool(PREDICTION_ID.match(name)) for name in PREDICTION_IDS} == PREDICTION_IDS
    assert is_subject("".join(map(chr, range(32, 127))))
    assert [is_subject(value) for value in ("", "a", "a b", "x" * 256, "x" * 257)] == [False, True, True, True, False]


RANKS = {
    "0:a": True, "9AF:a.b": True, "0" * 500 + ":a": True, "0" * 501 + ":a": False, ":a": False, "0:": False,
    "g:a": False, "a:a": False, "0": False, "0:a\n": False, "0:" + "a" * 129: False,
}  # fmt: skip
PREDICTION_IDS = {
    "a": True, "A-z.0_9~:@,=+": True, "a" * 128: True, "a" * 129: False, "": False, "a b": False, "a/b": False,
    "a%20": False, "é": False, "a\n": False, "a?": False, "a#": False, "a;": False, "a*": False,
}  # fmt: skip


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


def test_a_body_can_repeat_what_is_32_kb_before() -> None:
    """As far as gzip looks back."""
    noise = hashlib.sha512()
    text = ""
    while len(text) < 30_000:
        noise.update(b"x")
        text += noise.hexdigest()
    packed = gzip.compress((text + text).encode(), 9)
    assert len(packed) < 25_000
    assert body_text(packed) == text + text


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

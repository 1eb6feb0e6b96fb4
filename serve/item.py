"""The stored item, the contract between writer and reader: attribute names, item keys, encode, decode, expiry.

The reader owns the stored format, so `enrich` imports this module, and this module imports nothing of `enrich`.
Attribute names are short because each byte of them is stored, written and read with every item. For the same reason
items of format 1 have no attribute for their format; only items of later formats have one.
"""

import base64
import re
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote

PK = "pk"  # "{dataset}#{subject}"
SK = "sk"  # prediction_id
BODY = "b"  # S: JSON text as the consumer gets it; B: the gzip of that text; absent: a tombstone
ORDER = "o"  # S: the order of the run that wrote the item, sortable as text
EXPIRES_AT = "e"  # N: epoch seconds; the table's TTL attribute
RANK = "r"  # S: the item's place in its subject's ranked list, see `build_rank_tag`; absent: it has none
FORMAT = "f"  # N: the item's format; absent: 1, the only format that this release can read

RANKED = "ranked"  # the table's index of the items that have a rank: PK and RANK, with all attributes

# Characters that need no encoding in a path segment: some gateways decode a path and some do not, and neither changes
# these (docs/decisions/prediction-ids.md).
MAX_PREDICTION_ID = 128
PREDICTION_ID = re.compile(rf"[A-Za-z0-9._~:@,=+-]{{1,{MAX_PREDICTION_ID}}}\Z")
RANK_PLACE = re.compile(rf"[0-9A-F]{{1,500}}:{PREDICTION_ID.pattern}")  # the part of `RANK` after its tag
DOT_SEGMENTS = (".", "..")  # match PREDICTION_ID, and clients remove them from a path (RFC 3986 section 5.2.4)
MAX_CLAIM_CHARACTERS = 256  # of one value of a subject, in code points
# Code points that a value of a subject must not have, since they are invisible: Unicode's control, format, surrogate
# and private use characters, and separators other than the space. They are listed, because Python and the writer's SQL
# engine have tables of different Unicode versions.
UNPRINTABLE = (
    *((0x0000, 0x001F), (0x007F, 0x00A0), (0x00AD, 0x00AD), (0x0600, 0x0605), (0x061C, 0x061C), (0x06DD, 0x06DD)),
    *((0x070F, 0x070F), (0x0890, 0x0891), (0x08E2, 0x08E2), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200F)),
    *((0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xD800, 0xDFFF), (0xE000, 0xF8FF), (0xFEFF, 0xFEFF)),
    *((0xFFF9, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE007F), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)),
)
MAX_ITEM_BYTES = 400 * 1024  # DynamoDB's quota for one item, attribute names included
MAX_PK_BYTES = 2048  # DynamoDB's quota for a partition key
# Limit of a body's JSON text in UTF-8: the result of a Lambda has at most 6 MB, and base64 adds a third. The writer
# rejects larger bodies, because the reader could not send them to a client without gzip, nor in a list. (Through a load
# balancer, which takes 1 MB, the limit for such clients is lower: `respond.MAX_SENT`.)
MAX_BODY_BYTES = 4 * 1024 * 1024
# Compiled at its first use, which takes 1 ms: most subjects are ASCII.
_UNPRINTABLE = f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in UNPRINTABLE)}]"


class NewerItem(ValueError):
    """The item was written by a newer release, in a format that this release cannot read."""


class BodyTooLarge(ValueError):
    """The JSON text of a stored body is larger than the limit; its gzip can still be sent as it is."""


class Order(NamedTuple):
    """What decides which of two runs is newer: compared member by member, and as `text` by DynamoDB."""

    generation: int
    as_of_ms: int
    run: int

    @property
    def text(self) -> str:
        """Render the order so that comparing texts compares orders: `0001.1763640000000.00000012`."""
        return f"{self.generation:04d}.{self.as_of_ms:013d}.{self.run:08d}"

    @classmethod
    def parse(cls, text: str) -> "Order":
        """Parse a text that `text` rendered.

        Raises:
            ValueError: the text is not an order.
        """
        generation, as_of_ms, run = text.split(".")
        return cls(int(generation), int(as_of_ms), int(run))


class Item(NamedTuple):
    """One item as it is stored.

    `body` is JSON text (str), its gzip (bytes), or None for a tombstone; `rank` is None for no place in a ranked list.
    """

    pk: str
    sk: str
    body: str | bytes | None
    order: str
    expires_at: int
    rank: str | None = None


def build_pk(dataset: str, subject: Iterable[str]) -> str:
    """Build the partition key. Each value is percent-encoded before joining, so that no two subjects collide."""
    return "#".join([dataset, *(quote(value, safe="") for value in subject)])


def build_rank_tag(rank: str) -> str:
    """Build the tag of a dataset's rank from the rank's text. The attribute `RANK` of its items begins with the tag.

    `RANK` is `TAG:PLACE:prediction_id`; sorted as text, it has the order of the list. PLACE has the digits 0 to 9 and A
    to F; items with equally many nulls have equally many digits. The prediction_id makes `RANK` unique, since DynamoDB
    does not define the order of equal sort keys. If the dataset's rank changes, the tag changes: items of the former
    rank are in no list until they are written again, and never among items of the new rank.
    """
    return sha256(rank.encode()).hexdigest()[:8]


def is_subject(value: str) -> bool:
    """Return whether a text can be one value of a subject; the writer rejects what the reader does not accept."""
    is_plain = value.isascii() and value.isprintable()
    return 0 < len(value) <= MAX_CLAIM_CHARACTERS and (is_plain or not re.search(_UNPRINTABLE, value))


def is_expired(expires_at: int, now: float) -> bool:
    """Return whether an item has expired: from its `expires_at` on, even if DynamoDB has not deleted it yet."""
    return expires_at <= now


def encode(item: Item) -> dict[str, dict[str, str]]:
    """Encode an item as DynamoDB's JSON; a binary body becomes base64 text, as in a request."""
    attributes = {
        PK: {"S": item.pk},
        SK: {"S": item.sk},
        ORDER: {"S": item.order},
        EXPIRES_AT: {"N": str(item.expires_at)},
    }
    if isinstance(item.body, str):
        attributes[BODY] = {"S": item.body}
    elif item.body is not None:
        attributes[BODY] = {"B": base64.b64encode(item.body).decode()}
    if item.rank is not None:
        attributes[RANK] = {"S": item.rank}
    return attributes


def decode(attributes: Mapping[str, Mapping[str, Any]]) -> Item:
    """Decode an item from DynamoDB's JSON, as in a response (B is base64 text) or from boto3 (B is bytes).

    Raises:
        NewerItem: the item has a later format, which only a newer release can read.
    """
    if FORMAT in attributes:
        raise NewerItem(
            f"item {attributes[PK]['S']} {attributes[SK]['S']}: its format is {attributes[FORMAT]['N']}, and this "
            "release knows only format 1: deploy the newer release that wrote it again (UPGRADING.md, Roll back)"
        )
    stored = attributes.get(BODY)
    body: str | bytes | None = None
    if stored is not None:
        body = stored["S"] if "S" in stored else _binary(stored["B"])
    return Item(
        pk=attributes[PK]["S"],
        sk=attributes[SK]["S"],
        body=body,
        order=attributes[ORDER]["S"],
        expires_at=int(attributes[EXPIRES_AT]["N"]),
        rank=attributes[RANK]["S"] if RANK in attributes else None,
    )


def body_text(body: str | bytes, largest: int = MAX_BODY_BYTES) -> str:
    """Return the JSON text of a stored body, decompressed if it is gzip.

    Raises:
        BodyTooLarge: the decompressed text has more than `largest` bytes.
        ValueError: the gzip is damaged or truncated.
    """
    if isinstance(body, str):
        return body
    unzip = zlib.decompressobj(wbits=31)
    try:
        text = unzip.decompress(body, largest + 1)  # one more: the end of the stream comes after its last byte
    except zlib.error as error:
        raise ValueError("stored body is not a gzip stream") from error
    if len(text) > largest:
        raise BodyTooLarge(f"stored body is too large: it has more than {largest} bytes")
    if not unzip.eof:
        raise ValueError("stored body is truncated")
    return text.decode()


def _binary(value: str | bytes) -> bytes:
    return base64.b64decode(value) if isinstance(value, str) else bytes(value)

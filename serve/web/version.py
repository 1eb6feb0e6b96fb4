"""The version of the model that predicted an item, as a header and as JSON.

It is a member of the body that the dataset names, and is cut out of its text (docs/decisions/reading-many.md).
"""

from __future__ import annotations

import json
from typing import NamedTuple
from urllib.parse import quote

from serve.datasets import Place
from serve.web.fields import find_member

MAX_VERSION = 256  # characters of its JSON text: a header of at most 2.3 KB
_VISIBLE = bytes({*range(0x21, 0x7F)} - {ord("%")}).decode()  # all others are percent-encoded in the header


class Version(NamedTuple):
    """A model's version: as a header, empty if there is none, and as the JSON text of the member, or null."""

    header: str
    json: str


NO_VERSION = Version("", "null")


def find_version(text: str, place: Place) -> Version:
    """Find the version in a body's JSON text.

    There is none if the body has no such member, as if it was written before the dataset had one, or if the member is
    not a text or a number, or is longer than `MAX_VERSION`.

    Raises:
        ValueError: the text is not JSON.
    """
    found = find_member(text, place)
    if found is None or len(found) > MAX_VERSION or found[0] not in '"-0123456789':
        return NO_VERSION
    plain = json.loads(found) if found[0] == '"' else found
    return Version(quote(plain, safe=_VISIBLE, errors="replace"), found)

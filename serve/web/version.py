"""The version of the model that predicted an item, as a header and as JSON.

It is a member of the body that the dataset names, and is cut out of its text (docs/decisions/reading-many.md).
"""

import json
from functools import lru_cache
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
_TEXT_OR_NUMBER = tuple('"-0123456789')


def find_version(text: str, place: Place) -> Version:
    """Find the version in a body's JSON text.

    There is none if the body has no such member, as if it was written before the dataset had one, or if the member is
    not a text or a number, or is longer than `MAX_VERSION`.

    Raises:
        ValueError: the text is not JSON.
    """
    if not text.lstrip().startswith("{"):
        return NO_VERSION
    at = text.rfind(f'"{place[0]}":')
    if 0 < 4 * at < len(text):  # near the beginning: what follows the member is not parsed
        return _build_version(find_member(text, place) or "")
    try:
        last = _drop_before(text, at, place[0])
        member = json.loads(last)  # a quarter of the time of `find_member`, which keeps the digits of a number
        text = last
    except ValueError:
        member = json.loads(text)
    for name in place:
        if not isinstance(member, dict) or name not in member:
            return NO_VERSION
        member = member[name]
    is_plain = isinstance(member, str) and member.isascii()
    return _build_version(json.dumps(member) if is_plain else find_member(text, place) or "")


def _drop_before(text: str, at: int, name: str) -> str:
    """Return the text of an object without the members before `name`, which is at `at`: they need not be parsed.

    In JSON, a quote after anything but a backslash begins or ends a text, what a letter follows does not end one, and a
    text before a colon is a name. So that is the name of a member. If it is one of an inner object, the braces do not
    match, and what is returned is not JSON.
    """
    return "{" + text[at:] if at > 0 and text[at - 1] != "\\" and name.isidentifier() else text


@lru_cache(64)  # the items of a page have the version of one model, or of a few
def _build_version(found: str) -> Version:
    if len(found) > MAX_VERSION or not found.startswith(_TEXT_OR_NUMBER):
        return NO_VERSION
    plain = json.loads(found) if found[0] == '"' else found
    return Version(quote(plain, safe=_VISIBLE, errors="replace"), found)

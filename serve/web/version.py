"""The version of the model that predicted an item, as a header and as JSON.

It is a member of the body that the dataset names, and is cut out of its text (docs/decisions/reading-many.md).
"""

import json
from functools import lru_cache
from typing import Any, NamedTuple
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
_parse, _scan = json.JSONDecoder().decode, json.JSONDecoder().raw_decode
_TEXT_OR_NUMBER = tuple('"-0123456789')


def find_version(text: str, place: Place) -> Version:
    """Find the version in a body's JSON text.

    There is none if the body has no such member, as if it was written before the dataset had one, or if the member is
    not a text or a number, or is longer than `MAX_VERSION`. A body without a member of this name is not parsed.

    Raises:
        ValueError: the text is not JSON.
    """
    last = place[-1]
    if text.rfind(f'"{last}"') < 0 and "\\" not in text and last.isidentifier():
        return NO_VERSION  # no member has this name: without a backslash it is not escaped, either
    if not text.lstrip().startswith("{"):
        return NO_VERSION
    member = _find_first(text, place[0])
    for name in place[1:]:
        member = member.get(name) if isinstance(member, dict) else None
    if member is None:
        return NO_VERSION
    is_plain = isinstance(member, str) and member.isascii()
    return _build_version(json.dumps(member) if is_plain else find_member(text, place) or "")


def _find_first(text: str, name: str) -> Any:
    """Return the value of an object's member; None if it has none. Only what is before or after it is parsed.

    In JSON, a quote after anything but a backslash begins or ends a text, what a letter follows does not end one, and a
    text before a colon is a name. So `at` is the name of a member. If it is one of an inner object, the braces do not
    match: what is parsed then is not JSON.
    """
    at = text.rfind(f'"{name}":')
    if at > 0 and text[at - 1] != "\\" and name.isidentifier():
        try:
            if 2 * at > len(text):
                return _parse("{" + text[at:])[name]
            _parse(text[:at] + '"":0}')
            return _scan(text, at + len(name) + 3)[0]
        except ValueError:
            pass
    return _parse(text).get(name)


@lru_cache(64)  # the items of a page have the version of one model, or of a few
def _build_version(found: str) -> Version:
    if len(found) > MAX_VERSION or not found.startswith(_TEXT_OR_NUMBER):
        return NO_VERSION
    plain = json.loads(found) if found[0] == '"' else found
    return Version(quote(plain, safe=_VISIBLE, errors="replace"), found)

"""Strict parsing of base64url and JSON: input that two parsers could read differently is rejected."""

import json
import re
from binascii import a2b_base64
from typing import Any

MAX_DEPTH = 16  # objects and lists within each other; issuers use three or four
_STANDARD = bytes.maketrans(b"-_+/=", b"+/???")  # characters of the other alphabet become one that has no value
# A string (an unterminated one extends to the end of the text, so that no text is scanned twice), or one bracket.
_BRACKETS = r'(?s)"(?:[^"\\]|\\.)*+"?|[\[\]{}]'
# In the last character of an unpadded text, the bits that belong to no byte must be zero (RFC 4648 section 3.5).
_LAST = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}


def parse_base64url(text: str) -> bytes:
    """Parse unpadded, canonical base64url (RFC 7515 section 2).

    Raises:
        ValueError: padding, white space, another alphabet, an impossible length, or non-zero unused bits.
    """
    rest = len(text) % 4
    if rest == 1 or (rest and text[-1] not in _LAST[rest]):
        raise ValueError("not canonical base64url")
    return a2b_base64(text.encode().translate(_STANDARD) + b"=" * (-len(text) % 4), strict_mode=True)


class Ambiguous:
    """Placeholder for an object with a duplicate member, where the caller needs the rest of the document."""


def parse_json(data: bytes, *, mark_ambiguous: bool = False) -> Any:
    """Parse JSON per RFC 8259 and I-JSON.

    Python's `json` accepts NaN, Infinity, 1e999, duplicate members, lone surrogates, and 1,000 levels of nesting; this
    function does not. With `mark_ambiguous` an object with a duplicate member becomes an `Ambiguous`, and the rest is
    parsed.

    Raises:
        ValueError: the data has any of those, is not UTF-8, or is not JSON.
    """
    text = data.decode()  # strict; the parser rejects a byte order mark
    _check_depth(text)
    value = (_MARKING_DECODER if mark_ambiguous else _DECODER).decode(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False, default=str).encode()  # a lone surrogate has no UTF-8
    return value


def _check_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return  # an upper bound: brackets in strings are counted too
    depth = 0
    for found in re.finditer(_BRACKETS, text):
        mark = found[0]
        if mark in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
        elif mark in "}]":
            depth -= 1


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("an object has a member twice")
    return value


def _object_or_mark(members: list[tuple[str, Any]]) -> Any:
    try:
        return _object(members)
    except ValueError:
        return Ambiguous()


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_MARKING_DECODER = json.JSONDecoder(object_pairs_hook=_object_or_mark, parse_float=_float, parse_constant=_constant)

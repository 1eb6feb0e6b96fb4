"""Keep only the members of a body's JSON text that `fields` names, with exactly the bytes that are stored."""

import json
import re
from collections.abc import Iterator

from serve.datasets import Place

# What to keep of an object, by member name: None keeps the whole member, a nested selection keeps a part of it.
Selection = dict[str, "Selection | None"]

# It finds the end of a value as fast as `json.loads` parses it, and the text stays unchanged. Parsing the body and
# rendering it again takes at least as long, and changes the digits of long decimals (docs/decisions/reading-many.md).
_scan = json.JSONDecoder().raw_decode
_skip = re.compile(r"[ \t\n\r]*").match


def select(places: list[tuple[str, ...]]) -> Selection:
    """Build the selection of some places. A member that is itself among the places is kept as a whole."""
    selection: Selection = {}
    for place in sorted(places, key=len):
        level = selection
        for name in place[:-1]:
            inner = level.setdefault(name, {})
            if inner is None:
                break
            level = inner
        else:
            level[place[-1]] = None
    return selection


def cut(text: str, selection: Selection) -> str:
    """Return the JSON text of an object with only the selected members, in the order of the text.

    A member that the object does not have is left out. A value that is not an object, such as null, is unchanged.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        start = _after_space(text, 0)
        return _cut(text, selection, start) if text.startswith("{", start) else text
    except IndexError as error:
        raise ValueError("stored body is not JSON") from error


def find_member(text: str, place: Place) -> str | None:
    """Return the JSON text of the member at a place of an object's JSON text; None if the object has no such member.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        position = _after_space(text, 0)
        for name in place:
            found = _find(text, name, position) if text.startswith("{", position) else None
            if found is None:
                return None
            position = found
        return text[position : _scan(text, position)[1]]
    except IndexError as error:
        raise ValueError("stored body is not JSON") from error


def _find(text: str, wanted: str, start: int) -> int | None:
    """Return where the value of a member begins, in the object that begins at `start`; None if there is no such one."""
    return next((value for name, _, _, value in _list_members(text, start) if name == wanted), None)


def _cut(text: str, selection: Selection, start: int) -> str:
    """Cut the object that begins at `start`; the text after its last selected member is not scanned."""
    kept: list[str] = []
    for name, position, after_name, value in _list_members(text, start):
        if name in selection:
            inner = selection[name]
            part = _cut(text, inner, value) if inner and text[value] == "{" else text[value : _scan(text, value)[1]]
            kept.append(f"{text[position:after_name]}:{part}")
            if len(kept) == len(selection):
                break
    return f"{{{','.join(kept)}}}"


def _list_members(text: str, start: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield each member of the object at `start`: its name, where that begins and ends, and where its value begins."""
    position = _after_space(text, start + 1)
    while text[position] != "}":
        name, after_name = _scan(text, position)
        value = _after_space(text, _after_space(text, after_name) + 1)
        yield name, position, after_name, value
        end = _scan(text, value)[1]
        position = _after_space(text, end)
        if text[position] == ",":
            position = _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    if text[position : position + 1] > " ":  # the most frequent case, in a third of the time
        return position
    found = _skip(text, position)
    return found.end() if found else position

"""The members of a body that are compared, by type, and the SQL that extracts them from its JSON text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from enrich.dataset.binding import Leaf, Node
from enrich.dataset.definition import name_place
from enrich.dataset.json_sql import INTEGERS, SMALL_INTEGERS, TIMESTAMPS, SqlType, literal

LABEL_CHARACTERS = 80  # characters of a text that is a category
_NUMBERS = INTEGERS | {"float", "double", "decimal", "bignum"}
_EXACT = SMALL_INTEGERS | {"float", "double"}  # a double holds each of their values
_CATEGORIES = TIMESTAMPS | {"boolean", "varchar", "enum", "uuid", "date", "time", "time_ns"}


class Kind(StrEnum):
    """How the values of a member are summarized."""

    NUMBER = "number"
    CATEGORY = "category"
    OTHER = "other"  # lists, maps, JSON, bytes: only whether they are equal


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the body.

    Attributes:
        place: its names, joined by dots.
        pointer: its JSON pointer (RFC 6901).
        kind: how its values are summarized.
        is_exact: a double holds each of its values, so equal doubles are equal values.
    """

    place: str
    pointer: str
    kind: Kind
    is_exact: bool = False


def find_members(body: Mapping[str, Node]) -> list[Member]:
    """Return the members of a compiled dataset's body, including those within structs."""
    return list(_walk(body.items(), ()))


def _walk(members: Iterable[tuple[str, Node | SqlType]], names: Sequence[str]) -> Iterator[Member]:
    for name, node in members:
        place = (*names, name)
        if isinstance(node, dict):
            yield from _walk(node.items(), place)
            continue
        kind = node.kind if isinstance(node, Leaf) else node
        if kind.id == "struct":
            yield from _walk(kind.children, place)
        else:
            yield _build(place, kind)


def _build(names: Sequence[str], kind: SqlType) -> Member:
    place = ""
    for name in names:
        place = name_place(place, name)
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
    if kind.id in _NUMBERS:
        return Member(place.removeprefix("."), pointer, Kind.NUMBER, kind.id in _EXACT)
    is_category = kind.id in _CATEGORIES and str(kind).upper() != "JSON"
    return Member(place.removeprefix("."), pointer, Kind.CATEGORY if is_category else Kind.OTHER)


def render_extraction(members: Sequence[Member], body: str) -> tuple[str, list[str]]:
    """Return the SQL that parses a body once, as a list, and the SQL of the columns that come out of that list.

    A member has the columns `m{n}` (a double, or a text of bounded length), and `h{n}` where that is not the whole
    value: a hash of it. Both are null for a member that is null or not there.

    Args:
        members: to take out of the body.
        body: SQL of the JSON text.
    """
    pointers = ", ".join(literal(member.pointer) for member in members)
    parsed = f"json_extract_string({body}, [{pointers}])" if members else "[]::varchar[]"
    columns = []
    for n, member in enumerate(members):
        text = f"texts[{n + 1}]"
        if member.kind is Kind.NUMBER:
            columns.append(f"try_cast({text} as double) as m{n}")
        elif member.kind is Kind.CATEGORY:
            columns.append(f"left({text}, {LABEL_CHARACTERS}) as m{n}")
        if not member.is_exact:
            columns.append(f"case when {text} is not null then hash({text}) end as h{n}")
    return parsed, columns


def name_compared(member: Member, n: int) -> str:
    """Return the column whose values are equal where the member's are."""
    return f"m{n}" if member.is_exact else f"h{n}"


def name_columns(member: Member, n: int) -> list[str]:
    """Return the columns of a member."""
    first = [] if member.kind is Kind.OTHER else [f"m{n}"]
    return first if member.is_exact else [*first, f"h{n}"]

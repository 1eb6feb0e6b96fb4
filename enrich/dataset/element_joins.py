"""Generate the SQL that joins the elements of list columns with metadata: unnest, hash join, gather in place.

For each list column there is one relation with a row per element. It is joined with all metadata of that column and
grouped back by `larder.row`, so the cost grows with the number of elements, not with elements times metadata rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from enrich.dataset.json_sql import identifier, literal
from enrich.dataset.row_checks import RowChecks

ROW, PLACE = '"larder.row"', '"larder.place"'  # the place of an element in its list, from 1, as in DuckDB
_ELEMENTS = '"larder.elements"'


@dataclass(frozen=True)
class ElementMetadata:
    """Metadata that elements are joined with.

    Attributes:
        name: name of the metadata; its table is `larder.m.{name}`.
        missing: the policy for elements without a match.
        values: SQL of the values to match with the table's columns `larder.k0`, `larder.k1` and so on.
        checks: the checks of those values, with their slots.
        used: whether an expression uses the joined rows.
    """

    name: str
    missing: str
    values: Sequence[str]
    checks: RowChecks
    used: bool

    @property
    def found(self) -> str:
        """The SQL of the column that is null for an element without a match."""
        return identifier(f"larder.{self.name}.found")

    @property
    def missing_place(self) -> str:
        """The SQL of the place of a prediction's first element without a match; null if all have one."""
        return identifier(f"larder.{self.name}.missing")

    def failed_place(self, check: int) -> str:
        """Return the SQL of the place of the first element for which a check is true; null if there is none."""
        return identifier(f"larder.{self.name}.failed.{check}")


def join_elements(
    relation: str, lists: Mapping[str, Sequence[ElementMetadata]], columns: Mapping[str, Collection[str]]
) -> str:
    """Return a relation with, for each metadata, the list of its joined rows and the places that checks need.

    A null list stays null, an empty one stays empty. `missing="drop"` removes elements from the column itself and from
    all metadata of that column, so that the places still match.

    Args:
        relation: the name of a relation with `larder.row`.
        lists: list column -> its metadata.
        columns: list column -> the other columns that its `on` expressions name.
    """
    if not lists:
        return relation
    chosen, joins = [], []
    replaced = []
    for n, (column, metadata) in enumerate(lists.items()):
        gathered, own = f'"larder.gathered.{n}"', f"{relation}.{identifier(column)}"
        joins.append(
            f" left join {_gather(relation, column, metadata, columns[column])} as {gathered}"
            f" on {relation}.{ROW} = {gathered}.{ROW}"
        )
        names = [identifier(each.name) for each in metadata if each.used]
        in_place = {name: f"case when {own} is not null then coalesce({gathered}.{name}, []) end" for name in names}
        chosen += [f"{sql} as {name}" for name, sql in in_place.items()]
        if any(each.missing == "drop" for each in metadata):
            name = identifier(column)
            replaced.append(f"case when {own} is not null then coalesce({gathered}.{name}, []) end as {name}")
        for each in metadata:
            chosen += [f"{gathered}.{place}" for place, _ in _places(each)]
    replace = f" replace ({', '.join(replaced)})" if replaced else ""
    return f"(select {', '.join([f'{relation}.*{replace}', *chosen])} from {relation}{''.join(joins)})"


def _gather(relation: str, column: str, metadata: Sequence[ElementMetadata], others: Collection[str]) -> str:
    """Return a relation of one row per prediction whose list has elements."""
    name = identifier(column)
    unnested = [ROW, f"generate_subscripts({name}, 1) as {PLACE}", f"unnest({name}) as {name}"]
    unnested += [identifier(other) for other in sorted(others)]
    elements = f"(select {', '.join(unnested)} from {relation})"
    for each in metadata:
        elements = each.checks.select(elements)
    joined = f"{elements} as {_ELEMENTS}"
    for each in metadata:
        table = identifier(f"larder.m.{each.name}")
        condition = " and ".join(f'{table}."larder.k{n}" = {value}' for n, value in enumerate(each.values))
        joined += f" left join {table} on {condition}"
    dropping = [each.found for each in metadata if each.missing == "drop"]
    kept = " and ".join(f"{found} is not null" for found in dropping) or "true"
    gathered = [identifier(each.name) for each in metadata if each.used]
    chosen = [f"list({each} order by {PLACE}) filter (where {kept}) as {each}" for each in gathered]
    if dropping:
        own = f"{_ELEMENTS}.{name}"
        chosen.append(f"list({own} order by {PLACE}) filter (where {kept}) as {name}")
    for each in metadata:
        for place, condition in _places(each, kept):
            chosen.append(f"min({PLACE}) filter (where {condition}) as {place}")
    return f"(select {', '.join([f'{_ELEMENTS}.{ROW}', *chosen])} from {joined} group by {_ELEMENTS}.{ROW})"


def _places(metadata: ElementMetadata, kept: str = "true") -> Iterator[tuple[str, str]]:
    """Yield each column of places, with the condition that selects its elements."""
    for n, (condition, _) in enumerate(metadata.checks.checks):
        yield metadata.failed_place(n), condition
    if metadata.missing in {"reject", "fail"}:
        yield metadata.missing_place, f"{kept} and {metadata.found} is null"


def name_element(column: str, place: str) -> str:
    """Return the SQL of a text that names an element, such as `element 3 of 'items'`."""
    return f"concat('element ', {place}, {literal(f' of {column!r}')})"

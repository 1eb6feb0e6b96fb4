"""Generate the SQL that joins the elements of list columns with metadata: unnest, hash join, gather in place.

For each list column there is one relation with a row per element. It is joined with all metadata of that column and
grouped back by `larder.row`, so the work grows with the number of elements, and never with elements times metadata.
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
        name: of the metadata; its table is `larder.m.{name}`.
        missing: its policy.
        values: SQL of the values to match with the table's columns `larder.k0` and so on.
        checks: of those values, with the slots that they need.
        used: whether an expression uses the joined rows.
    """

    name: str
    missing: str
    values: Sequence[str]
    checks: RowChecks
    used: bool

    @property
    def found(self) -> str:
        """The SQL of the column that is null where no row matches."""
        return identifier(f"larder.{self.name}.found")

    @property
    def missing_place(self) -> str:
        """The SQL of the place of the first element of a prediction that no row matches; null if there is none."""
        return identifier(f"larder.{self.name}.missing")

    def failed_place(self, check: int) -> str:
        """Return the SQL of the place of the first element for which a check is true; null if there is none."""
        return identifier(f"larder.{self.name}.failed.{check}")


def join_elements(
    relation: str, lists: Mapping[str, Sequence[ElementMetadata]], columns: Mapping[str, Collection[str]]
) -> str:
    """Return a relation with, for each metadata, the list of its joined rows and the places that checks need.

    A null list gives a null list, an empty one an empty one. `missing="drop"` removes elements from the column itself
    and from all metadata of that column, so that places still agree.

    Args:
        relation: the name of a relation with `larder.row`.
        lists: the metadata of each list column.
        columns: for each list column, the other columns that its `on` expressions name.
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
    """Yield the columns of places, with the condition of the elements that they are of."""
    for n, (condition, _) in enumerate(metadata.checks.checks):
        yield metadata.failed_place(n), condition
    if metadata.missing in {"reject", "fail"}:
        yield metadata.missing_place, f"{kept} and {metadata.found} is null"


def name_element(column: str, place: str) -> str:
    """Return the SQL of a text that names an element, as in `element 3 of 'items'`."""
    return f"concat('element ', {place}, {literal(f' of {column!r}')})"

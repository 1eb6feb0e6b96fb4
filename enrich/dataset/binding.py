"""Bind a dataset's expressions: parse them, find their types, and collect every mistake with its place.

No data is read: an empty in-memory DuckDB determines the type of each expression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Union

import duckdb

from enrich.dataset.definition import Body, Dataset, FromColumn, name_place
from enrich.dataset.expressions import (
    Expression,
    Names,
    parse_expression,
    quote_reserved,
    suggest_function,
)
from enrich.dataset.guards import MEMBER, OF_ANY_TYPE
from enrich.dataset.json_sql import (
    INTEGERS,
    MAX_LEVELS,
    TIMESTAMPS,
    TOO_DEEP_REMEDY,
    JsonPolicy,
    SqlType,
    Unrenderable,
    count_levels,
    identifier,
    render_json_sql,
)
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.dataset.ranking import PLACE as RANK_PLACE
from enrich.dataset.ranking import Term, Unrankable, check_rankable, parse_rank
from enrich.dataset.suggestions import find_close, suggest
from enrich.dataset.type_names import explain_type, is_type, parse_type, suggest_type
from enrich.errors import first_line
from serve.datasets import list_names

KEY_KINDS = INTEGERS | {"varchar", "enum", "uuid", "date"}
NUMBERS = INTEGERS | {"float", "double", "decimal", "boolean"}


@dataclass(frozen=True, slots=True)
class Leaf:
    """An expression and its type."""

    expression: Expression
    kind: SqlType


Node = Union[Leaf, "dict[str, Node]"]


@dataclass(frozen=True)
class Bound:
    """A dataset without mistakes.

    Attributes:
        kinds: column name -> type, for the columns that expressions can use.
        keys: metadata -> the columns that it is matched by.
        on: metadata -> the expressions whose values must equal those columns, in the same order.
        fields: metadata -> the columns that expressions use, with their types.
        subject: one expression for each claim, in the order of `served.subject`, which is that of the partition key.
        rank: the terms of the rank with their types; empty if the dataset has no ranked list.
        guarded: the values that guards measure, by `Guard.of`: a column's type, or a member's leaf.
    """

    dataset: Dataset
    kinds: dict[str, SqlType]
    keys: dict[str, list[str]]
    on: dict[str, list[Leaf]]
    fields: dict[str, dict[str, SqlType]]
    subject: list[Leaf]
    prediction_id: Leaf
    body: dict[str, Node]
    rank: list[tuple[Term, SqlType]]
    guarded: dict[str, Leaf | SqlType]

    def leaves(self) -> list[Leaf]:
        """Return all expressions but those of `on`."""
        ranked = [Leaf(term.expression, kind) for term, kind in self.rank]
        return [*self.subject, self.prediction_id, *find_leaves(self.body), *ranked]


def bind_dataset(
    con: duckdb.DuckDBPyConnection, dataset: Dataset, metadata: Mapping[str, Mapping[str, SqlType] | None]
) -> Bound:
    """Bind a dataset to its metadata's columns and types.

    `metadata` has None for a table whose columns are not known; the type "NULL" of a column means any type.

    Raises:
        DatasetMistakes: with every mistake found.
    """
    binder = Binder(con, dataset, metadata)
    bound = binder.bind()
    if binder.mistakes or bound is None:
        raise DatasetMistakes(binder.mistakes)
    return bound


# Types to try for metadata whose types are not known: an expression that is valid for none of them is a mistake.
_GUESSES = ("null", "varchar", "double", "bigint", "timestamp", "date", "boolean", "timestamptz")


class Binder:
    """Binds one dataset, and collects its mistakes in `mistakes`."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        dataset: Dataset,
        metadata: Mapping[str, Mapping[str, SqlType] | None],
    ) -> None:
        self.con, self.dataset, self.metadata = con, dataset, metadata
        self.mistakes: list[Mistake] = []
        self._unknown: SqlType = con.sql("select null").types[0]
        self.policy = JsonPolicy(dataset.nulls, dataset.large_integers)

    def bind(self) -> Bound | None:
        """Return the bound dataset; None if there are mistakes."""
        dataset = self.dataset
        self._check_names()
        self.kinds = self._column_kinds()
        if self.mistakes:
            return None  # wrong names and types would only lead to further mistakes
        self._check_as_of()
        self.lists = {name for name, metadata in dataset.metadata.items() if metadata.each is not None}
        self.names = Names(self.con, self.kinds, self.metadata, self.lists)
        self.columns_only = Names(self.con, self.kinds, {})
        on = {name: self._on(name) for name in dataset.metadata}
        subject = self._subject()
        prediction_id = self._key("prediction_id", dataset.prediction_id)
        body = self._body("body", dataset.body)
        guarded = self._guarded(body)
        rank = self._rank()
        self._check_version(body)
        if self.mistakes or prediction_id is None:
            return None
        bound = Bound(
            dataset=dataset,
            kinds=self.kinds,
            keys={name: list(metadata.matches.values()) for name, metadata in dataset.metadata.items()},
            on={name: [each for each in found if each] for name, found in on.items()},
            fields={},
            subject=[leaf for leaf in subject if leaf],
            prediction_id=prediction_id,
            body=body,
            guarded=guarded,
            rank=rank,
        )
        leaves = bound.leaves()
        return replace(bound, fields={name: self._fields(name, leaves) for name in dataset.metadata})

    def _check_names(self) -> None:
        dataset = self.dataset
        seen: dict[str, str] = {}
        places = [
            *((f"columns.{name}", name) for name in dataset.source.columns),
            *((f"derive.{name}", name) for name in (dataset.derive.columns if dataset.derive else {})),
            *((f"metadata.{name}", name) for name in dataset.metadata),
        ]
        for place, name in places:
            if name.lower() in seen:
                self._add(place, f"the name is also used by {seen[name.lower()]}", "rename one; case is ignored")
            if "\0" in name:
                self._add(
                    place.replace("\0", "\\0"), "the name has a NUL character, which no SQL name can have", "rename it"
                )
            if name.lower().startswith("larder."):
                self._add(place, "names that begin with 'larder.' are reserved", "rename it")
            seen.setdefault(name.lower(), place)

    def _check_as_of(self) -> None:
        dataset = self.dataset
        if not isinstance(dataset.as_of, FromColumn):
            return
        column, columns = dataset.as_of.column, dataset.source.columns
        if column not in columns:
            derived = dataset.derive is not None and column in dataset.derive.columns
            message = (
                f"column {column!r} is derived; as_of is read before" if derived else f"there is no column {column!r}"
            )
            self._add("as_of", message, suggest(column, columns))
        elif (kind := self.kinds[column]).id not in TIMESTAMPS | {"date"}:
            message = f"column {column!r} is {kind}, expected a date or a timestamp"
            self._add("as_of", message, "declare it date or timestamptz, or name another column")

    def _column_kinds(self) -> dict[str, SqlType]:
        kinds: dict[str, SqlType] = {}
        derived = self.dataset.derive.columns if self.dataset.derive else {}
        for name, declared in self.dataset.columns.items():
            place = f"derive.{name}" if name in derived else f"columns.{name}"
            kind = parse_type(self.con, declared)
            if declared.strip(' "').lower() == "null" or (
                kind is not None and kind.id == "struct" and not kind.children
            ):
                self._add(place, f"{declared!r} has no values", "write its type, such as varchar or struct(a integer)")
            elif kind is not None and (levels := count_levels(kind)) > MAX_LEVELS:
                message = f"nests {levels} lists, maps and structs, expected at most {MAX_LEVELS}"
                self._add(place, message, TOO_DEEP_REMEDY)
            elif kind is not None:
                kinds[name] = kind
            else:
                reserved = quote_reserved(self.con, declared, partial(is_type, self.con))
                remedy = reserved or suggest_type(self.con, declared)
                reason = "" if remedy.startswith("did you mean") else explain_type(self.con, declared)
                self._add(place, f"{declared!r} is not a DuckDB type{reason}", remedy)
        return kinds

    def _subject(self) -> list[Leaf | None]:
        """Bind the expression of each claim, in the reader's order: the writer must use the same."""
        claims = self.dataset.served.subject
        expressions = self.dataset.subject
        for claim in claims:
            if claim not in expressions:
                message = f"there is no expression for the claim {claim!r}, which Served(subject=...) names"
                self._add(name_place("subject", claim), message, f"add it, e.g. {claim!r}: 'COLUMN'")
        for claim in expressions:
            if claim not in claims:
                message = f"there is no claim {claim!r} in Served(subject=...)"
                self._add(name_place("subject", claim), message, suggest(claim, claims))
        for claim in claims:
            sql = expressions.get(claim, "")
            if remedy := _find_column(self.kinds, sql) if sql.strip().startswith("'") else None:
                self._add(name_place("subject", claim), f"{sql} is a constant text, the same in every row", remedy)
        return [self._key(name_place("subject", claim), expressions[claim]) for claim in claims if claim in expressions]

    def _on(self, name: str) -> list[Leaf | None]:
        metadata, known = self.dataset.metadata[name], self.metadata[name]
        found: list[Leaf | None] = []
        kinds = self._each_kinds(name)
        if kinds is None:
            return found
        for sql, column in metadata.matches.items():
            place = f"metadata.{name}.on"
            leaf = self._leaf(place, sql, self.columns_only, kinds)
            found.append(leaf)
            if known is not None and column not in known:
                if leaf or sql != column:  # otherwise the mistake of the expression already reports it
                    self._add(place, f"the query has no column {column!r}", _suggest_on(column, known))
            elif leaf and known is not None and not _can_match(leaf.kind, known[column]):
                message = f"{sql} is {leaf.kind} and {column} is {known[column]}"
                remedy = self._suggest_each(leaf.expression, kinds)
                self._add(place, message, remedy or "cast one of them, in the expression or in the query")
        if not found:
            self._add(f"metadata.{name}.on", "is empty", "name the columns that a prediction is matched by")
        elif (
            metadata.each is not None
            and all(found)
            and not any(metadata.each in each.expression.columns for each in found if each)
        ):
            message = f"no expression names the list {metadata.each!r}, so all of its elements would match one row"
            self._add(f"metadata.{name}.on", message, "name it: in `on` it is one element; or remove `each`")
        return found

    def _each_kinds(self, name: str) -> Mapping[str, SqlType] | None:
        """Return the types of the columns in `on`, where the list of `each` is one element. None for a mistake."""
        metadata = self.dataset.metadata[name]
        if metadata.each is None:
            if metadata.missing == "drop":
                message = "is 'drop', which removes an element from a list, but `each` names no list"
                self._add(f"metadata.{name}.missing", message, "add each='COLUMN', or write 'reject'")
            return self.kinds
        place, kind = f"metadata.{name}.each", self.kinds.get(metadata.each)
        if kind is None:
            remedy = suggest(metadata.each, self.kinds)
            if "." in metadata.each:
                remedy += "; a list within a struct or within another list needs a column of its own"
            self._add(place, f"there is no column {metadata.each!r}", remedy)
        elif kind.id != "list":
            remedy = "name a column that is a list, such as varchar[] or struct(sku varchar)[]"
            if kind.id == "array":
                remedy = "declare it as a list, without the size: T[]"
            self._add(place, f"column {metadata.each!r} is {kind}, expected a list", remedy)
        elif (element := find_element(kind)).id in {"list", "array"}:
            message = f"column {metadata.each!r} is {kind}, a list of lists, expected a list of structs or of keys"
            self._add(place, message, "flatten it, in the model or in a `derive` step")
        else:
            return {**self.kinds, metadata.each: element}
        return None

    def _suggest_each(self, expression: Expression, kinds: Mapping[str, SqlType]) -> str | None:
        """Return the remedy for an `on` that compares a whole list; None if its expression names no list."""
        lists = sorted(column for column in expression.columns if kinds[column].id == "list")
        return f"add each={lists[0]!r} to match each of its elements" if lists else None

    def _key(self, place: str, sql: str) -> Leaf | None:
        leaf = self._leaf(place, sql, self.names)
        if leaf and leaf.kind.id not in KEY_KINDS | {"null"}:
            is_instant = leaf.kind.id in TIMESTAMPS
            remedy = f"write e.g. strftime({sql}, '%Y-%m-%dT%H:%M:%SZ')" if is_instant else "cast it to varchar"
            self._add(
                place, f"{sql} is {leaf.kind}, which can be written in several ways", f"{remedy}, as consumers spell it"
            )
        return leaf

    def _body(self, place: str, body: Body) -> dict[str, Node]:
        bound: dict[str, Node] = {}
        for name, member in body.items():
            at = name_place(place, name)
            if not isinstance(member, str):
                bound[name] = self._body(at, member)
                continue
            leaf = self._leaf(at, member, self.names)
            if leaf is None:
                continue
            bound[name] = leaf
            try:
                render_json_sql("x", leaf.kind, self.policy)
            except Unrenderable as error:
                message, _, remedy = str(error).partition("; ")
                self._add(at, message, remedy)
        return bound

    def _guarded(self, body: Mapping[str, Node]) -> dict[str, Leaf | SqlType]:
        """Return the values that guards measure, by name."""
        members = {leaf.expression.place: leaf for leaf in find_leaves(body)}
        guarded: dict[str, Leaf | SqlType] = {}
        for number, guard in enumerate(self.dataset.guards):
            if guard.of is None:
                continue
            value = members.get(guard.of) or self.kinds.get(guard.of)
            if value is None:
                if guard.of not in self.dataset.leaves():  # else the member's own mistake is reported
                    message = f"{guard.name}: there is no column or member of the body {guard.of!r}"
                    self._add(f"guards[{number}]", message, _suggest_guarded(guard.of, self.kinds, members))
                continue
            kind = value.kind if isinstance(value, Leaf) else value
            if guard.measure not in OF_ANY_TYPE and kind.id not in NUMBERS | {"null"}:
                message = f"{guard.name}: {guard.of} is {kind}, and {guard.measure} is of numbers"
                self._add(f"guards[{number}]", message, "guard its nulls, or a number that is computed from it")
            guarded[guard.of] = value
        return guarded

    def _check_version(self, body: Mapping[str, Node]) -> None:
        name, place = self.dataset.model_version, self.dataset.version_place
        if name is None:
            return
        known = list_names(self.dataset.places())
        if not place:
            if name not in known:
                self._add("model_version", f"the body has no member {name!r}", suggest(name, known))
            elif len(known[name]) > 1:
                message = f"{name!r} is the name of {len(known[name])} members of the body"
                self._add("model_version", message, "rename one: dots in the name of a member are ambiguous")
            else:
                inside = next(each for each in known if each.startswith(f"{name}."))
                message = f"member {name!r} of the body has members itself"
                self._add("model_version", message, f"name one of them, e.g. {inside!r}")
            return
        node: Node | None = dict(body)
        for step in place:
            node = node.get(step) if isinstance(node, dict) else None
        if isinstance(node, Leaf) and node.kind.id not in KEY_KINDS | {"null"}:  # otherwise the member has a mistake
            message = f"{node.expression.sql} is {node.kind}, expected a text or an integer"
            self._add("model_version", message, "cast it to varchar in the body")

    def _rank(self) -> list[tuple[Term, SqlType]]:
        if self.dataset.rank is None:
            return []
        try:
            terms = parse_rank(self.names, self.dataset.rank)
        except DatasetMistakes as error:
            self._add_all(error.mistakes)
            return []
        bound = []
        for term in terms:
            leaf = self._bind(term.expression)
            if leaf is None:
                continue
            try:
                check_rankable(leaf.kind)
            except Unrankable as error:
                message, _, remedy = str(error).partition("; ")
                self._add(RANK_PLACE, f"{term.expression.sql} {message}", remedy)
            bound.append((term, leaf.kind))
        return bound

    def _leaf(self, place: str, sql: str, names: Names, on_kinds: Mapping[str, SqlType] | None = None) -> Leaf | None:
        """Parse and bind an expression; `on_kinds` are the types of the columns for one of `on`."""
        try:
            expression = parse_expression(names, place, sql)
        except DatasetMistakes as error:
            self._add_all(error.mistakes)
            return None
        return self._bind(expression, on_kinds)

    def _bind(self, expression: Expression, on_kinds: Mapping[str, SqlType] | None = None) -> Leaf | None:
        """Find the type of an expression; None if that is a mistake."""
        place, sql = expression.place, expression.sql
        if self._is_hidden(expression):
            return Leaf(expression, self._unknown)
        first: duckdb.Error | None = None
        for guess in _GUESSES if self.is_unknown(expression) else _GUESSES[:1]:
            try:
                kind = self.con.sql(f"select ({sql}\n) from {self.scope(expression, guess, on_kinds)}").types[0]
            except duckdb.Error as error:
                first = first or error
            else:
                return Leaf(expression, kind)
        if first:
            reason = re.sub(r"^\w+ Error: |!$", "", first_line(first))
            remedy = self._suggest_each(expression, on_kinds) if on_kinds else None
            self._add(place, f"{sql!r}: {reason}", remedy or self._find_remedy(first))
        return None

    def _find_remedy(self, error: duckdb.Error) -> str:
        """Return the remedy for DuckDB's error on an expression whose names are known."""
        text = str(error)
        if function := re.search(r"Function with name (\S+) does not exist", text):
            return suggest_function(function[1])
        if kind := re.search(r"Type with name (\S+) does not exist", text):
            return suggest_type(self.con, kind[1])
        if "No function matches" in text:
            found = re.search(r'^\t"?(\w+)"?(\(.*\))', text, re.MULTILINE)  # operators have dozens of signatures
            return f"cast its arguments, as in {found[1]}{found[2]}" if found else "cast one of its arguments"
        if field := re.search(r"Cannot extract field '([^']+)' from expression \"([^\"]+)\"", text):
            close = find_close(field[2], self.metadata)
            return f"{field[2]} is a column; " + (f"did you mean {close}.{field[1]}?" if close else "name it alone")
        return "fix the expression"

    def _is_hidden(self, expression: Expression) -> bool:
        """Return whether an expression uses a list of metadata whose columns are not known, so it can't be bound."""
        return any(name in self.lists and self.metadata[name] is None for name, _ in expression.metadata)

    def is_unknown(self, expression: Expression) -> bool:
        """Return whether an expression names metadata of which the type is not known."""
        return any(self._kind(name, field).id == "null" for name, field in expression.metadata)

    def scope(self, expression: Expression, guess: str, kinds: Mapping[str, SqlType] | None = None) -> str:
        """Return the SQL of a relation with the names that an expression uses, with the types that the join gives them.

        `guess` is the type for metadata whose type is not known; `kinds` replaces the types of the columns.
        """
        types = kinds or self.kinds
        chosen = [f"cast(null as {types[name]}) as {identifier(name)}" for name in sorted(expression.columns)]
        for name in sorted({name for name, _ in expression.metadata}):
            used = sorted(field for owner, field in expression.metadata if owner == name)
            members = [
                f"{identifier(field)} := {_null(self._kind(name, field), guess)}"
                for field in self.metadata[name] or used
                if field in used
            ]
            row = f"struct_pack({', '.join(members)})"
            chosen.append(f"{f'[{row}]' if name in self.lists else row} as {identifier(name)}")
        return f"(select {', '.join(chosen or ['1'])})"

    def _kind(self, name: str, field: str) -> SqlType:
        known = self.metadata[name]
        return self._unknown if known is None else known[field]

    def _fields(self, name: str, leaves: list[Leaf]) -> dict[str, SqlType]:
        known = self.metadata[name] or {}
        used = {field for leaf in leaves for owner, field in leaf.expression.metadata if owner == name}
        return {field: known[field] for field in known if field in used}

    def _place(self, place: str) -> str:
        return f"{self.dataset.name} {place}"

    def _add_all(self, mistakes: list[Mistake]) -> None:
        self.mistakes += [Mistake(self._place(each.place), each.message, each.remedy) for each in mistakes]

    def _add(self, place: str, message: str, remedy: str) -> None:
        self.mistakes.append(Mistake(self._place(place), message, remedy))


def find_constant_id(bound: Bound) -> Mistake | None:
    """Return the mistake of a prediction_id that names no column: it is right only with one prediction per subject."""
    expression = bound.prediction_id.expression
    if expression.columns | expression.metadata:
        return None
    message = f"{expression.sql} names no column: all predictions of a subject would have one item"
    remedy = _find_column(bound.kinds, expression.sql) or "name the columns that distinguish them"
    return Mistake(f"{bound.dataset.name} prediction_id", message, remedy)


def _find_column(kinds: Mapping[str, SqlType], sql: str) -> str | None:
    """Suggest a column if a constant text is its name."""
    name = sql.strip().strip("'")
    return f"did you mean the column, {name!r} without single quotes?" if name in kinds else None


def _suggest_on(column: str, known: Mapping[str, SqlType]) -> str:
    """Suggest how to write `on`: a column's name, a list for several names in one text, a mapping for a condition."""
    parts = [part.strip() for part in re.split("[,=]+", column)]
    if len(parts) > 1 and all(parts):
        return f"write {{{parts[0]!r}: {parts[1]!r}}}" if "=" in column else f"write {parts}"
    return suggest(column, known)


def _suggest_guarded(name: str, columns: Mapping[str, Any], members: Mapping[str, Any]) -> str:
    """Suggest the column or member that a guard probably means: often the prefix of a member is missing."""
    inside = sorted(each for each in members if each.startswith(f"{name}."))
    if inside:
        return f"it has members, name one, e.g. {inside[0]!r}"
    return suggest(name if MEMBER + name not in members else MEMBER + name, [*columns, *members])


def find_element(kind: SqlType) -> SqlType:
    """Return the type of a list's elements."""
    element: SqlType = dict(kind.children)["child"]
    return element


def _can_match(left: SqlType, right: SqlType) -> bool:
    """Return whether values of two types can be compared without a cast that can fail."""
    if "null" in {left.id, right.id} or str(left) == str(right):
        return True
    families: tuple[set[str], ...] = (
        {"varchar", "enum"},
        (KEY_KINDS - {"varchar", "enum", "uuid", "date"}) | {"decimal", "float", "double"},
        {"date"} | (TIMESTAMPS - {"timestamptz_ns"}),  # DuckDB compares timestamptz_ns with no other type
    )
    return any(left.id in family and right.id in family for family in families)


def _null(kind: SqlType, guess: str) -> str:
    name = guess if kind.id == "null" else str(kind)
    return "null" if name == "null" else f"cast(null as {name})"


def find_leaves(node: Any) -> list[Leaf]:
    """Return the leaves of a bound body, in order."""
    if isinstance(node, Leaf):
        return [node]
    return [leaf for member in node.values() for leaf in find_leaves(member)]

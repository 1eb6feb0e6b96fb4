"""Build the JSON schema of a dataset's body from the types of its expressions.

Metadata columns have no known type unless their query casts them. An expression over such columns is bound with several
types. The schema is what the valid results have in common; if they have nothing in common, it has no type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb

from enrich.dataset.binding import Binder, Leaf, Node
from enrich.dataset.definition import Dataset, name_place
from enrich.dataset.empty_database import open_empty
from enrich.dataset.expressions import parse_tree
from enrich.dataset.json_sql import LARGE_INTEGERS, SMALL_INTEGERS, TIMESTAMPS, JsonPolicy, SqlType
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.dataset.nullability import find_never_null, is_never_null
from enrich.dataset.suggestions import suggest
from enrich.dataset.validation import parse_query

Schema = dict[str, Any]
UNKNOWN = "TODO say what it is"

_GUESSES = ("varchar", "double", "bigint", "timestamp", "date", "boolean", "timestamptz")
_INSTANT = {"type": "string", "format": "date-time"}
_TEXT, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_SCALARS: dict[str, Schema] = {
    **dict.fromkeys(SMALL_INTEGERS | {"bignum"}, _INTEGER),
    "float": _NUMBER,
    "double": _NUMBER,
    "decimal": _NUMBER,
    "varchar": _TEXT,
    "time": _TEXT,
    "time_ns": _TEXT,
    **dict.fromkeys(TIMESTAMPS, _INSTANT),
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "blob": {"type": "string", "format": "byte"},
    "boolean": {"type": "boolean"},
}


def build_schema(dataset: Dataset) -> Schema:
    """Build the schema of a dataset's body; members without a known type have the description `UNKNOWN`.

    Raises:
        DatasetMistakes: the dataset can't be bound.
        ToolMissing: sqlglot is not installed.
    """
    with open_empty() as con:
        queries = {name: _read_query(con, metadata.sql) for name, metadata in dataset.metadata.items()}
        binder = Binder(con, dataset, queries)
        bound = binder.bind()
        if bound is None:
            raise DatasetMistakes(binder.mistakes)
        return _Describe(con, binder, find_never_null(bound)).members(bound.body)


def describe_body(dataset: Dataset) -> Schema:
    """Build the schema of a dataset's body, with the documentation in `members` and an example of the whole body.

    Raises:
        DatasetMistakes: the dataset can't be bound, or `members` does not fit the body.
        ToolMissing: sqlglot is not installed.
    """
    schema = build_schema(dataset)
    examples: dict[str, Any] = {}
    mistakes = []
    for place, member in dataset.members.items():
        found = _find_member(schema, place)
        if found is None:
            places = [each.removeprefix("body.") for each in dataset.leaves()]
            remedy = suggest(place, places)
            mistakes.append(Mistake(f"{dataset.name} members", f"the body has no member {place!r}", remedy))
            continue
        if found.get("description") == UNKNOWN:
            found.pop("description")
            found |= _nullable(_of_example(member.example)) if member.example is not None else {"description": UNKNOWN}
        if member.description and found.get("description") != UNKNOWN:
            found["description"] = member.description
        if member.example is not None:
            examples[place] = member.example
            if not _fits(member.example, found):
                expected = found.get("format", found.get("type"))
                message = f"the example {member.example!r} does not have the type of the expression, {expected}"
                mistakes.append(
                    Mistake(f"{dataset.name} members.{place}", message, "write a value as it is in the JSON")
                )
    if mistakes:
        raise DatasetMistakes(mistakes)
    return {**schema, "example": _with_examples(schema, "", examples)}


def _find_member(schema: Schema, place: str) -> Schema | None:
    """Return the schema of a place of the body, e.g. `origin.name`; None if there is none. Names can contain dots."""
    if not place:
        return schema
    for name, member in schema.get("properties", {}).items():
        if place == name:
            found: Schema = member
            return found
        if place.startswith(f"{name}.") and (inner := _find_member(member, place[len(name) + 1 :])) is not None:
            return inner
    return None


def _with_examples(schema: Schema, place: str, examples: Mapping[str, Any]) -> Any:
    """Build the example of a place; the example of an object consists of those of its members."""
    if place in examples:
        return examples[place]
    if "properties" in schema:
        prefix = f"{place}." if place else ""
        members = schema["properties"].items()
        return {name: _with_examples(member, f"{prefix}{name}", examples) for name, member in members}
    return build_example(schema, place.rpartition(".")[2])


def _of_example(value: Any) -> Schema:
    """Return the schema of a JSON value; empty for null."""
    for kind, schema in ((bool, {"type": "boolean"}), (int, _INTEGER), (float, _NUMBER), (str, _TEXT)):
        if isinstance(value, kind):
            return dict(schema)
    if isinstance(value, Mapping):
        return _object({name: _nullable(_of_example(one)) for name, one in value.items()}, [])
    if isinstance(value, Sequence):
        return {"type": "array", "items": _nullable(_of_example(value[0])) if value else {}}
    return {}


def _fits(value: Any, schema: Schema) -> bool:
    """Return whether a JSON value has a schema's type."""
    found, expected = _of_example(value).get("type"), schema.get("type")
    if schema.get("format") in {"date", "date-time"} and isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
        return len(value) == len("2024-01-02") or schema["format"] == "date-time"
    if "enum" in schema:
        return value in schema["enum"]
    return expected is None or found == expected or (found, expected) == ("integer", "number")


def find_unknown(schema: Schema, place: str = "body") -> list[str]:
    """Return the places of a schema that have no type."""
    if schema.get("description") == UNKNOWN:
        return [place]
    found = [
        each
        for name, member in schema.get("properties", {}).items()
        for each in find_unknown(member, name_place(place, name))
    ]
    return found + (find_unknown(schema["items"], f"{place}[]") if "items" in schema else [])


def build_example(schema: Schema, name: str = "") -> Any:
    """Build an example for a schema from `build_schema`: a text is the member's name, a member without type is null."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {member: build_example(one, member) for member, one in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [build_example(schema["items"], name)] * schema.get("minItems", 1)
    formats = {
        "date": "2024-01-02",
        "date-time": "2024-01-02T13:30:00Z",
        "uuid": "8f3b1c5e-2d41-4a7b-9e0d-5b6d3f2a1c00",
        "byte": "AAEC",
    }
    types = {"boolean": True, "integer": 1, "number": 1.5, "string": name}
    return formats.get(schema.get("format", "")) or types.get(schema.get("type", ""))


class _Describe:
    """Describes the members of one dataset's body."""

    def __init__(self, con: duckdb.DuckDBPyConnection, binder: Binder, never_null: set[tuple[str, ...]]) -> None:
        self.con, self.binder, self.never_null, self.policy = con, binder, never_null, binder.policy

    def members(self, body: Mapping[str, Node]) -> Schema:
        """Describe an object."""
        properties: dict[str, Schema] = {}
        required = []
        for name, node in body.items():
            properties[name] = self._leaf(node) if isinstance(node, Leaf) else self.members(node)
            if not isinstance(node, Leaf) or self.policy.nulls == "keep" or self._never_null(node):
                required.append(name)
        return _object(properties, required)

    def _leaf(self, leaf: Leaf) -> Schema:
        schema = _common([_of_kind(kind, self.policy) for kind in self._kinds(leaf)])
        if "type" not in schema:
            return {"description": UNKNOWN}
        if self.policy.nulls == "keep" and not self._never_null(leaf):
            return _nullable(schema)
        return schema

    def _kinds(self, leaf: Leaf) -> Iterator[SqlType]:
        """Yield the types that the expression can have."""
        if not self.binder.is_unknown(leaf.expression):
            yield leaf.kind
            return
        for guess in _GUESSES:
            try:
                yield self.con.sql(
                    f"select ({leaf.expression.sql}\n) from {self.binder.scope(leaf.expression, guess)}"
                ).types[0]
            except duckdb.Error:
                continue

    def _never_null(self, leaf: Leaf) -> bool:
        tree = parse_tree(self.con, leaf.expression.place, leaf.expression.sql)
        return is_never_null(tree, self.never_null)


def _read_query(con: duckdb.DuckDBPyConnection, sql: str) -> Mapping[str, SqlType] | None:
    """Return the columns of a metadata query, with the types of those that it casts."""
    columns = parse_query(sql)
    if columns is None:
        return None
    import sqlglot
    from sqlglot import exp

    query = sqlglot.parse_one(sql, read="athena")
    for name, chosen in zip(columns, getattr(query, "selects", ()), strict=False):
        value = chosen.unalias()
        if isinstance(value, exp.Cast):
            try:
                columns[name] = con.sql(f"select cast(null as {value.to.sql('duckdb')})").types[0]
            except duckdb.Error:
                continue  # a type that DuckDB does not have
    return columns


def _common(found: list[Schema]) -> Schema:
    """Return what schemas have in common; empty if their types differ. Members and elements are compared one by one."""
    if all(each == found[0] for each in found[1:]):
        return dict(found[0]) if found else {}
    types = {each.get("type") for each in found}
    if types == {"object"} and all(each.keys() == found[0].keys() for each in found):
        members = found[0]["properties"]
        if all(each["properties"].keys() == members.keys() for each in found):
            common = {name: _known(_common([each["properties"][name] for each in found])) for name in members}
            return {**found[0], "properties": common}
    if types == {"array"}:
        return {**found[0], "items": _known(_common([each["items"] for each in found]))}
    if types == {"integer", "number"}:
        return {"type": "number", **_nullability(found)}
    return {"type": "string", **_nullability(found)} if types == {"string"} else {}


def _nullability(found: list[Schema]) -> Schema:
    return {"nullable": True} if any(each.get("nullable") for each in found) else {}


def _known(schema: Schema) -> Schema:
    return schema if "type" in schema else {"description": UNKNOWN}


def _of_kind(kind: SqlType, policy: JsonPolicy) -> Schema:
    """Return the schema of the JSON that `enrich.dataset.json_sql` renders for a type; empty for the type JSON."""
    name = kind.id
    if str(kind).upper() == "JSON":
        return {}
    if name in LARGE_INTEGERS:
        return {"type": "string" if policy.large_integers == "string" else "integer"}
    if name == "enum":
        return {"type": "string", "enum": list(dict(kind.children)["values"])}
    if name == "struct":
        members = {member: _nullable(_of_kind(child, policy)) for member, child in kind.children}
        return _object(members, list(members) if policy.nulls == "keep" else [])
    if name in {"list", "array"}:
        children = dict(kind.children)
        size = {"minItems": children["size"], "maxItems": children["size"]} if name == "array" else {}
        return {"type": "array", **size, "items": _nullable(_of_kind(children["child"], policy))}
    if name == "map":
        return {"type": "object"}  # API Gateway does not support additionalProperties
    return dict(_SCALARS.get(name, {}))


def _nullable(schema: Schema) -> Schema:
    if "type" not in schema:
        return {"description": UNKNOWN}
    # It is not known whether API Gateway accepts null in an enum; without null in the enum, null would be invalid.
    return {**{name: value for name, value in schema.items() if name != "enum"}, "nullable": True}


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", **({"required": required} if required else {}), "properties": properties}

"""Generate the SELECT that reads the declared columns of a chunk, by the source's format."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from enrich.dataset.coercion import (
    Coerced,
    check_rounded,
    coerce_json,
    coerce_text,
    coerce_typed,
    has_repeated,
    json_member,
    json_name,
    needs_json,
    other_case,
)
from enrich.dataset.definition import Source
from enrich.dataset.json_sql import LARGE_INTEGERS, SqlType, identifier, literal

LINE = "larder.line"  # the original line: of every JSON line, and of malformed CSV lines
PROBLEM = "larder.problem"  # the error of a malformed line; null for a good one
# Members of a line of a rejects file that its rows are read from.
PREDICTION = "prediction"  # the original row: an object, or the text of a line
KEPT_PARTITIONS = "partitions"  # columns that the original row lacks, since their values were in the object key
KEPT_PROBLEM = "problem"  # why the file's bytes are not the original row, so that it can't be read again
NO_PROBLEM = "cast(null as varchar)"

_CHUNK = '"larder.chunk"'
_JSON = '"larder.json"'
_BLANKS = "' ' || chr(9) || chr(13)"


def build_read(
    con: duckdb.DuckDBPyConnection, source: Source, declared: Mapping[str, SqlType], codes: Mapping[str, int]
) -> str:
    """Build the SELECT over the relation `larder.chunk`.

    Raises:
        TypeError: a column's type can't be converted to the declared one.
    """
    relation = con.sql(f"select * from {_CHUNK}")
    actual: dict[str, SqlType] = dict(zip(relation.columns, relation.types, strict=True))
    problem = identifier(PROBLEM) if PROBLEM in actual else NO_PROBLEM
    if source.format not in {"jsonl", "rejects"}:
        return render_read(_CHUNK, read_columns(actual, declared), codes, problem)
    inside = {name: kind for name, kind in declared.items() if name not in actual}
    lines = parse_lines(source, inside, declared)
    # Values of CSV and JSON lines are the writer's text. Those of a Parquet file were rendered when rejected.
    members = read_members(actual, declared, escaped=source.rejects_of == "parquet")
    # The value of these is used twice, so it is converted once, in a slot.
    slots = {
        name: identifier(f"larder.json.{name}")
        for name, kind in inside.items()
        if needs_json(kind) or kind.id in LARGE_INTEGERS
    }
    if slots:
        lines = (
            f"(select *, {', '.join(f'{members[name].sql} as {slot}' for name, slot in slots.items())} from {lines})"
        )
    for name, slot in slots.items():
        if needs_json(inside[name]):
            members[name] = Coerced(slot, f"({_member(name)} is not null and {slot} is null)")
        else:
            members[name] = check_rounded(identifier(LINE), name, _member(name), slot, inside[name])
    return render_read(lines, members, codes, problem)


def read_columns(actual: Mapping[str, SqlType], declared: Mapping[str, SqlType]) -> dict[str, Coerced]:
    """Coerce the typed or text columns of a chunk.

    Raises:
        TypeError: a column's type can't be converted to the declared one.
    """
    coerced = {}
    for name, kind in declared.items():
        found = coerce_typed(name, actual[name], kind)
        if found is None and actual[name].id == "varchar":
            found = coerce_text(identifier(name), kind)
        if found is None:
            raise TypeError(f"column {name!r} is {actual[name]}, expected {kind}")
        coerced[name] = found
    return coerced


def read_members(
    actual: Mapping[str, SqlType], declared: Mapping[str, SqlType], *, escaped: bool = False
) -> dict[str, Coerced]:
    """Coerce the members of JSON lines, and the columns from the object key; `escaped` as in `coerce_text`.

    Raises:
        TypeError: a type can't be read from JSON.
    """
    coerced = read_columns(actual, {name: kind for name, kind in declared.items() if name in actual})
    for name, kind in declared.items():
        if name not in actual:
            found = coerce_json(_member(name), kind, escaped=escaped)
            if found is None:
                raise TypeError(f"column {name!r} can't be read from JSON as {kind}")
            coerced[name] = found
    return {name: coerced[name] for name in declared}


def parse_lines(source: Source, inside: Mapping[str, SqlType], declared: Mapping[str, SqlType]) -> str:
    """Return a relation of parsed lines; its column `larder.problem` has the errors.

    A line of a rejects file has the original row in one of its members.
    """
    relation, line = _CHUNK, identifier(LINE)
    if source.format == "rejects":
        relation = f"(select * replace ({extract_prediction(line)} as {line}) from {relation})"
    problems = [
        f"when {_JSON} is null and regexp_matches({line}, '\\}}\\s*\\{{') then 'the line is not JSON: it seems to "
        "have several objects; end each with a newline'",
        f"when {_JSON} is null then 'the line is not JSON'",
        f"when not starts_with(ltrim({line}, {_BLANKS}), '{{') then 'the line is not a JSON object'",
    ]
    problems += _check_case(inside)
    if source.unknown_columns == "refuse":
        known = ", ".join(literal(name) for name in declared)
        unknown = f"list_filter(try(json_keys({line})), lambda name: name not in ({known}))"
        words = [literal("member '"), f"{unknown}[1]", literal("' is not in the contract")]
        problems.append(f"when len({unknown}) > 0 then concat({', '.join(words)})")
    problems += _check_repeated(relation, inside)
    structure = "{" + ",".join(json_member(name, kind) for name, kind in inside.items()) + "}"
    problem = f"coalesce({identifier(PROBLEM)}, case {' '.join(problems)} end)"
    parsed = f"(select *, try(json_transform({line}, {literal(structure)})) as {_JSON} from {relation})"
    return f"(select * replace ({problem} as {identifier(PROBLEM)}) from {parsed})"


def _check_repeated(relation: str, inside: Mapping[str, SqlType]) -> list[str]:
    """Return the case of lines that have a member of the contract twice.

    Comparing the names of every line costs more than parsing it. Lines have few different lists of names, so single
    lines are checked only if one of these lists has a name twice, which is rare.
    """
    if not inside:
        return []
    line = identifier(LINE)
    lists = f"select any_value(names) as names from (select try(json_keys({line})) as names from {relation}) "
    lists += "group by hash(names)"
    some = f"(select count(*) from ({lists}) where len(names) > len(list_distinct(names))) > 0"
    names = literal(", ".join(map(repr, inside)))
    words = f"concat('the line has a member of the contract twice (one of ', {names}, '); write it once')"
    return [f"when {some} and {has_repeated(line, inside)} then {words}"]


def _check_case(inside: Mapping[str, SqlType]) -> list[str]:
    """Return the cases of lines whose members differ from the contract only by case: they would be read as null."""
    cases = []
    if inside:
        missing = {name: f"{_member(name)} is null" for name in inside}
        cases.append(_find_other_case(identifier(LINE), "", missing))
    structs = [(name, _member(name), kind) for name, kind in inside.items() if kind.id == "struct"]
    while structs:
        place, json, kind = structs.pop()
        missing = {name: f"not contains({json}, {literal(json_name(name))})" for name, _ in kind.children}
        cases.append(_find_other_case(json, f"{place}.", missing))
        structs += [
            (f"{place}.{name}", f"json_extract({json}, {literal(f'$.{json_name(name)}')})", child)
            for name, child in kind.children
            if child.id == "struct"
        ]
    return cases


def _find_other_case(json: str, place: str, missing: Mapping[str, str]) -> str:
    expected = other_case(json, missing)
    found = f"list_filter(json_keys({json}), lambda name: lower(name) = lower({expected}))[1]"
    words = [literal(f"member '{place}"), found, literal(f"' is '{place}"), expected, literal("' in the contract")]
    return f"when {expected} is not null then concat({', '.join(words)}, ': case matters')"


def _member(name: str) -> str:
    return f"struct_extract({_JSON}, {literal(name)})"


def extract_prediction(line: str) -> str:
    """Return the SQL of the original row in a line of a rejects file, as the text of a line; null if it has none."""
    row = f"try(json_extract({line}, '$.{PREDICTION}'))"
    return f"case when json_type({row}) = 'VARCHAR' then {row} ->> '$' else cast({row} as varchar) end"


def render_read(
    relation: str,
    coerced: Mapping[str, Coerced],
    codes: Mapping[str, int],
    problem: str,
    known_bad: str = "cast(null as integer)",
) -> str:
    """Return the SELECT of the declared columns in their declared types.

    It adds `larder.row`, `larder.problem` (text, null for a good line) and `larder.bad` (the reject code, or null).
    """
    columns = [f"{each.sql} as {identifier(name)}" for name, each in coerced.items()]
    bad = [f"when {each.bad} then {codes[name]}" for name, each in coerced.items() if each.bad]
    if problem != NO_PROBLEM:
        bad.insert(0, f"when {problem} is not null then 0")
    code = f"coalesce({known_bad}, case {' '.join(bad)} end)" if bad else known_bad
    chosen = ['"larder.row"', *columns, f"{problem} as {identifier(PROBLEM)}", f'{code} as "larder.bad"']
    return f"select {', '.join(chosen)} from {relation}"

"""Compile a dataset to SQL: a table for each metadata, and one SELECT that joins, checks and renders a chunk.

In expressions, unqualified names are the prediction's columns, and `airlines.name` is a member of the struct `airlines`
that the join adds, so a metadata column never hides a column of the prediction. Names that begin with `larder.` are
internal.

Adjacent body members that depend only on one metadata are rendered once per metadata row, when the table is made,
instead of once per prediction. The join then adds them as one text (a "fragment").

Metadata of a list's elements is joined first (`enrich.dataset.element_joins`). All expressions except those of its `on`
use it as one more column, a list of structs.

The checks of a row are evaluated in a fixed order, and the first that is true is the reject reason: unreadable values,
null keys, missing metadata, expressions that fail, texts of keys, values that have no JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from enrich.dataset.binding import NUMBERS, Bound, Leaf, Node, find_leaves
from enrich.dataset.definition import Dataset
from enrich.dataset.element_joins import ElementMetadata, join_elements, name_element
from enrich.dataset.inputs import Unhashable, hash_values
from enrich.dataset.json_sql import (
    BAD_VALUE,
    JsonPolicy,
    SqlType,
    concat,
    identifier,
    literal,
    render_label,
    render_members,
    render_object,
)
from enrich.dataset.ranking import list_checks, render_rank
from enrich.dataset.row_checks import Reasons, RowChecks, render_case
from serve.item import (
    DOT_SEGMENTS,
    MAX_CLAIM_CHARACTERS,
    MAX_PK_BYTES,
    MAX_PREDICTION_ID,
    PREDICTION_ID,
    UNPRINTABLE,
)

MISSING = "missing-metadata"
MISSING_FATAL = "missing-metadata-fatal"
NULL_KEY = "null-key"
BAD_PREDICTION_ID = "bad-prediction-id"
LONG_KEY = "long-key"
BAD_SUBJECT = "bad-subject"

# equal to md5_number_lower, which takes 1.68 us for 600 B instead of 1.25
_DIGEST = '(md5_number("larder.body") >> 64)::ubigint'
MD5_SQL = "md5_number(pk || chr(0) || sk)"  # digest of an item key
# That digest as two numbers, since Parquet has no integers of 128 bits. Equal to md5_number_lower and
# md5_number_upper, which would compute the digest twice.
KEY_SQL = "(md5 >> 64)::ubigint as k1, (md5 & 18446744073709551615)::ubigint as k2"
PREDICTION_ID_SQL = PREDICTION_ID.pattern.removesuffix(r"\Z")  # as regexp_full_match expects it
# Without surrogates, which UTF-8 text cannot contain and RE2 does not support.
_UNPRINTABLE_SQL = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in UNPRINTABLE if first != 0xD800)


@dataclass(frozen=True)
class Compiled:
    """A dataset as SQL.

    Attributes:
        reasons: the reject reasons and details, by code.
        tables: metadata -> the SELECT of its table from the relation `larder.raw.{name}`.
        defaults: metadata that has fragments -> a SELECT of one row for predictions without a match: the reject code,
            and the fragments.
        columns: column -> the reject code of its unreadable values.
        plain: the join of the relation `larder.read` with all metadata.
        joined: `plain`, with the values of expressions as additional columns.
        pk: SQL of the partition key.
        sk: SQL of the prediction_id.
        code: SQL of the reject code; null for a row that becomes an item.
        problem: SQL of the detail of a reject; null if the detail of its code is complete.
        body: SQL pieces of the body's text, to concatenate.
        rank: SQL of the item's place in the ranked list; null without one.
        measured: SQL of the numbers that guards measure, by the names of the result's columns; 0 for a value that is
            no number, as only its nulls are measured.
        on: metadata without `each` -> a relation of the predictions, and SQL of the values that they are matched by.
        inputs: SQL of a digest of all values that the row's item depends on; None if one of them has no digest.
    """

    dataset: Dataset
    reasons: Reasons
    tables: dict[str, str]
    defaults: dict[str, str]
    columns: dict[str, int]
    plain: str
    joined: str
    pk: str
    sk: str
    code: str
    problem: str
    body: list[str]
    rank: str
    measured: dict[str, str]
    on: dict[str, tuple[str, list[str]]]
    inputs: str | None

    def select(self, defaults: Mapping[str, str], *, digest: bool, basis: str = "null") -> str:
        """Return the SELECT over the relation `larder.read`: row, pk, sk, body, rank, digest, bytes, code, problem.

        With `digest`, in the check stage, also the digest of the inputs and the numbers that guards measure.
        """
        measured = f", {self._find_inputs(basis)}{self._measure()}" if digest else ""
        body = concat(self.body)
        for fragment, text in defaults.items():
            body = body.replace(_default(fragment), literal(text))
        return f"""
            select "larder.row" as row, "larder.pk" as pk, "larder.sk" as sk, "larder.body" as body,
                case when "larder.code" is null then {self.rank} end as rank,
                {_DIGEST if digest else "null::ubigint"} as digest, strlen("larder.body") as bytes,
                "larder.code" as code, {self.problem} as problem{measured}
            from (select *, case when "larder.code" is null then {body} end as "larder.body"
            from (select *, {self.code} as "larder.code"
            from (select *, {self.pk} as "larder.pk", {self.sk} as "larder.sk" from {self.joined})))"""

    def select_inputs(self, basis: str) -> str:
        """Return the SELECT of what is known of rows before rendering: row, pk, sk, k1, k2, inputs, measures."""
        chosen = f'"larder.row" as row, {self.pk} as pk, {self.sk} as sk, {self._find_inputs(basis)}{self._measure()}'
        keyed = f"select *, {MD5_SQL} as md5 from (select {chosen} from {self.joined})"
        return f"select * exclude (md5), {KEY_SQL} from ({keyed})"

    def _find_inputs(self, basis: str) -> str:
        return f"{f'hash({basis}, {self.inputs})' if self.inputs else 'null::ubigint'} as inputs"

    def _measure(self) -> str:
        return "".join(f", {sql} as {identifier(name)}" for name, sql in self.measured.items())


@dataclass(frozen=True)
class _Kind:
    """A type of values that the compiler adds."""

    id: str
    children: Any = field(default_factory=list)


def compile_dataset(bound: Bound, hoisted: frozenset[str]) -> Compiled:
    """Compile a bound dataset. Fragments of the metadata in `hoisted` are rendered in the metadata's own table."""
    return _Compiler(bound, hoisted).compile()


class _Compiler:
    def __init__(self, bound: Bound, hoisted: frozenset[str]) -> None:
        self.bound, self.dataset, self.hoisted = bound, bound.dataset, hoisted
        self.policy = JsonPolicy(self.dataset.nulls, self.dataset.large_integers)
        self.reasons = Reasons()
        self.on_checks = RowChecks("on", self.reasons)
        self.row_checks = RowChecks("value", self.reasons)
        # in the order of the dataset: a set has another order in each process, and the SQL is among a row's inputs
        ordered = [name for name in self.dataset.metadata if name in hoisted]
        self.metadata_checks = {name: RowChecks(f"{name}.value", self.reasons) for name in ordered}
        self.fragments: dict[str, list[str]] = {name: [] for name in ordered}
        self.places: dict[int, str] = {}  # reject code -> SQL of a detail that names an element

    def compile(self) -> Compiled:
        columns = {
            name: self.reasons.add(BAD_VALUE, f"column {name!r} is not {kind}")
            for name, kind in self.bound.kinds.items()
        }
        read = ('"larder.bad" is not null', '"larder.bad"')
        conditions = {
            name: self._conditions(name) for name, metadata in self.dataset.metadata.items() if metadata.each is None
        }
        element_checks = {
            name: self._element_checks(name)
            for name, metadata in self.dataset.metadata.items()
            if metadata.each is not None
        }
        nulls, missing = self._null_columns(), self._missing()
        pk, sk, keys = self._keys()
        slots = len(self.row_checks.checks)
        body = render_object(self._pieces(self.bound.body))
        rank = self._rank()
        measured = {name_measured(name): self._measured(name, value) for name, value in self.bound.guarded.items()}
        tables = {name: self._table(name) for name in self.dataset.metadata}
        broken = [
            (f"{identifier(f'larder.{name}.bad')} is not null", identifier(f"larder.{name}.bad"))
            for name, checks in self.metadata_checks.items()
            if checks.checks
        ]
        lists = self._lists(element_checks)
        failed = [
            (f"{each.failed_place(n)} is not null", self._at_element(code, column, each.failed_place(n)))
            for column, metadata in lists.items()
            for each in metadata
            for n, (_, code) in enumerate(each.checks.checks)
        ]
        plain = self._join(conditions, self._join_lists(lists))
        return Compiled(
            dataset=self.dataset,
            reasons=self.reasons,
            tables=tables,
            defaults={name: self._defaults(name) for name, found in self.fragments.items() if found},
            columns=columns,
            plain=plain,
            joined=self.row_checks.select(plain),
            pk=pk,
            sk=sk,
            code=render_case(
                [
                    read,
                    *nulls,
                    *self.on_checks.checks,
                    *failed,
                    *missing,
                    *self.row_checks.checks[:slots],
                    *keys,
                    *self.row_checks.checks[slots:],
                    *broken,
                ]
            ),
            problem=self._problem(),
            body=body,
            rank=rank,
            measured=measured,
            on={name: (self.on_checks.select('"larder.read"'), self._on(name)) for name in conditions},
            inputs=self._inputs(),
        )

    def _inputs(self) -> str | None:
        """Return the SQL of a digest of what a row's item depends on; None if a value has no digest."""
        used = {column for leaf in self.bound.leaves() for column in leaf.expression.columns}
        used |= {column for on in self.bound.on.values() for leaf in on for column in leaf.expression.columns}
        values: list[tuple[str, SqlType]] = [('"larder.bad"', _Kind("integer"))]
        values += [(identifier(column), self.bound.kinds[column]) for column in sorted(used)]
        for name, metadata in self.dataset.metadata.items():
            if metadata.each is None:
                values.append((identifier(f"larder.{name}.inputs"), _Kind("ubigint")))
                continue
            if name in self.row_checks.metadata:
                row = _Kind("struct", list(self.bound.fields[name].items()))
                values.append((identifier(name), _Kind("list", [("child", row)])))
            if metadata.missing in {"reject", "fail"}:
                values.append((identifier(f"larder.{name}.missing"), _Kind("bigint")))
        try:
            for fields in self.bound.fields.values():
                hash_values(list(fields.items()))
            return hash_values(values)
        except Unhashable:
            return None

    def _measured(self, name: str, value: Leaf | SqlType) -> str:
        """Return the SQL of a guarded value as a number."""
        sql = self.row_checks.value(value.expression) if isinstance(value, Leaf) else identifier(name)
        kind = value.kind if isinstance(value, Leaf) else value
        return f"cast({sql if kind.id in NUMBERS else f'if({sql} is null, null, 0)'} as double)"

    def _element_checks(self, name: str) -> tuple[RowChecks, list[str]]:
        """Return the checks of the `on` expressions of a list's elements, and the SQL of their values."""
        checks = RowChecks(f"{name}.on", self.reasons)
        return checks, [checks.value(leaf.expression) for leaf in self.bound.on[name]]

    def _lists(self, checked: Mapping[str, tuple[RowChecks, list[str]]]) -> dict[str, list[ElementMetadata]]:
        """Return the metadata of each list column."""
        lists: dict[str, list[ElementMetadata]] = {}
        for name, (checks, values) in checked.items():
            metadata = self.dataset.metadata[name]
            used = name in self.row_checks.metadata
            one = ElementMetadata(name, metadata.missing, values, checks, used)
            lists.setdefault(str(metadata.each), []).append(one)
        return lists

    def _join_lists(self, lists: Mapping[str, list[ElementMetadata]]) -> str:
        """Return the relation of the predictions, joined with the metadata of their lists."""
        others = {
            column: {name for each in metadata for on in self.bound.on[each.name] for name in on.expression.columns}
            - {column}
            for column, metadata in lists.items()
        }
        return join_elements(identifier("larder.read"), lists, others)

    def _at_element(self, code: int, column: str, place: str) -> int:
        """Add the place of an element to the detail of a reject code."""
        _, detail = self.reasons.all[code]
        self.places[code] = f"concat({literal(f'{detail}: ')}, {name_element(column, place)})"
        return code

    def _problem(self) -> str:
        """Return the SQL of the details that are not constant: of a line that can't be read, and of an element."""
        cases = "".join(f" when {code} then {detail}" for code, detail in self.places.items())
        return f'coalesce("larder.problem", case "larder.code"{cases} end)' if cases else '"larder.problem"'

    def _conditions(self, name: str) -> str:
        table = identifier(f"larder.m.{name}")
        values = self._on(name)
        return " and ".join(f'{table}."larder.k{n}" = {value}' for n, value in enumerate(values))

    def _on(self, name: str) -> list[str]:
        return [self.on_checks.value(leaf.expression) for leaf in self.bound.on[name]]

    def _join(self, conditions: dict[str, str], read: str) -> str:
        chosen = ['"larder.on".*']
        joins = []
        for name, condition in conditions.items():
            table = identifier(f"larder.m.{name}")
            chosen += [f"{table}.{column}" for column in self._added(name)]
            joins.append(f" left join {table} on {condition}")
        on = self.on_checks.select(read)
        return f'(select {", ".join(chosen)} from {on} as "larder.on"{"".join(joins)})'

    def _added(self, name: str) -> list[str]:
        """Return the columns that the join with one metadata adds."""
        added = [identifier(f"larder.{name}.found"), identifier(f"larder.{name}.inputs")]
        if name in self.row_checks.metadata:
            added.append(identifier(name))
        if name in self.hoisted:
            added += [identifier(f"larder.{name}.f{n}") for n in range(len(self.fragments[name]))]
            added += [identifier(f"larder.{name}.bad")] if self.metadata_checks[name].checks else []
        return added

    def _table(self, name: str) -> str:
        chosen = [f'"larder.k{n}"' for n in range(len(self.bound.on[name]))]
        chosen.append(f"true as {identifier(f'larder.{name}.found')}")
        chosen.append(f"{self._digest_row(name)} as {identifier(f'larder.{name}.inputs')}")
        if name in self.row_checks.metadata:
            chosen.append(identifier(name))
        keys = [f'{identifier(column)} as "larder.k{n}"' for n, column in enumerate(self.bound.keys[name])]
        members = [f"{identifier(column)} := {identifier(column)}" for column in self.bound.fields[name]]
        struct = [f"struct_pack({', '.join(members)}) as {identifier(name)}"] if members else []
        raw = f"(select {', '.join(keys + struct)} from {identifier(f'larder.raw.{name}')})"
        if name not in self.hoisted:
            return f"select {', '.join(chosen)} from {raw}"
        return f"select {', '.join(chosen + self._own(name))} from {self.metadata_checks[name].select(raw)}"

    def _digest_row(self, name: str) -> str:
        """Return the SQL of a digest of what expressions use of a metadata row; null if a value has no digest."""
        fields = [
            (f"struct_extract({identifier(name)}, {literal(field)})", kind)
            for field, kind in self.bound.fields[name].items()
        ]
        try:
            return hash_values([("true", _Kind("boolean")), *fields])
        except Unhashable:
            return "null::ubigint"

    def _own(self, name: str) -> list[str]:
        """Return the columns rendered in the metadata's own table: its fragments, and the reject code of the row."""
        own = [f"{sql} as {identifier(f'larder.{name}.f{n}')}" for n, sql in enumerate(self.fragments[name])]
        bad = identifier(f"larder.{name}.bad")
        return own + ([f"{self.metadata_checks[name].code} as {bad}"] if self.metadata_checks[name].checks else [])

    def _defaults(self, name: str) -> str:
        members = [
            f"{identifier(column)} := {'null' if kind.id == 'null' else f'cast(null as {kind})'}"
            for column, kind in self.bound.fields[name].items()
        ]
        nothing = f"(select struct_pack({', '.join(members)}) as {identifier(name)})"
        own = ", ".join([self.metadata_checks[name].code, *self._own(name)[: len(self.fragments[name])]])
        return f"select {own} from {self.metadata_checks[name].select(nothing)}"

    def _null_columns(self) -> list[tuple[str, int]]:
        expressions = [*self.bound.subject, self.bound.prediction_id]
        required = sorted({column for expression in expressions for column in expression.expression.required})
        return [
            (f"{identifier(column)} is null", self.reasons.add(NULL_KEY, f"column {column!r} is null"))
            for column in required
        ]

    def _missing(self) -> list[tuple[str, int]]:
        checks = []
        for policy, reason in (("fail", MISSING_FATAL), ("reject", MISSING)):
            for name, metadata in self.dataset.metadata.items():
                if metadata.missing == policy:
                    detail = f"metadata {name!r} has no row for this {', '.join(metadata.matches)}"
                    code = self.reasons.add(reason, detail)
                    if metadata.each is None:
                        checks.append((f"{identifier(f'larder.{name}.found')} is null", code))
                    else:
                        place = identifier(f"larder.{name}.missing")
                        checks.append((f"{place} is not null", self._at_element(code, metadata.each, place)))
        return checks

    def _keys(self) -> tuple[str, str, list[tuple[str, int]]]:
        checks: list[tuple[str, int]] = []
        pk = literal(self.dataset.name)
        for leaf in self.bound.subject:
            text = f"cast({self.row_checks.value(leaf.expression)} as varchar)"
            empty = self.reasons.add(NULL_KEY, f"{leaf.expression.place} ({leaf.expression.sql}) is null or empty")
            checks.append((f"coalesce({text}, '') = ''", empty))
            checks += self._check_claim(f"{leaf.expression.place} ({leaf.expression.sql})", text)
            pk += f" || '#' || url_encode({text})"
        too_long = self.reasons.add(LONG_KEY, f"the partition key is longer than DynamoDB's {MAX_PK_BYTES} bytes")
        checks.append((f'strlen("larder.pk") > {MAX_PK_BYTES}', too_long))
        sk = f"cast({self.row_checks.value(self.bound.prediction_id.expression)} as varchar)"
        checks.append(('"larder.sk" is null', self.reasons.add(NULL_KEY, "the prediction_id is null")))
        return pk, sk, [*checks, *self._check_prediction_id()]

    def _check_claim(self, place: str, text: str) -> Iterator[tuple[str, int]]:
        """Yield the checks of a subject's text that `serve.item.is_subject` makes of a claim."""
        for wrong, reason, found in (
            (f"length({text}) > {MAX_CLAIM_CHARACTERS}", LONG_KEY, f"is longer than {MAX_CLAIM_CHARACTERS} characters"),
            (f"regexp_matches({text}, '[{_UNPRINTABLE_SQL}]')", BAD_SUBJECT, "has an invisible character"),
        ):
            detail = f"{place} {found}, and serve refuses such a claim; change both the column and the claim"
            yield wrong, self.reasons.add(reason, detail)

    def _check_prediction_id(self) -> Iterator[tuple[str, int]]:
        sql, sk = self.bound.prediction_id.expression.sql, '"larder.sk"'
        for wrong, detail in (
            (f"{sk} = ''", "is empty; set it, or omit the row"),
            (f"{sk} in {DOT_SEGMENTS}", "is '.' or '..', which clients remove from a path; add something to it"),
            (
                f"length({sk}) > {MAX_PREDICTION_ID}",
                f"is longer than {MAX_PREDICTION_ID} characters; hash it: md5({sql})",
            ),
            (
                f"not regexp_full_match({sk}, '{PREDICTION_ID_SQL}')",
                "has characters other than letters, digits and . _ ~ - : @ , = +; encode it: "
                f"replace(url_encode({sql}), '%', '=')",
            ),
        ):
            yield wrong, self.reasons.add(BAD_PREDICTION_ID, f"the prediction_id {detail}")

    def _rank(self) -> str:
        """Return the SQL of an item's place in the ranked list, as `serve.item.build_rank_tag` describes it."""
        if not self.bound.rank:
            return "null::varchar"
        pieces = [literal(f"{self.dataset.rank_tag}:")]
        for term, kind in self.bound.rank:
            value = self.row_checks.value(term.expression)
            for check in list_checks(value, kind):
                detail = f"{term.expression.place} ({term.expression.sql}) {check.because}"
                self.row_checks.checks.append((check.sql, self.reasons.add(check.reason, detail)))
            pieces.append(render_rank(value, kind, term))
        return concat([*pieces, "':'", '"larder.sk"'])

    def _pieces(self, members: Mapping[str, Node]) -> list[str]:
        """Return the SQL pieces of an object's members; adjacent ones that depend on one metadata are a fragment."""
        pieces: list[str] = []
        run: dict[str, Node] = {}
        owner: str | None = None
        for name, node in [*members.items(), ("", None)]:
            mine = self._owner(node) if node is not None else None
            if run and (node is None or mine != owner):
                pieces.append(self._fragment(owner, run)) if owner else pieces.extend(
                    self._members(run, self.row_checks)
                )
                run = {}
            if node is not None:
                owner, run[name] = mine, node
        return pieces

    def _owner(self, node: Node) -> str | None:
        """Return the hoisted metadata that is all that a node depends on; None if there is none."""
        leaves = find_leaves(node)
        names = {name for leaf in leaves for name, _ in leaf.expression.metadata}
        if len(names) == 1 and names <= self.hoisted and not any(leaf.expression.columns for leaf in leaves):
            return names.pop()
        return None

    def _fragment(self, owner: str, run: dict[str, Node]) -> str:
        pieces = self._members(run, self.metadata_checks[owner])
        self.fragments[owner].append(concat(pieces))
        fragment = f"larder.{owner}.f{len(self.fragments[owner]) - 1}"
        return f"coalesce({identifier(fragment)}, {_default(fragment)})"

    def _members(self, run: Mapping[str, Node], checks: RowChecks) -> list[str]:
        pieces = []
        for name, node in run.items():
            if isinstance(node, Leaf):
                pieces += render_members([(name, checks.text(node, self.policy))], self.policy.nulls)
            else:
                inner = self._pieces(node) if checks is self.row_checks else self._members(node, checks)
                pieces += [render_label(name), *render_object(inner)]
        return pieces


def name_measured(name: str) -> str:
    """Return the name of the rendered column that has the numbers of a guarded value."""
    return f"measured {name}"


def _default(fragment: str) -> str:
    """Return the placeholder of a fragment's default in SQL; it cannot collide, as no dataset's SQL contains NUL."""
    return f"\0{fragment}\0"

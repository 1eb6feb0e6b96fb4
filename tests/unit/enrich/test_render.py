"""What each DuckDB type is as JSON: a table of cases, and any value that hypothesis thinks of."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.dataset.json_sql import JsonPolicy, Unrenderable, render_json_sql

CON = duckdb.connect(config={"threads": 1})
CON.execute("set TimeZone='UTC'")
_DEFAULT = JsonPolicy()


def rendered(expression: str, policy: JsonPolicy = _DEFAULT) -> tuple[str | None, list[str]]:
    """Return the JSON text, and the reason and path of each check that is true."""
    kind = CON.sql(f"select {expression} as x").types[0]
    answer = render_json_sql("x", kind, policy)
    checks = ", ".join([answer.sql, *(check.sql for check in answer.checks)])
    row = CON.execute(f"select {checks} from (select {expression} as x)").fetchall()[0]
    return row[0], [f"{c.reason} {c.path}".strip() for c, bad in zip(answer.checks, row[1:], strict=True) if bad]


CASES = [
    ("true", "true"),
    ("(-128)::tinyint", "-128"),
    ("65535::usmallint", "65535"),
    ("9007199254740993::bigint", "9007199254740993"),
    ("18446744073709551615::ubigint", "18446744073709551615"),
    ("170141183460469231731687303715884105727::hugeint", "170141183460469231731687303715884105727"),
    ("0.1::float", "0.1"),
    ("16777216::float", "16777216.0"),
    ("3.4028235e38::float", "3.4028235e+38"),
    ("0.1::double", "0.1"),
    ("'-0.0'::double", "-0.0"),
    ("5e-324::double", "5e-324"),
    ("1.7976931348623157e308::double", "1.7976931348623157e+308"),
    ("1e22::double", "1e+22"),
    ("12.50::decimal(9,2)", "12.5"),
    ("100::decimal(9,0)", "100"),
    ("100.00::decimal(9,2)", "100"),
    ("0::decimal(9,2)", "0"),
    ("-0.05::decimal(9,2)", "-0.05"),
    ("0::decimal(3,3)", "0"),
    ("0.5::decimal(3,3)", "0.5"),
    ("-0.125::decimal(38,38)", "-0.125"),
    ("99999999999999999999999999999999.999999::decimal(38,6)", "99999999999999999999999999999999.999999"),
    ("''", '""'),
    ("'a\"b\\c/'", '"a\\"b\\\\c/"'),
    ("chr(1) || chr(31) || chr(10)", '"\\u0001\\u001F\\n"'),
    ("'\u2028é😀'", '"\u2028é😀"'),
    ("'b'::enum('a', 'b')", '"b"'),
    ("uuid '00000000-0000-0000-0000-00000000000A'", '"00000000-0000-0000-0000-00000000000a"'),
    ("'\\x00\\xABc'::blob", '"AKtj"'),
    ("date '2026-01-02'", '"2026-01-02"'),
    ("time '01:02:03'", '"01:02:03"'),
    ("time '01:02:03.5'", '"01:02:03.5"'),
    ("timestamp '2026-01-02 03:04:05'", '"2026-01-02T03:04:05Z"'),
    ("timestamp '2026-01-02 03:04:05.678901'", '"2026-01-02T03:04:05.678901Z"'),
    ("timestamp_s '2026-01-02 03:04:05'", '"2026-01-02T03:04:05Z"'),
    ("timestamp_ms '2026-01-02 03:04:05.12'", '"2026-01-02T03:04:05.12Z"'),
    ("timestamp_ns '2026-01-02 03:04:05.123456789'", '"2026-01-02T03:04:05.123456789Z"'),
    ("timestamptz '2026-01-02 03:04:05.5+05:30'", '"2026-01-01T21:34:05.5Z"'),
    ("timestamp '0001-01-01 00:00:00'", '"0001-01-01T00:00:00Z"'),
    ("timestamp '9999-12-31 23:59:59.999999'", '"9999-12-31T23:59:59.999999Z"'),
    ("{'b': 1, 'a': 'x'}", '{"b":1,"a":"x"}'),
    ("{'A b\"''': {'c': [1.5::float]}}", '{"A b\\"\'":{"c":[1.5]}}'),
    ("{'a': null::integer, 'b': {'c': null::varchar}}", '{"a":null,"b":{"c":null}}'),
    ("[]::integer[]", "[]"),
    ("[1, null, 3]", "[1,null,3]"),
    ("[[0.1::float], []]", "[[0.1],[]]"),
    ("[{'t': timestamptz '2026-01-02 00:00:00Z'}]", '[{"t":"2026-01-02T00:00:00Z"}]'),
    ("[1.5, null]::float[2]", "[1.5,null]"),
    ("map {'k\"': 1.50::decimal(4,2), 'l': null}", '{"k\\"":1.5,"l":null}'),
    ("map {7: ['a']}", '{"7":["a"]}'),
    ("map {}::map(varchar, integer)", "{}"),
    ('\'{"a" : [1, "NaN"]}\'::json', '{"a":[1,"NaN"]}'),
    ("null", None),
    ("null::float", None),
    ("null::integer[]", None),
    ("null::struct(a integer)", None),
    ("null::timestamptz", None),
]


@pytest.mark.parametrize(("expression", "text"), CASES, ids=[case[0] for case in CASES])
def test_each_type_has_one_text(expression: str, text: str | None) -> None:
    """A value is the text that the table in enrich/dataset/json_sql.py states, and nothing is wrong with it."""
    got, bad = rendered(expression)
    assert got == text
    assert bad == []
    if got is not None:
        json.loads(got, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


BAD = [
    ("'nan'::float", ["not-a-number"]),
    ("'-inf'::double", ["not-a-number"]),
    ("['1', 'inf']::double[]", ["not-a-number []"]),
    ("{'a': [{'b': 'nan'::float, 'c': 'nan'::double}]}", ["not-a-number .a[].b", "not-a-number .a[].c"]),
    ("map {'k': 'nan'::double}", ["not-a-number {}"]),
    ("'{\"a\": NaN}'::json", ["not-a-number"]),
    ("'[1, -Infinity]'::json", ["not-a-number"]),
    ("date 'infinity'", ["bad-value"]),
    ("date '10000-01-01'", ["bad-value"]),
    ("date '0044-03-15 (BC)'", ["bad-value"]),
    ("timestamp '-infinity'", ["bad-value"]),
    ("timestamptz '10000-01-01 00:00:00Z'", ["bad-value"]),
    ("[timestamp 'infinity']", ["bad-value []"]),
]


@pytest.mark.parametrize(("expression", "reasons"), BAD, ids=[case[0] for case in BAD])
def test_what_json_has_no_word_for_is_found_wherever_it_hides(expression: str, reasons: list[str]) -> None:
    """NaN, infinity and instants that RFC 3339 can't write are checked, with the path of the member."""
    assert rendered(expression)[1] == reasons


@pytest.mark.parametrize(
    "expression",
    ["interval 1 day", "timetz '01:02:03+01'", "'0101'::bit", "(1, 2)", "[interval 1 day]", "map {[1]: 1}"],
)
def test_a_type_without_json_is_refused_with_a_remedy(expression: str) -> None:
    """Types that JSON has no agreed form for are a mistake in the dataset."""
    with pytest.raises(Unrenderable, match="has no JSON; "):
        rendered(expression)


@pytest.mark.parametrize(
    ("expression", "policy", "text", "reasons"),
    [
        ("5::bigint", JsonPolicy(large_integers="string"), '"5"', []),
        ("5::integer", JsonPolicy(large_integers="string"), "5", []),
        ("[5::hugeint]", JsonPolicy(large_integers="string"), '["5"]', []),
        ("9007199254740991::bigint", JsonPolicy(large_integers="reject"), "9007199254740991", []),
        ("9007199254740992::bigint", JsonPolicy(large_integers="reject"), "9007199254740992", ["large-integer"]),
        ("{'a': -9007199254740992::bigint}", JsonPolicy(large_integers="reject"), None, ["large-integer .a"]),
        ("{'a': null::int, 'b': {'c': null::int}}", JsonPolicy(nulls="omit"), '{"b":{}}', []),
        ("{'a': 1, 'b': null::int, 'c': 2}", JsonPolicy(nulls="omit"), '{"a":1,"c":2}', []),
        ("[null::int]", JsonPolicy(nulls="omit"), "[null]", []),
        ("map {'a': null, 'b': 1}", JsonPolicy(nulls="omit"), '{"b":1}', []),
    ],
)
def test_policies(expression: str, policy: JsonPolicy, text: str | None, reasons: list[str]) -> None:
    """Nulls and large integers are what the dataset says, also within nested values."""
    got, bad = rendered(expression, policy)
    assert bad == reasons
    assert text is None or got == text


def _texts(values: list[Any], kind: pa.DataType) -> list[Any]:
    table = pa.table({"x": pa.array(values, kind)})
    CON.register("values_", table)
    answer = render_json_sql("x", CON.sql("select * from values_").types[0])
    rows = CON.execute(f"select {answer.sql} from values_").fetchall()
    assert all(text is None or "\n" not in text for (text,) in rows)
    return [None if text is None else json.loads(text) for (text,) in rows]


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
INSTANTS = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31))


@given(st.lists(st.none() | ANY_TEXT))
def test_any_unicode_survives(values: list[str | None]) -> None:
    """A consumer reads the very text, control characters, separators and emoji included."""
    assert _texts(values, pa.string()) == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_any_double_survives(values: list[float]) -> None:
    """A double reads back as itself, the sign of zero included."""
    got = _texts(values, pa.float64())
    assert [struct.pack("d", value) for value in got] == [struct.pack("d", value) for value in values]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_float32_is_its_shortest_text(values: list[float]) -> None:
    """A float32 reads back as itself at that width, in no more than nine digits."""
    got = _texts(values, pa.float32())
    assert [struct.pack("f", value) for value in got] == [struct.pack("f", value) for value in values]
    assert all(value == 0 or len(Decimal(repr(value)).normalize().as_tuple().digits) <= 9 for value in got)


@given(st.lists(st.decimals(min_value=-(10**20), max_value=10**20, places=7, allow_nan=False, allow_infinity=False)))
def test_any_decimal_is_exact(values: list[Decimal]) -> None:
    """A decimal is the same number without an exponent and without padding."""
    CON.register("values_", pa.table({"x": pa.array(values, pa.decimal128(38, 7))}))
    answer = render_json_sql("x", CON.sql("select * from values_").types[0])
    texts = [text for (text,) in CON.execute(f"select {answer.sql} from values_").fetchall()]
    assert [Decimal(text) for text in texts] == values
    assert not any("e" in text or (("." in text) and text[-1] in "0.") for text in texts)


@given(st.lists(INSTANTS), st.sampled_from(["UTC", None]))
def test_any_instant_is_rfc_3339_in_utc(values: list[datetime], zone: str | None) -> None:
    """An instant reads back as itself; one without a zone is UTC."""
    aware = [value.replace(tzinfo=UTC) for value in values]
    got = _texts(aware if zone else values, pa.timestamp("us", zone))
    assert all(text.endswith("Z") and text[10] == "T" for text in got)
    assert [datetime.fromisoformat(text) for text in got] == aware


@given(st.lists(st.dates()))
def test_any_date(values: list[date]) -> None:
    """A date reads back as itself."""
    assert [date.fromisoformat(text) for text in _texts(values, pa.date32())] == values


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_any_integer_keeps_its_digits(values: list[int | None]) -> None:
    """Integers past 2^53 are exact."""
    assert _texts(values, pa.int64()) == values


NESTED = pa.struct([("n", pa.list_(pa.struct([("t", pa.string()), ("f", pa.float64())]))), ("ü \"'", pa.int64())])


@given(
    st.lists(
        st.none()
        | st.fixed_dictionaries(
            {
                "n": st.none()
                | st.lists(
                    st.none()
                    | st.fixed_dictionaries(
                        {"t": st.none() | ANY_TEXT, "f": st.none() | st.floats(allow_nan=False, allow_infinity=False)}
                    )
                ),
                "ü \"'": st.none() | st.integers(-(2**63), 2**63 - 1),
            }
        )
    )
)
@settings(max_examples=50)
def test_any_nested_value_survives(values: list[Any]) -> None:
    """Structs and lists in each other read back as themselves, nulls at every level included."""
    assert _texts(values, NESTED) == values


@given(st.lists(st.none() | st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=23))))
@settings(max_examples=20)
def test_any_time_of_day(values: list[timedelta | None]) -> None:
    """A time is its text with as many digits as it has."""
    micros = [None if value is None else value // timedelta(microseconds=1) for value in values]
    got = _texts(micros, pa.time64("us"))
    for text, micro in zip(got, micros, strict=True):
        if micro is not None:
            assert math.isclose(
                (datetime.fromisoformat(f"1970-01-01T{text}+00:00").timestamp() * 1e6), micro, abs_tol=0.5
            )

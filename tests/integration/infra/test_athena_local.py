"""The local Athena: its API through boto3 and PyAthena's cursor, tables in Glue, the Parquet of UNLOAD on S3."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from pyathena import connect
from pyathena.error import DatabaseError, OperationalError

from infra.local.athena.server import run_athena

PARQUET = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
AIRLINES = pa.table({"carrier": ["AA", "B6", "UA"], "name": ["American", 'Jet, "Blue"', None], "fleet": [3, 2, 1]})
PLANES = pa.table(
    {
        "tailnum": ["N1", "N2", "N3"],
        "Carrier": ["AA", "AA", "B6"],  # Athena finds columns in any case
        "seats": pa.array([100, 200, None], pa.int32()),
        "price": pa.array([Decimal("1.50"), Decimal("2.25"), None], pa.decimal128(9, 2)),
        "built": pa.array([date(2001, 2, 3), None, date(2004, 5, 6)]),
        "seen": pa.array([datetime(2024, 1, 2, 3, 4, 5, 678_901), None, None], pa.timestamp("us", tz="UTC")),
    }
)
SLOW = "select count(*) from unnest(sequence(1, 100000)) a (x), unnest(sequence(1, 100000)) b (y) where x * y % 7 = 3"


@dataclass
class Lake:
    """A bucket, a database with two tables, and an Athena client over them."""

    bucket: str
    database: str
    athena: Any
    s3: Any
    glue: Any
    endpoint: str

    def start(self, sql: str, **members: Any) -> Any:
        context = {"Database": self.database}
        output = {"OutputLocation": f"s3://{self.bucket}/results"}
        members = {"QueryExecutionContext": context, "ResultConfiguration": output, **members}
        return self.athena.start_query_execution(QueryString=sql, **members)["QueryExecutionId"]

    def run(self, sql: str, **members: Any) -> Any:
        query_id = self.start(sql, **members)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            execution = self.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
            if execution["Status"]["State"] not in {"QUEUED", "RUNNING"}:
                return execution
            time.sleep(0.01)
        raise TimeoutError(sql)

    def rows(self, sql: str) -> list[list[Any]]:
        location = self.fresh()
        execution = self.run(f"unload ({sql}) to '{location}' with (format = 'PARQUET')")
        assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
        tables = [pq.read_table(io.BytesIO(_get(self, f"s3://{self.bucket}/{name}"))) for name in _list(self, location)]
        return [list(row.values()) for table in tables for row in table.to_pylist()]

    def reason(self, sql: str) -> Any:
        status = self.run(sql)["Status"]
        assert status["State"] == "FAILED", status
        assert status["AthenaError"]["ErrorMessage"] == status["StateChangeReason"]
        return status["StateChangeReason"]

    def fresh(self) -> str:
        return f"s3://{self.bucket}/unload/{time.monotonic_ns()}"

    def put_table(self, name: str, rows: pa.Table | bytes, columns: dict[str, str], serde: str = PARQUET) -> None:
        content = rows if isinstance(rows, bytes) else _parquet(rows)
        self.s3.put_object(Bucket=self.bucket, Key=f"{name}/part-0.parquet", Body=content)
        self.glue.create_table(
            DatabaseName=self.database,
            TableInput={
                "Name": name,
                "TableType": "EXTERNAL_TABLE",
                "StorageDescriptor": {
                    "Columns": [{"Name": column, "Type": kind} for column, kind in columns.items()],
                    "Location": f"s3://{self.bucket}/{name}/",
                    "SerdeInfo": {"SerializationLibrary": serde},
                },
            },
        )


@pytest.fixture(scope="module")
def athena_endpoint(aws: Any) -> Any:
    with run_athena(aws.endpoint) as server:
        yield server.endpoint


@pytest.fixture(scope="module")
def lake(aws: Any, athena_endpoint: str) -> Any:
    athena = aws.client("athena", endpoint_url=athena_endpoint)
    made = Lake(aws.bucket(), aws.name("lake"), athena, aws.client("s3"), aws.client("glue"), athena_endpoint)
    made.glue.create_database(DatabaseInput={"Name": made.database})
    made.put_table("airlines", AIRLINES, {"carrier": "string", "name": "varchar(50)", "fleet": "bigint"})
    made.put_table(
        "planes",
        PLANES,
        {
            "tailnum": "string",
            "carrier": "string",
            "seats": "bigint",
            "price": "decimal(9,2)",
            "built": "date",
            "seen": "timestamp",
            "engine": "string",
        },
    )
    return made


def _parquet(rows: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(rows, content)
    return content.getvalue()


# -- rows of a query ---------------------------------------------------------------------------------------------------

COMPUTED: dict[str, tuple[str, list[list[Any]]]] = {
    "a join": (
        "select a.name, count(*) as n, sum(p.seats) as seats from airlines a join planes p on p.carrier = a.carrier "
        "group by a.name order by 1",
        [["American", 2, 300], ['Jet, "Blue"', 1, None]],
    ),
    "a common table expression": (
        "with big as (select * from planes where seats > 150) select tailnum from big",
        [["N2"]],
    ),
    "a name of WITH hides a table": ("with airlines as (select 1 as one) select * from airlines", [[1]]),
    "a subquery in a condition": (
        "select carrier from airlines where carrier in (select carrier from planes) order by 1",
        [["AA"], ["B6"]],
    ),
    "a union": ("select 1 as x union all select 2 order by 1", [[1], [2]]),
    "a quoted name": ('select "carrier" as "Order" from airlines where fleet = 1', [["UA"]]),
    "a column that no file has is null": ("select distinct engine from planes", [[None]]),
    "timestamps to the millisecond": (
        "select seen from planes where tailnum = 'N1'",
        [[datetime(2024, 1, 2, 3, 4, 5, 678_000)]],
    ),
    "integers divide to integers": ("select 7/2 as a, -7/2 as b, 7/2e0 as c", [[3, -3, 3.5]]),
    "values of all kinds": (
        "select true as a, 1.50 as b, date '2020-02-29' as c, timestamp '2020-01-01 01:02:03' as d, "
        "array[1, null] as e, cast(0.5 as real) as f",
        [[True, Decimal("1.50"), date(2020, 2, 29), datetime(2020, 1, 1, 1, 2, 3), [1, None], 0.5]],
    ),
    "functions that DuckDB spells otherwise": (
        "select date_parse('2020-01-02', '%Y-%m-%d') as a, strpos('abc', 'c') as b, "
        "json_extract_scalar('{\"a\": 1}', '$.a') as c, element_at(array[5, 6], 2) as d, regexp_like('abc', 'b') as e",
        [[datetime(2020, 1, 2), 3, "1", 6, True]],
    ),
    "no rows": ("select carrier from airlines where false", []),
}


@pytest.mark.parametrize(("sql", "rows"), COMPUTED.values(), ids=COMPUTED)
def test_a_query_answers_as_on_athena(lake: Lake, sql: str, rows: Any) -> None:
    """The rows of a query are those of Athena's engine."""
    assert lake.rows(sql) == rows


def test_a_table_can_be_qualified_by_database_and_catalog(lake: Lake) -> None:
    """A qualified name needs no database in the query's context, and letter case does not matter."""
    sql = f'select count(*) from AwsDataCatalog."{lake.database}".AIRLINES'
    execution = lake.run(sql, QueryExecutionContext={})
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]


def test_columns_come_with_athenas_types(lake: Lake) -> None:
    """Column metadata has the names that PyAthena's converters know."""
    query_id = lake.run("select *, count(*) over () as n, cast(seats as double) / 3 from planes limit 0")[
        "QueryExecutionId"
    ]
    answer = lake.athena.get_query_results(QueryExecutionId=query_id)
    columns = [(c["Name"], c["Type"]) for c in answer["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]]
    assert columns == [
        ("tailnum", "varchar"),
        ("carrier", "varchar"),
        ("seats", "bigint"),
        ("price", "decimal"),
        ("built", "date"),
        ("seen", "timestamp"),
        ("engine", "varchar"),
        ("n", "bigint"),
        ("_col8", "double"),
    ]


# -- states, results ---------------------------------------------------------------------------------------------------


def test_rows_of_a_select_are_refused(lake: Lake) -> None:
    """A SELECT returns its columns only; rows need UNLOAD, which is all that enrich uses."""
    query_id = lake.run("select fleet from airlines where false")["QueryExecutionId"]
    results = lake.athena.get_query_results(QueryExecutionId=query_id)["ResultSet"]
    assert [row["Data"] for row in results["Rows"]] == [[{"VarCharValue": "fleet"}]]
    query_id = lake.run("select fleet from airlines")["QueryExecutionId"]
    with pytest.raises(ClientError, match="use UNLOAD"):
        lake.athena.get_query_results(QueryExecutionId=query_id)


def test_the_work_group_has_the_output_location(lake: Lake, aws: Any) -> None:
    """Without its own output location, a query uses that of its work group; without either it fails to start."""
    group = aws.name("group")
    configuration = {"ResultConfiguration": {"OutputLocation": f"s3://{lake.bucket}/of-the-group/"}}
    aws.client("athena").create_work_group(Name=group, Configuration=configuration)
    query = {"QueryString": "select 1", "WorkGroup": group}
    query_id = lake.athena.start_query_execution(**query)["QueryExecutionId"]
    execution = lake.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
    assert execution["ResultConfiguration"]["OutputLocation"] == f"s3://{lake.bucket}/of-the-group/{query_id}.csv"
    with pytest.raises(ClientError, match="No output location provided"):
        lake.athena.start_query_execution(QueryString="select 1")
    with pytest.raises(ClientError, match="WorkGroup nobody is not found"):
        lake.start("select 1", WorkGroup="nobody")


def test_a_running_query_is_cancelled(lake: Lake) -> None:
    """StopQueryExecution soon ends a running query; its results are refused."""
    query_id = lake.start(SLOW)
    deadline = time.monotonic() + 120
    while _state(lake, query_id) != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    lake.athena.stop_query_execution(QueryExecutionId=query_id)
    assert _state(lake, query_id) == "CANCELLED"
    with pytest.raises(ClientError, match="Final query state: CANCELLED"):
        lake.athena.get_query_results(QueryExecutionId=query_id)
    started = time.monotonic()
    for _ in range(4):  # its thread is free again, as are all threads
        assert lake.rows("select 1 as x") == [[1]]
    assert time.monotonic() - started < 60


def test_results_of_a_running_query_are_refused(lake: Lake) -> None:
    """Results can be read only after the query has succeeded."""
    query_id = lake.start(SLOW)
    with pytest.raises(ClientError, match="Query has not yet finished"):
        lake.athena.get_query_results(QueryExecutionId=query_id)
    lake.athena.stop_query_execution(QueryExecutionId=query_id)


@pytest.mark.parametrize(("sql", "state"), [("select 1", "SUCCEEDED"), ("select wingspan from planes", "FAILED")])
def test_stopping_an_ended_query_changes_nothing(lake: Lake, sql: str, state: str) -> None:
    """A query that has succeeded or failed keeps its state."""
    query_id = lake.run(sql)["QueryExecutionId"]
    lake.athena.stop_query_execution(QueryExecutionId=query_id)
    assert _state(lake, query_id) == state


# -- refused and failed queries ----------------------------------------------------------------------------------------

REFUSED = {
    "no SQL": "selec 1",
    "a clause that breaks off": "select carrier from where",
    "two statements": "select 1; select 2",
    "nothing": "-- nothing",
    "a table made": "create table t as select 1",
    "a write": "insert into airlines values ('ZZ', 'Z', 1)",
    "a setting": "set enable_external_access = true",
    "a copy": "copy (select 1) to '/tmp/escaped'",
    "an attached file": "attach '/tmp/escaped.db' as escaped",
    "an extension": "install httpfs",
    "an unload to the host": "unload (select 1 as x) to '/tmp/escaped' with (format = 'PARQUET')",
    "an unload in another format": "unload (select 1 as x) to 's3://bucket/key' with (format = 'ORC')",
    "an unload of no query": "unload (drop table airlines) to 's3://bucket/key' with (format = 'PARQUET')",
}


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED)
def test_bad_sql_is_refused_at_once(lake: Lake, sql: str) -> None:
    """A statement that does not parse, or is not a SELECT or UNLOAD, is an InvalidRequestException; no query starts."""
    with pytest.raises(lake.athena.exceptions.InvalidRequestException) as refused:
        lake.start(sql)
    assert refused.value.response["Error"]["Message"]
    assert "\x1b" not in str(refused.value)


FAILED = {
    "an unknown table": ("select * from nothing", "TABLE_NOT_FOUND.*nothing"),
    "an unknown column": ("select wingspan from planes", "COLUMN_NOT_FOUND.*wingspan"),
    "an unknown function": ("select frobnicate(1)", "FUNCTION_NOT_FOUND.*frobnicate"),
    "an unknown catalog": ("select * from other.a.b", "CATALOG_NOT_FOUND"),
    "a division by zero": ("select 1 / (fleet - fleet) from airlines", "DIVISION_BY_ZERO"),
    "a bad cast": ("select cast(carrier as bigint) from airlines", "INVALID_CAST_ARGUMENT.*AA"),
    "an output bucket that is not there": (
        "unload (select 1 as x) to 's3://no-such-bucket-here/x' with (format = 'PARQUET')",
        "no-such-bucket-here",
    ),
}


@pytest.mark.parametrize(("sql", "reason"), FAILED.values(), ids=FAILED)
def test_a_query_that_cannot_run_fails_with_its_reason(lake: Lake, sql: str, reason: str) -> None:
    """A statement that parses is started and fails with a reason that names the cause."""
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(lake.reason(sql))


def test_nested_columns_are_read_as_glue_declares_them(lake: Lake, aws: Any) -> None:
    """A list of structs and a map, through Athena's functions and as a whole."""
    rows = pa.table(
        {
            "tags": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())),
            "parts": pa.array([[{"sku": "a", "n": 1}], None]),
        }
    )
    name = aws.name("nested").replace("-", "_")
    lake.put_table(name, rows, {"tags": "map<string,int>", "parts": "array<struct<sku:string,n:bigint>>"})
    found = lake.rows(
        f"select element_at(tags, 'k') as k, parts[1].sku as sku, tags, parts from {name} where parts is not null"
    )
    assert found == [[1, "a", [("k", 1)], [{"sku": "a", "n": 1}]]]


TABLES_THAT_FAIL = {
    "not Parquet": (b"carrier,name\n", {"carrier": "string"}, PARQUET, "HIVE_BAD_DATA: Malformed Parquet"),
    "another type": (AIRLINES, {"carrier": "bigint"}, PARQUET, "HIVE_BAD_DATA: Field carrier's type string"),
    "too narrow a type": (AIRLINES, {"fleet": "int"}, PARQUET, "HIVE_BAD_DATA: Field fleet's type int64"),
    "CSV": (
        b"carrier\n",
        {"carrier": "string"},
        "org.apache.hadoop.hive.serde2.OpenCSVSerde",
        "only Parquet tables",
    ),
    "a nested type": (AIRLINES, {"carrier": "uniontype<string,int>"}, PARQUET, "no column type"),
}


@pytest.mark.parametrize(("rows", "columns", "serde", "reason"), TABLES_THAT_FAIL.values(), ids=TABLES_THAT_FAIL)
def test_a_table_that_differs_from_the_catalog_fails_its_query(
    lake: Lake, aws: Any, rows: Any, columns: Any, serde: str, reason: str
) -> None:
    """Files of another format or type than the catalog states are an error, not a guess."""
    name = aws.name("broken").replace("-", "_")
    lake.put_table(name, rows, columns, serde)
    assert reason in lake.reason(f"select * from {name}")


ESCAPES = [
    "select * from read_csv('{file}')",
    "select * from read_text('{file}')",
    "select * from read_blob('{file}')",
    "select * from read_parquet('{file}')",
    "select * from '{file}'",
    'select * from "{file}"',
    "select * from glob('{file}*')",
    "select * from sniff_csv('{file}')",
    "select * from query('select * from read_text(''{file}'')')",
    "select * from query_table(['{file}'])",
    "select * from duckdb_settings()",
    "select (select content from read_text('{file}'))",
    "with x as (select * from read_text('{file}')) select * from x",
    "select 1 from airlines a, lateral (select * from read_text('{file}')) t",
    "select read_text('{file}')",
    "select getenv('HOME')",
    "select * from AIRLINES",  # our own variable, which DuckDB's Python module would read as a table
    "select * from information_schema.tables",
    "unload (select * from read_text('{file}')) to 's3://bucket/escaped' with (format = 'PARQUET')",
]


@pytest.mark.parametrize("sql", ESCAPES)
def test_sql_cannot_reach_the_host(lake: Lake, tmp_path: Path, sql: str) -> None:
    """SQL that reads a file or the process of the host fails, and the error has none of their content."""
    secret = tmp_path / "secret.csv"
    secret.write_text("secret\nthe-hosts-secret\n")
    members = {"QueryExecutionContext": {"Database": "nowhere"}}
    try:
        execution = lake.run(sql.format(file=secret), **members)
    except lake.athena.exceptions.InvalidRequestException as refused:
        assert "the-hosts-secret" not in str(refused)  # noqa: PT017 - either way of failing will do
    else:
        assert execution["Status"]["State"] == "FAILED", execution
        assert "the-hosts-secret" not in execution["Status"]["StateChangeReason"]


# -- UNLOAD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["SNAPPY", "GZIP", "ZSTD", "NONE", None])
def test_unload_writes_parquet_to_s3(lake: Lake, compression: str | None) -> None:
    """UNLOAD writes real Parquet below its location, and a manifest that names each file."""
    location = lake.fresh()
    codec = f", compression = '{compression}'" if compression else ""
    query = "select * from planes where tailnum <> ')' order by 1"
    sql = f"UNLOAD ({query}) TO '{location}' WITH (format = 'PARQUET'{codec})"
    execution = lake.run(sql)
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
    manifest = execution["Statistics"]["DataManifestLocation"]
    assert manifest == f"s3://{lake.bucket}/results/{execution['QueryExecutionId']}-manifest.csv"
    [written] = _get(lake, manifest).decode().split()
    assert written.startswith(location + "/")
    content = io.BytesIO(_get(lake, written))
    codecs = {"GZIP": "GZIP", "SNAPPY": "SNAPPY", "ZSTD": "ZSTD", "NONE": "UNCOMPRESSED", None: "GZIP"}
    assert pq.read_metadata(content).row_group(0).column(0).compression == codecs[compression]
    rows = pq.read_table(content)
    assert rows.column_names == ["tailnum", "carrier", "seats", "price", "built", "seen", "engine"]
    assert rows.column("seats").to_pylist() == [100, 200, None]
    assert rows.schema.field("price").type == pa.decimal128(9, 2)
    assert rows.schema.field("seen").type == pa.timestamp("ns")


def test_unload_does_not_write_to_a_location_with_objects(lake: Lake) -> None:
    """A second UNLOAD to the same location fails and changes nothing."""
    location = lake.fresh()
    sql = f"unload (select 1 as x) to '{location}/' with (format = 'parquet')"
    assert lake.run(sql)["Status"]["State"] == "SUCCEEDED"
    assert "HIVE_PATH_ALREADY_EXISTS" in lake.reason(sql)
    assert len(_list(lake, location)) == 1


def test_unload_without_rows_writes_no_file(lake: Lake) -> None:
    """No rows, no Parquet; the manifest is empty."""
    location = lake.fresh()
    execution = lake.run(f"unload (select * from planes where false) to '{location}' with (format = 'PARQUET')")
    assert execution["Status"]["State"] == "SUCCEEDED"
    assert _list(lake, location) == []
    assert _get(lake, execution["Statistics"]["DataManifestLocation"]) == b""
    answer = lake.athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])
    assert answer["ResultSet"]["Rows"] == []


def test_unload_fails_as_on_athena(lake: Lake) -> None:
    """Athena's Parquet can't have a column without a name, or a time zone."""
    unload = f"unload ({{}}) to '{lake.fresh()}' with (format = 'PARQUET')"
    assert "Column name not specified at position 2" in lake.reason(
        unload.format("select fleet, fleet + 1 from airlines")
    )
    assert "with time zone" in lake.reason(unload.format("select current_timestamp as now"))


# -- PyAthena ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(lake: Lake, aws_env: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", lake.endpoint)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with connect(s3_staging_dir=f"s3://{lake.bucket}/pyathena/", schema_name=lake.database, poll_interval=0.02) as made:
        yield made


def test_pyathenas_cursor_unloads_and_describes(lake: Lake, connection: Any) -> None:
    """The two statements that enrich sends: an UNLOAD, and a SELECT without rows for the types of its columns."""
    location = lake.fresh()
    connection.cursor().execute(f"UNLOAD (select * from airlines) TO '{location}' WITH (format = 'PARQUET')")
    assert len(_list(lake, location)) == 1
    cursor = connection.cursor().execute(
        "SELECT * FROM (select tailnum, seats, price, built, seen from planes) LIMIT 0"
    )
    described = [(column[0], column[1]) for column in cursor.description]
    types = ["varchar", "bigint", "decimal", "date", "timestamp"]
    assert described == list(zip(["tailnum", "seats", "price", "built", "seen"], types, strict=True))


def test_pyathena_raises_the_reason(connection: Any) -> None:
    """A refused and a failed query are PyAthena's errors with our reasons."""
    with pytest.raises(DatabaseError, match="Expected table name"):
        connection.cursor().execute("select * from where")
    with pytest.raises(OperationalError, match="TABLE_NOT_FOUND"):
        connection.cursor().execute("select * from nothing")


def _state(lake: Lake, query_id: str) -> Any:
    return lake.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]["Status"]["State"]


def _get(lake: Lake, location: str) -> Any:
    bucket, _, object_key = location.removeprefix("s3://").partition("/")
    return lake.s3.get_object(Bucket=bucket, Key=object_key)["Body"].read()


def _list(lake: Lake, location: str) -> list[str]:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return [entry["Key"] for entry in lake.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]

"""The local Athena as its clients meet it: the API through boto3, PyAthena's cursors, tables in Glue, results on S3."""

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
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from pyathena import connect
from pyathena.arrow.cursor import ArrowCursor
from pyathena.error import DatabaseError, OperationalError
from pyathena.pandas.cursor import PandasCursor

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
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            execution = self.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
            if execution["Status"]["State"] not in {"QUEUED", "RUNNING"}:
                return execution
            time.sleep(0.01)
        raise TimeoutError(sql)

    def rows(self, sql: str) -> list[list[str | None]]:
        execution = self.run(sql)
        assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
        answer = self.athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])
        return [[datum.get("VarCharValue") for datum in row["Data"]] for row in answer["ResultSet"]["Rows"]][1:]

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


# -- what a query computes ---------------------------------------------------------------------------------------------

COMPUTED = {
    "a join": (
        "select a.name, count(*), sum(p.seats) from airlines a join planes p on p.carrier = a.carrier "
        "group by a.name order by 1",
        [["American", "2", "300"], ['Jet, "Blue"', "1", None]],
    ),
    "a common table expression": (
        "with big as (select * from planes where seats > 150) select tailnum from big",
        [["N2"]],
    ),
    "a name of WITH hides a table": ("with airlines as (select 1 as one) select * from airlines", [["1"]]),
    "a subquery in a condition": (
        "select carrier from airlines where carrier in (select carrier from planes) order by 1",
        [["AA"], ["B6"]],
    ),
    "a union": ("select 1 union all select 2 order by 1", [["1"], ["2"]]),
    "a quoted name": ('select "carrier" as "Order" from airlines where fleet = 1', [["UA"]]),
    "a column that no file has is null": ("select distinct engine from planes", [[None]]),
    "timestamps to the millisecond": ("select seen from planes where tailnum = 'N1'", [["2024-01-02 03:04:05.678"]]),
    "integers divide to integers": ("select 7/2, -7/2, 7/2e0", [["3", "-3", "3.5"]]),
    "doubles as Java writes them": (
        "select 1e0, 1e7, 1.5e-4, 12345678e0, cast('NaN' as double), -cast('Infinity' as double)",
        [["1.0", "1.0E7", "1.5E-4", "1.2345678E7", "NaN", "-Infinity"]],
    ),
    "reals in their own width": ("select cast(0.1 as real), cast(16777216 as real)", [["0.1", "1.6777216E7"]]),
    "values of all kinds": (
        "select true, 1.50, date '2020-02-29', timestamp '2020-01-01 01:02:03', array[1, null], "
        "map(array['k'], array[1])",
        [["true", "1.50", "2020-02-29", "2020-01-01 01:02:03.000", "[1, null]", "{k=1}"]],
    ),
    "functions that DuckDB spells otherwise": (
        "select date_parse('2020-01-02', '%Y-%m-%d'), strpos('abc', 'c'), json_extract_scalar('{\"a\": 1}', '$.a'), "
        "element_at(array[5, 6], 2), regexp_like('abc', 'b')",
        [["2020-01-02 00:00:00.000", "3", "1", "6", "true"]],
    ),
    "no rows": ("select carrier from airlines where false", []),
}


@pytest.mark.parametrize(("sql", "rows"), COMPUTED.values(), ids=COMPUTED)
def test_a_query_answers_as_on_athena(lake: Lake, sql: str, rows: Any) -> None:
    """The rows of a query are those of Athena's engine, in its text."""
    assert lake.rows(sql) == rows


def test_a_table_may_name_its_database_and_catalog(lake: Lake) -> None:
    """A qualified name needs no database in the query's context, and letter case does not matter."""
    sql = f'select count(*) from AwsDataCatalog."{lake.database}".AIRLINES'
    execution = lake.run(sql, QueryExecutionContext={})
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]


def test_columns_come_with_athenas_types(lake: Lake) -> None:
    """Column metadata has the names that PyAthena's converters know."""
    query_id = lake.run("select *, count(*) over () as n, cast(seats as double) / 3 from planes")["QueryExecutionId"]
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


def test_parameters_fill_question_marks_in_order(lake: Lake) -> None:
    """Each `?` outside a text gets the parameter of its place."""
    sql = "select '?', carrier from airlines where fleet > ? and carrier <> ?"
    execution = lake.run(sql, ExecutionParameters=["1", "'AA'"])
    answer = lake.athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])
    assert [datum["VarCharValue"] for datum in answer["ResultSet"]["Rows"][1]["Data"]] == ["?", "B6"]
    assert len(answer["ResultSet"]["Rows"]) == 2


# -- pages, results, states --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_results_are_paged(lake: Lake, size: int) -> None:
    """Pages hold at most MaxResults rows, the first of all being the column names; together they are the result."""
    query_id = lake.run("select n from unnest(sequence(1, 20)) t (n) order by n")["QueryExecutionId"]
    rows: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = lake.athena.get_query_results(QueryExecutionId=query_id, MaxResults=size, **token)
        assert len(page["ResultSet"]["Rows"]) <= size
        assert page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"][0]["Name"] == "n"
        rows += [row["Data"][0]["VarCharValue"] for row in page["ResultSet"]["Rows"]]
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert rows == ["n", *map(str, range(1, 21))]


def test_the_result_lies_on_s3_as_csv(lake: Lake) -> None:
    """The result's CSV is quoted as Athena quotes it; a null is nothing at all."""
    execution = lake.run("select name, fleet from airlines order by fleet desc")
    location = execution["ResultConfiguration"]["OutputLocation"]
    assert location == f"s3://{lake.bucket}/results/{execution['QueryExecutionId']}.csv"
    assert _get(lake, location) == b'"name","fleet"\n"American","3"\n"Jet, ""Blue""","2"\n,"1"\n'


def test_the_work_group_says_where_results_go(lake: Lake, aws: Any) -> None:
    """Without an output location of its own a query uses that of its work group, and fails to start without either."""
    group = aws.name("group")
    configuration = {"ResultConfiguration": {"OutputLocation": f"s3://{lake.bucket}/of-the-group/"}}
    aws.client("athena").create_work_group(Name=group, Configuration=configuration)
    query = {"QueryString": "select 1", "WorkGroup": group}
    query_id = lake.athena.start_query_execution(**query)["QueryExecutionId"]
    execution = lake.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
    assert execution["ResultConfiguration"]["OutputLocation"] == f"s3://{lake.bucket}/of-the-group/{query_id}.csv"
    assert lake.athena.get_work_group(WorkGroup=group)["WorkGroup"]["Name"] == group
    with pytest.raises(ClientError, match="No output location provided"):
        lake.athena.start_query_execution(QueryString="select 1")
    with pytest.raises(ClientError, match="WorkGroup nobody is not found"):
        lake.start("select 1", WorkGroup="nobody")


def test_a_running_query_is_cancelled(lake: Lake) -> None:
    """StopQueryExecution ends a query that runs, soon; its results are refused."""
    query_id = lake.start(SLOW)
    deadline = time.monotonic() + 10
    while _state(lake, query_id) != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    lake.athena.stop_query_execution(QueryExecutionId=query_id)
    assert _state(lake, query_id) == "CANCELLED"
    with pytest.raises(ClientError, match="Final query state: CANCELLED"):
        lake.athena.get_query_results(QueryExecutionId=query_id)
    started = time.monotonic()
    for _ in range(4):  # its thread is free again: all of them are
        assert lake.rows("select 1") == [["1"]]
    assert time.monotonic() - started < 5


def test_results_of_a_running_query_are_refused(lake: Lake) -> None:
    """Results are there when the query has succeeded, not before."""
    query_id = lake.start(SLOW)
    with pytest.raises(ClientError, match="Query has not yet finished"):
        lake.athena.get_query_results(QueryExecutionId=query_id)
    lake.athena.stop_query_execution(QueryExecutionId=query_id)


def test_what_has_ended_stays_as_it_ended(lake: Lake) -> None:
    """Stopping a query that has succeeded changes nothing."""
    query_id = lake.run("select 1")["QueryExecutionId"]
    lake.athena.stop_query_execution(QueryExecutionId=query_id)
    assert _state(lake, query_id) == "SUCCEEDED"


def test_the_same_token_is_the_same_query(lake: Lake) -> None:
    """A retried StartQueryExecution does not run twice."""
    token = "t" * 32
    assert lake.start("select 1", ClientRequestToken=token) == lake.start("select 1", ClientRequestToken=token)
    assert lake.start("select 1") != lake.start("select 1")


def test_several_executions_are_described_at_once(lake: Lake) -> None:
    """BatchGetQueryExecution describes those that exist and names those that do not."""
    query_id = lake.run("select 1")["QueryExecutionId"]
    answer = lake.athena.batch_get_query_execution(QueryExecutionIds=[query_id, "unknown"])
    assert [found["QueryExecutionId"] for found in answer["QueryExecutions"]] == [query_id]
    assert [missing["QueryExecutionId"] for missing in answer["UnprocessedQueryExecutionIds"]] == ["unknown"]
    with pytest.raises(ClientError, match="QueryExecution unknown was not found"):
        lake.athena.get_query_execution(QueryExecutionId="unknown")


# -- what is refused, what fails ---------------------------------------------------------------------------------------

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
    """What does not parse, or is no SELECT or UNLOAD, is an InvalidRequestException and starts no query."""
    with pytest.raises(lake.athena.exceptions.InvalidRequestException) as refused:
        lake.start(sql)
    assert refused.value.response["Error"]["Message"]
    assert "\x1b" not in str(refused.value)


def test_a_wrong_number_of_parameters_is_refused(lake: Lake) -> None:
    """As is a parameter that is more than one value."""
    with pytest.raises(ClientError, match="expected 1 but found 2"):
        lake.start("select ?", ExecutionParameters=["1", "2"])
    with pytest.raises(ClientError):
        lake.start("select ?", ExecutionParameters=["1) from airlines --"])


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
    """A statement that parses is started and fails with a reason that names the culprit."""
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(lake.reason(sql))


TABLES_THAT_FAIL = {
    "not Parquet": (b"carrier,name\n", {"carrier": "string"}, PARQUET, "HIVE_BAD_DATA: Malformed Parquet"),
    "another type": (AIRLINES, {"carrier": "bigint"}, PARQUET, "HIVE_BAD_DATA: Field carrier's type string"),
    "too narrow a type": (AIRLINES, {"fleet": "int"}, PARQUET, "HIVE_BAD_DATA: Field fleet's type int64"),
    "CSV": (b"carrier\n", {"carrier": "string"}, "org.apache.hadoop.hive.serde2.OpenCSVSerde", "reads Parquet tables"),
    "a nested type": (AIRLINES, {"carrier": "map<string,int>"}, PARQUET, "no column type"),
}


@pytest.mark.parametrize(("rows", "columns", "serde", "reason"), TABLES_THAT_FAIL.values(), ids=TABLES_THAT_FAIL)
def test_a_table_that_is_not_what_glue_says_fails_its_query(
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
def test_the_host_is_out_of_reach(lake: Lake, tmp_path: Path, sql: str) -> None:
    """SQL that would read a file or the process of the host fails, and says nothing of what is there."""
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


def test_unload_does_not_write_where_something_is(lake: Lake) -> None:
    """A second UNLOAD into the same place fails, and leaves what is there alone."""
    location = lake.fresh()
    sql = f"unload (select 1 as x) to '{location}/' with (format = 'parquet')"
    assert lake.run(sql)["Status"]["State"] == "SUCCEEDED"
    assert "HIVE_PATH_ALREADY_EXISTS" in lake.reason(sql)
    assert len(_list(lake, location)) == 1


def test_unload_of_nothing_writes_no_file(lake: Lake) -> None:
    """No rows, no Parquet; the manifest is empty."""
    location = lake.fresh()
    execution = lake.run(f"unload (select * from planes where false) to '{location}' with (format = 'PARQUET')")
    assert execution["Status"]["State"] == "SUCCEEDED"
    assert _list(lake, location) == []
    assert _get(lake, execution["Statistics"]["DataManifestLocation"]) == b""
    answer = lake.athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])
    assert answer["ResultSet"]["Rows"] == []


def test_unload_fails_as_on_athena(lake: Lake) -> None:
    """A column without a name, and a time zone, are more than Parquet of Athena can hold."""
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
    # pyarrow heeds no AWS_ENDPOINT_URL (apache/arrow#49643), and ArrowCursor has no way to pass one on.
    plain = pyarrow.fs.S3FileSystem
    there = {"endpoint_override": aws_env.endpoint.removeprefix("http://"), "scheme": "http"}
    monkeypatch.setattr(pyarrow.fs, "S3FileSystem", lambda **options: plain(**options, **there))
    with connect(s3_staging_dir=f"s3://{lake.bucket}/pyathena/", schema_name=lake.database, poll_interval=0.02) as made:
        yield made


def test_pyathenas_cursor_reads_typed_rows(connection: Any) -> None:
    """The plain cursor gets Python values by the types that we state."""
    cursor = connection.cursor()
    cursor.execute("select tailnum, seats, price, built, seen from planes order by 1")
    assert cursor.fetchone() == ("N1", 100, Decimal("1.50"), date(2001, 2, 3), datetime(2024, 1, 2, 3, 4, 5, 678_000))
    assert [row[0] for row in cursor] == ["N2", "N3"]


def test_pyathenas_cursor_pages(connection: Any) -> None:
    """More rows than a page holds arrive all, in order."""
    cursor = connection.cursor().execute("select n from unnest(sequence(1, 2500)) t (n) order by n")
    assert [n for (n,) in cursor.fetchall()] == list(range(1, 2501))


@pytest.mark.filterwarnings("ignore:engine='auto' is deprecated")
@pytest.mark.parametrize("unload", [False, True])
def test_pyathenas_pandas_cursor_makes_a_frame(connection: Any, unload: bool) -> None:
    """Through the CSV of the result and through UNLOAD."""
    frame = (
        connection.cursor(PandasCursor, unload=unload).execute("select * from airlines order by carrier").as_pandas()
    )
    assert list(frame.columns) == ["carrier", "name", "fleet"]
    assert frame["name"].tolist()[:2] == ["American", 'Jet, "Blue"']
    assert frame["name"].isna().tolist() == [False, False, True]
    assert frame["fleet"].tolist() == [3, 2, 1]


@pytest.mark.parametrize("unload", [False, True])
def test_pyathenas_arrow_cursor_makes_a_table(connection: Any, unload: bool) -> None:
    """Through the CSV of the result and through UNLOAD."""
    rows = (
        connection.cursor(ArrowCursor, unload=unload)
        .execute("select carrier, fleet from airlines order by 1")
        .as_arrow()
    )
    assert rows.to_pydict() == {"carrier": ["AA", "B6", "UA"], "fleet": [3, 2, 1]}


def test_pyathena_raises_what_went_wrong(connection: Any) -> None:
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

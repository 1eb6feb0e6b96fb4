"""Fetched metadata is read completely, or refused before it exceeds the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.errors import Failed
from enrich.read.metadata import Athena, QueryFailed, read_metadata
from tests.bench.services import FolderS3
from tests.unit.wire.faulty_server import FaultyServer, answer

MB = 2**20

READ = """
import sys
from pathlib import Path
from enrich.errors import Failed
from enrich.read.metadata import read_metadata
from tests.bench.services import FolderS3

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024

before = peak()
try:
    read_metadata(FolderS3(Path(sys.argv[1])), {"texts": "s3://larder/texts/"}, max_bytes=32 * 2**20)
except Failed as error:
    print(peak() - before, error)
"""


def s3(folder: Path) -> Any:
    return FolderS3(folder)


def put(folder: Path, name: str, table: pa.Table) -> str:
    """Put a table where an UNLOAD would have written it; return its location."""
    path = folder / "larder" / name / "0"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="snappy")
    return f"s3://larder/{name}/"


def test_files_become_one_table(tmp_path: Path) -> None:
    """All files of a location are read, in order; those without rows give their columns."""
    location = put(tmp_path, "texts", pa.table({"a": [1, 2]}))
    pq.write_table(pa.table({"a": [3]}), tmp_path / "larder/texts/1")
    empty = put(tmp_path, "empty", pa.table({"b": pa.array([], pa.string())}))
    found = read_metadata(s3(tmp_path), {"texts": location, "empty": empty}, max_bytes=MB)
    assert found["texts"].to_pydict() == {"a": [1, 2, 3]}
    assert found["empty"].to_pydict() == {"b": []}


def test_metadata_that_is_gone_says_so(tmp_path: Path) -> None:
    """A location without files is an error that names the metadata and the remedy."""
    with pytest.raises(Failed, match=r"metadata 'texts': .* replay the output"):
        read_metadata(s3(tmp_path), {"texts": "s3://larder/texts/"}, max_bytes=MB)


def test_metadata_is_refused_for_its_total_size(tmp_path: Path) -> None:
    """Each fits, but the two do not: the error names the second, the first, and the remedy."""
    rows = pa.table({"a": pa.array(range(80_000), pa.int64())})
    locations = {name: put(tmp_path, name, rows) for name in ("one", "two")}
    assert len(read_metadata(s3(tmp_path), locations, max_bytes=2 * MB)) == 2
    remedy = r"metadata 'two' does not fit beside one into the 1 MB .* filter its query .* or join in Athena"
    with pytest.raises(Failed, match=remedy):
        read_metadata(s3(tmp_path), locations, max_bytes=MB)


def test_metadata_larger_than_memory_is_refused_before_memory_is_full(tmp_path: Path) -> None:
    """A file of a few KB that would take 2 GB, and one that is too large as stored, are refused early."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int8()), pa.array(["x" * 2_000]))
    schema = pa.schema({"text": pa.string()})  # without it Arrow would read the dictionary column as a dictionary
    path = tmp_path / "larder/texts/0"
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for start in range(0, len(texts), 10_000):
            writer.write_table(pa.table({"text": texts.slice(start, 10_000).cast(pa.string())}))
    assert path.stat().st_size < MB
    (tmp_path / "larder/texts/1").write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True)
    taken, _, error = done.stdout.partition(" ")
    assert "metadata 'texts' does not fit into the 32 MB" in error, done.stderr
    assert int(taken) < 100

    (tmp_path / "larder/texts/1").write_bytes(bytes(64 * MB))  # not Parquet: not read
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True)
    taken, _, error = done.stdout.partition(" ")
    assert "metadata 'texts' does not fit into the 32 MB" in error, done.stderr
    assert int(taken) < 10


# how Athena reports a query -> whether a retry can help
ENDS: list[tuple[int, dict[str, Any], bool]] = [
    (200, {"State": "FAILED", "AthenaError": {"ErrorCategory": 1, "ErrorType": 200, "Retryable": False}}, True),
    (200, {"State": "FAILED", "AthenaError": {"ErrorCategory": 2, "ErrorType": 1302, "Retryable": False}}, False),
    (200, {"State": "FAILED", "AthenaError": {"ErrorCategory": 3, "Retryable": True}}, True),
    (200, {"State": "FAILED"}, False),
    (200, {"State": "CANCELLED"}, False),
    (400, {"__type": "InvalidRequestException", "message": "because"}, False),
]


@pytest.mark.parametrize(("status", "found", "is_transient"), ENDS)
def test_a_query_that_fails_says_whether_a_retry_can_help(
    status: int, found: dict[str, Any], *, is_transient: bool
) -> None:
    """Athena's own faults, and what it calls retryable; not wrong SQL, a missing table, or a cancelled query."""
    shown = found if status == 400 else {"QueryExecution": {"Status": {**found, "StateChangeReason": "because"}}}
    key: Any = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    with FaultyServer(answer(status, json.dumps(shown).encode())) as server:
        client = boto3.client("athena", "eu-west-1", endpoint_url=f"http://127.0.0.1:{server.port}", **key)
        with pytest.raises(QueryFailed, match="because") as error:
            Athena(lambda: SimpleNamespace(client=client)).is_done("query")
    assert error.value.is_transient is is_transient

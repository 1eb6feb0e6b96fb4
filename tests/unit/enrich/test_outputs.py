"""Which objects are outputs, and what an output is: pure rules, and S3 as moto plays it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws

from enrich.dataset import Dataset, LastModified, Source
from enrich.outputs import fetch_output, find_dataset, parse_parts, render_parts
from serve.datasets import Served


def dataset(prefix: str, marker: str | None = None) -> Dataset:
    return Dataset(
        served=Served(name=prefix.strip("/").replace("/", "-"), subject=("s",), scope="x"),
        source=Source(prefix=prefix, format="parquet", columns={"s": "varchar"}, marker=marker),
        as_of=LastModified(),
        ttl=timedelta(days=1),
        subject=["s"],
        prediction_id="s",
        body={"s": "s"},
    )


DATASETS = {each.name: each for each in (dataset("a/"), dataset("a/deep/"), dataset("m/", marker="_SUCCESS"))}

KEYS = {
    "a/x.parquet": "a",
    "a/day=1/x.parquet": "a",
    "a/deep/x.parquet": "a-deep",
    "a/": None,
    "a/day=1/": None,
    "a/_temporary/0/x.parquet": None,
    "a/.x.parquet.crc": None,
    "a/_SUCCESS": None,
    "b/x.parquet": None,
    "xa/x.parquet": None,
    "m/run/part-0.parquet": None,
    "m/run/_SUCCESS": "m",
    "m/_SUCCESS": "m",
}


@pytest.mark.parametrize("object_key", KEYS)
def test_an_object_belongs_to_a_dataset_by_its_key(object_key: str) -> None:
    """The longest prefix wins; folders, temporary files and the parts of a marker run start nothing."""
    found = find_dataset(DATASETS, object_key)
    assert (found.name if found else None) == KEYS[object_key]


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client


def version(s3: Any) -> None:
    s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})


def test_a_version_is_an_identity(s3: Any) -> None:
    """In a versioned bucket each write is another output, even with the same content."""
    version(s3)
    identities = []
    for _ in range(2):
        s3.put_object(Bucket="bucket", Key="a/x", Body=b"1")
        output = fetch_output(s3, DATASETS["a"], "bucket", "a/x")
        assert output is not None
        identities.append(output.identity)
        assert output.parts[0].version_id
    assert len(set(identities)) == 2


def test_without_versions_content_and_time_are_the_identity(s3: Any) -> None:
    """Elsewhere ETag and LastModified tell one write from the next."""
    s3.put_object(Bucket="bucket", Key="a/x", Body=b"1")
    first = fetch_output(s3, DATASETS["a"], "bucket", "a/x")
    s3.put_object(Bucket="bucket", Key="a/x", Body=b"2")
    second = fetch_output(s3, DATASETS["a"], "bucket", "a/x")
    assert first is not None
    assert second is not None
    assert first.identity != second.identity
    assert first.parts[0].version_id is None


def test_an_object_that_is_gone_is_no_output(s3: Any) -> None:
    """An event for an object that was deleted since asks for nothing."""
    assert fetch_output(s3, DATASETS["a"], "bucket", "a/gone") is None


def test_a_marker_closes_all_parts_below_it(s3: Any) -> None:
    """Parts are pinned in the order of their keys, temporary ones are not; a job that ran again is another output."""
    version(s3)
    for name in ("part-1", "part-0", "_temporary/part-9", ".part-0.crc", "_SUCCESS"):
        s3.put_object(Bucket="bucket", Key=f"m/run/{name}", Body=b"" if name == "_SUCCESS" else b"x")
    first = fetch_output(s3, DATASETS["m"], "bucket", "m/run/_SUCCESS")
    assert first is not None
    assert [part.object_key for part in first.parts] == ["m/run/part-0", "m/run/part-1"]
    assert parse_parts(render_parts(first.parts)) == list(first.parts)
    s3.put_object(Bucket="bucket", Key="m/run/part-1", Body=b"y")
    s3.put_object(Bucket="bucket", Key="m/run/_SUCCESS", Body=b"")
    again = fetch_output(s3, DATASETS["m"], "bucket", "m/run/_SUCCESS")
    assert again is not None
    assert again.identity != first.identity


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"filenames": ["/m/run/part-0", "/m/run/part-7"]}',
        b'{"parts": ["part-0", "part-7"]}',
        b'["s3://bucket/m/run/part-0", "s3://bucket/m/run/part-7"]',
    ],
)
def test_a_part_that_the_manifest_names_is_missed(s3: Any, manifest: bytes) -> None:
    """A marker that is a manifest names its parts, and one that is not there is noticed."""
    s3.put_object(Bucket="bucket", Key="m/run/part-0", Body=b"x")
    s3.put_object(Bucket="bucket", Key="m/run/_SUCCESS", Body=manifest)
    output = fetch_output(s3, DATASETS["m"], "bucket", "m/run/_SUCCESS")
    assert output is not None
    assert [name.rpartition("/")[2] for name in output.missing] == ["part-7"]

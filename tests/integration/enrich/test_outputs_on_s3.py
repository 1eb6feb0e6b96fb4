"""What is read from S3 about an output: its identity, its parts, and missing parts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from enrich.dataset.definition import Dataset, LastModified, Source
from enrich.read.outputs import Output, fetch_output, parse_parts, render_parts
from serve.datasets import Served


def dataset(prefix: str, marker: str | None = None) -> Dataset:
    return Dataset(
        served=Served(name=prefix.strip("/").replace("/", "-"), subject=("s",), scope="x"),
        source=Source(prefix=prefix, format="parquet", columns={"s": "varchar"}, marker=marker),
        as_of=LastModified(),
        ttl=timedelta(days=1),
        subject={"s": "s"},
        prediction_id="s",
        body={"s": "s"},
    )


OUTPUTS, RUNS = dataset("a/"), dataset("m/", marker="_SUCCESS")


@dataclass
class Place:
    """A bucket of its own."""

    s3: Any
    bucket: str

    def put(self, object_key: str, content: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=object_key, Body=content)

    def fetch(self, dataset: Dataset, object_key: str) -> Output | None:
        return fetch_output(self.s3, dataset, self.bucket, object_key)


@pytest.fixture
def place(aws: Any) -> Place:
    return Place(aws.client("s3"), aws.bucket())


@pytest.fixture
def versioned(aws: Any) -> Place:
    return Place(aws.client("s3"), aws.bucket(versioned=True))


def test_a_version_is_an_identity(versioned: Place) -> None:
    """In a versioned bucket each write is another output, even with the same content."""
    identities = []
    for _ in range(2):
        versioned.put("a/x", b"1")
        output = versioned.fetch(OUTPUTS, "a/x")
        assert output is not None
        identities.append(output.identity)
        assert output.parts[0].version_id
    assert len(set(identities)) == 2


def test_without_versions_content_and_time_are_the_identity(place: Place) -> None:
    """Without versions, ETag and LastModified distinguish one write from the next."""
    place.put("a/x", b"1")
    first = place.fetch(OUTPUTS, "a/x")
    place.put("a/x", b"2")
    second = place.fetch(OUTPUTS, "a/x")
    assert first is not None
    assert second is not None
    assert first.identity != second.identity
    assert first.parts[0].version_id is None


def test_an_object_that_is_gone_is_no_output(place: Place) -> None:
    """An event for an object that was deleted since asks for nothing."""
    assert place.fetch(OUTPUTS, "a/gone") is None


def test_a_marker_closes_all_parts_below_it(versioned: Place) -> None:
    """Parts are pinned in the order of their keys, temporary ones are not; a job that ran again is another output."""
    for name in ("part-1", "part-0", "_temporary/part-9", ".part-0.crc", "_SUCCESS"):
        versioned.put(f"m/run/{name}", b"" if name == "_SUCCESS" else b"x")
    first = versioned.fetch(RUNS, "m/run/_SUCCESS")
    assert first is not None
    assert [part.object_key for part in first.parts] == ["m/run/part-0", "m/run/part-1"]
    assert parse_parts(render_parts(first.parts)) == list(first.parts)
    versioned.put("m/run/part-1", b"y")
    versioned.put("m/run/_SUCCESS", b"")
    again = versioned.fetch(RUNS, "m/run/_SUCCESS")
    assert again is not None
    assert again.identity != first.identity


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"filenames": ["/m/run/part-0", "/m/run/part-7"]}',
        b'{"parts": ["part-0", "part-7"]}',
        b'["s3://BUCKET/m/run/part-0", "s3://BUCKET/m/run/part-7"]',
    ],
)
def test_a_part_that_the_manifest_names_is_missed(place: Place, manifest: bytes) -> None:
    """A marker that is a manifest names its parts, and one that is not there is noticed."""
    place.put("m/run/part-0", b"x")
    place.put("m/run/_SUCCESS", manifest.replace(b"BUCKET", place.bucket.encode()))
    output = place.fetch(RUNS, "m/run/_SUCCESS")
    assert output is not None
    assert [name.rpartition("/")[2] for name in output.missing] == ["part-7"]

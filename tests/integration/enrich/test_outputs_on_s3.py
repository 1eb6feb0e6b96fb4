"""What is read from S3 about an output: its identity, its parts, and missing parts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest

from enrich.dataset.definition import Dataset, LastModified, Source
from enrich.read.outputs import Output, fetch_listed, fetch_output, parse_parts, render_parts
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
    """A bucket for one test."""

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
    """In a versioned bucket each write is a new output, even with the same content."""
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
    """An event for a deleted object has no effect."""
    assert place.fetch(OUTPUTS, "a/gone") is None


def test_a_marker_closes_all_parts_below_it(versioned: Place) -> None:
    """Parts are pinned in the order of their keys, without temporary ones; after a new job it is another output."""
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


URL = "s3://BUCKET/m/run/part-"


def entries(*parts: tuple[str, int | None], total: int = 2) -> str:
    """Write a manifest as Redshift's UNLOAD does, with sizes if it is verbose."""
    metas = [{} if size is None else {"meta": {"content_length": size, "record_count": 1}} for _, size in parts]
    found = [{"url": f"{URL}{name}", **meta} for (name, _), meta in zip(parts, metas, strict=True)]
    return json.dumps({"entries": found, "meta": {"content_length": total}})


MANIFESTS: list[tuple[str, str | None]] = [
    (
        '{"filenames": ["/m/run/part-0", "/m/run/part-1", "/m/run/part-7"]}',
        "names 1 parts that do not exist, first m/run/part-7",
    ),
    ('{"parts": ["part-0", "part-7", "part-8"]}', "names 2 parts that do not exist, first part-7"),
    (f'["{URL}0", "{URL}7"]', "first m/run/part-7"),
    (
        '{"files": [{"key": "m/run/part-0", "size": 4}, {"path": "part-1"}]}',
        "declares 4 bytes for m/run/part-0, which has 1",
    ),
    ('[{"prefix": "s3://BUCKET/m/run/"}, "part-0", "part-7"]', "first m/run/part-7"),
    (entries(("0", None), ("1", None), ("7", None)), "first m/run/part-7; write them, then the marker again"),
    (entries(("0", 1), ("1", 5)), "declares 5 bytes for m/run/part-1, which has 1; write both again"),
    (entries(("0", None)), "does not name 1 parts that exist, first m/run/part-1; delete them"),
    (f"{URL}0\n{URL}1\n{URL}7\n", "first m/run/part-7"),
    (f"{URL}0\n", "does not name 1 parts that exist"),
    (entries(("0", 1), ("1", 1)), None),
    (
        entries(("0", None), ("1", None), total=7),
        "declares 7 bytes for all parts, which have 2; write all",
    ),
    ('{"entries": [{"url": "part%2D0"}, {"url": "part-1"}, {"url": "part-7", "mandatory": false}]}', None),
    (f"{URL}1\r\n{URL}0", None),
    ('{"filenames": ["part-0"]}', None),  # Hadoop names at most 100
    ('{"entries": [], "meta": {}}', "does not name 2 parts"),
    ('{"entries": "none", "parts": 3}', None),
    ("\n", None),
    ("finished at 06:15", None),
    ("{", None),
]


MARKERS = cycle(("_SUCCESS", "DONE", "manifest.json", "part_manifest", "done.parquet"))


@pytest.mark.parametrize(("marker", "manifest", "problem"), [(next(MARKERS), *each) for each in MANIFESTS])
def test_the_parts_must_be_those_that_the_manifest_names(
    place: Place, marker: str, manifest: str, problem: str | None
) -> None:
    """Whatever the marker's name, and whichever tool wrote it; files that tools leave behind are not parts."""
    runs = replace(RUNS, source=replace(RUNS.source, marker=marker))
    for name in ("part-0", "part-1", "part_$folder$", "sub_$folder$", "part-1.crc", "unload_manifest", f"sub/{marker}"):
        place.put(f"m/run/{name}", b"x")
    place.put(f"m/run/{marker}", manifest.replace("BUCKET", place.bucket).encode())
    output = place.fetch(runs, f"m/run/{marker}")
    assert output is not None
    assert [part.object_key for part in output.parts] == ["m/run/part-0", "m/run/part-1"]
    assert (problem is None) == (output.problems == ())
    assert problem is None or problem in output.problems[0]
    (listed, _) = fetch_listed(place.s3, runs, place.bucket)
    assert (listed.object_key, listed.listing) == (f"m/run/{marker}", output.listing)

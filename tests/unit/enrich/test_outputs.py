"""Which objects are outputs of which dataset. What is read from S3 is tested in tests/integration/enrich."""

from __future__ import annotations

from datetime import timedelta

import pytest

from enrich.dataset.definition import Dataset, LastModified, Source
from enrich.read.outputs import find_dataset
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
    "a/day=1_$folder$": None,
    "a/x/day=1_$folder$": None,
    "a_$folder$": None,
    "a/x.parquet._COPYING_": None,
    "a/x.parquet.tmp": None,
    "a/x.parquet.sha256": None,
    "a/manifest": None,
    "a/day=1/part_manifest": None,
    "a/1f3d5a7e-0c2b-4d6f-8a9b-0123456789ab-manifest.csv": None,
    "a/1f3d5a7e-0c2b-4d6f-8a9b-0123456789ab.csv.metadata": None,
    "a/1f3d5a7e-0c2b-4d6f-8a9b-0123456789ab.csv": "a",
    "a/shop-manifest.csv": "a",
    "a/manifest.parquet": "a",
    "a/manifest/0000_part_00": "a",
    "a/x$folder.parquet": "a",
    "b/x.parquet": None,
    "xa/x.parquet": None,
    "m/run/part-0.parquet": None,
    "m/run/_SUCCESS": "m",
    "m/_SUCCESS": "m",
    "m/_temporary/0/_SUCCESS": None,
    "m/.staging/_SUCCESS": None,
}


@pytest.mark.parametrize("object_key", KEYS)
def test_an_object_belongs_to_a_dataset_by_its_key(object_key: str) -> None:
    """The longest prefix wins; folders, temporary files and the parts of a marker run start nothing."""
    found = find_dataset(DATASETS, object_key)
    assert (found.name if found else None) == KEYS[object_key]

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

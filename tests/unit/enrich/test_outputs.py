"""Which objects are outputs of which dataset. What is read from S3 is tested in tests/integration/enrich."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest

from enrich.dataset.definition import Dataset, LastModified, Source
from enrich.read.outputs import HEADS_AT_ONCE, fetch_output, find_dataset
from serve.datasets import Served
from tests.doubles.services import ModelS3
from tests.unit.enrich.small_shop import DATASET, ROWS, SmallShop, parquet

REDSHIFT = [
    # rows by part, rows in total, as the manifest states; the error about parts of 2 and 1 rows
    ((2, 1), 3, None),
    ((None, 1), 3, None),
    ((2, 2), 4, "p-1 has 1 rows, expected 2 per the manifest; write the output again"),
    ((3, None), None, "p-0 has 2 rows, expected 3 per the manifest"),
    ((None, None), 4, "the parts up to s3://outputs/stock/day=2027-01-15/p-1 have 3 rows, expected 4 per the manifest"),
    ((True, "2"), -1, None),
]


@pytest.mark.parametrize(("counts", "total", "said"), REDSHIFT)
def test_parts_have_as_many_rows_as_a_verbose_manifest_says(
    tmp_path: Path, counts: tuple[Any, Any], total: Any, said: str | None
) -> None:
    """Redshift states the rows of each part and of all; if the parts have others, nothing is published."""
    shop = SmallShop(tmp_path, replace(DATASET, source=replace(DATASET.source, marker="manifest")))
    folder = shop.key().removesuffix("p.parquet")
    shop.put(f"{folder}p-0", parquet({name: values[:2] for name, values in ROWS.items()}))
    shop.put(f"{folder}p-1", parquet({name: values[2:] for name, values in ROWS.items()}))
    entries = [{"url": f"s3://outputs/{folder}p-{n}", "meta": {"record_count": rows}} for n, rows in enumerate(counts)]
    shop.put(f"{folder}manifest", json.dumps({"entries": entries, "meta": {"record_count": total}}).encode())
    run = shop.go(f"{folder}manifest")
    assert (run.state, run.counts.written) == (("failed", 0) if said else ("done", 3))
    assert (said or "") in (run.error or "")


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


@pytest.mark.parametrize("is_versioned", [True, False])
def test_many_parts_are_found_soon(is_versioned: bool) -> None:
    """100,000 requests one after the other take half an hour: versions are fetched in parallel, and only versions."""
    world: Any = SimpleNamespace(time=0.0, call=lambda _, do: do())
    s3, together, most = ModelS3(world, versioned={"outputs"} if is_versioned else set()), set[str](), [0]
    names = [f"m/{n:05d}" for n in range(2500)]
    for name in names:
        s3.put("outputs", name, name.encode())
    s3.put("outputs", "m/_SUCCESS", b"")
    head_object, heads, steps = s3.head_object, list[str](), list[int]()

    def head(Bucket: str, Key: str) -> Any:  # noqa: N803
        heads.append(Key)
        together.add(Key)
        most[0] = max(most[0], len(together))
        sleep(0.0005)
        together.remove(Key)
        return head_object(Bucket, Key)

    s3.head_object = head  # type: ignore[method-assign]
    output = fetch_output(cast(Any, s3), DATASETS["m"], "outputs", "m/_SUCCESS", step=lambda: steps.append(len(heads)))
    assert output is not None
    assert [part.object_key for part in output.parts] == names
    expected = [s3.objects["outputs", name][0] for name in names]
    assert [(part.version_id, part.etag, part.size) for part in output.parts] == [
        (version.version_id, version.etag, len(version.body)) for version in expected
    ]
    if is_versioned:
        assert 4 < most[0] <= HEADS_AT_ONCE
        assert len(steps) == 3
    else:
        assert heads == ["m/_SUCCESS", names[0]]


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
    """The longest prefix wins; folders, temporary files and the parts of an output with a marker start nothing."""
    found = find_dataset(DATASETS, object_key)
    assert (found.name if found else None) == KEYS[object_key]

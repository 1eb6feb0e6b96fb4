"""What requests for objects cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from enrich.s3 import exists
from tests.doubles.moto_aws import moto_aws


@pytest.fixture
def s3() -> Iterator[Any]:
    with moto_aws() as client:
        s3 = client("s3")
        s3.create_bucket(Bucket="bucket")
        yield s3


def test_whether_anything_exists_costs_one_entry(s3: Any) -> None:
    """A prefix can have very many objects: one is enough to know."""
    keys: list[list[str]] = []
    s3.meta.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **_: keys.append([entry["Key"] for entry in parsed.get("Contents", [])]),
    )
    for name in ("a/1", "a/2", "b"):
        s3.put_object(Bucket="bucket", Key=name, Body=b"")
    assert [exists(s3, "bucket", prefix) for prefix in ("a/", "b", "c/")] == [True, True, False]
    assert keys == [["a/1"], ["b"], []]

"""A pinned object read in ranges from the laptop's S3, which sends all of an object when a version is named."""

from __future__ import annotations

import os
from typing import Any

import pytest

from enrich.read.s3_object import Part, PartFile


@pytest.mark.parametrize("versioned", [False, True])
def test_ranges_of_a_pinned_object_are_its_bytes(aws: Any, versioned: bool) -> None:
    """Whether pinned by version or by ETag, and wherever reading begins, the bytes are those of the object."""
    content, bucket = os.urandom(50_000), aws.bucket(versioned=versioned)
    answer = aws.client("s3").put_object(Bucket=bucket, Key="scored=1/part", Body=content)
    part = Part(bucket, "scored=1/part", answer.get("VersionId"), answer["ETag"], len(content))
    file = PartFile(aws.client("s3"), part, read_ahead=7_000)
    file.seek(-8, os.SEEK_END)
    assert file.read(8) == content[-8:]
    file.seek(20_001)
    assert file.read(100) == content[20_001:20_101]
    file.seek(0)
    assert file.readall() == content

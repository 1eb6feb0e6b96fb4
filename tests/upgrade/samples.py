"""Samples of what a release stores: items, ledger, fingerprints, and the work folders of runs that are not closed.

    python -m tests.upgrade.samples       writes those of this release to tests/upgrade/formats/RELEASE/

They come from real runs of two datasets, and are committed with the release: `test_formats.py` reads those of every
release with today's code. Samples of a release are never written again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from enrich.dataset.definition import Dataset
from enrich.delta import buckets
from enrich.release import RELEASE
from tests.doubles.services import Version
from tests.doubles.table import read_body
from tests.unit.enrich.small_shop import DATASET, SmallShop

FORMATS = Path(__file__).with_name("formats")
TEXT = "a note that is long enough to be stored as gzip. " * 25
FIRST: dict[str, list[Any]] = {
    "shop": ["x", "x", "x", "y", "y", "y", "y/é"],
    "sku": ["a", "b", "c", "a", "b", "d", "a"],
    "units": [1.0, 2.0, 3.5, 4.0, 5.0, 6.0, 7.0],
    "note": [None, "", "ü", None, TEXT, None, None],
}
SECOND: dict[str, list[Any]] = {  # three are unchanged, three changed, y/d is no longer named; one has no metadata
    "shop": ["x", "x", "x", "y", "y", "y/é", "x"],
    "sku": ["a", "b", "c", "a", "b", "a", "z"],
    "units": [1.0, 2.5, 3.5, 4.0, 5.5, 8.0, 1.0],
    "note": [None, "", "ü", None, TEXT, None, None],
}
THIRD: dict[str, list[Any]] = {**SECOND, "units": [1.5, 2.5, 3.0, 4.0, 5.5, 8.0, 1.0]}  # its run is not closed


class Killed(BaseException):
    """The process has ended in the middle of its writes."""


def build_dataset(output: Any) -> Dataset:
    """Build the dataset of the samples: snapshots, or partial outputs."""
    source = replace(DATASET.source, output=output, columns={**DATASET.source.columns, "note": "varchar"})
    return replace(DATASET, source=source, body={**DATASET.body, "note": "note"})


def make(place: Path) -> None:
    """Make the samples: partial outputs with one bucket of fingerprints, and snapshots with several."""
    for name, output, rows_per_bucket in (("partial", "partial", buckets.ROWS), ("snapshot", "snapshot", 2)):
        with tempfile.TemporaryDirectory() as scratch, mock.patch.object(buckets, "ROWS", rows_per_bucket):
            shop = SmallShop(Path(scratch), build_dataset(output))
            shop.run(FIRST, day=2)
            shop.run(SECOND, day=1)
            with mock.patch.object(shop.table, "send", side_effect=Killed), suppress(Killed):
                shop.run(THIRD)
            write_sample(shop, place / name)


def write_sample(shop: SmallShop, place: Path) -> None:
    """Write all that a shop stores to a folder; S3's objects are files of their own.

    What closed runs left in their work folders is not read again, except for their parts.
    """
    place.mkdir(parents=True)
    (place / "objects").mkdir()
    stored: list[dict[str, Any]] = []
    is_open = {int(sk.partition("#")[2]) for _, sk in shop.dynamo.rows if sk.startswith("pending#")}
    for (bucket, object_key), versions in sorted(shop.s3.objects.items()):
        work = re.match(r"work/[^/]+/(\d+)/(?!parts\.json)", object_key)
        if work and int(work[1]) not in is_open:
            continue
        for version in versions:
            path = place / "objects" / f"{len(stored):02d}{Path(object_key).suffix}"
            path.write_bytes(version.body)
            modified = int(version.modified.timestamp())
            one = {"bucket": bucket, "object_key": object_key, "version_id": version.version_id, "modified": modified}
            stored.append({**one, "file": path.name})
    rows = [attributes for _, attributes in sorted(shop.table.stored.rows.items())]
    bodies = {f"{row['pk']['S']} {row['sk']['S']}": read_body(row) for row in rows}
    documents: dict[str, Any] = {
        "about": {"release": RELEASE, "now": shop.table.now, "table_id": shop.dynamo.table_id},
        "items": rows,
        "bodies": bodies,
        "ledger": [row for _, row in sorted(shop.dynamo.rows.items())],
        "objects": stored,
    }
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True)
        (place / f"{name}.json").write_text(f"{text}\n")


def read(place: Path, name: str) -> Any:
    """Read one of a sample's documents."""
    return json.loads((place / f"{name}.json").read_text())


def open_sample(place: Path, directory: Path) -> SmallShop:
    """Open a shop that has stored what a sample has.

    Args:
        place: of the sample.
        directory: scratch.
    """
    about = read(place, "about")
    shop = SmallShop(directory, build_dataset(place.name))
    shop.table.now = about["now"]
    shop.dynamo.table_id = about["table_id"]
    shop.dynamo.rows = {(row["pk"]["S"], row["sk"]["S"]): row for row in read(place, "ledger")}
    shop.table.stored.rows = {(row["pk"]["S"], row["sk"]["S"]): row for row in read(place, "items")}
    for one in read(place, "objects"):
        body = (place / "objects" / one["file"]).read_bytes()
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        version = Version(body, one["version_id"], etag, datetime.fromtimestamp(one["modified"], UTC))
        shop.s3.objects.setdefault((one["bucket"], one["object_key"]), []).append(version)
    shop.s3._numbers = itertools.count(1000)  # later versions are not part of the sample
    return shop


def main() -> None:
    """Write the samples of this release."""
    if (FORMATS / RELEASE).exists():
        sys.exit(f"{FORMATS / RELEASE} exists: samples of a release are not written again")
    make(FORMATS / RELEASE)


if __name__ == "__main__":
    main()

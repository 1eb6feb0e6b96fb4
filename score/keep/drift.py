"""Measure how the kept features of the last week differ from the training rows: PSI against the bins of a version.

Only kept rows of the live version count. Publishing has fixed its bins.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from score.keep.table import parse_key
from score.manifest import Bins, Manifest, ManifestError, Scalar, parse_alias, parse_manifest
from score.paths import KEPT_PREFIX, alias_key, manifest_key
from score.publish.distribution import measure_psi

DAYS = 7
# With fewer rows PSI is mostly noise: with 500 rows and ten bins it is 0.02 on average if nothing has changed.
LEAST_ROWS = 500
MOST_ROWS = 50_000  # newest first; more rows would not change the result, and need memory


class Drift(NamedTuple):
    """How the last days of a model differ from its training rows.

    Attributes:
        model: the model.
        version: its live version.
        rows: number of rows that were compared.
        psi: PSI of each feature that has bins, and of the `score`.
    """

    model: str
    version: str
    rows: int
    psi: Mapping[str, float]

    @property
    def largest(self) -> float:
        """The largest PSI."""
        return max(self.psi.values())


def measure_all(s3: Any, bucket: str, now: float) -> list[Drift]:
    """Measure each model that has enough kept rows. A model without alias or manifest is skipped.

    Args:
        s3: boto3's client.
        bucket: bucket of the models and of the kept features.
        now: epoch seconds.

    Raises:
        ClientError: S3 refused a request.
    """
    found = []
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{KEPT_PREFIX}model=", Delimiter="/")
    for page in pages:
        for folder in page.get("CommonPrefixes", ()):
            model = folder["Prefix"].removeprefix(f"{KEPT_PREFIX}model=").rstrip("/")
            manifest = _read_live(s3, bucket, model)
            drift = manifest and measure(manifest, _read_rows(s3, bucket, manifest, now))
            if drift:
                found.append(drift)
    return found


def measure(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> Drift | None:
    """Compare kept rows with a version's bins; None: too few rows, or no bins."""
    if len(rows) < LEAST_ROWS:
        return None
    psi = {
        name: measure_psi(bins, [_read_value(row, name, bins) for row in rows]) for name, bins in manifest.bins.items()
    }
    if manifest.scores:
        scores = [row["value"] if row["probability"] is None else row["probability"] for row in rows]
        psi["score"] = measure_psi(manifest.scores, scores)
    rounded = {name: round(value, 4) for name, value in psi.items()}
    return Drift(manifest.model, manifest.version, len(rows), rounded) if rounded else None


def _read_value(row: Mapping[str, Any], name: str, bins: Bins) -> Scalar:
    found: Scalar = row["texts"].get(name)
    if found is not None:
        return found
    number: float | None = row["numbers"].get(name)
    return bool(number) if bins.values and number is not None else number  # a boolean is kept as a number


def _read_live(s3: Any, bucket: str, model: str) -> Manifest | None:
    try:
        key = alias_key(model)
        alias = parse_alias(s3.get_object(Bucket=bucket, Key=key)["Body"].read(), key)
        key = manifest_key(model, alias.live)
        return parse_manifest(s3.get_object(Bucket=bucket, Key=key)["Body"].read(), key)
    except (s3.exceptions.NoSuchKey, ManifestError):  # score reports a model that it can't load
        return None


def _read_rows(s3: Any, bucket: str, manifest: Manifest, now: float) -> list[Mapping[str, Any]]:
    """Return the kept rows of a version of the last days, newest day first, MOST_ROWS at most."""
    rows: list[Mapping[str, Any]] = []
    columns = ["version", "probability", "value", "numbers", "texts"]
    for key in _list_keys(s3, bucket, manifest.model, now):
        file = io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        table = pq.read_table(file, columns=columns)
        found = table.to_pylist(maps_as_pydicts="lossy")
        rows += [row for row in found if row["version"] == manifest.version]
        if len(rows) >= MOST_ROWS:
            break
    return rows[:MOST_ROWS]


def _list_keys(s3: Any, bucket: str, model: str, now: float) -> Iterator[str]:
    today = datetime.fromtimestamp(now, UTC).date()
    for days in range(DAYS + 1):
        prefix = f"{KEPT_PREFIX}model={model}/dt={today - timedelta(days=days)}/"
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from (one["Key"] for one in page.get("Contents", ()) if parse_key(one["Key"]))

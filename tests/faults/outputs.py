"""What the model writes in a history: objects, or folders closed by a marker; some of them are bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from enrich.dataset.definition import Dataset
from serve.item import build_pk
from tests.doubles.services import ModelS3, Version
from tests.faults.model_engine import render_reason
from tests.faults.world import DAY

KEYS = [(subject, f"p{n}") for subject in ("a", "b") for n in range(5)]
MARKER = "_SUCCESS"
TTL = timedelta(days=7)
SHIFTED = "v9"  # the value that the guards of a history's dataset hold
AHEAD = 300  # seconds by which as_of can be later than the arrival


@dataclass
class Put:
    """One write of an output."""

    dataset: str
    object_key: str
    identity: str
    as_of: int
    arrived: float
    rows: list[Any] | None  # None: it can't be read
    lacks_part: bool = False

    @property
    def expires_at(self) -> int:
        """Return when its items expire."""
        return self.as_of + int(TTL.total_seconds())

    def describe(self) -> str:
        """Describe its content."""
        as_of = datetime.fromtimestamp(self.as_of, UTC).isoformat()
        if self.rows is None:
            return f"as of {as_of}, unreadable"
        flags = zip(self.rows, self.rejected(), strict=True)
        rows = [f"{row[0]}/{row[1]}={row[2]}{' (to be rejected)' * rejected}" for row, rejected in flags]
        return f"as of {as_of}, {', '.join(rows) or 'no rows'}{'; a part is missing' * self.lacks_part}"

    def item_keys(self) -> list[tuple[str, str]]:
        """Return the item key of each row; for a row that is rejected for its key, one that no item has."""
        return [(build_pk(self.dataset, [row[0]]), row[1]) for row in self.rows or []]

    def good_rows(self) -> dict[tuple[str, str], Any]:
        """Return the rows that become items, by their item keys."""
        rows = zip(self.item_keys(), self.rows or [], self.rejected(), strict=True)
        return {key: row for key, row, rejected in rows if not rejected}

    def good_keys(self) -> set[tuple[str, str]]:
        """Return the keys of the items that it gives a body."""
        return set(self.good_rows())

    def is_bad(self, dataset: Dataset) -> bool:
        """Return whether it can't be published at all."""
        if self.rows is None or self.lacks_part or self.is_from_the_future:
            return True
        return self.rejected_too_many(dataset)

    @property
    def is_shifted(self) -> bool:
        """Return whether a row that the check renders has a value that guards do not allow."""
        return any(row[2] == SHIFTED and render_reason(row[1], row[2]) is None for row in self.rows or [])

    @property
    def is_from_the_future(self) -> bool:
        """Return whether its as_of is too far ahead of its arrival."""
        return self.as_of > int(self.arrived) + AHEAD

    def rejected_too_many(self, dataset: Dataset) -> bool:
        """Return whether more of its rows are rejected than the dataset tolerates."""
        rows, rejected, tolerated = len(self.rows or []), sum(self.rejected()), dataset.tolerated
        return rejected > tolerated.share * rows and rejected > min(tolerated.few, rows - 1)

    def rejected(self) -> list[bool]:
        """Return for each row whether it must be rejected."""
        rows = self.rows or []
        good = [(row[0], row[1]) for row in rows if render_reason(row[1], row[2]) is None]
        return [render_reason(row[1], row[2]) is not None or good.count((row[0], row[1])) > 1 for row in rows]


def write_output(
    s3: ModelS3, dataset: Dataset, random: Random, now: float, earlier: Sequence[Put], over: Put | None = None
) -> Put:
    """Write a random output, possibly over an earlier one or as of the same instant; if given, over `over`."""
    as_of = int(now - random.choice([0, 0, 1, 1, 2, 6.9, 9]) * DAY - random.choice([0, random.uniform(0, 3000)]))
    if random.random() < 0.05:
        as_of = int(now) + random.choice([AHEAD - 60, AHEAD + 60])
    folder = _name_folder(dataset, as_of)
    if over or (earlier and random.random() < 0.3):
        chosen = over or random.choice(earlier)
        folder, as_of = chosen.object_key.rpartition("/")[0] + "/", chosen.as_of
        if not over and random.random() < 0.3:
            folder = folder.replace("/", "/x/", 1)
    rows = _choose_rows(random)
    if dataset.guards and rows and random.random() < 0.3:
        random.choice(rows)[2] = SHIFTED
    return _write(s3, dataset, random, now, as_of, folder, rows)


def write_rows(s3: ModelS3, dataset: Dataset, random: Random, now: float, rows: list[Any]) -> Put:
    """Write an output as of now with these rows."""
    return _write(s3, dataset, random, now, int(now), _name_folder(dataset, int(now)), rows)


def _name_folder(dataset: Dataset, as_of: int) -> str:
    return f"{dataset.name}/at={datetime.fromtimestamp(as_of, UTC):%Y-%m-%dT%H:%M:%SZ}/"


def _write(
    s3: ModelS3, dataset: Dataset, random: Random, now: float, as_of: int, folder: str, rows: list[Any] | None
) -> Put:
    put = Put(dataset.name, folder + (dataset.source.marker or "part"), "", as_of, now, rows)
    if dataset.source.marker:
        _write_parts(s3, put, folder, random)
    else:
        put.identity = f"{put.object_key}@{_identity(_put(s3, put.object_key, put.rows))}"
    return put


def _write_parts(s3: ModelS3, put: Put, folder: str, random: Random) -> None:
    """Write an output in parts, and the marker that closes it, with a manifest or without."""
    parts = _cut(put.rows, random)
    for bucket, object_key in list(s3.objects):  # the job first removes what it wrote before
        if bucket == "outputs" and object_key.startswith(folder) and not s3.objects[bucket, object_key][-1].gone:
            s3.delete("outputs", object_key)
    names = [f"{folder}part-{n}" for n in range(len(parts))]
    written = [(name, _put(s3, name, rows)) for name, rows in zip(names, parts, strict=True)]
    put.lacks_part = random.random() < 0.05
    named = names + [f"{folder}part-{len(parts)}"] * put.lacks_part
    manifest = json.dumps({"filenames": named}).encode() if put.lacks_part or random.random() < 0.5 else b""
    closed = _identity(s3.put("outputs", put.object_key, manifest))
    lines = "\n".join(f"{name} {part.version_id or part.etag} {len(part.body)}" for name, part in written)
    put.identity = f"{put.object_key}@{closed}+{hashlib.sha256(lines.encode()).hexdigest()[:32]}"


def _choose_rows(random: Random) -> list[Any] | None:
    if random.random() < 0.05:
        return None
    chosen = random.sample(KEYS, random.randint(0, len(KEYS)))
    rows = [
        [subject, key, random.choice(["v1", "v2", None if random.random() < 0.3 else "v3"])] for subject, key in chosen
    ]
    if rows and random.random() < 0.2:
        rows += [random.choice(rows), ["a", random.choice([None, "no id"]), "v1"]]
    return rows


def _cut(rows: list[Any] | None, random: Random) -> list[list[Any] | None]:
    """Cut rows into parts; a part that can't be read comes last."""
    if rows is None:
        return [[["a", "p0", "v1"]], None]
    at = sorted(random.randint(0, len(rows)) for _ in range(random.randint(0, 2)))
    return [rows[first:last] for first, last in zip([0, *at], [*at, len(rows)], strict=True)]


def _put(s3: ModelS3, object_key: str, rows: list[Any] | None) -> Version:
    content = b"corrupt" if rows is None else json.dumps(rows).encode() if rows else b""
    return s3.put("outputs", object_key, content)


def _identity(version: Version) -> str:
    """Return what identifies a version of an object: S3's version id, else ETag and LastModified."""
    return version.version_id or f"{version.etag.strip(chr(34))}.{int(version.modified.timestamp() * 1000)}"

"""The passes of a run in pieces: the driver hands out tasks, and adds up what they return.

Only the driver holds the lease and changes the ledger. It uses only results that an attempt has returned, to it or
to an earlier driver of the run: these are in the task's folder. Tasks over buckets write the files that `Delta` looks
for, so the driver continues as if it had written them itself.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from typing import Any, BinaryIO, Unpack

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from enrich.delta.buckets import Bucket, count_bits, divide
from enrich.delta.changes import UNCHANGED, WRITE, Withdrawn
from enrich.delta.fingerprints import Fingerprints, Target
from enrich.errors import Failed, Overwritten, Refused, Stopped, TaskBroke
from enrich.join.rejects import add_reasons
from enrich.ledger.records import Counts, Run
from enrich.read.chunks import check_count
from enrich.read.pieces import cut_output
from enrich.read.s3_object import Part
from enrich.run.context import RunContext
from enrich.run.passes import Leaves, Rules
from enrich.run.pieces.gather import Gathered, gather_metadata
from enrich.run.pieces.tasks import Task, name_attempts, name_release
from enrich.run.publish import OUTLIVED, SUPERSEDED_ROWS
from enrich.services import Scheduler

MOST_NAMED = 3  # parts of a piece that an error names
LEAST_ROW_BYTES = 20  # of an output, to choose the number of buckets before its rows are counted


def count_piece_bits(size: int) -> int:
    """Return the number of bits of the buckets for an output of `size` bytes: one bucket would not be stored."""
    return max(1, count_bits(size // LEAST_ROW_BYTES))


class PiecePasses:
    """The passes of one run, for its driver."""

    def __init__(self, context: RunContext, scheduler: Scheduler) -> None:
        """Begin, or continue what an earlier driver has begun."""
        self._context = context
        self._scheduler = scheduler
        self._outcomes: dict[str, Any] = {}  # what `decide` has returned for each bucket, and the default
        self._rules: dict[str, Any] = {}
        self._removals: dict[str, Any] = {}  # arguments of tasks that need the chosen removals
        self._read: Sequence[Part] | None = None

    def check(self) -> tuple[int, dict[str, int]]:
        """Check all pieces, then collect their notes by bucket.

        Raises:
            Failed, Overwritten: a piece can't be read, or a row prevents that the output is published.
            Stopped: all attempts of a task have failed.
        """
        context = self._context
        if context.run.piece_bytes is None:
            context.save(replace(context.run, piece_bytes=self._scheduler.piece_bytes))
        parts, source, piece_bytes = self._parts, context.dataset.source, context.run.piece_bytes or 0
        cut = cut_output(parts, source, open_part=self._open_part, piece_bytes=piece_bytes)
        pieces = [[list(each) for each in piece] for piece in cut]
        bits = count_piece_bits(sum(part.size for part in parts))
        delta = context.open_delta()
        identity = _identify(delta.notes_id, bits, pieces)
        names = [f"{n:06d}" for n in range(len(pieces))]
        data: dict[str, dict[str, Any]] = {
            name: {"ranges": piece, "bits": bits} for name, piece in zip(names, pieces, strict=True)
        }
        gathered = gather_metadata(context, identity, dict(zip(names, pieces, strict=True)), self._run)
        for name, each in gathered.items():
            data[name]["metadata"] = each
        checked = self._run("check", f"pieces/checked/{identity}/", data)
        found = [checked[name] for name in names]
        first_rows = [0, *accumulate(each["rows"] for each in found)]
        self._check_counts(found)
        stored = self._run(
            "store_notes",
            f"pieces/stored/{identity}/",
            {
                bucket.name: {
                    "bits": bits,
                    "bucket": bucket,
                    "sources": [
                        (each["file"], *each["offsets"][bucket.prefix : bucket.prefix + 2], first)
                        for each, first in zip(found, first_rows, strict=False)
                    ],
                }
                for bucket in divide(bits)
            },
        )
        manifest = [
            {
                "ranges": piece,
                "first_row": first,
                "rows": each["rows"],
                "keyless": [each["file"], *each["offsets"][-2:]],
                "metadata": gathered[name],
            }
            for name, piece, each, first in zip(names, pieces, found, first_rows, strict=False)
        ]
        context.write_work(self._manifest(delta.notes_id), orjson.dumps(manifest))
        delta.adopt_notes(bits, [row for each in stored.values() for row in each["duplicates"]])
        context.delta = delta
        reasons: dict[str, int] = {}
        for each in found:
            reasons = add_reasons(reasons, each["reasons"])
            if context.is_measured:
                context.statistics.merge(each["statistics"].encode())
        if context.is_measured:
            context.export_statistics(first_rows[-1])
        return first_rows[-1], reasons

    @property
    def _parts(self) -> Sequence[Part]:
        """The parts of the output, read once.

        Not a `cached_property`: in Python 3.11 all instances have one lock, so a driver that waits for S3 would stop
        another one in its process.
        """
        if self._read is None:
            self._read = self._context.parts
        return self._read

    def _open_part(self, part: Part) -> BinaryIO:
        """Open a part for its footer, and renew the lease: thousands of large parts take minutes."""
        self._context.lease.keep()
        return self._context.open_part(part)

    def _check_counts(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Compare the rows of all parts with the manifest of the output."""
        counts: dict[int, int] = {}
        for each in found:
            for part, rows in each["counts"].items():
                counts[int(part)] = counts.get(int(part), 0) + rows
        so_far = 0
        for number, part in enumerate(self._parts):
            so_far += counts.get(number, 0)
            check_count(part, counts.get(number, 0), so_far)

    def keep_rejects(self, run: Run, duplicates: Sequence[int]) -> str:
        """Let each piece write its rejects; return the first example."""
        del run
        context = self._context
        for piece in self._pieces().values():  # the driver's engine needs no rows
            context.gathered = Gathered(context.work, piece["metadata"]).without_rows()
        data = {
            name: {**_only(piece, "ranges", "first_row", "metadata"), "duplicates": _cut(duplicates, piece)}
            for name, piece in self._pieces().items()
        }
        found = self._run("keep_rejects", f"pieces/refused/{self._context.delta.notes_id}/", data)
        return next((each["example"] for _, each in sorted(found.items()) if each["example"]), "")

    def decide(self, **rules: Unpack[Rules]) -> dict[str, int]:
        """Decide all buckets.

        The most frequent outcome is not sent to the pieces: it is `written` in a first load, else `unchanged`.
        """
        context, delta = self._context, self._context.delta
        self._rules = dict(rules)
        delta.adopt_decisions({}, **rules)
        default = WRITE if rules["full"] or not delta.known.rows else UNCHANGED
        cuts = [*(piece["first_row"] for piece in self._pieces().values()), context.run.rows or 0]
        data = {bucket.name: {**self._share(bucket), "default": default, "cuts": cuts} for bucket in delta.buckets}
        found = self._run("decide", f"pieces/decided/{delta.decided_id}/", data)
        self._outcomes = {"default": default, "buckets": list(found.values())}
        why: dict[str, int] = {}
        for each in found.values():
            why = add_reasons(why, each["why"])
        delta.adopt_decisions(dict(sorted(why.items())), **rules)
        return dict(delta.explain())

    def _share(self, bucket: Bucket) -> dict[str, Any]:
        delta = self._context.delta
        return {"bits": delta.noted_bits, "bucket": bucket, "rules": self._rules, "decided_id": delta.decided_id}

    def choose_removals(self, *, order: str, now: float, withdrawn: Withdrawn | None) -> None:
        """Choose the removals of all buckets."""
        delta = self._context.delta
        chosen = {"order": order, "now": now, "withdrawn": withdrawn and list(withdrawn)}
        identity = _identify(delta.decided_id, chosen)
        data = {bucket.name: {**self._share(bucket), **chosen} for bucket in delta.buckets}
        found = self._run("choose_removals", f"pieces/chosen/{identity}/", data)
        rows = {bucket: found[bucket.name]["rows"] for bucket in delta.buckets}
        expire_at = max((each["expire_at"] for each in found.values()), default=0)
        delta.adopt_removals(rows, expire_at, order=order, now=now, withdrawn=withdrawn)
        self._removals = {
            **chosen,
            "expire_at": expire_at,
            "rows": [(*bucket, count) for bucket, count in rows.items()],
        }

    def count_named(self, now: float, withdrawn: Withdrawn) -> tuple[int, int]:
        """Count in all buckets."""
        delta = self._context.delta
        rule = {"now": now, "withdrawn": list(withdrawn)}
        data = {bucket.name: {**self._share(bucket), **rule} for bucket in delta.buckets}
        found = self._run("count_named", f"pieces/named/{_identify(delta.decided_id, rule)}/", data).values()
        return sum(each["named"] for each in found), sum(each["unnamed"] for each in found)

    def write(self) -> None:
        """Write all pieces; the counts are the sum over exactly the pieces of the output."""
        context, delta = self._context, self._context.delta
        run, duplicates = context.run, delta.duplicates()
        default, counts, units = self._outcomes["default"], Counts(), 0
        data: dict[str, dict[str, Any]] = {}
        for n, (name, piece) in enumerate(self._pieces().items()):
            exceptions = [
                (each["file"], *each["offsets"][n : n + 2]) for each in self._outcomes["buckets"] if each["offsets"]
            ]
            exceptions = [each for each in exceptions if each[1] < each[2]]
            is_plain = not exceptions and piece["keyless"][1] == piece["keyless"][2]
            if is_plain and run.born_expired:
                counts += Counts(expired=piece["rows"])
            elif is_plain and default == UNCHANGED:
                counts += Counts(unchanged=piece["rows"])
            else:
                data[name] = {
                    **piece,
                    "default": default,
                    "exceptions": exceptions,
                    "duplicates": _cut(duplicates, piece),
                }
        superseded: list[int] = []
        for each in self._run("write", f"pieces/written/{delta.decided_id}/", data).values():
            counts += Counts(**each["counts"])
            units += each["units"]
            superseded += each["superseded"]
        if counts.read != run.rows:
            raise Stopped(
                f"dataset {run.dataset}, run {run.run}: its pieces account for {counts.read} rows, and the check has "
                f"read {run.rows}; this is a bug in Larder, and the run does not close"
            )
        if superseded:
            context.write_work(f"{SUPERSEDED_ROWS}pieces.json", orjson.dumps(sorted(superseded)))
        context.run = replace(context.run, counts=counts, units=units)  # committed with the next stage

    def remove(self) -> None:
        """Write the tombstones of all buckets that have removals."""
        context, run = self._context, self._context.run
        data = {
            bucket.name: {**self._share(bucket), **self._removals, "removed_until": context.decided.removed_until}
            for *key, count in self._removals.get("rows", [])
            if count
            for bucket in [Bucket(*key)]
        }
        found = self._run("remove", f"pieces/removed/{context.delta.removals_id}/", data).values()
        outlived = [row for each in found for row in each["outlived"]]
        if outlived:
            context.write_work(f"{OUTLIVED}pieces.json", orjson.dumps(sorted(outlived)))
        removed, units = sum(each["removed"] for each in found), sum(each["units"] for each in found)
        counts = Counts(**{**asdict(run.counts), "removed": removed})
        context.run = replace(context.run, counts=counts, units=run.units + units)  # committed with the next stage

    def merge(self, target: Target, **leaves: Unpack[Leaves]) -> Fingerprints:
        """Write the fingerprints of all buckets, then the manifest."""
        context, delta = self._context, self._context.delta
        fixed = {name: value for name, value in leaves.items() if name not in {"superseded", "outlived"}}
        data = {
            bucket.name: {
                **self._share(bucket),
                **(self._removals or {"rows": []}),
                "target": [target.object_key, target.table_id],
                "leaves": fixed,
            }
            for bucket in delta.buckets
        }
        # `now`, and so the files, differ between invocations: files of an earlier one are not used.
        self._run("merge", f"pieces/merged/{_identify(target.object_key, fixed)}/", data)
        return delta.merge(target, **leaves, step=context.pause)

    # -- tasks

    def _run(self, kind: str, folder: str, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Execute the tasks that did not end under an earlier driver; return all results, in the order of `data`.

        Raises:
            Failed, Overwritten, Stopped: as the first task that did not succeed.
            Refused: a task fails always; after a few drivers the run fails, with the task's rows.
        """
        context, services = self._context, self._context.services
        ended = context.work.list(folder) if data else set[str]()
        found: dict[str, Any] = {}
        for name in data:
            if f"{folder}{name}.json" in ended:
                found[name] = orjson.loads(context.read_work(f"{folder}{name}.json"))
                context.lease.keep()  # an earlier driver can have left results of thousands of pieces
        units = services.write_units and services.write_units / self._scheduler.slots
        release, owner = name_release(services), context.lease.owner
        tasks = [
            Task(kind, name, folder, context.run, owner, release, units, arguments, self._choose_parts(arguments))
            for name, arguments in data.items()
            if name not in found
        ]
        if tasks:
            before = context.run.pieces
            try:
                found |= self._scheduler.run(tasks, lambda done: self._keep(before + done))
            except TaskBroke as error:
                raise Refused(self._blame(kind, error.name, data[error.name], error)) from error
            context.run = replace(context.run, pieces=before + len(tasks))
        for name in data:
            match found[name].get("error"):
                case "Overwritten":
                    raise Overwritten(found[name]["message"])
                case "Failed":
                    raise Failed(found[name]["message"])
        return {name: found[name] for name in data}

    def _choose_parts(self, data: Mapping[str, Any]) -> dict[int, Part]:
        """Return the parts that the ranges of a task are of."""
        return {number: self._parts[number] for number, _, _ in data.get("ranges", [])}

    def _blame(self, kind: str, name: str, data: Mapping[str, Any], error: TaskBroke) -> str:
        """Say which rows a task that always fails is about."""
        context, rows = self._context, []
        for part, first, end in data.get("ranges", [])[:MOST_NAMED]:
            rows.append(f"{self._parts[part].name}, rows {first} to {'its end' if end is None else end - 1}")
        where = f" ({'; '.join(rows)})" if rows else ""
        return (
            f"dataset {context.run.dataset}, run {context.run.run}: the task {kind} {name}{where} failed in all its "
            f"attempts: {error}"
        )

    def _keep(self, pieces: int) -> None:
        """Renew the lease, and save how many pieces are done: a run whose drivers die is retried while this grows."""
        context = self._context
        context.lease.keep()
        if context.due() and pieces > context.run.pieces:
            context.save(replace(context.run, pieces=pieces))

    def settle(self) -> None:
        """Keep the lease quiet while a write of an attempt can still be applied.

        An attempt that has not recorded its end can be paused. It sends no write after the horizon that it has read
        from the lease, and the lease ends later. While a run is open that writes, an attempt can also begin unseen.
        """
        context, lease = self._context, self._context.lease
        quiet_at, lease.quiet_at = lease.quiet_at, lease.state.lease_until_ms / 1000
        if context.run.state.is_open and context.run.decided_ms is not None:
            return
        folder = name_attempts(lease.owner)
        try:
            names = context.work.list(folder)
            began = {name.removesuffix(".began") for name in names if name.endswith(".began")}
            ended = {name.removesuffix(".ended") for name in names if name.endswith(".ended")}
            for name in ended:
                quiet_at = max(quiet_at, orjson.loads(context.read_work(f"{name}.ended"))["quiet_at"])
        except (ClientError, BotoCoreError):
            return  # the run can be closed already, so this is no reason to stop it
        if began <= ended:
            lease.quiet_at = quiet_at

    def _manifest(self, notes_id: str) -> str:
        return f"pieces/manifest-{notes_id}.json"

    def _pieces(self) -> dict[str, dict[str, Any]]:
        """Return the pieces of the checked output by name: ranges, first_row, rows, keyless (a section)."""
        found = orjson.loads(self._context.read_work(self._manifest(self._context.delta.notes_id)))
        return {f"{n:06d}": piece for n, piece in enumerate(found)}


def _only(piece: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: piece[name] for name in names}


def _cut(rows: Sequence[int], piece: Mapping[str, Any]) -> list[int]:
    """Return those of ascending rows that are in a piece."""
    first, end = piece["first_row"], piece["first_row"] + piece["rows"]
    return list(rows[bisect_left(rows, first) : bisect_left(rows, end)])


def _identify(*inputs: object) -> str:
    """Return a text for file names that identifies the inputs."""
    return hashlib.sha256(orjson.dumps(inputs)).hexdigest()[:16]

"""Deliberate bugs, each of which the histories must find: a simulation that can't fail proves nothing.

`python -m tests.faults --mutants` plays histories over each until one breaks a promise, 2,000 at most.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple


class Mutant(NamedTuple):
    """A bug: in a module, one piece of text in the place of another."""

    name: str
    module: str
    right: str
    wrong: str


MUTANTS = (
    Mutant("skipped-condition", "enrich.pass_two", "return active.run.order.text < ", "return False and '' < "),
    Mutant(
        "checkpoint-before-write",
        "enrich.pass_two",
        "    written: Written = writer.flush()",
        "    active.save(next_row=next_row)\n    written: Written = writer.flush()",
    ),
    Mutant("lease-not-checked", "enrich.lease", "state.lease_owner not in {None, owner} and", "False and"),
    Mutant(
        "lease-too-short",
        "enrich.lease",
        "int((deadline + timeout + MARGIN) * 1000)",
        "int((deadline - 60) * 1000)",
    ),
    Mutant("released-before-it-is-quiet", "enrich.lease", "sent_at + self.timeout + MARGIN", "sent_at - 1"),
    Mutant(
        "unfenced-ledger",
        "enrich.ledger",
        'condition["ConditionExpression"] = "#version = :version"',
        'condition["ConditionExpression"] = "attribute_exists(pk)"',
    ),
    Mutant("mark-raised-too-late", "enrich.run", '"high_water": max(state.high_water, active.run.order.text),', ""),
    Mutant("superseded-counted-as-written", "enrich.pass_two", "superseded=written.superseded)", "superseded=0)"),
    Mutant("counts-twice", "enrich.pass_two", "    return Counts()\n\n\n", "    return counts\n\n\n"),
    Mutant("unprocessed-dropped", "enrich.write", "        if left is None:\n", "        if left is None or taken:\n"),
    Mutant("own-write-taken-for-a-newer-one", "enrich.write_answers", "if stored == order", "if False"),
    Mutant(
        "unchanged-keeps-its-old-order",
        "enrich.delta",
        "select n.k1, n.k2, n.digest, $order, if(",
        """select n.k1, n.k2, n.digest, if(o.outcome = 1, coalesce((select k."order" from known k where k.k1 = n.k1 and k.k2 = n.k2), $order), $order), if(""",
    ),
    Mutant(
        "rejected-items-removed",
        "enrich.delta",
        "pk, sk from noted where {mine}) n",
        "pk, sk from noted where kept and {mine}) n",
    ),
    Mutant("late-snapshot-adds", "enrich.delta", "or $order < $snapshot", "or $snapshot is null"),
    Mutant("duplicates-pass", "enrich.delta", "having count(*) > 1", "having count(*) > 2"),
    Mutant(
        "notes-of-a-dead-invocation-twice",
        "enrich.pass_one",
        "if first <= next_row <= last and next_row < until:",
        "if last < until:",
    ),
    Mutant(
        "failed-run-leaves-no-doubt",
        "enrich.delta",
        'select n.k1, n.k2, null, coalesce(k."order"',
        'select n.k1, n.k2, k.digest, coalesce(k."order"',
    ),
    Mutant("table-id-ignored", "enrich.fingerprints", "if written_for != table_id:", "if False:"),
    Mutant(
        "generation-not-opened",
        "enrich.again",
        "generation=lease.state.generation + 1",
        "generation=lease.state.generation",
    ),
    Mutant(
        "version-ignored", "enrich.outputs", 'identity = f"{object_key}@{_identity(head)}"', "identity = object_key"
    ),
    Mutant(
        "busy-output-forgotten",
        "enrich.dispatch",
        "    while edges.ledger.fetch_pending(dataset):\n",
        "    for _ in edges.ledger.fetch_pending(dataset)[:1]:\n",
    ),
    Mutant(
        "failure-of-another-not-told",
        "enrich.work",
        'if run.state == "failed" and run.kind == "output" and run.run not in own:',
        "if False:",
    ),
    Mutant("old-generation-kept", "enrich.again", "elif not run.closed and run.generation is not None:", "elif False:"),
    Mutant(
        "lost-dataset-acknowledged",
        "enrich.work",
        "    except OutOfTime as error:\n",
        "    except __import__('enrich').faults.LeaseLost:\n        return\n    except OutOfTime as error:\n",
    ),
    Mutant(
        "newest-pending-only",
        "enrich.dispatch",
        "while chosen := _choose(edges.ledger.fetch_pending(dataset), lease.state.open_run):",
        "if chosen := _choose(edges.ledger.fetch_pending(dataset)[-1:], None):",
    ),
    Mutant(
        "sweep-misses-overwritten",
        "enrich.dispatch",
        "seen = (listed.object_key, listed.etag, listed.arrived_ms) in known",
        "seen = listed.object_key in {each[0] for each in known}",
    ),
    Mutant("rejects-overwrite-each-other", "enrich.rejects", "{first_row:012d}-{last_row:012d}.jsonl", "rejects.jsonl"),
    Mutant(
        "restart-skips-a-chunk",
        "enrich.pass_two",
        "active.save(next_row=next_row, place=place, counts=",
        "active.save(next_row=next_row + 4, place=place, counts=",
    ),
    Mutant(
        "lives-for-ever", "enrich.delta", "k.expires_at - $now >= $enough", "k.expires_at - $now >= -$enough * 1000"
    ),
    Mutant(
        "tombstone-for-no-item", "enrich.delta", "where regexp_full_match(sk, ", "where true or regexp_full_match(sk, "
    ),
    Mutant("writes-left-in-flight", "enrich.run", "writer.settle()", "pass"),
    Mutant("next-run-does-not-wait", "enrich.dispatch", "lease.wait_for_quiet()", "pass"),
    Mutant("writer-never-stops", "enrich.run", "stop_at=lambda: active.lease.stop_at", "stop_at=None"),
    Mutant(
        "metadata-of-the-dataset",
        "enrich.run",
        "active.run.metadata, max_bytes",
        '{name: each["location"] for name, each in active.lease.state.metadata.items()}, max_bytes',
    ),
    Mutant("metadata-never-too-old", "enrich.pin", 'earlier["fetched_ms"] > oldest_ms and', "oldest_ms and"),
    Mutant(
        "superseded-counted-as-unchanged",
        "enrich.pass_two",
        "unchanged=found.get(UNCHANGED, 0), superseded=found.get(SUPERSEDED, 0)",
        "unchanged=found.get(UNCHANGED, 0) + found.get(SUPERSEDED, 0)",
    ),
    Mutant(
        "expires-from-when-it-ran",
        "enrich.pin",
        "math.ceil((as_of + active.dataset.ttl).timestamp())",
        "math.ceil(active.edges.clock.now() + active.dataset.ttl.total_seconds())",
    ),
    Mutant("future-accepted", "enrich.pin", "if as_of.timestamp() * 1000 > ", "if False and as_of.timestamp() > "),
    Mutant("too-many-rejects-published", "enrich.pass_one", "if within_share and", "if True or within_share and"),
    Mutant("another-row-kept-as-reject", "enrich.rejects", "[row - first_row for row in rows]", "[0 for row in rows]"),
    Mutant("first-part-only", "enrich.pin", "return list(output.parts)", "return list(output.parts[:1])"),
    Mutant("missing-part-ignored", "enrich.pin", "if output.missing:", "if False:"),
    Mutant("newest-instead-of-pinned", "enrich.part", 'pin = {"VersionId": self._part.version_id}', "pin = {}"),
    Mutant("another-in-its-place", "enrich.part", '{"IfMatch": self._part.etag}', "{}"),
    Mutant("continuation-forgotten", "enrich.work", 'edges.send({"continue": {"dataset": dataset}})', "edges.random"),
    Mutant(
        "tombstone-expires-too-early",
        "enrich.run",
        "return max(run.expires_at or 0, delta.removals_expire_at())",
        "return run.expires_at or 0",
    ),
    Mutant(
        "high-water-falls",
        "enrich.run",
        '"high_water": max(state.high_water, active.run.order.text),',
        '"high_water": active.run.order.text,',
    ),
    Mutant(
        "snapshot-mark-falls",
        "enrich.run",
        "snapshot = max(snapshot, active.run.order.text)",
        "snapshot = active.run.order.text",
    ),
    Mutant("place-forgotten", "enrich.pass_two", "Counts(), run.next_row, run.place", "Counts(), run.next_row, 0"),
    Mutant(
        "rejects-not-kept", "enrich.pass_two", "            write_rejects(edges.s3,", "            bool(edges.s3), (1,"
    ),
    Mutant("born-expired-written", "enrich.pass_two", "if active.run.born_expired:", "if False:"),
    Mutant("unknown-not-noted", "enrich.run", "active.lease.note_unknown(writer.unknown_at)", "pass"),
    Mutant(
        "lost-write-not-sent-again",
        "enrich.write_answers",
        "Outcome(left=request, reason=answer)",
        "Outcome(written=request.items)",
    ),
    Mutant("withdrawn-stays-done", "enrich.again", 'changes.append(replace(run, state="withdrawn"))', "pass"),
    Mutant("failure-not-told", "enrich.work", "                _raise_failed(edges, run)\n", "                pass\n"),
)


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, mutant: Mutant, path: str) -> None:
        self._mutant, self._path = mutant, path

    def get_source(self, fullname: str) -> str:
        with open(self._path, encoding="utf-8") as file:
            source = file.read()
        if source.count(self._mutant.right) != 1:
            raise ValueError(f"mutant {self._mutant.name}: its text stands {source.count(self._mutant.right)} times")
        return source.replace(self._mutant.right, self._mutant.wrong)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del target
        if name != self._mutant.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        assert found is not None
        assert found.origin is not None
        return importlib.util.spec_from_loader(name, _Loader(self._mutant, found.origin), origin=found.origin)


def install(name: str) -> None:
    """Put a bug into the code; must come before the code is imported.

    Raises:
        LookupError: there is no such mutant, or its module is imported already.
    """
    mutant = next((mutant for mutant in MUTANTS if mutant.name == name), None)
    if mutant is None:
        raise LookupError(f"no mutant {name!r}")
    plant(mutant)


def plant(mutant: Mutant) -> None:
    """Put this bug into the code; must come before the code is imported.

    Raises:
        LookupError: its module is imported already.
    """
    if mutant.module in sys.modules:
        raise LookupError(f"{mutant.module} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))

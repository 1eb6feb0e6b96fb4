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
    Mutant("skipped-condition", "enrich.run.publish", "return context.run.order.text < ", "return False and '' < "),
    Mutant(
        "checkpoint-before-write",
        "enrich.run.publish",
        "    written: Written = writer.flush()",
        "    context.save(next_row=next_row)\n    written: Written = writer.flush()",
    ),
    Mutant("lease-not-checked", "enrich.ledger.lease", "state.lease_owner not in {None, owner} and", "False and"),
    Mutant(
        "lease-too-short",
        "enrich.ledger.lease",
        "int((deadline + timeout + MARGIN) * 1000)",
        "int((deadline - 60) * 1000)",
    ),
    Mutant("released-before-it-is-quiet", "enrich.ledger.lease", "sent_at + self.timeout + MARGIN", "sent_at - 1"),
    Mutant(
        "unfenced-ledger",
        "enrich.ledger.store",
        'condition["ConditionExpression"] = "#version = :version"',
        'condition["ConditionExpression"] = "attribute_exists(pk)"',
    ),
    Mutant(
        "mark-raised-too-late",
        "enrich.run.lifecycle",
        '"high_water": max(state.high_water, context.run.order.text),',
        "",
    ),
    Mutant("superseded-counted-as-written", "enrich.run.publish", "superseded=written.superseded)", "superseded=0)"),
    Mutant("counts-twice", "enrich.run.publish", "    return Counts()\n\n\n", "    return counts\n\n\n"),
    Mutant(
        "unprocessed-dropped",
        "enrich.write.writer",
        "        if left is None:\n",
        "        if left is None or taken:\n",
    ),
    Mutant("own-write-taken-for-a-newer-one", "enrich.write.responses", "if stored == order", "if False"),
    Mutant(
        "unchanged-keeps-its-old-order",
        "enrich.delta.changes",
        "select n.k1, n.k2, n.digest, $order, if(",
        """select n.k1, n.k2, n.digest, if(o.outcome = 1, coalesce((select k."order" from known k where k.k1 = n.k1 and k.k2 = n.k2), $order), $order), if(""",
    ),
    Mutant(
        "rejected-items-removed",
        "enrich.delta.changes",
        "pk, sk from noted where {mine}) n",
        "pk, sk from noted where kept and {mine}) n",
    ),
    Mutant("late-snapshot-adds", "enrich.delta.changes", "or $order < $snapshot", "or $snapshot is null"),
    Mutant("duplicates-pass", "enrich.delta.changes", "having count(*) > 1", "having count(*) > 2"),
    Mutant(
        "notes-of-a-dead-invocation-twice",
        "enrich.run.check",
        "if first <= next_row <= last and next_row < until:",
        "if last < until:",
    ),
    Mutant(
        "failed-run-leaves-no-doubt",
        "enrich.delta.changes",
        'select n.k1, n.k2, null, coalesce(k."order"',
        'select n.k1, n.k2, k.digest, coalesce(k."order"',
    ),
    Mutant("table-id-ignored", "enrich.delta.fingerprints", "if written_for != table_id:", "if False:"),
    Mutant(
        "generation-not-opened",
        "enrich.intake.operations",
        "generation=lease.state.generation + 1",
        "generation=lease.state.generation",
    ),
    Mutant(
        "version-ignored",
        "enrich.read.outputs",
        'identity = f"{object_key}@{_identity(head)}"',
        "identity = object_key",
    ),
    Mutant(
        "busy-output-forgotten",
        "enrich.intake.worker",
        "    while services.ledger.fetch_pending(dataset):\n",
        "    for _ in services.ledger.fetch_pending(dataset)[:1]:\n",
    ),
    Mutant(
        "failure-of-another-not-told",
        "enrich.intake.worker",
        'if run.state == "failed" and run.kind == "output" and run.run not in own:',
        "if False:",
    ),
    Mutant(
        "old-generation-kept",
        "enrich.intake.operations",
        "elif not run.state.is_closed and run.generation is not None:",
        "elif False:",
    ),
    Mutant(
        "lost-dataset-acknowledged",
        "enrich.intake.worker",
        "    except OutOfTime as error:\n",
        "    except __import__('enrich.errors').errors.LeaseLost:\n        return\n    except OutOfTime as error:\n",
    ),
    Mutant(
        "newest-pending-only",
        "enrich.intake.worker",
        "while chosen := _choose(services.ledger.fetch_pending(dataset), lease.state.open_run):",
        "if chosen := _choose(services.ledger.fetch_pending(dataset)[-1:], None):",
    ),
    Mutant(
        "sweep-misses-overwritten",
        "enrich.intake.find",
        "seen = (listed.object_key, listed.etag, listed.arrived_ms) in known",
        "seen = listed.object_key in {each[0] for each in known}",
    ),
    Mutant(
        "rejects-overwrite-each-other", "enrich.join.rejects", "{first_row:012d}-{last_row:012d}.jsonl", "rejects.jsonl"
    ),
    Mutant(
        "restart-skips-a-chunk",
        "enrich.run.publish",
        "context.save(next_row=next_row, place=place, counts=",
        "context.save(next_row=next_row + 4, place=place, counts=",
    ),
    Mutant(
        "lives-for-ever",
        "enrich.delta.changes",
        "k.expires_at - $now >= $enough",
        "k.expires_at - $now >= -$enough * 1000",
    ),
    Mutant(
        "tombstone-for-no-item",
        "enrich.delta.changes",
        "where regexp_full_match(sk, ",
        "where true or regexp_full_match(sk, ",
    ),
    Mutant("writes-left-in-flight", "enrich.run.lifecycle", "writer.settle()", "pass"),
    Mutant("next-run-does-not-wait", "enrich.intake.worker", "lease.wait_for_quiet()", "pass"),
    Mutant("writer-never-stops", "enrich.run.lifecycle", "stop_at=lambda: context.lease.stop_at", "stop_at=None"),
    Mutant(
        "metadata-of-the-dataset",
        "enrich.run.lifecycle",
        "context.run.metadata, max_bytes",
        '{name: each["location"] for name, each in context.lease.state.metadata.items()}, max_bytes',
    ),
    Mutant("metadata-never-too-old", "enrich.run.prepare", 'earlier["fetched_ms"] > oldest_ms and', "oldest_ms and"),
    Mutant(
        "superseded-counted-as-unchanged",
        "enrich.run.publish",
        "unchanged=found.get(UNCHANGED, 0), superseded=found.get(SUPERSEDED, 0)",
        "unchanged=found.get(UNCHANGED, 0) + found.get(SUPERSEDED, 0)",
    ),
    Mutant(
        "expires-from-when-it-ran",
        "enrich.run.prepare",
        "math.ceil((as_of + context.dataset.ttl).timestamp())",
        "math.ceil(context.services.clock.now() + context.dataset.ttl.total_seconds())",
    ),
    Mutant(
        "future-accepted", "enrich.run.prepare", "if as_of.timestamp() * 1000 > ", "if False and as_of.timestamp() > "
    ),
    Mutant("too-many-rejects-published", "enrich.run.check", "if within_share and", "if True or within_share and"),
    Mutant(
        "another-row-kept-as-reject", "enrich.join.rejects", "[row - first_row for row in rows]", "[0 for row in rows]"
    ),
    Mutant("first-part-only", "enrich.run.prepare", "return list(output.parts)", "return list(output.parts[:1])"),
    Mutant("missing-part-ignored", "enrich.run.prepare", "if output.missing:", "if False:"),
    Mutant(
        "newest-instead-of-pinned", "enrich.read.s3_object", 'pin = {"VersionId": self._part.version_id}', "pin = {}"
    ),
    Mutant("another-in-its-place", "enrich.read.s3_object", '{"IfMatch": self._part.etag}', "{}"),
    Mutant(
        "continuation-forgotten",
        "enrich.intake.worker",
        'services.send({"continue": {"dataset": dataset}})',
        "services.random",
    ),
    Mutant(
        "tombstone-expires-too-early",
        "enrich.run.lifecycle",
        "return max(run.expires_at or 0, delta.removals_expire_at())",
        "return run.expires_at or 0",
    ),
    Mutant(
        "high-water-falls",
        "enrich.run.lifecycle",
        '"high_water": max(state.high_water, context.run.order.text),',
        '"high_water": context.run.order.text,',
    ),
    Mutant(
        "snapshot-mark-falls",
        "enrich.run.lifecycle",
        "snapshot = max(snapshot, context.run.order.text)",
        "snapshot = context.run.order.text",
    ),
    Mutant("place-forgotten", "enrich.run.publish", "Counts(), run.next_row, run.place", "Counts(), run.next_row, 0"),
    Mutant(
        "rejects-not-kept",
        "enrich.run.publish",
        "            write_rejects(services.s3,",
        "            bool(services.s3), (1,",
    ),
    Mutant("born-expired-written", "enrich.run.publish", "if context.run.born_expired:", "if False:"),
    Mutant("unknown-not-noted", "enrich.run.lifecycle", "context.lease.note_unknown(writer.unknown_at)", "pass"),
    Mutant(
        "lost-write-not-sent-again",
        "enrich.write.responses",
        "Outcome(left=request, reason=answer)",
        "Outcome(written=request.items)",
    ),
    Mutant(
        "withdrawn-stays-done", "enrich.intake.operations", 'changes.append(replace(run, state="withdrawn"))', "pass"
    ),
    Mutant(
        "failure-not-told",
        "enrich.intake.worker",
        "                _raise_failed(services, run)\n",
        "                pass\n",
    ),
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

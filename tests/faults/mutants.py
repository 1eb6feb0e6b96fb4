"""Deliberate bugs, each of which the histories must find: a simulation that can't fail proves nothing.

`python -m tests.faults --mutants` plays histories over each until one breaks a promise, 2,000 at most.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class NotApplicable(Exception):
    """The code that a mutant changes no longer exists: the mutant proves nothing until it is adapted."""


class Mutant(NamedTuple):
    """A bug: one piece of text that replaces another.

    `place` is "module:function", "module:Class.method", or "module" for text outside any function. The text must stand
    there exactly once; so a function that is renamed or moved takes no mutant with it in silence.
    """

    name: str
    place: str
    right: str
    wrong: str

    @property
    def module(self) -> str:
        """Return the module that it changes."""
        return self.place.partition(":")[0]

    def read(self) -> str:
        """Read the module as it is."""
        return Path(*self.module.split(".")).with_suffix(".py").read_text(encoding="utf-8")

    def apply(self, source: str) -> str:
        """Return the module's source with the bug in it.

        Raises:
            NotApplicable: there is no such function, its text is not there exactly once, or what comes out is no Python.
        """
        first, last = _find_lines(source, self.place.partition(":")[2])
        lines = source.splitlines(keepends=True)
        place = "".join(lines[first:last])
        if place.count(self.right) != 1:
            raise NotApplicable(f"{self.place} has {place.count(self.right)} times {self.right!r}, expected once")
        mutated = "".join([*lines[:first], place.replace(self.right, self.wrong), *lines[last:]])
        try:
            changed = ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
        except SyntaxError as error:
            raise NotApplicable(f"{self.place} does not compile with {self.wrong!r}: {error}") from error
        if not changed:
            raise NotApplicable(f"{self.place}: {self.wrong!r} means what {self.right!r} means")
        return mutated


def _find_lines(source: str, function: str) -> tuple[int, int]:
    """Return the range of lines of a function or method; all lines for an empty name."""
    found: ast.AST = ast.parse(source)
    for name in filter(None, function.split(".")):
        inside = [node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == name]
        if len(inside) != 1:
            raise NotApplicable(f"there are {len(inside)} definitions of {function}, expected one")
        found = inside[0]
    if isinstance(found, ast.FunctionDef | ast.ClassDef):
        return min(node.lineno for node in (found, *found.decorator_list)) - 1, found.end_lineno or 0
    return 0, len(source.splitlines())


_MARKS = """\
        for first in range(0, len(marks), RUNS_AT_ONCE):
            lease.commit(lease.state, *(change for mark in marks[first : first + RUNS_AT_ONCE] for change in mark))
"""
_MARKED = """\
        lease.commit(lease.state, replace(removal, stage=Stage.RESTORE_FIRST))
"""

PIECES = (  # of runs in pieces: hunted in histories that all have jobs
    Mutant(
        "no-horizon-for-executors",
        "enrich.run.pieces.watched_lease:WatchedLease.confirm",
        "state.lease_until_ms / 1000 - self.timeout - MARGIN",
        'float("inf")',
    ),
    Mutant(
        "executor-does-not-know-the-high-water-mark",
        "enrich.run.pieces.watched_lease:WatchedLease.confirm",
        "        self.state = state\n",
        "",
    ),
    Mutant(
        "driver-does-not-wait-for-attempts",
        "enrich.run.pieces.passes:PiecePasses.settle",
        "if began <= ended:",
        "if True:",
    ),
    Mutant(
        "attempts-begin-unseen",
        "enrich.run.pieces.tasks:_recorded",
        '    context.write_work(f"{name}.began", b"{}")\n',
        "",
    ),
    Mutant(
        "budget-not-divided",
        "enrich.run.pieces.passes:PiecePasses._run",
        "services.write_units and services.write_units / self._scheduler.slots",
        "services.write_units",
    ),
    Mutant(
        "each-task-begins-with-a-new-budget",
        "enrich.run.pieces.tasks:_within_budget",
        "context.writer.rest()",
        "pass",
    ),
    Mutant(
        "outcomes-are-not-read",
        "enrich.run.pieces.tasks:PieceDecisions.__init__",
        "if table is not None:",
        "if table is None:",
    ),
    Mutant(
        "results-are-used-before-they-are-there",
        "enrich.run.pieces.tasks:execute_task",
        "            with _recorded(context, task, lease), context:\n",
        """            if task.kind == "write":
                rows = task.data["rows"]
                counts = asdict(Counts(unchanged=rows))
                early = {"counts": counts, "units": 0, "superseded": []}
                context.write_work(f"{task.folder}{task.name}.json", orjson.dumps(early))
            with _recorded(context, task, lease), context:
""",
    ),
    Mutant(
        "results-of-an-earlier-driver-counted-twice",
        "enrich.run.pieces.passes:PiecePasses._run",
        "        return {name: found[name] for name in data}",
        """        if kind == "write":
            for name in data:
                if f"{folder}{name}.json" in ended:
                    found[f"{name} again"] = found[name]
            return found
        return {name: found[name] for name in data}""",
    ),
    Mutant(
        "duplicates-only-within-a-piece",
        "enrich.run.pieces.passes:PiecePasses.check",
        'for row in each["duplicates"]]',
        'for row in each["duplicates"][:0]]',
    ),
    Mutant(
        "rejects-numbered-within-a-piece",
        "enrich.run.pieces.tasks:keep_rejects",
        'first_row = task.data["first_row"] + row',
        "first_row = row",
    ),
    Mutant(
        "run-as-it-was-before-its-tasks-decided",
        "enrich.run.decide:decide_changes",
        "context.run = replace(context.run, because",
        "context.run = replace(run, because",
    ),
    Mutant(
        "run-as-it-was-before-its-tasks-merged",
        "enrich.run.close:close_run",
        "closed = replace(context.run, state=RunState.DONE",
        "closed = replace(run, state=RunState.DONE",
    ),
    Mutant(
        "tasks-compare-with-lost-fingerprints",
        "enrich.run.decide:decide_changes",
        "            base = None\n            trust = load_fingerprints(context, base, table_id).trust\n",
        "            base = None\n",
    ),
)
MUTANTS = (
    Mutant(
        "deletes-events-that-the-bus-refused",
        "enrich.outbox.outbox:_send",
        "entry for n, entry in enumerate(part) if n not in refused",
        "*part",
    ),
    Mutant(
        "deletes-events-before-it-sends-them",
        "enrich.outbox.outbox:_send",
        "        owners = iter(",
        "        services.ledger.commit(*map(Delete, part))\n        owners = iter(",
    ),
    Mutant(
        "reports-no-withdrawal",
        "enrich.intake.recovery:_mark_runs",
        ", *report(services, withdrawn, ended_before=run.state.is_closed)]",
        "]",
    ),
    Mutant(
        "stops-without-a-checkpoint",
        "enrich.run.publish:OutputWriter._pause",
        "if stop or context.due():",
        "if context.due():",
    ),
    Mutant(
        "checks-without-a-checkpoint",
        "enrich.run.check:check_rows",
        "if stop or context.due():",
        "if context.due():",
    ),
    Mutant(
        "skipped-condition",
        "enrich.run.context:RunContext.is_late",
        "return self.run.order.text < ",
        "return False and '' < ",
    ),
    Mutant(
        "checkpoint-before-write",
        "enrich.run.publish:OutputWriter.checkpoint",
        "        written = context.writer.flush()",
        "        context.save(replace(run, next_row=next_row))\n        run = context.run\n        written = context.writer.flush()",
    ),
    Mutant(
        "lease-not-checked",
        "enrich.ledger.lease:acquire_lease",
        "state.lease_owner not in {None, owner} and",
        "False and",
    ),
    Mutant(
        "lease-too-short",
        "enrich.ledger.lease:_until",
        "int((deadline + timeout + MARGIN) * 1000)",
        "int((deadline - 60) * 1000)",
    ),
    Mutant(
        "released-before-it-is-quiet",
        "enrich.ledger.lease:Lease.note_unknown",
        "sent_at + self.timeout + MARGIN",
        "sent_at - 1",
    ),
    Mutant(
        "unfenced-ledger",
        "enrich.ledger.store:Ledger._action",
        'condition["ConditionExpression"] = "#version = :version"',
        'condition["ConditionExpression"] = "attribute_exists(pk)"',
    ),
    Mutant(
        "mark-raised-too-late", "enrich.run.decide:_begin", "high_water=max(state.high_water, run.order.text), ", ""
    ),
    Mutant(
        "superseded-counted-as-written",
        "enrich.run.publish:OutputWriter.checkpoint",
        "superseded=written.superseded)",
        "superseded=0)",
    ),
    Mutant("counts-twice", "enrich.run.publish:OutputWriter.checkpoint", "self._counts = Counts()", "pass"),
    Mutant(
        "unprocessed-dropped",
        "enrich.write.writer:Writer._handle",
        "        if left is None:\n",
        "        if left is None or taken:\n",
    ),
    Mutant(
        "unchanged-keeps-its-old-order",
        "enrich.delta.changes:Delta.merge",
        'if(c.removed is null, k."order", $order) as "order"',
        'if(c.removed is null or c.expires_at is null, k."order", $order) as "order"',
    ),
    Mutant(
        "rows-that-the-table-had-newer-confirmed",
        "enrich.delta.changes:Delta._register_decided",
        "pa.concat_tables([dropped, _rows(superseded)])",
        "dropped",
    ),
    Mutant(
        "written-items-keep-their-former-expiry",
        "enrich.delta.changes:Delta._register_decided",
        'pc.equal(decided["outcome"], WRITE)',
        'pc.equal(decided["outcome"], UNCHANGED)',
    ),
    Mutant("withdrawn-life-stays", "enrich.delta.changes:Delta._decide_bucket", "k.expires_at <= $expires_at", "true"),
    Mutant(
        "rejected-items-removed",
        "enrich.delta.changes:Delta._choose_in_bucket",
        "pk, sk from {self._noted(bucket)}) n",
        "pk, sk from {self._noted(bucket)} where kept) n",
    ),
    Mutant(
        "late-snapshot-adds",
        "enrich.delta.changes:Delta._decide_bucket",
        "or $order < $snapshot",
        "or $snapshot is null",
    ),
    Mutant(
        "duplicates-pass", "enrich.delta.changes:Delta._reject_duplicates", "having count(*) > 1", "having count(*) > 2"
    ),
    Mutant(
        "notes-of-a-dead-invocation-twice",
        "enrich.run.context:RunContext._import_noted",
        "if first <= next_row <= last and next_row < until:",
        "if last < until:",
    ),
    Mutant(
        "failed-run-leaves-no-doubt",
        "enrich.delta.changes:Delta.merge_unknown",
        """if(n.row is null and not k."order" < $removing, k.digest, null) as digest""",
        "k.digest as digest",
    ),
    Mutant(
        "removals-of-another-bucket",
        "enrich.delta.changes:Delta._chosen",
        "if self._removals_in_file != removals.bucket:",
        "if False:",
    ),
    Mutant("merged-buckets-forgotten", "enrich.delta.changes:Delta._save", "parts.append(done[bucket])", "pass"),
    Mutant("carried-buckets-forgotten", "enrich.delta.changes:Delta._save", "parts.append(carried)", "pass"),
    Mutant(
        "known-of-another-bucket",
        "enrich.delta.fingerprints:Known.parts",
        "if part.bucket.overlaps(bucket)",
        "if part.bucket == bucket",
    ),
    Mutant("table-id-ignored", "enrich.delta.fingerprints:read_fingerprints", "if written_for != table_id", "if False"),
    Mutant(
        "generation-not-opened",
        "enrich.intake.operations:_withdraw",
        "generation=lease.state.generation + 1",
        "generation=lease.state.generation",
    ),
    Mutant(
        "version-ignored",
        "enrich.read.outputs:fetch_output",
        'identity = f"{object_key}@{_identity(head)}"',
        "identity = object_key",
    ),
    Mutant(
        "busy-output-forgotten",
        "enrich.intake.worker:run_pending",
        "    while services.ledger.fetch_pending(dataset):\n",
        "    for _ in services.ledger.fetch_pending(dataset)[:1]:\n",
    ),
    Mutant(
        "failure-of-another-not-reported",
        "enrich.intake.worker:run_pending",
        "if run.state is RunState.FAILED and run.kind is Kind.OUTPUT and run.run not in own:",
        "if False:",
    ),
    Mutant(
        "old-generation-kept",
        "enrich.intake.recovery:_mark_runs",
        "elif run.state.is_open and run.generation is not None and run.generation < generation:",
        "elif False:",
    ),
    Mutant(
        "lost-dataset-acknowledged",
        "enrich.intake.worker:run_dataset",
        "    except OutOfTime as error:\n",
        "    except __import__('enrich.errors').errors.LeaseLost:\n        return\n    except OutOfTime as error:\n",
    ),
    Mutant(
        "newest-pending-only",
        "enrich.intake.worker:run_pending",
        "while chosen := _choose(services.ledger.fetch_pending(dataset), lease.state.open_run):",
        "if chosen := _choose(services.ledger.fetch_pending(dataset)[-1:], None):",
    ),
    Mutant(
        "sweep-misses-overwritten",
        "enrich.intake.find:sweep",
        "seen = (listed.object_key, listed.etag, listed.arrived_ms, listed.listing) in known",
        "seen = listed.object_key in {each[0] for each in known}",
    ),
    Mutant(
        "rejects-overwrite-each-other",
        "enrich.join.rejects:write_rejects",
        "{first_row:012d}-{last_row:012d}.jsonl",
        "rejects.jsonl",
    ),
    Mutant(
        "restart-skips-a-chunk",
        "enrich.run.publish:OutputWriter.checkpoint",
        "next_row=next_row, place=place, counts=",
        "next_row=next_row + 4, place=place, counts=",
    ),
    Mutant(
        "lives-for-ever",
        "enrich.delta.changes:Delta._decide_bucket",
        "k.digest = n.digest and k.expires_at - $now >= $enough",
        "k.digest = n.digest and k.expires_at - $now >= -$enough * 1000",
    ),
    Mutant(
        "tombstone-for-no-item",
        "enrich.delta.changes:Delta._choose_in_bucket",
        "where regexp_full_match(sk, ",
        "where true or regexp_full_match(sk, ",
    ),
    Mutant("writes-left-in-flight", "enrich.run.context:RunContext._settle", "writer.settle()", "pass"),
    Mutant("next-run-does-not-wait", "enrich.intake.worker:_run_one", "lease.wait_for_quiet()", "pass"),
    Mutant(
        "writer-never-stops",
        "enrich.run.context:RunContext.writer",
        "stop_at=lambda: self.lease.stop_at",
        "stop_at=None",
    ),
    Mutant(
        "metadata-of-the-dataset",
        "enrich.run.context:RunContext.compile",
        "self.run.metadata, max_bytes",
        '{name: each["location"] for name, each in self.lease.state.metadata.items()}, max_bytes',
    ),
    Mutant(
        "metadata-never-too-old",
        "enrich.run.metadata:_is_fresh",
        'earlier["fetched_ms"] > oldest_ms',
        "oldest_ms > 0",
    ),
    Mutant(
        "superseded-counted-as-unchanged",
        "enrich.run.publish:_count_outcomes",
        "unchanged=found.get(UNCHANGED, 0), superseded=found.get(SUPERSEDED, 0)",
        "unchanged=found.get(UNCHANGED, 0) + found.get(SUPERSEDED, 0)",
    ),
    Mutant(
        "expires-from-when-it-ran",
        "enrich.run.prepare:set_order",
        "math.ceil((as_of + context.dataset.ttl).timestamp())",
        "math.ceil(context.services.clock.now() + context.dataset.ttl.total_seconds())",
    ),
    Mutant(
        "future-accepted",
        "enrich.run.prepare:set_order",
        "if as_of.timestamp() * 1000 > ",
        "if False and as_of.timestamp() > ",
    ),
    Mutant(
        "too-many-rejects-published",
        "enrich.run.check:is_tolerated",
        "return within_share and",
        "return True or within_share and",
    ),
    Mutant(
        "another-row-kept-as-reject",
        "enrich.join.rejects:write_rejects",
        "[row - first_row for row in rows]",
        "[0 for row in rows]",
    ),
    Mutant(
        "first-part-only",
        "enrich.run.prepare:_check_parts",
        "return list(output.parts)",
        "return list(output.parts[:1])",
    ),
    Mutant("missing-part-ignored", "enrich.run.prepare:_check_parts", "if output.problems:", "if False:"),
    Mutant(
        "newest-instead-of-pinned",
        "enrich.read.s3_object:PartFile._get",
        'pin = {"VersionId": self._part.version_id}',
        "pin = {}",
    ),
    Mutant("another-in-its-place", "enrich.read.s3_object:PartFile._get", '{"IfMatch": self._part.etag}', "{}"),
    Mutant(
        "continuation-forgotten",
        "enrich.intake.worker:run_dataset",
        'services.send({"continue": {"dataset": dataset}})',
        "services.random",
    ),
    Mutant(
        "tombstone-expires-too-early",
        "enrich.run.decide:_choose_removals",
        "return max(run.expires_at or 0, delta.removals_expire_at())",
        "return run.expires_at or 0",
    ),
    Mutant(
        "high-water-falls",
        "enrich.run.decide:_begin",
        "high_water=max(state.high_water, run.order.text)",
        "high_water=run.order.text",
    ),
    Mutant(
        "snapshot-mark-falls",
        "enrich.run.close:close_run",
        "max(state.snapshot, run.order.text) if is_snapshot",
        "run.order.text if is_snapshot",
    ),
    Mutant("place-forgotten", "enrich.run.publish:OutputWriter.__init__", "context.run.place", "0"),
    Mutant(
        "rejects-not-kept",
        "enrich.run.publish:OutputWriter.write_chunk",
        "            write_rejects(services.s3,",
        "            bool(services.s3), (1,",
    ),
    Mutant("born-expired-written", "enrich.run.publish:_count_outcomes", "if context.run.born_expired:", "if False:"),
    Mutant(
        "unknown-not-noted",
        "enrich.run.context:RunContext._settle",
        "self.lease.note_unknown(writer.unknown_at)",
        "pass",
    ),
    Mutant(
        "lost-write-not-sent-again",
        "enrich.write.responses:parse_outcome",
        "Outcome(retry=request, reason=response)",
        "Outcome(written=request.items)",
    ),
    Mutant(
        "withdrawn-stays-done",
        "enrich.intake.recovery:_mark_runs",
        "yield [withdrawn, *report(services, withdrawn, ended_before=run.state.is_closed)]",
        "pass",
    ),
    Mutant(
        "withdrawal-of-the-first-runs-only",
        "enrich.intake.recovery:finish_withdrawals",
        "for first in range(0, len(marks), RUNS_AT_ONCE):",
        "for first in range(0, len(marks), RUNS_AT_ONCE)[:1]:",
    ),
    Mutant(
        "withdrawal-not-finished",
        "enrich.intake.recovery:finish_withdrawals",
        _MARKS + _MARKED,
        _MARKED + _MARKS,
    ),
    Mutant("held-is-published", "enrich.run.guard:judge_output", "if shifts and", "if False and"),
    Mutant("approval-forgotten", "enrich.run.guard:judge_output", "and not checked.approved ", ""),
    Mutant("held-stays-pending", "enrich.run.guard:hold_run", "        Delete(context.pending),\n", ""),
    Mutant(
        "held-as-reference",
        "enrich.run.guard:_find_reference",
        "newest_first(ledger.fetch_runs(dataset, newest=newest))",
        "ledger.fetch_runs(dataset)",
    ),
    Mutant(
        "statistics-of-the-last-invocation-only",
        "enrich.run.context:RunContext.statistics",
        "not statistics.load(self.read_work(name))",
        "not self.read_work(name)",
    ),
    Mutant("older-approved", "enrich.intake.held:_find_obstacle", "if newer is None:", "if newer is not run:"),
    Mutant(
        "inputs-of-an-earlier-body",
        "enrich.delta.changes:Delta.merge",
        "if(c.removed is null, k.inputs, c.inputs) as inputs",
        "coalesce(k.inputs, c.inputs) as inputs",
    ),
    Mutant(
        "known-by-its-key-alone",
        "enrich.delta.memory:Memory.find",
        "pc.and_(is_key, pc.equal(self._inputs.take(place), inputs))",
        "is_key",
    ),
    Mutant(
        "definition-not-among-the-inputs",
        "enrich.dataset.inputs:build_basis",
        "json.dumps(rules, sort_keys=True, default=str)",
        "json.dumps(sorted(rules))",
    ),
    Mutant(
        "metadata-not-among-the-inputs",
        "tests.faults.model_engine:ModelEngine._digest_inputs",
        "prediction_id, value, self._metadata]",
        "prediction_id, value]",
    ),
    Mutant(
        "known-rows-not-noted",
        "enrich.delta.changes:Delta.note_unrendered",
        "self._log.add(noted.filter(pc.is_valid(digest)))",
        "self._log.add(noted[:0])",
    ),
    Mutant(
        "rows-that-wait-not-in-the-checkpoint",
        "enrich.run.check:check_rows",
        "            checker.flush()\n            context.export_checked",
        "            context.export_checked",
    ),
    Mutant(
        "rank-not-in-fingerprints",
        "enrich.delta.changes:Delta.note",
        "{_DIGEST} as digest",
        "digest",
    ),
    Mutant(
        "rank-of-another-row",
        "enrich.write.requests:_blocks",
        'texts[RANK] = block["rank"].to_pylist()',
        'texts[RANK] = block["rank"].to_pylist()[::-1]',
    ),
    Mutant(
        "former-ranks-among-the-others",
        "serve.storage:Storage.query_ranked",
        "self._query(pk, (RANK, tag),",
        'self._query(pk, (RANK, ""),',
    ),
    Mutant(
        "prunes-runs-with-live-items",
        "enrich.intake.prune:_is_over",
        " and (run.expires_at or 0) <= now",
        "",
    ),
    Mutant(
        "prunes-runs-that-are-not-closed",
        "enrich.intake.prune:_is_over",
        "run.state.is_closed and ",
        "",
    ),
    Mutant(
        "prunes-the-newest",
        "enrich.intake.prune:_find_needed",
        "needed |= {run.run for run in [*published[:1], *[run for run in published if run.measured][:1]]}",
        "pass",
    ),
    Mutant(
        "prunes-a-run-and-not-its-output",
        "enrich.intake.prune:_find_records",
        "seen.run == run.run",
        "seen.run != run.run",
    ),
    Mutant(
        "pruned-outputs-found-again",
        "enrich.intake.find:sweep",
        "seen or listed.arrived_ms <= pruned_ms",
        "seen",
    ),
    Mutant(
        "failure-not-reported",
        "enrich.intake.worker:handle_requests",
        "                _raise_failed(services, run)\n",
        "                pass\n",
    ),
    *PIECES,
)


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, change: Callable[[str], str], path: str) -> None:
        self._change, self._path = change, path

    def get_source(self, fullname: str) -> str:
        with open(self._path, encoding="utf-8") as file:
            return self._change(file.read())


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, change: Callable[[str], str]) -> None:
        self._module, self._change = module, change

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del target
        if name != self._module:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        assert found is not None
        assert found.origin is not None
        return importlib.util.spec_from_loader(name, _Loader(self._change, found.origin), origin=found.origin)


def prepare(name: str | None, share: float | None) -> None:
    """Install a bug and let this share of the histories have jobs, if given; nothing may have been imported yet."""
    if name:
        install(name)
    if share is not None:
        from tests.faults import jobs

        jobs.SHARE = share


def install(name: str) -> None:
    """Install a bug; the code must not have been imported yet.

    Raises:
        LookupError: there is no such mutant, or its module is imported already.
    """
    mutant = next((mutant for mutant in MUTANTS if mutant.name == name), None)
    if mutant is None:
        raise LookupError(f"no mutant {name!r}")
    plant(mutant.module, mutant.apply)


def plant(module: str, change: Callable[[str], str]) -> None:
    """Change the source of a module when it is imported later.

    Raises:
        LookupError: its module is imported already.
    """
    if module in sys.modules:
        raise LookupError(f"{module} is imported already")
    sys.meta_path.insert(0, _Finder(module, change))

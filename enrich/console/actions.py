"""The command line's operations that the console offers with `--operate`: they queue, the deployed enrich executes.

An operation that the command line gets has an entry in `OF_RUNS` or `OF_DATASETS`: pages and requests follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from enrich.intake.held import approve, reject
from enrich.intake.operations import describe_withdrawal, refresh, replay, replay_rejects, withdraw
from enrich.join.rejects import build_prefix
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from enrich.services import Services


@dataclass(frozen=True, slots=True)
class OfRun:
    """An operation on a run.

    Attributes:
                label: the text of its button.
                applies: returns whether it is offered for a run.
                describe: returns sentences that say what it does and changes; raises Failed if it can't be done.
                execute: queues it; returns the run whose page is shown next.
    """

    label: str
    applies: Callable[[Run], bool]
    describe: Callable[[Services, Run], list[str]]
    execute: Callable[[Services, Run], Run]


@dataclass(frozen=True, slots=True)
class OfDataset:
    """An operation on a dataset, as `OfRun`; `execute` returns a run, or None if the result is not one run."""

    label: str
    describe: Callable[[Services, str], list[str]]
    execute: Callable[[Services, str], Run | None]


def _continue(services: Services, dataset: str) -> None:
    """Let the deployed enrich execute what is pending."""
    services.send({"continue": {"dataset": dataset}})


def _queue(enqueue: Callable[[Services, Run], Run]) -> Callable[[Services, Run], Run]:
    def execute(services: Services, run: Run) -> Run:
        queued = enqueue(services, run)
        _continue(services, run.dataset)
        return queued

    return execute


def _describe_replay(services: Services, run: Run) -> list[str]:
    del services
    return [
        f"Runs s3://{run.bucket}/{run.object_key} again, with exactly the parts that run {run.run} read.",
        "It replaces items of that run, but not of newer outputs. Unchanged items are not written.",
    ]


def _describe_replay_rejects(services: Services, run: Run) -> list[str]:
    location = f"s3://{services.settings.bucket}/{build_prefix(run.dataset, run.run)}"
    return [f"Runs the {sum(run.reasons.values()):,} rejects of run {run.run} again, from {location}."]


def _replay_rejects(services: Services, run: Run) -> Run:
    return replay_rejects(services, f"s3://{services.settings.bucket}/{build_prefix(run.dataset, run.run)}")


def _describe_withdrawal(services: Services, run: Run) -> list[str]:
    found = describe_withdrawal(services, run)
    return [
        f"Withdraws s3://{run.bucket}/{run.object_key} with its runs {', '.join(map(str, found.runs))}.",
        f"Runs {len(found.restored)} other live outputs again, and removes the items that only this one named.",
    ]


def _describe_retry(services: Services, run: Run) -> list[str]:
    del services
    return [f"Lets the deployed enrich continue run {run.run} from its checkpoint, and whatever is pending before it."]


def _retry(services: Services, run: Run) -> Run:
    _continue(services, run.dataset)
    return run


def _describe_approval(services: Services, run: Run) -> list[str]:
    del services
    return [
        f"Publishes s3://{run.bucket}/{run.object_key} with its own as_of, although a guard failed.",
        *(f"Held because {shift}." for shift in run.shifts),
    ]


def _approve(services: Services, run: Run) -> Run:
    return approve(services, run.dataset, run.run)


def _describe_rejection(services: Services, run: Run) -> list[str]:
    del services
    return [f"Closes run {run.run}. Nothing of s3://{run.bucket}/{run.object_key} was published, and nothing will be."]


def _reject(services: Services, run: Run) -> Run:
    return reject(services, run.dataset, run.run)


def _is_held(run: Run) -> bool:
    return run.state is RunState.HELD


OF_RUNS: Mapping[str, OfRun] = {
    "approve": OfRun("Approve", _is_held, _describe_approval, _queue(_approve)),
    "reject": OfRun("Reject", _is_held, _describe_rejection, _reject),
    "retry": OfRun("Retry", lambda run: run.state.is_open, _describe_retry, _retry),
    "replay": OfRun(
        "Run again", lambda run: run.state.is_closed and run.kind is not Kind.REMOVAL, _describe_replay, _queue(replay)
    ),
    "replay-rejects": OfRun(
        "Run rejects again",
        lambda run: run.state.is_closed and bool(run.reasons) and run.as_of_ms is not None,
        _describe_replay_rejects,
        _queue(_replay_rejects),
    ),
    "withdraw": OfRun("Withdraw", lambda run: run.kind is not Kind.REMOVAL, _describe_withdrawal, _queue(withdraw)),
}


def _describe_refresh(services: Services, dataset: str) -> list[str]:
    del services
    return [f"Runs the newest output of {dataset} again, with metadata fetched again. Unchanged items are not written."]


def _refresh(services: Services, dataset: str) -> Run:
    queued = refresh(services, dataset)
    _continue(services, dataset)
    return queued


def _describe_sweep(services: Services, dataset: str) -> list[str]:
    return [
        f"Finds outputs below s3://{services.settings.outputs}/{services.datasets[dataset].source.prefix} that have no "
        "run, and executes what is pending."
    ]


def _sweep(services: Services, dataset: str) -> None:
    services.send({"sweep": dataset})


OF_DATASETS: Mapping[str, OfDataset] = {
    "sweep": OfDataset("Sweep", _describe_sweep, _sweep),
    "refresh": OfDataset("Refresh", _describe_refresh, _refresh),
}

"""Hold a dataset: one invocation at a time runs its outputs.

A lease ends a request time-out and a margin after its holder's deadline, and the holder sends its last write well
before the deadline: no write of a dead run can land in a later one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from enrich.errors import LeaseLost, OutOfTime
from enrich.ledger.records import DatasetState, Record, bump
from enrich.ledger.store import ConflictError, Delete, Ledger

MARGIN = 10.0  # seconds: clocks of two invocations differ by less
QUIET_PERIOD_OWNER = "nobody"  # holds a dataset that was released while a write of unknown fate can still be applied
RENEWAL_SECONDS = 120.0  # seconds that a holder without a deadline asks for at a time
# Request time-outs that an invocation keeps for its end: one until nothing is in flight any more, one to commit its
# checkpoint, release the dataset and send the message that continues the run.
WRAP_UP = 2.0


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Return epoch seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


@dataclass(slots=True)
class Lease:
    """A held dataset, and the only way to change its state while it is held."""

    ledger: Ledger
    clock: Clock
    state: DatasetState
    owner: str
    deadline: float  # epoch seconds: when the holder is gone, unless it renews
    renews: bool
    timeout: float  # seconds that a request can be under way
    quiet_at: float = 0.0  # epoch seconds from which no write whose fate is unknown can be applied any more

    @property
    def stop_at(self) -> float:
        """Return the epoch second after which no write is sent."""
        return self.deadline - WRAP_UP * self.timeout

    def keep(self) -> None:
        """Renew a lease that has no deadline of its own, once half of it is over.

        Raises:
            LeaseLost: it ran out and another invocation took the dataset.
        """
        if self.renews and self.deadline - self.clock.now() < RENEWAL_SECONDS / 2:
            self.deadline = self.clock.now() + RENEWAL_SECONDS
            self.commit(self.state, lease_until_ms=_until(self.deadline, self.timeout))

    def commit(self, state: DatasetState, *records: Record | Delete, lease_until_ms: int | None = None) -> None:
        """Write the dataset's state and other records, all or none, if the dataset is still held.

        Args:
            state: `self.state`, or that with changes.
            records: to be written or deleted with it.
            lease_until_ms: renews the lease.

        Raises:
            LeaseLost: it is not held any more.
        """
        if lease_until_ms is not None:
            state = replace(state, lease_until_ms=lease_until_ms)
        try:
            self.ledger.commit(state, *records)
        except ConflictError as error:
            raise LeaseLost(f"dataset {self.state.dataset} was taken over: {error}") from error
        self.state = bump(state)

    def note_unknown(self, sent_at: float) -> None:
        """Note that a write sent at this time was reported as failed and can still be applied."""
        self.quiet_at = max(self.quiet_at, sent_at + self.timeout + MARGIN)

    def wait_for_quiet(self) -> None:
        """Wait until no write of an earlier run can be applied during the next one."""
        if self.quiet_at > self.clock.now():
            self.clock.sleep(self.quiet_at - self.clock.now())

    def release(self) -> None:
        """Release the dataset, as soon as no write of ours can be applied to it; harmless when it is lost already."""
        owner, until_ms = None, 0
        if self.quiet_at > self.clock.now():
            owner, until_ms = QUIET_PERIOD_OWNER, int(self.quiet_at * 1000)
        try:
            self.commit(replace(self.state, lease_owner=owner), lease_until_ms=until_ms)
        except LeaseLost:
            return


def acquire(
    ledger: Ledger, clock: Clock, dataset: str, owner: str, *, deadline: float | None, timeout: float
) -> Lease | None:
    """Acquire a dataset's lease, or return None when another invocation holds it.

    Waits while the lease is in its quiet period.

    Raises:
        OutOfTime: the deadline comes before the end of the quiet period.
    """
    ends = deadline if deadline is not None else clock.now() + RENEWAL_SECONDS
    while True:
        state = ledger.get_state(dataset)
        left = state.lease_until_ms / 1000 - clock.now()
        if state.lease_owner not in {None, owner} and left > 0:
            if state.lease_owner != QUIET_PERIOD_OWNER:
                return None
            if clock.now() + left + WRAP_UP * timeout > ends:
                raise OutOfTime(f"dataset {dataset}: the lease is in its quiet period for {left:.0f} s")
            clock.sleep(left)
            continue
        taken = replace(state, lease_owner=owner, lease_until_ms=_until(ends, timeout))
        try:
            ledger.commit(taken)
        except ConflictError:
            continue
        return Lease(ledger, clock, bump(taken), owner, ends, deadline is None, timeout)


def _until(deadline: float, timeout: float) -> int:
    return int((deadline + timeout + MARGIN) * 1000)

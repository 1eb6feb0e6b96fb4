"""Acquire, renew and release the lease of a dataset: only its holder runs the dataset's outputs.

A lease ends a request time-out and a margin after its holder's deadline, and the holder sends its last write well
before the deadline: a write of a dead run can't be applied during a later run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from enrich.errors import LeaseLost, OutOfTime, Stopped
from enrich.ledger.records import DatasetState, Record, bump
from enrich.ledger.store import ConflictError, Delete, Ledger

MARGIN = 10.0  # seconds; the clocks of two invocations differ by less
MAX_SKEW = 4.0  # seconds between a clock and DynamoDB's, whose time has no fractions: of two clocks, less than MARGIN
FOREIGN_SKEW = 300.0  # seconds; AWS refuses the signature of such a clock, so the time is a stand-in's, and is ignored
QUIET_PERIOD_OWNER = "nobody"  # owner of a released lease while a write whose result is unknown can still be applied
RENEWAL_SECONDS = 120.0  # length of the lease of a holder without a deadline
# Request time-outs reserved for the end of an invocation: one until nothing is in flight, one to commit the checkpoint,
# release the lease and send the message that continues the run.
WRAP_UP = 2.0


class Clock(Protocol):
    """The source of time."""

    def now(self) -> float:
        """Return epoch seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


@dataclass(slots=True)
class Lease:
    """The lease of a dataset, through which its holder changes the dataset's state."""

    ledger: Ledger
    clock: Clock
    state: DatasetState
    owner: str
    deadline: float  # epoch seconds at which the holder ends, unless it renews
    renews: bool
    timeout: float  # seconds that a request can take
    quiet_at: float = 0.0  # epoch seconds from which no write whose result is unknown can be applied

    @property
    def stop_at(self) -> float:
        """The time after which no write is sent, in epoch seconds."""
        return self.deadline - WRAP_UP * self.timeout

    def keep(self) -> None:
        """Renew the lease of a holder without a deadline, once half of it is over.

        Raises:
            LeaseLost: it expired and another invocation acquired it.
        """
        if self.renews and self.deadline - self.clock.now() < RENEWAL_SECONDS / 2:
            self.deadline = self.clock.now() + RENEWAL_SECONDS
            self.commit(self.state, lease_until_ms=_until(self.deadline, self.timeout))

    def commit(self, state: DatasetState, *records: Record | Delete, lease_until_ms: int | None = None) -> None:
        """Write the dataset's state and other records, all or none, if the lease is still held.

        Args:
            state: `self.state`, changed or not.
            records: written or deleted in the same transaction.
            lease_until_ms: the new end of the lease, to renew it.

        Raises:
            LeaseLost: the lease is no longer held.
        """
        if lease_until_ms is not None:
            state = replace(state, lease_until_ms=lease_until_ms)
        try:
            self.ledger.commit(state, *records)
        except ConflictError as error:
            raise LeaseLost(f"dataset {self.state.dataset}: another invocation changed its state: {error}") from error
        self.state = bump(state)

    def note_unknown(self, sent_at: float) -> None:
        """Record that a write whose result is unknown was sent at this time: it can still be applied."""
        self.quiet_at = max(self.quiet_at, sent_at + self.timeout + MARGIN)

    def wait_for_quiet(self) -> None:
        """Wait until no write of an earlier run can be applied during the next one."""
        if self.quiet_at > self.clock.now():
            self.clock.sleep(self.quiet_at - self.clock.now())

    def release(self) -> None:
        """Release the lease, after a quiet period if a write can still be applied; does nothing if it is lost."""
        owner, until_ms = None, 0
        if self.quiet_at > self.clock.now():
            owner, until_ms = QUIET_PERIOD_OWNER, int(self.quiet_at * 1000)
        try:
            self.commit(replace(self.state, lease_owner=owner), lease_until_ms=until_ms)
        except LeaseLost:
            return


def acquire_lease(
    ledger: Ledger, clock: Clock, dataset: str, owner: str, *, deadline: float | None, timeout: float
) -> Lease | None:
    """Acquire a dataset's lease; return None if another invocation holds it.

    Waits while the lease is in its quiet period.

    Raises:
        OutOfTime: the deadline comes before the end of the quiet period.
        Stopped: as in `read_lease`.
    """
    while True:
        ends = deadline if deadline is not None else clock.now() + RENEWAL_SECONDS
        state = read_lease(ledger, clock, dataset)
        left = state.lease_until_ms / 1000 - clock.now()
        if state.lease_owner not in {None, owner} and left > 0:
            if state.lease_owner != QUIET_PERIOD_OWNER:
                return None
            if deadline is not None and clock.now() + left + WRAP_UP * timeout > deadline:
                raise OutOfTime(
                    f"dataset {dataset}: the lease is in its quiet period for {left:.0f} s, longer than this invocation"
                )
            clock.sleep(left)
            continue
        taken = replace(state, lease_owner=owner, lease_until_ms=_until(ends, timeout))
        try:
            ledger.commit(taken)
        except ConflictError:
            continue
        return Lease(ledger, clock, bump(taken), owner, ends, deadline is None, timeout)


def read_lease(ledger: Ledger, clock: Clock, dataset: str) -> DatasetState:
    """Read a dataset's state to compare the end of its lease, another machine's time, with this machine's clock.

    Raises:
        Stopped: the clock differs from DynamoDB's by more than `MAX_SKEW`.
    """
    sent = clock.now()
    state, theirs = ledger.read_state(dataset)
    if theirs is not None:
        ahead, behind = sent - theirs - 1, theirs - clock.now()
        if MAX_SKEW < max(ahead, behind) < FOREIGN_SKEW:
            raise Stopped(
                f"dataset {dataset}: this machine's clock is at least {max(ahead, behind):.0f} s "
                f"{'ahead of' if ahead > 0 else 'behind'} DynamoDB's, expected at most {MAX_SKEW:.0f} s: a write could "
                "be applied after its lease; synchronize the clock (chrony, Amazon Time Sync), then run it again"
            )
    return state


def _until(deadline: float, timeout: float) -> int:
    return int((deadline + timeout + MARGIN) * 1000)

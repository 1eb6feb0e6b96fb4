"""Hold a dataset: one invocation at a time runs its outputs. I/O on the ledger.

A lease ends a request time-out and a margin after its holder's deadline, and the holder sends its last write a
time-out before the deadline; so no write of a dead run can land in a living one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from enrich.errors import LeaseLost, OutOfTime
from enrich.ledger.records import Record, State, bump
from enrich.ledger.store import ConflictError, Delete, Ledger

MARGIN = 10.0  # seconds: clocks of two invocations differ by less
QUIET_PERIOD_OWNER = "nobody"  # holds a dataset that was given back while a write of unknown fate may still land in it
RENEWAL_SECONDS = 120.0  # seconds that a holder without a deadline asks for at a time


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
    state: State
    owner: str
    deadline: float  # epoch seconds: when the holder is gone, unless it renews
    renews: bool
    timeout: float  # seconds that a request can be under way
    quiet_at: float = 0.0  # epoch seconds when the last write whose fate is unknown can't land any more

    @property
    def stop_at(self) -> float:
        """Return the epoch second after which nothing may be sent."""
        return self.deadline - self.timeout

    def keep(self) -> None:
        """Renew a lease that has no deadline of its own, once half of it is over.

        Raises:
            LeaseLost: it ran out and somebody else took the dataset.
        """
        if self.renews and self.deadline - self.clock.now() < RENEWAL_SECONDS / 2:
            self.deadline = self.clock.now() + RENEWAL_SECONDS
            self.commit(lease_until_ms=_until(self.deadline, self.timeout))

    def commit(self, *changes: Record | Delete, **state: Any) -> None:
        """Write records and changes of the dataset's state, all or none, if the dataset is still held.

        Raises:
            LeaseLost: it is not.
        """
        changed = replace(self.state, **state)
        try:
            self.ledger.commit(changed, *changes)
        except ConflictError as error:
            raise LeaseLost(f"dataset {self.state.dataset} was taken over: {error}") from error
        self.state = bump(changed)

    def note_unknown(self, sent_at: float) -> None:
        """Note that a write sent at this time was reported as failed and may yet be applied."""
        self.quiet_at = max(self.quiet_at, sent_at + self.timeout + MARGIN)

    def wait_for_quiet(self) -> None:
        """Wait until no write of an earlier run can land in the next one."""
        if self.quiet_at > self.clock.now():
            self.clock.sleep(self.quiet_at - self.clock.now())

    def release(self) -> None:
        """Give the dataset back, as soon as nothing of ours can land in it; harmless when it is lost already."""
        try:
            if self.quiet_at > self.clock.now():
                self.commit(lease_owner=QUIET_PERIOD_OWNER, lease_until_ms=int(self.quiet_at * 1000))
            else:
                self.commit(lease_owner=None, lease_until_ms=0)
        except LeaseLost:
            return


def acquire(
    ledger: Ledger, clock: Clock, dataset: str, owner: str, *, deadline: float | None, timeout: float
) -> Lease | None:
    """Take hold of a dataset, or return None when somebody else holds it.

    Waits while it is only kept until a write of unknown fate can't land any more.

    Raises:
        OutOfTime: the deadline comes before that.
    """
    ends = deadline if deadline is not None else clock.now() + RENEWAL_SECONDS
    while True:
        state = ledger.get_state(dataset)
        left = state.lease_until_ms / 1000 - clock.now()
        if state.lease_owner not in {None, owner} and left > 0:
            if state.lease_owner != QUIET_PERIOD_OWNER:
                return None
            if clock.now() + left + timeout > ends:
                raise OutOfTime(f"dataset {dataset} must rest for {left:.0f} s")
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

"""The driver's lease in an executor: it is only read, and limits how long the executor can write."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from enrich.errors import LeaseLost
from enrich.ledger.lease import MARGIN, RENEWAL_SECONDS, Clock, Lease, read_lease
from enrich.ledger.records import DatasetState, Run
from enrich.ledger.store import Ledger

READ_SECONDS = 5.0  # between two reads of a lease that is about to end


class WatchedLease(Lease):
    """A lease of another process.

    Its `deadline` is the horizon: `stop_at` is before it, so no write of an executor is applied after the lease. An
    executor that can't read the lease stops at the last horizon that it has read.
    """

    def __init__(self, ledger: Ledger, clock: Clock, run: Run, owner: str, timeout: float) -> None:
        """Read the lease.

        Raises:
            LeaseLost: another process holds it, or another run writes.
        """
        super().__init__(ledger, clock, DatasetState(dataset=run.dataset), owner, 0.0, renews=True, timeout=timeout)
        self._run = run
        self._read_at = 0.0
        self.confirm()

    def keep(self) -> None:
        """Read the lease again if it is about to end.

        Raises:
            LeaseLost: another process holds it, or another run writes.
        """
        now = self.clock.now()
        if self.deadline - now < RENEWAL_SECONDS / 2 and now - self._read_at >= READ_SECONDS:
            try:
                self.confirm()
            except (ClientError, BotoCoreError):
                self._read_at = now  # the horizon stays

    def commit(self, *_: object, **__: object) -> None:
        """Refuse: only the driver changes the ledger.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"dataset {self.state.dataset}: a task can't change the ledger")

    def confirm(self) -> None:
        """Read the lease now.

        Raises:
            LeaseLost: as in `keep`.
            Stopped: this machine's clock is wrong, and so is the horizon.
        """
        now = self.clock.now()
        state = read_lease(self.ledger, self.clock, self._run.dataset)
        writes = self._run.decided_ms is not None
        if state.lease_owner != self.owner or (writes and state.open_run != self._run.run):
            raise LeaseLost(
                f"dataset {state.dataset}: {state.lease_owner} holds the lease, and run {state.open_run} writes; the "
                f"driver of run {self._run.run} was {self.owner}"
            )
        self.state = state
        self.deadline = state.lease_until_ms / 1000 - self.timeout - MARGIN
        self._read_at = now

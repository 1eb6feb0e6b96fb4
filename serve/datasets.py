"""Who may read which dataset: its name, the claims that make its subject, the scope it needs. Standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Served(NamedTuple):
    """One dataset as its reader sees it.

    `subject` names the claims whose values make the subject. Their order here is their order in the partition key, for
    the writer too: `Dataset.subject` maps each claim to an expression and has no order of its own. Items that were
    written in another order are not found. `scope` must be among the token's scopes; with None, any valid token of an
    issuer reads its own subject's items.
    """

    name: str
    subject: tuple[str, ...]
    scope: str | None


FLIGHT_DELAYS = Served(name="flight-delays", subject=("carrier",), scope="flight-delays:read")

SERVED: dict[str, Served] = {dataset.name: dataset for dataset in (FLIGHT_DELAYS,)}

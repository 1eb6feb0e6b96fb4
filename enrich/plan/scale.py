"""The model of a run of any size: duration, cost and first limit, in one Lambda and on Spark.

`plan` uses it for one output, docs/scale.md for 10 million to 10 billion rows. Rates are measured
(enrich/run/rates.json), quotas are those of AWS by default. Not in the model: metadata queries, and other users of the
table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from enrich.ledger.run_state import EngineKind
from enrich.plan.cost import read_prices
from enrich.read.pieces import PIECE_BYTES
from enrich.run.engine import read_rates
from enrich.run.pieces.passes import count_piece_bits


class Limit(StrEnum):
    """What a run waits for."""

    PROCESSOR = "processor"
    TABLE = "write units of the table"
    SUBJECT = "write units of one subject"
    EXCHANGE = "exchange between pieces"
    START = "start of the job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What a run can use. Sources: AWS's quotas for DynamoDB, Lambda and Glue; the sizes of infra/template.yaml."""

    table_units: float = 40_000  # write units per second of an on-demand table, by default
    subject_units: float = 1_000  # write units per second of a partition, and so of a partition key
    lambda_seconds: float = 870  # of an invocation's 900, until a run stops
    lambda_gb: float = 3008 / 1024
    scratch_bytes: int = 4096 * 1024 * 1024
    workers: int = 10  # G.1X, one DPU each; the driver is one of them
    worker_cores: int = 4
    start_seconds: float = 90  # from StartJobRun to the first task; assumed
    exchange_seconds: float = 0.02  # of a GET from S3 within a task; assumed
    driver_bytes: int = 4 * 1024**3  # of the driver's memory, for the sections of pieces
    section_bytes: int = 300  # of the driver's memory, for each piece and bucket

    @property
    def slots(self) -> int:
        """The largest number of tasks at a time."""
        return max(1, self.workers - 1) * self.worker_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run does.

    Attributes:
        rows: predictions.
        size: bytes of the output.
        written: items and tombstones.
        units: write units.
        largest: share of the write units that the largest subject takes.
    """

    rows: int
    size: int
    written: int
    units: int
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run takes.

    Attributes:
        engine: where.
        waits: seconds for which each limit determines the duration.
        pieces: of the output.
        invocations: of the Lambda, one after the other.
        usd: compute, in US dollars.
        refused: why it can't be executed there; empty if it can.
    """

    engine: EngineKind
    waits: Mapping[Limit, float]
    pieces: int = 1
    invocations: int = 0
    usd: float = 0.0
    refused: str = ""
    limit: Limit = field(init=False)

    def __post_init__(self) -> None:
        """Find the first limit: what the run waits for longest."""
        object.__setattr__(self, "limit", max(self.waits, key=lambda each: self.waits[each]))

    @property
    def seconds(self) -> float:
        """The duration."""
        return sum(self.waits.values())


def estimate(load: Load, engine: EngineKind, quotas: Quotas | None = None) -> Estimate:
    """Estimate what a run takes in one Lambda or on Spark."""
    quotas = quotas or Quotas()
    return _estimate_local(load, quotas) if engine is EngineKind.LOCAL else _estimate_spark(load, quotas)


def find_floor(load: Load, quotas: Quotas | None = None) -> float:
    """Return the seconds below which no engine writes the largest subject."""
    return load.units * load.largest / (quotas or Quotas()).subject_units


def _estimate_local(load: Load, quotas: Quotas) -> Estimate:
    waits = _wait(load, EngineKind.LOCAL, 1, quotas)
    scratch = load.rows * read_rates()["scratch_bytes_per_row"]
    refused = ""
    if scratch > quotas.scratch_bytes:
        refused = f"{scratch / 1e9:.1f} GB of scratch disk are needed, {quotas.scratch_bytes / 1e9:.1f} GB are there"
    seconds = sum(waits.values())
    invocations = max(1, math.ceil(seconds / quotas.lambda_seconds))
    usd = seconds * quotas.lambda_gb * read_prices()["compute"]["lambda_gb_second"]
    return Estimate(EngineKind.LOCAL, waits, 1, invocations, usd, refused)


def _estimate_spark(load: Load, quotas: Quotas) -> Estimate:
    pieces = max(1, -(-load.size // PIECE_BYTES))
    sections = pieces << count_piece_bits(load.size)
    rounds = -(-pieces // quotas.slots)
    waits = {
        Limit.START: quotas.start_seconds,
        **_wait(load, EngineKind.SPARK, pieces / rounds, quotas),
        Limit.EXCHANGE: sections * quotas.exchange_seconds / quotas.slots,
    }
    refused = ""
    if sections * quotas.section_bytes > quotas.driver_bytes:
        refused = f"{pieces:,} pieces fill the driver's memory: choose larger ones (--piece-bytes)"
    usd = sum(waits.values()) / 3600 * quotas.workers * read_prices()["compute"]["glue_dpu_hour"]
    return Estimate(EngineKind.SPARK, waits, pieces, 0, usd, refused)


def _wait(load: Load, engine: EngineKind, cores: float, quotas: Quotas) -> dict[Limit, float]:
    """Return the seconds of the check, which needs the processor only, and of writing, by what limits it."""
    rates = read_rates()["rows_per_cpu_second"][engine]
    check = load.rows / rates["unchanged"] / cores
    write = {
        Limit.PROCESSOR: load.written * (1 / rates["first_load"] - 1 / rates["unchanged"]) / cores,
        Limit.TABLE: load.units / quotas.table_units,
        Limit.SUBJECT: find_floor(load, quotas),
    }
    binding = max(write, key=lambda each: write[each])
    waits = {Limit.PROCESSOR: check}
    waits[binding] = waits.get(binding, 0.0) + write[binding]
    return waits

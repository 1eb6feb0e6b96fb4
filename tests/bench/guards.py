"""`python -m tests.bench.guards`: what guards add to the CPU of a run, with all items written and with none changed.

Runs with and without guards alternate, so that other load affects both. The table answers at once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from enrich.dataset.definition import Guard
from enrich.plan.dry_run import DiscardTransport
from examples.flights.datasets.flight_delays import flight_delays
from tests.bench.flights_year import write_flights
from tests.bench.pipeline_worker import FLIGHTS, run
from tests.bench.services import open_services

GUARDS = (
    Guard("rows", change=0.5),
    Guard("changed", most=0.9),
    Guard("range", "late_probability", least=0, most=1),
    Guard("psi", "late_probability", most=0.25),
    Guard("mean", "body.prediction.delay_minutes", difference=60),
    Guard("p95", "body.prediction.delay_minutes", change=5),
    Guard("psi", "distance_miles", most=0.25),
    Guard("nulls", "body.aircraft.tail_number", most=0.5),
    Guard("mean", "body.weather.temperature_f", difference=50),
)


def measure(folder: Path, guards: tuple[Guard, ...]) -> list[float]:
    """Return the CPU seconds of a run that writes all items, and of one that finds all unchanged."""
    dataset = replace(flight_delays, guards=guards)
    services, s3 = open_services(folder, FLIGHTS, dataset=dataset, transport=lambda _: DiscardTransport())
    seconds = []
    for part in (0, 1):
        began = time.process_time()
        run(services, s3, FLIGHTS / "flights.parquet", part)
        seconds.append(time.process_time() - began)
    return seconds


def main() -> None:
    """Print the median CPU seconds without guards and with them, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7, metavar="N", help="runs of each kind (%(default)s)")
    times = parser.parse_args().times
    write_flights(FLIGHTS)
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(times):
        for guarded in found:
            with tempfile.TemporaryDirectory() as folder:
                found[guarded].append(measure(Path(folder), GUARDS if guarded else ()))
    for n, what in enumerate(("all written", "all unchanged")):
        without, with_ = (statistics.median(each[n] for each in found[guarded]) for guarded in (False, True))
        share = (with_ - without) / without
        print(f"{what}: {without:.2f} CPU s without guards, {with_:.2f} with {len(GUARDS)}: {share:+.1%}")


if __name__ == "__main__":
    main()

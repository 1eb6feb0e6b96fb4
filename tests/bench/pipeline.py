"""`python -m tests.bench.pipeline [--json FILE] [--rounds N]`: all flights of 2013 from file to request, and the peers.

336,776 predictions in Parquet are read, joined, checked, rendered, compared and written to a null endpoint. The peers
receive the rendered items in memory, and only write them. Rounds are interleaved; compare items per CPU-second within
one run only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.join.engine import Engine
from enrich.read.chunks import read_chunks
from enrich.read.s3_object import Part
from tests.bench.flights_year import ROWS, write_flights
from tests.bench.pipeline_worker import build_dataset
from tests.bench.write import COUNTS, Contestant, print_table
from tests.bench.write_setup import BENCH, WRITERS, NullEndpoint, build_env, null_endpoint

FLIGHTS = BENCH / "flights"
WRITTEN = COUNTS["larder"]  # rows for Larder's writer; the peers write a part of them


def render_rows(mode: str, path: Path) -> float:
    """Write the rendered items of the first flights to a file, for `Writer.put`; return the mean bytes of a body."""
    dataset = build_dataset(mode)
    metadata = {name: pq.read_table(FLIGHTS / f"{name}.parquet") for name in dataset.metadata}
    file = FLIGHTS / "flights.parquet"
    part = Part("bench", file.name, None, "", file.stat().st_size)
    tables: list[pa.Table] = []
    with Engine(dataset, metadata, directory=path.parent) as engine:
        for first_row, chunk in read_chunks([part], dataset.source, open_part=lambda _: file.open("rb")):
            tables.append(engine.render(chunk, first_row, digest=False))
            if sum(table.num_rows for table in tables) >= WRITTEN:
                break
    rows = pa.concat_tables(tables).slice(0, WRITTEN)
    rows = rows.append_column("entries", pa.repeat(pa.scalar(0, pa.int64()), rows.num_rows))
    pq.write_table(rows.select(["pk", "sk", "body", "rank", "row", "entries"]), path)
    return float(pc.mean(rows["bytes"]).as_py())


def enter(stack: ExitStack, endpoint: NullEndpoint, folder: Path, *, tls: bool) -> list[Contestant]:
    """Start the contestants of one endpoint."""
    env = {**build_env(endpoint, folder, folder / "rows.parquet"), "BENCH_FLIGHTS": str(FLIGHTS)}

    def pipeline(mode: str, name: str) -> Contestant:
        command = ("pipeline_worker.py", mode)
        return Contestant(stack, "larder", endpoint, env, command=command, name=name, count=ROWS)

    found = [pipeline("four", "pipeline, 4 joins")]
    writers = list(WRITERS)
    if tls:  # its cost is the same for all; one peer shows it
        writers = ["larder", "boto3_client"]
    else:
        found += [
            pipeline("example", "pipeline, 5 joins as the example"),
            pipeline("changed", "re-run, 1 % changed"),
            pipeline("unchanged", "re-run, nothing changed"),
        ]
    return found + [Contestant(stack, each, endpoint, env, name=f"{each}, writing alone") for each in writers]


def main() -> None:
    """Run the rounds, print the table, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    write_flights(FLIGHTS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        body = render_rows("four", folder / "rows.parquet")
        contestants = []
        for tls in (False, True):
            endpoint = stack.enter_context(null_endpoint(folder, tls=tls))
            contestants += enter(stack, endpoint, folder, tls=tls)
        for _ in range(arguments.rounds + 1):
            for contestant in contestants:
                contestant.run()
    results: list[dict[str, Any]] = [contestant.figures() for contestant in contestants]
    print_table(results, f"{ROWS:,} flights, {body:.0f} B")
    if arguments.json:
        arguments.json.write_text(json.dumps({"pipeline": results}, indent=1))


if __name__ == "__main__":
    main()

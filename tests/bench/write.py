"""`python -m tests.bench.write [--json FILE] [--rounds N] [WRITER...]`: write the same items with each writer in turn.

Measures writing only: from rows in memory to a null endpoint on loopback, with requests, signing and HTTP. Rounds are
interleaved, so that other load affects all alike; compare items per CPU-second within one run only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.write_setup import WRITERS, NullEndpoint, build_env, installed, interpreter, null_endpoint, write_rows

HERE = Path(__file__).resolve().parent
# Items per round, for about equal durations.
COUNTS = {"larder": 100_000, "boto3_client": 10_000, "boto3_batch_writer": 5_000, "awswrangler": 5_000, "feast": 5_000}


# Items of Larder's in other sizes: the notes in each, and how many there are; -1: the prediction alone.
SIZES = {
    "100 B": (-1, 100_000),
    "500 B": (0, 50_000),
    "2 KB": (30, 20_000),
    "40 KB": (790, 1_000),
    "350 KB": (7_000, 120),
}


class Contestant:
    """A worker process in one writer's environment, against one endpoint; it writes `count` items per round."""

    def __init__(
        self,
        stack: ExitStack,
        writer: str,
        endpoint: NullEndpoint,
        env: dict[str, str],
        *,
        command: Sequence[str] = ("write_worker.py",),
        name: str | None = None,
        count: int | None = None,
    ) -> None:
        self.writer = writer
        self.endpoint = endpoint
        self.name = f"{name or writer} over TLS" if endpoint.url.startswith("https") else name or writer
        self.count = count or COUNTS[writer]
        self.rounds: list[dict[str, float]] = []
        # -P: otherwise the modules of this folder hide packages that have the same names, such as `notify`
        command_line: list[str | Path] = [interpreter(writer), "-P", HERE / command[0], *(command[1:] or [writer])]
        self._process = stack.enter_context(
            subprocess.Popen(command_line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        )
        stack.callback(self._process.terminate)
        self._read()

    def run(self) -> None:
        """Write one round."""
        assert self._process.stdin is not None
        before = self.endpoint.cpu()
        self._process.stdin.write(f"{self.count}\n")
        cpu, wall, rss = map(float, self._read().split())
        spent = {"cpu_s": cpu, "wall_s": wall, "endpoint_cpu_s": self.endpoint.cpu() - before}
        self.rounds.append({"items": self.count, "peak_rss": rss, **spent})

    def _read(self) -> str:
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.name} ended; its error is above")
        return line

    def figures(self) -> dict[str, Any]:
        """Return the medians of all rounds except the first, which warms up."""
        kept = self.rounds[1:]
        per_cpu = sorted(one["items"] / one["cpu_s"] for one in kept)
        return {
            "writer": self.name,
            "items_per_cpu_s": median(per_cpu),
            "items_per_cpu_s_low_high": [per_cpu[0], per_cpu[-1]],
            "items_per_s": median(one["items"] / one["wall_s"] for one in kept),
            "peak_rss_mb": max(one["peak_rss"] for one in kept) / 1e6,
            "install_mb": float(str(installed(self.writer)["bytes"])) / 1e6,
            # Share of one core that the endpoint used: at 100 % it is the bottleneck.
            "endpoint_load": median(one["endpoint_cpu_s"] / one["wall_s"] for one in kept),
            "packages": installed(self.writer)["packages"],
            "rounds": kept,
        }


def main() -> None:
    """Run the rounds, print the table, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("writers", nargs="*", default=[], help=", ".join(WRITERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    writers = arguments.writers or list(WRITERS)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        write_rows(folder / "rows.parquet", max(COUNTS.values()))
        contestants = []
        for tls in (False, True):
            endpoint = stack.enter_context(null_endpoint(folder, tls=tls))
            env = build_env(endpoint, folder, folder / "rows.parquet")
            # The cost of TLS is the same for all; one peer shows it.
            entrants = writers if not tls else [one for one in writers if one in ("larder", "boto3_client")]
            contestants += [Contestant(stack, writer, endpoint, env) for writer in entrants]
            for size, (notes, count) in SIZES.items() if "larder" in writers else ():
                rows = folder / f"{count}.parquet"
                write_rows(rows, count, notes)
                sized = build_env(endpoint, folder, rows)
                contestants.append(Contestant(stack, "larder", endpoint, sized, name=f"larder, {size}", count=count))
                if not tls:
                    command = ("write_worker.py", "limit")
                    name = f"limit, {size}"
                    contestants.append(
                        Contestant(stack, "larder", endpoint, sized, command=command, name=name, count=count)
                    )
        for _ in range(arguments.rounds + 1):
            for contestant in contestants:
                contestant.run()
    results = [contestant.figures() for contestant in contestants]
    print_table(results)
    if arguments.json:
        arguments.json.write_text(json.dumps({"write": results}, indent=1))


def print_table(results: list[dict[str, Any]], title: str = "writing items of 500 B") -> None:
    """Print one line per writer; x is how many times fewer items per CPU-second than the first."""
    titles = ("items/CPU-s", "low - high", "x", "items/s", "peak MB", "install MB", "endpoint busy")
    print(f"{title:34}" + "".join(f"{title:>17}" for title in titles))
    best = results[0]["items_per_cpu_s"]
    for one in results:
        low, high = one["items_per_cpu_s_low_high"]
        cells = (
            f"{one['items_per_cpu_s']:,.0f}",
            f"{low:,.0f} - {high:,.0f}",
            f"{best / one['items_per_cpu_s']:.1f}",
            f"{one['items_per_s']:,.0f}",
            f"{one['peak_rss_mb']:.0f}",
            f"{one['install_mb']:.0f}",
            f"{one['endpoint_load']:.0%}",
        )
        print(f"{one['writer']:34}" + "".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    main()

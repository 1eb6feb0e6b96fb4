"""`python -m tests.bench.memory [--rows N...] [--json FILE]`: resources of whole runs over generated outputs.

Memory, scratch disk and time of two runs over the same rows, in one process, written to the null endpoint. All rows are
new to the first; the second has fingerprints of all rows and finds none changed. Parquet (more than 1 GB for 10 million
rows) and gzip CSV.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from tests.bench.write_setup import BENCH, ROOT, build_env, interpreter, null_endpoint

FOLDER = BENCH / "memory"
LIMIT_MB = 512
LIMIT_GB = 4.0  # of scratch disk
GROWTH_MB = 64  # additional memory for many rows, compared with few
LINEAR = 1.5  # ratio of the CPU per row for many rows to that for few
RUNS = 2
FORMATS = {"parquet": "format parquet, compression snappy", "csv.gz": "format csv, compression gzip, header true"}


def write_output(rows: int, suffix: str) -> Path:
    """Generate an output once: shops of very different sizes, incompressible notes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{rows}.{suffix}"
    if path.exists():
        return path
    notes = " || ".join(f"md5('{letter}' || i)" for letter in "abc")
    shop = "'shop-' || (hash(i) % 997 * (hash(i) % 2))"  # every second row belongs to one shop
    with duckdb.connect(config={"memory_limit": "1GB", "threads": 1}) as con:
        titles = "values (0, 'zero'), (1, 'one'), (2, 'two')"
        con.execute(f"copy (from ({titles}) t(product, title)) to '{FOLDER}/products.parquet'")
        con.execute(
            f"""copy (select {shop} as shop, i as sku, (i % 3)::integer as product, (hash(i) % 1000000) / 1000 as units,
            {notes} as note from range({rows}) t(i)) to '{path}.new' ({FORMATS[suffix]})"""
        )
    Path(f"{path}.new").rename(path)
    return path


def main() -> None:
    """Run all, print a table, and exit with an error if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    print(f"{'':24}{'written':>12}{'unchanged':>12}{'seconds':>9}{'CPU s':>7}{'µs/row':>8}{'disk GB':>9}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as name, null_endpoint(Path(name), tls=False) as endpoint:
        env = {**build_env(endpoint, Path(name), Path(name)), "BENCH_RUNS": str(RUNS)}
        for suffix in arguments.formats:
            for rows in arguments.rows:
                path = write_output(rows, suffix)
                command = [interpreter("larder"), "-m", "tests.bench.memory_worker", str(path), suffix, str(FOLDER)]
                done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                stages = {stage: peak for stage, peak in found["peak_mb"].items() if "metadata" not in stage}
                peak = max(stages.values())
                results.append({"format": suffix, "file_mb": path.stat().st_size / 1e6, "peak_rss_mb": peak, **found})
                for run in range(RUNS):
                    written, unchanged, seconds, cpu, disk = (
                        found[name][run] for name in ("written", "unchanged", "wall_s", "cpu_s", "scratch_gb")
                    )
                    print(
                        f"{f'{rows:,} {suffix}, {run + 1}':24}{written:12,}{unchanged:12,}{seconds:9.0f}{cpu:7.0f}"
                        f"{cpu / rows * 1e6:8.1f}{disk:9.2f}{peak:9}",
                        flush=True,
                    )
                print(f"  peak MB in each stage: {stages}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"memory": results}, indent=1))
    if (worst := max(one["peak_rss_mb"] for one in results)) > LIMIT_MB:
        raise SystemExit(f"peak RSS {worst} MB, expected at most {LIMIT_MB} MB")
    if (worst := max(gb for one in results for gb in one["scratch_gb"])) > LIMIT_GB:
        raise SystemExit(f"scratch disk {worst:.1f} GB, expected at most {LIMIT_GB} GB")
    few, many = min(arguments.rows), max(arguments.rows)
    for suffix in arguments.formats:
        of = {one["rows"]: one for one in results if one["format"] == suffix}
        growth = of[many]["peak_rss_mb"] - of[few]["peak_rss_mb"]
        slower = max(of[many]["cpu_s"][run] / of[few]["cpu_s"][run] * few / many for run in range(RUNS))
        print(f"{suffix}: {growth} MB more for {many:,} rows than for {few:,}, and {slower:.2f} times the CPU per row")
        if growth > GROWTH_MB or slower > LINEAR:
            raise SystemExit(f"{suffix}: expected at most {GROWTH_MB} MB more and {LINEAR} times the CPU per row")


if __name__ == "__main__":
    main()

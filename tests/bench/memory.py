"""`python -m tests.bench.memory [--rows N...] [--json FILE]`: peak RSS of whole runs over generated outputs.

Parquet (more than 1 GB for 10 million rows) and gzip CSV, written to the null endpoint; a run each in its own process.
With `BENCH_RUNS=2` each runs twice, the second time with fingerprints of all rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from enrich.delta.changes import MEMORY_LIMIT
from tests.bench.write_setup import BENCH, ROOT, build_env, interpreter, null_endpoint

FOLDER = BENCH / "memory"
LIMIT_MB = 512
INDEX_MB = int(MEMORY_LIMIT.removesuffix("MB"))  # of what must be known of all rows; then it spills
FORMATS = {"parquet": "format parquet, compression snappy", "csv.gz": "format csv, compression gzip, header true"}


def write_output(rows: int, suffix: str) -> Path:
    """Generate an output once: shops of very different sizes, notes that do not compress."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{rows}.{suffix}"
    if path.exists():
        return path
    notes = " || ".join(f"md5('{letter}' || i)" for letter in "abc")
    shop = "'shop-' || (hash(i) % 997 * (hash(i) % 2))"  # every second row is of one shop
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
    """Run each, print a table, and say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    print(f"{'one run':24}{'file MB':>10}{'written':>12}{'CPU s':>8}{'peak MB':>9}  peak MB after each stage")
    with tempfile.TemporaryDirectory() as name, null_endpoint(Path(name), tls=False) as endpoint:
        env = build_env(endpoint, Path(name), Path(name))
        for suffix in arguments.formats:
            for rows in arguments.rows:
                path = write_output(rows, suffix)
                command = [interpreter("larder"), "-m", "tests.bench.memory_worker", str(path), suffix, str(FOLDER)]
                done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                stages = {stage: peak for stage, peak in found["peak_mb"].items() if not stage.startswith("metadata")}
                peak = max(stages.values())
                results.append({"format": suffix, "file_mb": path.stat().st_size / 1e6, "peak_rss_mb": peak, **found})
                print(
                    f"{f'{rows:,} {suffix}':24}{path.stat().st_size / 1e6:10,.0f}{found['written'][0]:12,}"
                    f"{found['cpu_s']:8.0f}{peak:9}  {stages}",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps({"memory": results}, indent=1))
    if (worst := max(one["peak_rss_mb"] for one in results)) > LIMIT_MB:
        raise SystemExit(f"a run took {worst} MB, more than {LIMIT_MB}")
    few, many = min(arguments.rows), max(arguments.rows)
    for suffix in arguments.formats:
        peaks = {one["rows"]: one["peak_rss_mb"] for one in results if one["format"] == suffix}
        growth = peaks[many] - peaks[few]
        print(f"{suffix}: {growth} MB more for {many:,} rows than for {few:,}; the key index may take {INDEX_MB}")
        if growth > INDEX_MB:
            raise SystemExit("that is more")


if __name__ == "__main__":
    main()

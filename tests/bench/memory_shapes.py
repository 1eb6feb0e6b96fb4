"""`python -m tests.bench.memory_shapes [SHAPE...]`: peak RSS of runs over unusual rows, Parquet and gzip CSV.

50 narrow columns, one text of 200 KB, deep nesting (Parquet only), rows of 16 bytes; written to the null endpoint.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.memory import FOLDER, FORMATS, LIMIT_MB
from tests.bench.memory_worker import SHAPES
from tests.bench.write_setup import ROOT, build_env, interpreter, null_endpoint


def write_output(name: str, suffix: str) -> Path:
    """Generate an output once."""
    path = FOLDER / f"{name}.{suffix}"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        made = ", ".join(f"({sql})::{kind} as {column}" for column, (kind, sql) in SHAPES[name].columns.items())
        with duckdb.connect(config={"threads": 1}) as con:
            rows = con.sql(f"select i as id, {made} from range({SHAPES[name].rows}) t(i)")
            if suffix == "parquet":
                _write_parquet(rows.to_arrow_reader(200), f"{path}.new")
            else:
                con.execute(f"copy (from rows) to '{path}.new' ({FORMATS[suffix]})")
        Path(f"{path}.new").rename(path)
    return path


def _write_parquet(rows: pa.RecordBatchReader, path: str) -> None:
    """Write pages of 1 MB, as most writers do: DuckDB writes up to 100 MB, and a page is read as a whole."""
    with pq.ParquetWriter(path, rows.schema) as out:
        for batch in rows:
            out.write_batch(batch, row_group_size=1 << 20)


def main() -> None:
    """Run all, print a table, and exit with an error if the memory limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, null_endpoint(Path(folder), tls=False) as endpoint:
        env = build_env(endpoint, Path(folder), Path(folder))
        for name in parser.parse_args().shapes:
            for suffix in SHAPES[name].formats:
                path = write_output(name, suffix)
                command = [interpreter("larder"), "-m", "tests.bench.memory_worker", path, suffix, FOLDER, name]
                done = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout)
                peak = max(found["peak_mb"].values())
                results.append({"shape": name, "format": suffix, "peak_rss_mb": peak})
                print(
                    f"{name:10}{suffix:10}{found['rows']:12,} rows{sum(found['cpu_s']):8.0f} CPU s{peak:6} MB",
                    flush=True,
                )
    if any(one["peak_rss_mb"] > LIMIT_MB for one in results):
        sys.exit(f"peak RSS above {LIMIT_MB} MB")


if __name__ == "__main__":
    main()

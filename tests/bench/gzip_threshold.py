"""`python -m tests.bench.gzip_threshold`: what gzipping a body saves and costs, by size and zlib level.

Bodies are arrays of flights as in the example; the write units are those of an item with keys of 60 B.
"""

from __future__ import annotations

import json
import random
import time
import zlib

UNIT = 1024
KEYS = 130  # pk, sk, order, expires_at and the names
LAMBDA = (
    0.0000166667 * 1769 / 1024
)  # US dollars of a second of one vCPU: list price of us-east-1, aws.amazon.com/lambda/pricing
WRITE = 0.625e-6  # of a write unit on demand: enrich/plan/prices.json


def build_body(size: int, seed: int) -> bytes:
    """Build JSON of about `size` bytes."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    text = b""
    while len(text) < size:
        carrier, delay = rng.choice(["UA", "AA", "DL", "B6"]), rng.randint(-300, 900) / 10
        rows.append({"flight": f"{carrier}{rng.randint(1, 9999)}", "origin": rng.choice(["EWR", "JFK", "LGA"])})
        rows[-1] |= {"delay_minutes": delay, "late_probability": round(rng.random(), 3)}
        text = json.dumps(rows, separators=(",", ":")).encode()
    return text[: size - 1] + b"]"


def main() -> None:
    """Print a table: per size and level, the bytes, units saved, microseconds of CPU, and the ratio of their costs."""
    print(f"{'bytes':>8}{'level':>7}{'gzipped':>9}{'units':>7}{'saved':>7}{'us':>8}{'$ saved per $ of CPU':>22}")
    for size in (500, 900, 1_000, 1_500, 2_000, 4_000, 8_000, 16_000, 64_000, 300_000):
        bodies = [build_body(size, seed) for seed in range(max(3, min(100, 300_000 // size)))]
        for level in (1, 6, 9):
            began = time.process_time()
            compressed = []
            for body in bodies:
                compressor = zlib.compressobj(level, wbits=31)
                compressed.append(len(compressor.compress(body) + compressor.flush()))
            seconds = (time.process_time() - began) / len(bodies)
            mean = sum(compressed) / len(compressed)
            units = [-(-(KEYS + length) // UNIT) for length in (size, mean)]
            saved = int(units[0] - units[1])
            worth = saved * WRITE / (seconds * LAMBDA)
            print(f"{size:8,}{level:7}{mean:9,.0f}{units[0]:7.0f}{saved:7}{seconds * 1e6:8.1f}{worth:22,.0f}")


if __name__ == "__main__":
    main()

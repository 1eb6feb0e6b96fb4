"""Play histories: `python -m tests.faults --seeds N --start S` prints the seeds of those that break a promise."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from tests.faults.history import play
from tests.faults.oracle import check


def judge(seed: int) -> tuple[int, list[str]]:
    """Play one history and return what it broke."""
    try:
        return seed, check(play(seed))
    except Exception:
        return seed, [traceback.format_exc()]


def main() -> int:
    """Play histories on all cores."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, metavar="N")
    parser.add_argument("--start", type=int, default=0, metavar="S")
    parser.add_argument("--stop", action="store_true", help="stop at the first history that breaks a promise")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    words = parser.parse_args()
    began, failed = time.monotonic(), 0
    seeds = range(words.start, words.start + words.seeds)
    with ProcessPoolExecutor(words.jobs) as pool:
        for done, (seed, problems) in enumerate(pool.map(judge, seeds, chunksize=4), 1):
            if problems:
                failed += 1
                print(f"seed {seed}:\n  " + "\n  ".join(problems), flush=True)
                if words.stop:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
            if done % 500 == 0:
                print(f"{done} histories, {failed} failed, {done / (time.monotonic() - began):.1f}/s", flush=True)
    print(f"{words.seeds} histories from seed {words.start}: {failed} broke a promise")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

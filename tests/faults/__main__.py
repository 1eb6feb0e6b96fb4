"""Play histories: `python -m tests.faults --seeds N --start S` prints the seeds of those that break a promise."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.faults.describe import describe_time
from tests.faults.judge import judge
from tests.faults.mutants import MUTANTS, PIECES, Mutant, NotApplicable, prepare
from tests.faults.world import Note


def play_many(words: argparse.Namespace) -> int:
    """Play histories on all cores; the exit code is 1 if one breaks a promise."""
    began, failed, done = time.monotonic(), 0, 0
    for done, (seed, problems) in enumerate(_judge_all(words), 1):
        if problems:
            failed += 1
            print(f"seed {seed}:\n  " + "\n  ".join(problems), flush=True)
            if words.stop:
                break
        if done % 500 == 0:
            print(f"{done} histories, {failed} failed, {done / (time.monotonic() - began):.1f}/s", flush=True)
    print(f"{done} histories from seed {words.start}: {failed} broke a promise")
    return 1 if failed else 0


def _judge_all(words: argparse.Namespace) -> Iterator[tuple[int, list[str]]]:
    """Play and judge histories in separate processes; with one job, in this one."""
    seeds = range(words.start, words.start + words.seeds)
    begin = partial(prepare, words.mutant, words.job_share)
    if words.jobs == 1:
        begin()
        yield from map(judge, seeds)
        return
    fresh = multiprocessing.get_context("spawn")  # a mutant must be installed before anything else is imported
    pool = ProcessPoolExecutor(words.jobs, mp_context=fresh, initializer=begin)
    try:
        yield from pool.map(judge, seeds, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def hunt(words: argparse.Namespace) -> int:
    """Play histories over each mutant until one breaks a promise; the exit code is 1 unless each one is found."""
    outcomes = Counter[str]()
    for mutant in MUTANTS:
        outcome, detail = _hunt_one(mutant, words.start)
        outcomes[outcome] += 1
        print(f"{mutant.name}: {outcome}: {detail}", flush=True)
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in ("found", "survived", "not applicable")))
    return 0 if outcomes["found"] == len(MUTANTS) else 1


def _hunt_one(mutant: Mutant, start: int) -> tuple[str, str]:
    """Return the result for a mutant, and the reason in words."""
    try:
        mutant.apply(mutant.read())
    except (NotApplicable, OSError) as error:
        return "not applicable", str(error)
    command = [sys.executable, "-m", "tests.faults", "--mutant", mutant.name, "--stop", "--start", str(start)]
    if mutant in PIECES:
        command += ["--job-share", "1"]
    done = subprocess.run([*command, "--seeds", "2000"], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if not lines or done.returncode not in {0, 1}:
        raise RuntimeError(f"{mutant.name}: the histories did not run: {done.stderr}")
    return ("found" if done.returncode else "survived"), lines[-1]


def trace(words: argparse.Namespace) -> int:
    """Print one history step by step, and what it broke; the exit code is 1 if it breaks a promise."""
    prepare(words.mutant, words.job_share)
    notes: list[Note] = []
    _, problems = judge(words.trace, notes)
    for note in notes:
        print(f"{describe_time(note.time)}  {note.actor:<14}  {note.what}")
    print("\nNo promise was broken." if not problems else "\nBroken promises:\n  " + "\n  ".join(problems))
    return 1 if problems else 0


def main() -> int:
    """Run what the command line requests."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, metavar="N")
    parser.add_argument("--start", type=int, default=0, metavar="S")
    parser.add_argument("--stop", action="store_true", help="stop at the first history that breaks a promise")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--job-share", type=float, metavar="SHARE", help="of histories with jobs (default 0.1)")
    parser.add_argument("--mutant", choices=[mutant.name for mutant in MUTANTS], help="with this bug in the code")
    parser.add_argument("--trace", type=int, metavar="SEED", help="print the history of a seed as a story")
    parser.add_argument("--mutants", action="store_true", help="see that each of the bugs is found")
    words = parser.parse_args()
    if words.trace is not None:
        return trace(words)
    return hunt(words) if words.mutants else play_many(words)


if __name__ == "__main__":
    sys.exit(main())

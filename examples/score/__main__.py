"""Train, prove and publish an example: `python -m examples.score iris --promote`; without a bucket it is a dry run.

`python -m examples.score iris --local` deploys it on this machine, publishes there, and sends requests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parent
FOLDER = PROJECT.parents[1] / ".larder" / "score"


def main(arguments: list[str]) -> int:
    """Train a model, publish it with the arguments after its name, and return the exit code."""
    names = ("iris", "wine", "newsgroups", "flight-late")
    if not arguments or arguments[0] not in names:
        print(f"usage: python -m examples.score {'|'.join(names)} [--local] [ARGUMENT of `./larder score publish` ...]")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    os.environ["LARDER_PROJECT"] = str(PROJECT)
    from examples.score.flights import train_flights
    from examples.score.training import Trained, train_iris, train_newsgroups, train_wine
    from score.__main__ import main as run

    name, *rest = arguments
    is_local = "--local" in rest
    rest = [word for word in rest if word != "--local"]
    trainers: dict[str, Callable[[Path], Trained]] = {
        "iris": train_iris,
        "wine": train_wine,
        "newsgroups": train_newsgroups,
        "flight-late": train_flights,
    }
    trained = trainers[name](FOLDER / name)
    print(trained.report)
    words = ["publish", name, str(trained.model), "--rows", str(trained.rows), "--training", str(trained.training)]
    if trained.labels:
        words += ["--labels", ",".join(trained.labels)]
    if is_local:
        from examples.score.local import run_local

        return run_local(name, lambda more: run([*words, *rest, *more]), FOLDER / "ministack.log")
    if not os.environ.get("LARDER_BUCKET") and "--bucket" not in rest and "--dry-run" not in rest:
        words.append("--dry-run")
    return run([*words, *rest])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

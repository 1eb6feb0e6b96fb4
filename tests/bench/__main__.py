"""Run benchmarks and write their figures: `tox -e bench`, or one of them: `tox -e bench -- score [ARGUMENT ...]`."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.read_setup import BENCH

PARTS = ("write", "pipeline", "read", "joins", "cold", "score", "doors")


def main(arguments: list[str]) -> int:
    """Run all parts and draw the picture, or run one part; return the first exit code that is not 0."""
    if arguments and arguments[0] not in PARTS:
        print(f"no benchmark {arguments[0]!r}; known are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    BENCH.mkdir(parents=True, exist_ok=True)
    for part in arguments[:1] or PARTS:
        command = [sys.executable, "-m", f"tests.bench.{part}", "--json", str(BENCH / f"{part}.json"), *arguments[1:]]
        if code := subprocess.run(command, check=False).returncode:
            return code
    return (
        0
        if arguments
        else max(
            subprocess.run([sys.executable, "-m", "tests.bench.plot", *more], check=False).returncode
            for more in ([], ["--limits"])
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

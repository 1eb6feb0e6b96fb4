"""Run one handler in a separate process: each line of input is a number of requests; prints CPU and wall times.

With `--cold`: handle one request and exit; the parent process measures it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


class _Context:
    """Lambda's context, with the members that the handlers use."""

    function_name = aws_request_id = "bench"
    memory_limit_in_mb = 1769
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:bench"


def main() -> None:
    """Handle requests until the input ends."""
    with open(os.environ["BENCH_EVENT"]) as file:
        event = json.load(file)
    sys.path.insert(0, os.environ["BENCH_PEERS"])
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # logs are written to /dev/null
    handler = importlib.import_module(sys.argv[1]).handler
    context = _Context()
    answer = handler(event, context)
    if answer["statusCode"] != 200:
        sys.exit(f"{sys.argv[1]} answered {answer}")
    if "--cold" in sys.argv:
        os._exit(0)  # no clean-up, as when Lambda freezes a process
    print(len(answer["body"]), file=report, flush=True)
    for line in sys.stdin:
        walls = []
        begin = time.process_time_ns()
        for _ in range(int(line)):
            start = time.perf_counter_ns()
            handler(event, context)
            walls.append(time.perf_counter_ns() - start)
        spent = time.process_time_ns() - begin
        walls.sort()
        print(spent / len(walls), walls[len(walls) // 2], walls[len(walls) * 99 // 100], file=report, flush=True)


if __name__ == "__main__":
    main()

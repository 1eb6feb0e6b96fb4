"""Bound the memory that loading and proving a version takes, so that a bad version cannot end the function."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_MEGABYTE = 1024 * 1024
_DEFAULT_MB = 1769


@contextmanager
def bounded_memory(model_bytes: int) -> Iterator[None]:
    """Let the process's address space grow by at most half of the function's memory and eight times the model.

    A larger allocation fails, and ONNX Runtime reports an error. Without the bound the kernel would kill the process,
    at each start again. The bound is generous, since a process reserves more address space than it uses memory.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + memory_budget(model_bytes)
    if soft != resource.RLIM_INFINITY and soft < limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def memory_budget(model_bytes: int) -> int:
    """Return by how many bytes the address space can grow."""
    return int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE") or _DEFAULT_MB) * _MEGABYTE // 2 + 8 * model_bytes


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

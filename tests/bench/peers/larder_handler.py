# mypy: ignore-errors
"""Larder's handler as deployed, except for the file of its datasets; verified tokens are cached as in production."""

import os

from serve.datasets import load_served
from serve.handler import build_dependencies, build_handler

handler = build_handler(build_dependencies(os.environ, load_served(os.environ["BENCH_SERVED"])))

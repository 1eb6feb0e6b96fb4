# mypy: ignore-errors
"""Larder's handler as deployed, except for the file of its models."""

import os

from score.handler import build_dependencies, build_handler
from score.model import load_models

handler = build_handler(build_dependencies(os.environ, load_models(os.environ["BENCH_MODELS"]), {}))

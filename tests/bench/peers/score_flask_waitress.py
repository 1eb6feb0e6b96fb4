# mypy: ignore-errors
"""Flask with waitress."""

import os

from score_flask import app
from waitress import serve

serve(app, host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), threads=4)

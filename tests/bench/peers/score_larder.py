# mypy: ignore-errors
"""Larder's handler with a container's server, in one process: it verifies the token; models come from files.

It writes log lines, and counts their metrics, with the argument `lines`; the peers write none.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from score.handler import Dependencies, build_handler, is_quick
from score.manifest import Alias, dump_alias, parse_manifest
from score.model import load_models
from score.paths import alias_key, manifest_key, model_key
from score.settings import parse_score_settings
from score.store import Fetched, ModelStore
from serve.bearer import open_verifier
from serve.storage import Storage
from server.app import Application, Function
from server.connection import HttpServer, open_socket
from server.settings import SCORE_SECONDS

folder = Path(os.environ["BENCH_ONNX"])
manifest = parse_manifest((folder / "manifest.json").read_bytes(), "manifest.json")
names = manifest.model, manifest.version
objects = {
    alias_key(manifest.model): dump_alias(Alias(*names, None, None, None, "bench", manifest.created)),
    manifest_key(*names): (folder / "manifest.json").read_bytes(),
    model_key(*names): (folder / "model.onnx").read_bytes(),
}


def fetch(key: str, etag: str | None) -> Fetched:
    return Fetched(None if etag else objects[key], '"1"')


def open_log():
    """Return what takes a log line."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(dir=os.environ["HOME"])
    from prometheus_client import CollectorRegistry

    from server.logs import LogWriter
    from server.metrics import Metrics

    metrics = Metrics(CollectorRegistry())
    return LogWriter(os.open(os.devnull, os.O_WRONLY), metrics.count_lost, metrics.read_line).write


models = load_models(os.environ["BENCH_MODELS"])
settings = parse_score_settings({**os.environ, "LARDER_MODELS_BUCKET": "models"}, models, {})
store = ModelStore(fetch, models, lambda event, details: None)
verifier = open_verifier(settings.api.issuers, os.environ, lambda event, details: None)
storage = Storage(lambda target, payload: b"{}", "table")
write = open_log() if "lines" in sys.argv else lambda line: None
dependencies = Dependencies(settings, models, {}, store, storage, verifier, write=write)
function = Function(build_handler(dependencies), lambda: None, SCORE_SECONDS, partial(is_quick, dependencies))


async def serve() -> None:
    server = HttpServer(Application(function, threads=8))
    await server.listen(open_socket("127.0.0.1", int(os.environ["BENCH_PORT"])))
    gc.collect()
    gc.freeze()
    await asyncio.Event().wait()


asyncio.run(serve())

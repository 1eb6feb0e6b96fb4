# mypy: ignore-errors
"""Feast's feature server, unchanged, in one process, without tokens."""

import socket
import sys

import uvicorn
from feast.feature_server import get_app
from feast_store import store

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], file=sys.stderr, flush=True)
server = uvicorn.Server(uvicorn.Config(get_app(store), access_log=False, log_level="error"))
server.run(sockets=[listener])

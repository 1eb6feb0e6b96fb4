"""Print the parts of the CPU of a request to the deployed handler, as JSON in microseconds.

`whole`: the handler over the null endpoint, all threads. `ours`: the same with a prepared DynamoDB response, so without
`wire`. `signature`: OpenSSL's part of verifying the token; it is in `ours` only if the token is not cached. `limit`: to
sign a prepared request, send it and receive the response in one piece, without reading anything in it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import serve.tokens.verifier
from examples.flights.datasets.flight_delays import flight_delays
from serve.handler import build_dependencies, build_handler
from serve.storage import Storage
from serve.tokens.jwks import parse_jwks
from serve.tokens.signing_key import is_signed
from serve.tokens.strict import parse_base64url
from wire.request import operation_headers

ROUNDS, REQUESTS = 7, 300
ITEM = b'{"TableName":"ready","Key":{"pk":{"S":"flight-delays#B6"},"sk":{"S":"a"}}}'


def main() -> None:
    """Print the figures."""
    with open(os.environ["BENCH_EVENT"]) as file:
        event = json.load(file)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    parts = build_dependencies(os.environ, {flight_delays.name: flight_delays.served})
    send: Any = parts.storage._send
    answer = send("DynamoDB_20120810.GetItem", ITEM)
    handler = build_handler(parts)
    alone = build_handler(parts._replace(storage=Storage(lambda target, payload: answer, "ready")))
    token = event["headers"]["Authorization"].removeprefix("Bearer ")
    with open(os.environ["BENCH_JWKS"]) as file:
        key = parse_jwks(file.read()).keys["bench"]
    signed_part, _, signature = token.rpartition(".")
    octets = parse_base64url(signature)

    def forgetting(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            serve.tokens.verifier.CACHED_SECONDS = 0
            parts.verifier._cache.clear()
            try:
                return call()
            finally:
                serve.tokens.verifier.CACHED_SECONDS = 60

        return run

    client = send.__self__
    connection = socket.create_connection((client.endpoint.host, client.endpoint.port))
    headers = operation_headers("dynamodb", "DynamoDB_20120810.GetItem")

    def exchange() -> object:
        connection.sendall(client._requests.build("POST", "/", headers, ITEM))
        return connection.recv(65536)

    calls: dict[str, Callable[[], object]] = {
        "whole": lambda: handler(event, None),
        "ours": lambda: alone(event, None),
        "whole, token not remembered": forgetting(lambda: handler(event, None)),
        "ours, token not remembered": forgetting(lambda: alone(event, None)),
        "wire: sign, send, receive": lambda: send("DynamoDB_20120810.GetItem", ITEM),
        "limit: sign, send, receive": exchange,
        "signature": lambda: is_signed(key, octets, signed_part.encode()),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            begin = time.process_time_ns()
            for _ in range(REQUESTS):
                call()
            if turn:
                found[name].append((time.process_time_ns() - begin) / REQUESTS / 1000)
    print(json.dumps({name: round(median(values), 1) for name, values in found.items()}), file=report, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

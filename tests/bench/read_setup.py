"""Set up the read and cold benchmarks: an environment per reader, a token, an event, the null endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from examples.flights.datasets.flight_delays import flight_delays
from serve.datasets import render_served
from tests.bench.read_endpoint import BODY

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".larder" / "bench"
HERE = Path(__file__).resolve().parent

FEAST = ("feast[aws]==0.67.0",)
LAPTOP = ("-r", str(ROOT / "serve/requirements.txt"), "-r", str(ROOT / "serve/dev/requirements.in"))
# reader -> pip arguments of its environment. Versions are pip's newest, and are printed with the table.
READERS = {
    "larder": ("-r", str(ROOT / "serve" / "requirements.txt")),
    "larder_unremembered": ("-r", str(ROOT / "serve" / "requirements.txt")),
    "larder_named": ("-r", str(ROOT / "serve" / "requirements.txt")),
    "larder_singles": ("-r", str(ROOT / "serve" / "requirements.txt")),
    "larder_top": ("-r", str(ROOT / "serve" / "requirements.txt")),
    "larder_ten": ("-r", str(ROOT / "serve" / "requirements.txt")),
    "feast_rows": FEAST,
    "powertools": ("aws-lambda-powertools", "boto3", "pyjwt[crypto]"),
    "boto3": ("boto3", "pyjwt[crypto]"),
    "fastapi": ("fastapi", "mangum", "boto3", "pyjwt[crypto]"),
}
SERVERS = {
    "larder_server": LAPTOP,
    "larder_server_named": LAPTOP,
    "feast_server": FEAST,
    "feast_server_rows": FEAST,
    "feast_server_sqlite": FEAST,
}


def _environment(reader: str) -> str:
    for suffix in ("_unremembered", "_named", "_singles", "_rows", "_top", "_ten", "_sqlite"):
        reader = reader.removesuffix(suffix)
    return "feast_server" if reader == "feast" else reader


def interpreter(reader: str) -> Path:
    """Return the Python of a reader's environment; create the environment if needed."""
    folder = BENCH / _environment(reader)
    python = folder / "bin" / "python"
    done = folder / "installed"
    wanted = (READERS | SERVERS)[_environment(reader)]
    changed = max([Path(name).stat().st_mtime for name in wanted if name.endswith(("txt", ".in"))], default=0.0)
    if not done.exists() or done.stat().st_mtime < changed:
        venv.create(folder, with_pip=True, clear=True)
        if "-r" in wanted and len(wanted) > 2:  # pip requires hashes for all packages or for none
            subprocess.run([python, "-m", "pip", "install", "-q", *wanted[:2]], check=True)
            wanted = wanted[2:]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
        done.write_text(
            subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
        )
    return python


def installed(reader: str) -> list[str]:
    """Return the packages of a reader's environment, with their versions."""
    return (BENCH / _environment(reader) / "installed").read_text().split()


def build_env(port: int, folder: Path, scope: str = "flight-delays:read") -> dict[str, str]:
    """Write the key set and the event, and build the environment variables of the readers."""
    private_key = rsa.generate_private_key(65537, 2048)
    jwk = RSAAlgorithm.to_jwk(private_key.public_key(), as_dict=True) | {"kid": "bench", "alg": "RS256", "use": "sig"}
    jwk.pop("key_ops", None)
    (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    now = int(time.time())
    claims = {
        "iss": "https://issuer.example.com/", "aud": "larder", "sub": "bench", "iat": now, "exp": now + 86400,
        "scope": scope, "carrier": "B6",
    }  # fmt: skip
    token = jwt.encode(claims, private_key, algorithm="RS256", headers={"kid": "bench", "typ": "at+jwt"})
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Host": "api.example.com"}
    event = {
        "resource": "/{proxy+}", "path": "/v1/flight-delays/a", "httpMethod": "GET", "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None, "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": "v1/flight-delays/a"}, "stageVariables": None, "body": None,
        "isBase64Encoded": False,
        "requestContext": {"requestId": "bench", "stage": "live", "path": "/live/v1/flight-delays/a",
        "httpMethod": "GET",
                           "identity": {"sourceIp": "192.0.2.1"}, "resourcePath": "/{proxy+}"},
    }  # fmt: skip
    (folder / "event.json").write_text(json.dumps(event))
    (folder / "body.json").write_text(json.dumps(BODY, separators=(",", ":")))
    served = folder / "served.json"  # as in serve's bundle
    one = flight_delays.served._replace(
        places=flight_delays.places(), rank_tag=flight_delays.rank_tag, version_place=flight_delays.version_place
    )
    served.write_text(render_served({one.name: one}))
    issuers = [{"issuer": claims["iss"], "audience": "larder", "keys": f"file:{folder / 'jwks.json'}"}]
    return {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true",
        "BENCH_PEERS": str(HERE / "peers"), "BENCH_JWKS": str(folder / "jwks.json"),
        "BENCH_EVENT": str(folder / "event.json"), "BENCH_SERVED": str(served),
        "BENCH_BODY": str(folder / "body.json"), "BENCH_FOLDER": str(folder), "FEAST_USAGE": "False",
        "LARDER_TABLE": "ready", "LARDER_ISSUERS": json.dumps(issuers), "LARDER_ENVIRONMENT": "bench",
        "MALLOC_TOP_PAD_": "16777216",  # as in infra/template.yaml, for all readers
        "POWERTOOLS_TRACE_DISABLED": "1", "POWERTOOLS_METRICS_NAMESPACE": "Larder", "POWERTOOLS_SERVICE_NAME": "serve",
    }  # fmt: skip


@contextmanager
def endpoint(delay: float = 0.0, keys: Path | None = None) -> Iterator[int]:
    """Run the null endpoint, which waits some seconds before it answers; yield its port.

    `keys` is the file of its Parameter Store's key set, which is read at each request.
    """
    with subprocess.Popen(
        [sys.executable, HERE / "read_endpoint.py", str(delay)],
        env={**os.environ, "BENCH_JWKS": str(keys or "")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()

"""Start and stop ministack, the stand-in for AWS, as a process of this interpreter on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "000000000000"
REGION = "us-east-1"
LOOPBACK = "127.0.0.1"
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


class MinistackError(Exception):
    """Ministack did not start; the message ends with its output."""


@dataclass(frozen=True)
class Ministack:
    """A running stand-in.

    `env` is the environment of a client: endpoint, region, and credentials that are valid nowhere else.
    """

    endpoint: str
    log: Path
    env: Mapping[str, str]
    pid: int


def client_env(endpoint: str) -> dict[str, str]:
    """Build the environment of a client of the stand-in; it does not read the user's AWS files."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",  # the stand-in's default
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": LOOPBACK,
    }


@contextmanager
def run_ministack(log: Path, *, env: Mapping[str, str] | None = None, timeout: float = 60) -> Iterator[Ministack]:
    """Run ministack on a free loopback port until the block or this process ends.

    Args:
        log: file for its output; overwritten.
        env: additional variables for ministack and the functions that it runs, e.g. `AWS_ENDPOINT_URL_ATHENA`, or
            `AUTH="true"` to enforce IAM.
        timeout: seconds until it must respond.

    Raises:
        MinistackError: ministack ended, or did not respond in time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="larder-aws-", ignore_cleanup_errors=True) as directory:
        # This process listens and ministack inherits the socket, so no other process can take the port in between.
        with socket.create_server((LOOPBACK, 0), backlog=128) as listening, log.open("wb") as output:
            endpoint = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", _process_file(), str(listening.fileno()), directory],
                env=_process_env(endpoint, directory) | dict(env or {}),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        try:
            _wait_until_ready(process, endpoint, log, timeout)
            yield Ministack(endpoint, log, client_env(endpoint), process.pid)
        finally:
            _stop(process)


def _process_file() -> str:
    return str(Path(__file__).with_name("ministack_process.py"))


def _process_env(endpoint: str, directory: str) -> dict[str, str]:
    """Build ministack's environment from few variables, without the user's AWS settings and options of ministack."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return (
        inherited
        | client_env(endpoint)
        | {
            "BIND_HOST": LOOPBACK,  # the default is every interface, so that others on the network could run code
            "GATEWAY_PORT": endpoint.rpartition(":")[2],
            "MINISTACK_HOST": LOOPBACK,
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "TMPDIR": directory,
            "S3_DATA_DIR": f"{directory}/s3",
            "STATE_DIR": f"{directory}/state",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",  # it would also listen on port 8883
            "DOCKER_HOST": f"unix://{directory}/no-docker",  # with Docker, it removes all its containers at its start
        }
    )


def _wait_until_ready(process: subprocess.Popen[bytes], endpoint: str, log: Path, timeout: float) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"{endpoint}/_ministack/ready", timeout=max(0.1, deadline - time.monotonic())):
                return
        except OSError:
            time.sleep(0.05)
    ended = process.poll()
    what = f"ended with status {ended}" if ended is not None else f"did not respond within {timeout:g} s"
    last_words = log.read_text(errors="replace")[-2000:].strip()
    raise MinistackError(f"ministack {what}. The end of {log}:\n{last_words or '(no output)'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, so that the process ends its process group; kill the group if it does not."""
    assert process.stdin is not None  # noqa: S101 - Popen was given a pipe
    process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()

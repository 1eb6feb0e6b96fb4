"""Credentials of a role, at the very addresses that EKS Pod Identity and ECS have, or from STS for IRSA.

Each test has a network of its own, in which an agent listens at these addresses.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from tests.doors.kit import (
    Running,
    Storage,
    ask,
    build_env,
    build_tree,
    live,
    needs_network,
    needs_server,
    run_in_own_network,
    run_server,
    token,
    wait_for,
)
from tests.doubles.credentials_agent import CredentialsAgent

pytestmark = [pytest.mark.slow, needs_server, needs_network]
TOKEN = "/var/run/secrets/token"  # stands for a file of the test
ROLE = "arn:aws:iam::123456789012:role/larder"


class Way(NamedTuple):
    """How a container gets its role: the agent's address, the variables that the platform sets."""

    address: str
    variables: Mapping[str, str]


WAYS = {
    "pod-identity": Way(
        "169.254.170.23",
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": TOKEN,
        },
    ),
    "irsa": Way(
        "127.0.0.1",  # AWS's is sts.REGION.amazonaws.com
        {
            "AWS_ROLE_ARN": ROLE,
            "AWS_WEB_IDENTITY_TOKEN_FILE": TOKEN,
            "AWS_STS_REGIONAL_ENDPOINTS": "regional",
            "AWS_ENDPOINT_URL_STS": "http://127.0.0.1",
        },
    ),
    "ecs": Way("169.254.170.2", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/6f1a"}),
}


class Agent(CredentialsAgent):
    """Its keys live for five minutes, so little that each request fetches new ones."""

    tokens: ClassVar[list[str | None]] = []

    def find_life(self) -> float:
        return 300.0


@pytest.mark.parametrize("name", WAYS)
def test_keys_are_those_of_the_role_and_are_renewed(name: str, tmp_path: Path) -> None:
    """Requests are signed with the newest keys, also after the token's file has changed.

    While the role is refused, requests and readiness are 503; afterwards all is well again.
    """
    way = WAYS[name]
    Agent.tokens.clear()
    Agent.refuses = False
    place = tmp_path / "token"
    place.write_text("first")
    good = {"Authorization": f"Bearer {token()}"}

    def get(server: Running) -> int:
        return ask(server.port, "GET", "/v1/flight-delays/a", good)[0]

    def work() -> None:
        if way.address != "127.0.0.1":
            command = ["ip", "address", "add", f"{way.address}/32", "dev", "lo"]
            subprocess.run(command, check=True)
        storage = Storage(live("a", '{"x":1}'))
        env = build_env(storage, tmp_path, LARDER_PROCESSES="1")
        env = {name: value for name, value in env.items() if not name.startswith(("AWS_ACCESS", "AWS_SECRET"))}
        env |= {name: value.replace(TOKEN, str(place)) for name, value in way.variables.items()}
        env |= {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
        agent = ThreadingHTTPServer((way.address, 80), Agent)
        threading.Thread(target=agent.serve_forever, args=(0.02,), daemon=True).start()
        with run_server(build_tree(tmp_path / "app"), env, tmp_path) as server:
            wait_for(lambda: ask(server.port, "GET", "/readyz")[0] == 200, server.process, tmp_path / "serve.err")
            assert [get(server), get(server)] == [200, 200]
            place.write_text("second")
            assert get(server) == 200
            Agent.refuses = True
            assert get(server) == 503
            # The last look at storage can be a second old.
            wait_for(lambda: ask(server.port, "GET", "/readyz")[0] == 503, server.process, tmp_path / "serve.err")
            assert ask(server.port, "GET", "/livez")[0] == 200
            Agent.refuses = False
            assert get(server) == 200
            assert {line["status"] for line in server.read_lines() if "status" in line} == {200, 503}
        assert len(storage.keys_seen) >= 3
        assert storage.keys_seen <= {f"AKID{number + 1}" for number in range(len(Agent.tokens))}
        agent.shutdown()
        agent.server_close()
        storage.close()

    run_in_own_network(work)
    assert set(Agent.tokens) == ({None} if name == "ecs" else {"first", "second"})

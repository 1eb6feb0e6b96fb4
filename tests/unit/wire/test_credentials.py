"""Where credentials come from, and that they are refreshed between requests."""

import datetime
import json
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.doubles.credentials_agent import CredentialsAgent
from tests.unit.wire.faulty_server import FaultyServer
from wire.client import Client, Limits
from wire.credentials import find_source
from wire.errors import NoCredentials

AWAY = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
SET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")


class Container(CredentialsAgent):
    """Its keys live as long as a test says."""

    lives: ClassVar[list[float]] = []
    tokens: ClassVar[list[str | None]] = []


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an agent that no variable names yet."""
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Container, "refuses", False)
    Container.tokens.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Container) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def container(agent: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The agent of ECS."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent}/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    return Container


@pytest.fixture
def web_identity(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """STS, as IRSA uses it: the token of the pod is in a file, which the cluster replaces now and then."""
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/larder")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", agent)
    return Container


def keys_used(server: Any) -> Any:
    return [seen.headers["authorization"].split("Credential=")[1].split("/")[0] for seen in server.seen]


def test_environment_gives_its_credentials_and_token() -> None:
    """Keys in the environment are used unchanged, with the session token if there is one."""
    env = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    with FaultyServer() as server:
        Client(server.endpoint(), find_source(env)).send("T.GetItem", b"{}")
        Client(server.endpoint(), find_source({**env, "AWS_SESSION_TOKEN": ""})).send("T.GetItem", b"{}")
    assert keys_used(server) == ["AKIDENV", "AKIDENV"]
    assert server.seen[0].headers["x-amz-security-token"] == "t"
    assert "x-amz-security-token" not in server.seen[1].headers


def test_container_credentials_are_fetched_and_kept(container: Any) -> None:
    """Without keys in the environment, the container's are fetched, once for many requests."""
    container.lives[:] = [3600, 3600]
    with FaultyServer() as server:
        client = Client(server.endpoint(), find_source({}))
        for _ in range(3):
            client.send("T.GetItem", b"{}")
    assert keys_used(server) == ["AKID1"] * 3
    assert container.tokens == ["container-token"]


def test_credentials_that_expire_are_refreshed(container: Any) -> None:
    """If credentials expire between requests, the next request is signed with new ones."""
    container.lives[:] = [0, 3600, 3600]
    with FaultyServer() as server:
        client = Client(server.endpoint(), find_source({}))
        for _ in range(4):
            client.send("T.GetItem", b"{}")
    assert keys_used(server)[-1] == "AKID2"
    assert len(container.tokens) == 2


def test_web_identity_is_refreshed_with_the_newest_token(web_identity: Any, tmp_path: Path) -> None:
    """The file is read at each refresh: the cluster replaces it before the token in it expires."""
    web_identity.lives[:] = [60, 3600]
    source = find_source({})
    assert source().access_key_id == "AKID1"
    (tmp_path / "token").write_text("second")
    assert [source().access_key_id for _ in range(3)] == ["AKID2"] * 3
    assert web_identity.tokens == ["first", "second"]


def test_a_role_that_is_refused_is_unavailable(web_identity: Any, tmp_path: Path) -> None:
    """By STS, since there is no token, or at a refresh: the reason is named, and the next request tries again."""
    source = find_source({})
    web_identity.refuses = True
    with pytest.raises(NoCredentials, match="AccessDenied"):
        source()
    web_identity.refuses = False
    (tmp_path / "token").rename(tmp_path / "away")
    with pytest.raises(NoCredentials, match="No such file"):
        source()
    (tmp_path / "away").rename(tmp_path / "token")
    web_identity.lives[:] = [60, 3600]
    assert source().access_key_id == "AKID1"
    web_identity.refuses = True
    with pytest.raises(NoCredentials, match="AccessDenied"):
        source()
    web_identity.refuses = False
    assert source().access_key_id == "AKID2"


def test_keys_that_have_expired_when_they_come_are_unavailable(container: Any) -> None:
    """So they look where the clock is wrong."""
    container.lives[:] = [60, 60, -60]
    source = find_source({})
    assert source().access_key_id == "AKID2", "the first is refreshed at once, since it expires soon"
    with pytest.raises(NoCredentials, match="still expired"):
        source()


@pytest.mark.parametrize("there", [True, False], ids=["nothing found", "without boto3"])
def test_no_credentials_anywhere_are_unavailable(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment or a profile, or no boto3 to look there: the request is not sent, with the reason."""
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    if not there:
        monkeypatch.setitem(sys.modules, "boto3", None)
    with FaultyServer() as server:
        with pytest.raises(NoCredentials, match="no AWS credentials in the environment"):
            Client(server.endpoint(), find_source({}), Limits(tries=1)).send("T.GetItem", b"{}")
        assert server.seen == []


ANSWERS = {  # what a profile's process prints, one after the other -> what the reason names
    "a profile that does not exist": (None, "The config profile (larder) could not be found"),
    "no answer": (["exit 1"], "Error when retrieving credentials"),
    "no second answer": (["", "exit 1"], "Error when retrieving credentials"),
    "no access key": (["", "AccessKeyId"], "the access key or secret key that was found is empty"),
    "no secret": (["", "SecretAccessKey"], "the access key or secret key that was found is empty"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_credentials_that_can_not_be_had_are_unavailable(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the place of the fault in boto3's chain: when it is opened, or when credentials are refreshed."""
    answers, reason = ANSWERS[case]
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    for name, value in (AWAY | {"AWS_PROFILE": "larder", "AWS_CONFIG_FILE": str(tmp_path / "config")}).items():
        monkeypatch.setenv(name, value)
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)).isoformat()
    known = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": soon}
    for number, changed in enumerate(answers or []):
        (tmp_path / str(number)).write_text(
            changed if changed == "exit 1" else f"echo '{json.dumps(known | ({changed: ''} if changed else {}))}'"
        )
    script = f"cd {tmp_path}; n=0; while [ -e used$n ]; do n=$((n+1)); done; touch used$n; . ./$n"
    (tmp_path / "process").write_text(script)
    process = f"credential_process = sh {tmp_path / 'process'}" if answers else ""
    (tmp_path / "config").write_text(f"[profile {'larder' if answers else 'other'}]\n{process}\n")
    source = find_source({})
    with pytest.raises(NoCredentials) as caught:
        source()
    assert str(caught.value).startswith("no AWS credentials: ")
    assert reason in str(caught.value)

"""The doors: the handler, the server, Envoy, nginx, and the stand-in's REST API and load balancer."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from enrich.datasets import load_served
from examples.flights.tokens import Issuer
from score.handler import build_dependencies as build_score
from score.handler import build_handler as build_score_handler
from serve.handler import build_dependencies, build_handler
from serve.item import Item, encode
from tests.doors.envoy import run_envoy
from tests.doors.kit import LOOPBACK, Storage, ask, build_env, build_tree, find_free_port, live, run_server
from tests.doors.raw import CANARIES, Door, call_handler, send_raw
from tests.integration.infra.deployed import deploy_larder, run_stand_in
from tests.unit.score.kit import MODELS
from tests.unit.serve.kit import RANK_TAG, SERVED, all_jwks

_NGINX = """
user root; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  underscores_in_headers on; ignore_invalid_headers off; large_client_header_buffers 4 64k; client_max_body_size 2m;
  merge_slashes off;
  server {{
    listen {host}:{port};
    location / {{ proxy_pass http://{host}:{serve}; proxy_http_version 1.1; proxy_set_header Host $host; }}
    location /v1/models {{ proxy_pass http://{host}:{score}; proxy_http_version 1.1; proxy_set_header Host $host; }}
  }}
}}
"""


@contextmanager
def run_nginx(servers: Mapping[str, int], folder: Path) -> Iterator[int]:
    """Run nginx before both servers."""
    folder.mkdir()
    port = find_free_port()
    config = _NGINX.format(folder=folder, host=LOOPBACK, port=port, **servers)
    (folder / "nginx.conf").write_text(config)
    with subprocess.Popen(["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]) as process:
        try:
            for _ in range(200):
                try:
                    ask(port, "GET", "/v1/health")
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def fill() -> list[Item]:
    """The items that `requests.yaml` names, and those of the subjects of the isolation suite."""
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b'{"flight":"zip"}') + packer.flush()
    items = [live(name, f'{{"flight":"{name}"}}') for name in ("a", "b", "A")]
    items += [live("zip", packed), live("theirs", '{"flight":"AA"}', pk="flight-delays#AA")]
    for subject in CANARIES:  # the same ids, with another text in each
        for place, name in enumerate(("one", "two", "three")):
            found = live(name, f'{{"flight":"{CANARIES[subject]}"}}', pk=f"flight-delays#{subject}")
            items.append(found._replace(rank=f"{RANK_TAG}:{place:02}:{name}"))
    return [*items, live("only-theirs", f'{{"flight":"{CANARIES["C2"]}"}}', pk="flight-delays#C2")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image has."""
    return build_tree(tmp_path_factory.mktemp("image") / "app")


@pytest.fixture
def storage() -> Iterator[Storage]:
    """A table with one item."""
    found = Storage(live("a", '{"x":1}'))
    yield found
    found.close()


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """The doors by name; the first is the handler itself."""
    folder = tmp_path_factory.mktemp("doors")
    storage = Storage(*fill())
    env = build_env(storage, folder, LARDER_PROCESSES="1")
    handlers: dict[str, Any] = {
        "serve": build_handler(build_dependencies(env, SERVED, lambda line: None)),
        "score": build_score_handler(build_score(env, MODELS, SERVED, lambda line: None)),
    }
    with ExitStack() as stack:
        tree = build_tree(folder / "tree")
        ports = {name: stack.enter_context(run_server(tree, env, folder, name)).port for name in handlers}
        found: dict[str, Door] = {"handler": lambda function, raw: call_handler(handlers[function], raw)}
        found["server"] = lambda function, raw: send_raw(ports[function], raw)
        envoy = stack.enter_context(
            run_envoy({f"larder-{name}": port for name, port in ports.items()}, folder / "envoy")
        )
        found["envoy"] = lambda function, raw: send_raw(envoy, raw)
        if shutil.which("nginx"):
            nginx = stack.enter_context(run_nginx(ports, folder / "nginx"))
            found["nginx"] = lambda function, raw: send_raw(nginx, raw)
        yield found
    storage.close()


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Door], Issuer]]:
    """The stack on the stand-in, with its REST API and a load balancer; and the handler over the same table."""
    with run_stand_in(tmp_path_factory.mktemp("stand-in") / "log") as (client, endpoint):
        larder = deploy_larder(client, endpoint, "larder")
        keys = {"Name": f"{larder.stack['KeyStorePath']}attacks.json", "Value": all_jwks(), "Type": "String"}
        client("ssm").put_parameter(**keys)
        for one in fill():
            attributes: Any = encode(one)
            if isinstance(one.body, bytes):
                attributes["b"] = {"B": one.body}  # boto3 encodes it itself
            client("dynamodb").put_item(TableName=larder.stack["TableName"], Item=attributes)
        variables = client("lambda").get_function_configuration(FunctionName=larder.stack["ServeAliasArn"])
        env = {**os.environ, **variables["Environment"]["Variables"], "AWS_ENDPOINT_URL": endpoint}
        env |= {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        handler = build_handler(build_dependencies(env, load_served(), lambda line: None))
        elb = client("elbv2")
        group = elb.create_target_group(Name="serve", TargetType="lambda")["TargetGroups"][0]["TargetGroupArn"]
        on = [{"Key": "lambda.multi_value_headers.enabled", "Value": "true"}]
        elb.modify_target_group_attributes(TargetGroupArn=group, Attributes=on)
        elb.register_targets(TargetGroupArn=group, Targets=[{"Id": larder.stack["ServeAliasArn"]}])
        balancer = elb.create_load_balancer(Name="door", Subnets=["subnet-1", "subnet-2"])["LoadBalancers"][0]
        forward = [{"Type": "forward", "TargetGroupArn": group}]
        elb.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=forward
        )
        place = urlsplit(larder.stack.base_url)
        port = int(place.port or 80)
        yield (
            {
                "handler": lambda _, raw: call_handler(handler, raw),
                "api-gateway": lambda _, raw: send_raw(port, raw, place.path.removesuffix("/v1"), place.netloc),
                "load-balancer": lambda _, raw: send_raw(port, raw, "/_alb/door", place.netloc),
            },
            larder.issuer,
        )

"""A real Envoy with the routes and policies of infra/kubernetes/overlays/gateway, in front of servers on loopback.

The configuration is the one that Envoy Gateway 1.9 makes of an HTTPRoute and its policies, for the members that our
files use; any other member is an error, so that the test cannot silently leave out what a cluster would do.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra.tools import install
from infra.translate import ROOT
from tests.doors.kit import LOOPBACK, stop

OVERLAY = ROOT / "infra" / "kubernetes" / "overlays" / "gateway"
_TYPE = "type.googleapis.com/envoy"
_ESCAPED = {"KeepUnchanged": "KEEP_UNCHANGED"}


def read_documents(name: str) -> list[dict[str, Any]]:
    """Read a file of the overlay."""
    return list(yaml.safe_load_all((OVERLAY / name).read_text()))


def read_rules(*, models: bool) -> list[dict[str, Any]]:
    """Read the rules of the route; with models, as the overlay's patch changes them."""
    (route,) = read_documents("route.yaml")
    rules: list[dict[str, Any]] = route["spec"]["rules"]
    if models:
        patches: list[dict[str, Any]] = yaml.safe_load((OVERLAY / "score.yaml").read_text())
        for patch in patches:
            assert (patch["op"], patch["path"]) == ("add", "/spec/rules/1")
            rules.insert(1, patch["value"])
    return rules


def build_config(servers: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """Build Envoy's configuration.

    Args:
        servers: port of each service that the routes name, by its name.
        folder: the folder to which Envoy writes.
    """
    policies = {one["kind"]: one["spec"] for one in read_documents("policies.yaml")}
    client, backend = policies["ClientTrafficPolicy"], policies["BackendTrafficPolicy"]
    _only(client, "targetRefs", "path", "headers", "timeout", "connection", "tls")
    _only(backend, "targetRefs", "timeout", "retry", "loadBalancer", "circuitBreaker")
    times = client["timeout"]["http"]
    _only(times, "requestReceivedTimeout", "idleTimeout")
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "common_http_protocol_options": {
            "headers_with_underscores_action": client["headers"]["withUnderscoresAction"].upper(),
            "idle_timeout": times["idleTimeout"],
        },
        "request_timeout": times["requestReceivedTimeout"],
        "normalize_path": True,
        "merge_slashes": not client["path"]["disableMergeSlashes"],
        "path_with_escaped_slashes_action": _ESCAPED[client["path"]["escapedSlashesAction"]],
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
        "route_config": {
            "name": "larder",
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [
                {
                    "name": "larder",
                    "domains": ["*"],  # the test's host is loopback
                    "routes": [
                        route
                        for rule in read_rules(models="larder-score" in servers)
                        for route in _build_routes(rule, backend)
                    ],
                }
            ],
        },
    }
    return {
        "admin": {"address": _address(0)},
        "static_resources": {
            "listeners": [
                {
                    "name": "https",
                    "address": _address(0),
                    "per_connection_buffer_limit_bytes": _bytes(client["connection"]["bufferLimit"]),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [_build_cluster(name, port, backend) for name, port in servers.items()],
        },
        "node": {"id": "larder", "cluster": "larder"},
        "layered_runtime": {"layers": [{"name": "none", "static_layer": {}}]},
    }


def _build_routes(rule: dict[str, Any], backend: dict[str, Any]) -> Iterator[dict[str, Any]]:
    _only(rule, "matches", "filters", "backendRefs")
    (target,) = rule["backendRefs"]
    action: dict[str, Any] = {
        "cluster": target["name"],
        "timeout": backend["timeout"]["http"]["requestTimeout"],
        "retry_policy": {
            "num_retries": backend["retry"]["numRetries"],
            "retry_on": ",".join(backend["retry"]["retryOn"]["triggers"]),
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }
    for one in rule.get("filters", []):
        path = one["urlRewrite"]["path"]
        assert path["type"] == "ReplaceFullPath"
        action["regex_rewrite"] = {"pattern": {"regex": "^/.*$"}, "substitution": path["replaceFullPath"]}
    for match in rule["matches"]:
        kind, value = match["path"]["type"], match["path"]["value"]
        place = (
            {"path": value}
            if kind == "Exact"
            else {"prefix": "/"}
            if value == "/"
            else {"path_separated_prefix": value}
        )
        yield {"match": place, "route": action}


def _build_cluster(name: str, port: int, backend: dict[str, Any]) -> dict[str, Any]:
    limits = backend["circuitBreaker"]
    _only(limits, "maxPendingRequests", "maxParallelRequests")
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": backend["timeout"]["tcp"]["connectTimeout"],
        "lb_policy": {"LeastRequest": "LEAST_REQUEST"}[backend["loadBalancer"]["type"]],
        "circuit_breakers": {
            "thresholds": [
                {"max_pending_requests": limits["maxPendingRequests"], "max_requests": limits["maxParallelRequests"]}
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": backend["timeout"]["http"]["connectionIdleTimeout"]},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }


@contextmanager
def run_envoy(servers: Mapping[str, int], folder: Path) -> Iterator[int]:
    """Run Envoy in front of servers on loopback until the block ends; yield its port.

    Args:
        servers: port of each service by its name, `{"larder-serve": 8080}`, and `larder-score` with models.
        folder: for its configuration and its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, admin, log = folder / "envoy.json", folder / "admin", folder / "envoy.log"
    config.write_text(json.dumps(build_config(servers, folder)))
    command = [str(install("envoy") / "envoy"), "-c", str(config), "--admin-address-path", str(admin)]
    command += ["--concurrency", "2", "--use-dynamic-base-id", "--log-level", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _find_port(process, admin, log)
    finally:
        stop(process)


def _find_port(process: subprocess.Popen[bytes], admin: Path, log: Path) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"http://{admin.read_text()}/listeners?format=json", timeout=5) as answer:
                (listener,) = json.load(answer)["listener_statuses"]
            return int(listener["local_address"]["socket_address"]["port_value"])
        except (OSError, ValueError, KeyError):
            time.sleep(0.1)
    raise AssertionError(f"Envoy does not listen:\n{log.read_text(errors='replace')[-3000:]}")


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _bytes(quantity: str) -> int:
    assert quantity.endswith("Ki")
    return int(quantity[:-2]) * 1024


def _only(found: Mapping[str, Any], *known: str) -> None:
    assert set(found) <= set(known), f"write what Envoy Gateway makes of {set(found) - set(known)} into this module"

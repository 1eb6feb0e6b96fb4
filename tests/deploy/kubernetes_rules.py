"""Rules on rendered manifests that schemas cannot state: references, doors, and what a pod is allowed to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any

from infra.translate import read_template
from server.connection import IDLE_SECONDS
from tests.unit.infra.rules.template import functions

Manifest = dict[str, Any]
Rule = Callable[[list[Manifest]], Iterator[str]]
USER = 65532  # of the images
LONGEST_REQUEST = {"serve": 10, "score": 20}  # seconds: Timeout of the functions
NOT_NAMESPACED = {"Namespace", "GatewayClass"}
DNS = {"k8s-app": "kube-dns"}
AGENT = "169.254.170.23"  # of EKS Pod Identity
METADATA = "169.254.169.254"  # the node's credentials
LIVE, READY, PORT, METRICS_PORT, DRAIN_SECONDS = "/livez", "/readyz", 8080, 9090, 10  # docs/containers.md


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the manifests of some kinds."""
    return [one for one in manifests if one["kind"] in kinds]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Yield each deployment's name, its pod's template, and its only container."""
    for one in of_kind(manifests, "Deployment"):
        template = one["spec"]["template"]
        (container,) = template["spec"]["containers"]
        yield one["metadata"]["name"], template, container


def selectors_find_their_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Each selector finds the pods of exactly one deployment, whose name it shares."""
    labels = {name: template["metadata"]["labels"] for name, template, _ in pods(manifests)}

    def find(selector: dict[str, str]) -> list[str]:
        return [name for name, own in labels.items() if selector and selector.items() <= own.items()]

    for one in manifests:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        selectors = {
            "Service": lambda spec: [spec["selector"]],
            "PodDisruptionBudget": lambda spec: [spec["selector"]["matchLabels"]],
            "NetworkPolicy": lambda spec: [spec["podSelector"]["matchLabels"]],
            "Deployment": lambda spec: [
                spec["selector"]["matchLabels"],
                *(
                    each["labelSelector"]["matchLabels"]
                    for each in spec["template"]["spec"]["topologySpreadConstraints"]
                ),
            ],
        }.get(one["kind"], lambda _: [])(spec)
        for selector in selectors:
            if find(selector) != [name]:
                yield f"{one['kind']} {name}: {selector} selects the pods of {find(selector)}"
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler", "ServiceAccount"):
        names = {one["metadata"]["name"] for one in of_kind(manifests, kind)}
        if names != set(labels):
            yield f"{kind}: there are {sorted(names)}, expected one for each deployment"
    for one in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = one["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) != ("Deployment", one["metadata"]["name"]):
            yield f"HorizontalPodAutoscaler {one['metadata']['name']}: scales {target['name']}"


def namespaces_are_one(manifests: list[Manifest]) -> Iterator[str]:
    """Everything is in one namespace, which allows only restricted pods."""
    (space,) = of_kind(manifests, "Namespace")
    for one in manifests:
        wanted = None if one["kind"] in NOT_NAMESPACED else space["metadata"]["name"]
        if one["metadata"].get("namespace") != wanted:
            yield f"{one['kind']} {one['metadata']['name']}: is in namespace {one['metadata'].get('namespace')}"
    if space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "Namespace: accepts pods that are not restricted"
    gated = space["metadata"]["labels"].get("elbv2.k8s.aws/pod-readiness-gate-inject") == "enabled"
    if of_kind(manifests, "Ingress", "TargetGroupBinding") and not gated:
        yield "Namespace: a rollout does not wait for the load balancer"


def pods_are_confined(manifests: list[Manifest]) -> Iterator[str]:
    """Pods run as the image's user, cannot become root, write only to /tmp, and have no token of the cluster."""
    for name, template, container in pods(manifests):
        spec, security = template["spec"], container["securityContext"]
        user = spec["securityContext"]
        if (user.get("runAsNonRoot"), user.get("runAsUser"), user.get("runAsGroup")) != (True, USER, USER):
            yield f"{name}: does not run as {USER}"
        if user.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: has no seccomp profile"
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        if security != wanted:
            yield f"{name}: {security}, expected {wanted}"
        if spec.get("automountServiceAccountToken") is not False or any(
            one.get("automountServiceAccountToken") is not False for one in of_kind(manifests, "ServiceAccount")
        ):
            yield f"{name}: has a token of the cluster"
        if spec["serviceAccountName"] != name:
            yield f"{name}: has the account {spec['serviceAccountName']}, whose role is another"
        (volume,) = spec["volumes"]
        if volume["emptyDir"].get("medium") != "Memory" or not volume["emptyDir"].get("sizeLimit"):
            yield f"{name}: /tmp is not in memory, or has no limit"
        elif _mebibytes(volume["emptyDir"]["sizeLimit"]) < 8:
            yield f"{name}: /tmp has no room for the metrics of its processes, and of some that are replaced"
        if [one["mountPath"] for one in container["volumeMounts"]] != ["/tmp"]:
            yield f"{name}: /tmp is not writable, which the metrics need"
        tag = container["image"].rpartition(":")[2]
        if not re.fullmatch(r"\d+\.\d+\.\d+", tag):
            yield f"{name}: the image {container['image']} has no release as its tag"
        if not container["image"].rpartition(":")[0].endswith(f"/{name}"):
            yield f"{name}: runs {container['image']}"


def resources_are_stated(manifests: list[Manifest]) -> Iterator[str]:
    """CPU and memory are requested; memory has a limit above its request; CPU has none."""
    for name, _template, container in pods(manifests):
        requests, limits = container["resources"].get("requests", {}), container["resources"].get("limits", {})
        if set(requests) != {"cpu", "memory"} or set(limits) != {"memory"}:
            yield f"{name}: requests {requests}, limits {limits}"
        elif _mebibytes(limits["memory"]) < _mebibytes(requests["memory"]):
            yield f"{name}: its limit of memory is below its request"
        elif _mebibytes(requests["memory"]) < 256:
            yield f"{name}: two processes need 121 MB and a reserve"


def probes_ask_the_server(manifests: list[Manifest]) -> Iterator[str]:
    """Readiness reads storage, liveness does not; ports and paths are the server's; all have a time-out."""
    for name, _template, container in pods(manifests):
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        if ports != {"http": PORT, "metrics": METRICS_PORT}:
            yield f"{name}: ports {ports}"
        for kind, path in (("startupProbe", LIVE), ("livenessProbe", LIVE), ("readinessProbe", READY)):
            probe = container.get(kind, {})
            if probe.get("httpGet") != {"path": path, "port": "http"}:
                yield f"{name}: {kind} asks {probe.get('httpGet')}, expected {path}"
            if not 1 < probe.get("timeoutSeconds", 1) <= 5:
                yield f"{name}: {kind} waits {probe.get('timeoutSeconds', 1)} s; storage alone can take 1.5 s"
        begins = container["startupProbe"]
        if begins["periodSeconds"] * begins["failureThreshold"] < 30:
            yield f"{name}: is restarted before it has loaded its models"
        alive = container["livenessProbe"]
        if alive["periodSeconds"] * alive["failureThreshold"] < 20:
            yield f"{name}: one slow moment restarts it"
        if container["readinessProbe"]["periodSeconds"] > 10:
            yield f"{name}: gets requests long after it is not ready"


def no_request_is_lost(manifests: list[Manifest]) -> Iterator[str]:
    """A pod ends only after load balancers have noticed, and its last request is answered."""
    for name, template, container in pods(manifests):
        env = {one["name"]: one.get("value") for one in container.get("env", [])}
        drain = int(env.get("LARDER_DRAIN_SECONDS", DRAIN_SECONDS))
        readiness = container["readinessProbe"]
        noticed = readiness["periodSeconds"] * readiness["failureThreshold"]
        if drain <= noticed:
            yield f"{name}: stops to accept after {drain} s, and readiness is noticed after {noticed} s"
        needed = drain + LONGEST_REQUEST[name.rpartition("-")[2]]
        if template["spec"]["terminationGracePeriodSeconds"] <= needed:
            yield f"{name}: is killed within {needed} s, before its last request is answered"
    for one in of_kind(manifests, "Deployment"):
        strategy = one["spec"].get("strategy", {})
        if strategy.get("type", "RollingUpdate") != "RollingUpdate" or strategy["rollingUpdate"]["maxUnavailable"] != 0:
            yield f"{one['metadata']['name']}: a rollout takes pods away before others are ready"


def pods_are_several(manifests: list[Manifest]) -> Iterator[str]:
    """Three or more pods, over zones and nodes; the autoscaler owns their number; a node can still be drained."""
    scalers = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "HorizontalPodAutoscaler")}
    for one in of_kind(manifests, "Deployment"):
        name = one["metadata"]["name"]
        if "replicas" in one["spec"]:
            yield f"{name}: each deploy undoes what the autoscaler did"
        spread = {
            each["topologyKey"]: each for each in one["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        }
        if set(spread) != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{name}: is not spread over zones and nodes"
        elif spread["topology.kubernetes.io/zone"]["whenUnsatisfiable"] != "DoNotSchedule":
            yield f"{name}: all pods can be in one zone"
        if any(each["maxSkew"] != 1 for each in spread.values()):
            yield f"{name}: is spread unevenly"
    for name, scaler in scalers.items():
        if not 3 <= scaler["minReplicas"] < scaler["maxReplicas"]:
            yield f"{name}: {scaler['minReplicas']} to {scaler['maxReplicas']} pods"
        (metric,) = scaler["metrics"]
        if metric["resource"]["name"] != "cpu" or not 30 <= metric["resource"]["target"]["averageUtilization"] <= 75:
            yield f"{name}: is scaled by {metric['resource']}"
        if scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] < 120:
            yield f"{name}: pods end during a short lull"
    for one in of_kind(manifests, "PodDisruptionBudget"):
        least = scalers[one["metadata"]["name"]]["minReplicas"]
        if not 0 < int(one["spec"].get("maxUnavailable", 0)) < least:
            yield f"{one['metadata']['name']}: allows {one['spec'].get('maxUnavailable')} of {least} pods to be evicted"
        if one["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{one['metadata']['name']}: pods that are not ready block the drain of a node"


def network_is_closed(manifests: list[Manifest]) -> Iterator[str]:
    """Requests come from the door, metrics go to monitoring; DNS, Pod Identity and TLS are the only ways out."""
    for one in of_kind(manifests, "NetworkPolicy"):
        name, spec = one["metadata"]["name"], one["spec"]
        if set(spec["policyTypes"]) != {"Ingress", "Egress"}:
            yield f"{name}: leaves a direction open"
        allowed: dict[str, list[Any]] = {}
        for rule in spec["ingress"]:
            if not rule.get("from") or not rule.get("ports"):
                yield f"{name}: accepts everybody, or every port"
            for port in rule.get("ports", []):
                allowed.setdefault(str(port["port"]), []).extend(rule.get("from", []))
        if set(allowed) != {"http", "metrics"}:
            yield f"{name}: accepts requests to {sorted(allowed)}"
        if any("ipBlock" in peer for peer in allowed.get("metrics", [])):
            yield f"{name}: metrics can be read from outside of the cluster"
        for peer in (peer for peers in allowed.values() for peer in peers):
            if peer.get("ipBlock", {}).get("cidr") in {"0.0.0.0/0", "::/0"} or peer.get("namespaceSelector") == {}:
                yield f"{name}: accepts requests from {peer}"
        if (
            not _can_leave(spec, AGENT, 80)
            or not _can_leave(spec, "52.94.0.1", 443)
            or not _can_leave(spec, "2600::1", 443)
        ):
            yield f"{name}: cannot reach Pod Identity or AWS"
        if any(_can_leave(spec, METADATA, port) for port in (80, 443)) or _can_leave(spec, "fd00:ec2::254", 80):
            yield f"{name}: can reach the node's credentials"
        if _can_leave(spec, "10.1.2.3", 5432) or _can_leave(spec, "52.94.0.1", 80):
            yield f"{name}: can reach more than TLS"
        to_dns = [
            {(port["protocol"], port["port"]) for port in rule["ports"]}
            for rule in spec["egress"]
            for peer in rule.get("to", [])
            if peer.get("podSelector", {}).get("matchLabels") == DNS
        ]
        if to_dns != [{("UDP", 53), ("TCP", 53)}]:
            yield f"{name}: cannot ask the cluster's DNS"


def settings_are_the_servers(manifests: list[Manifest]) -> Iterator[str]:
    """The pods' variables are those of the template's functions; the map that they name exists."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(manifests, "ConfigMap")}
    deployed = functions(read_template())
    wanted = {
        name for one in ("ServeFunction", "ScoreFunction") for name in deployed[one]["Environment"]["Variables"]
    } | {"AWS_REGION"}
    for name, _template, container in pods(manifests):
        (source,) = container["envFrom"]
        given = maps.get(source["configMapRef"]["name"])
        if given is None:
            yield f"{name}: there is no ConfigMap {source['configMapRef']['name']}"
        elif set(given) != wanted:
            yield f"{name}: variables {sorted(set(given) ^ wanted)} are missing, or nothing reads them"
        else:
            try:
                json.loads(given["LARDER_ISSUERS"])
            except ValueError:
                yield f"{name}: LARDER_ISSUERS is not JSON"


def routes_lead_to_services(manifests: list[Manifest]) -> Iterator[str]:
    """Each route leads to a port of a service that exists; each service to a named port of its pods."""
    services = {one["metadata"]["name"]: one["spec"]["ports"] for one in of_kind(manifests, "Service")}
    for name, ports in services.items():
        if [(port["name"], port["targetPort"]) for port in ports] != [("http", "http")]:
            yield f"Service {name}: leads to {ports}"
    for owner, service, port in _list_backends(manifests):
        found = services.get(service)
        if found is None or port not in {found[0]["name"], found[0]["port"]}:
            yield f"{owner}: there is no port {port} of a service {service}"
    named = {service for _, service, _ in _list_backends(manifests)}
    for one in of_kind(manifests, "TargetGroupBinding"):
        if one["spec"].get("targetType") != "ip":
            yield f"{one['metadata']['name']}: goes by node ports"
    if of_kind(manifests, "Ingress", "HTTPRoute") and named != set(services):
        yield f"no route leads to {sorted(set(services) - named)}"


def door_shows_only_the_api(manifests: list[Manifest]) -> Iterator[str]:
    """Paths lead to the same function as at API Gateway; probes and metrics can't be reached from outside."""
    table = dict(_list_paths(manifests))
    if not of_kind(manifests, "Ingress", "HTTPRoute"):
        return
    for path in (LIVE, READY):
        if table.get(("Exact", path)) != "not-found":
            yield f"{path}: is answered at the door"
    if table.get(("Prefix", "/")) != "larder-serve":
        yield f"/: leads to {table.get(('Prefix', '/'))}"
    has_models = "larder-score" in {one["metadata"]["name"] for one in of_kind(manifests, "Service")}
    if has_models and table.get(("Prefix", "/v1/models")) != "larder-score":
        yield f"/v1/models: leads to {table.get(('Prefix', '/v1/models'))}"
    if "/metrics" in {path for _, path in table}:
        yield "/metrics: is routed"


def load_balancer_is_guarded(manifests: list[Manifest]) -> Iterator[str]:
    """A public load balancer has the firewall, only TLS, access logs, a stable name, and a check of readiness."""
    for one in of_kind(manifests, "Ingress"):
        prefix = "alb.ingress.kubernetes.io/"
        given = {name.removeprefix(prefix): text for name, text in one["metadata"]["annotations"].items()}
        if one["spec"].get("ingressClassName") != "alb" or given.get("target-type") != "ip":
            yield "Ingress: is not of the AWS Load Balancer Controller, or goes by node ports"
        if not re.fullmatch(r"arn:aws[a-z-]*:wafv2:.+:regional/webacl/.+", given.get("wafv2-acl-arn", "")):
            yield "Ingress: has no firewall"
        if json.loads(given.get("listen-ports", "[]")) != [{"HTTPS": 443}]:
            yield f"Ingress: listens on {given.get('listen-ports')}"
        if not fnmatchcase(given.get("ssl-policy", ""), "ELBSecurityPolicy-TLS13-1-[23]*"):
            yield f"Ingress: accepts old TLS ({given.get('ssl-policy')})"
        if not re.fullmatch(r"arn:aws[a-z-]*:acm:.+:certificate/.+", given.get("certificate-arn", "")):
            yield "Ingress: has no certificate"
        if not given.get("load-balancer-name"):
            yield "Ingress: another name after each replacement"
        attributes = dict(pair.split("=", 1) for pair in given.get("load-balancer-attributes", "").split(",") if pair)
        for name in (
            "access_logs.s3.enabled",
            "routing.http.drop_invalid_header_fields.enabled",
            "deletion_protection.enabled",
        ):
            if attributes.get(name) != "true":
                yield f"Ingress: {name} is {attributes.get(name)}"
        if int(attributes.get("idle_timeout.timeout_seconds", 60)) >= IDLE_SECONDS:
            yield "Ingress: sends requests to connections that the server has closed"
        drained = dict(pair.split("=", 1) for pair in given.get("target-group-attributes", "").split(",") if pair)
        if int(drained.get("deregistration_delay.timeout_seconds", 300)) < max(LONGEST_REQUEST.values()):
            yield "Ingress: breaks off the last requests of a pod"
        if not attributes.get("access_logs.s3.bucket"):
            yield "Ingress: access logs have no bucket"
        if given.get("healthcheck-path") != READY:
            yield f"Ingress: checks {given.get('healthcheck-path')}"
        answer = json.loads(given.get("actions.not-found", "{}")).get("fixedResponseConfig", {})
        if answer.get("statusCode") != "404" or json.loads(answer.get("messageBody", "{}")).get("code") != "not_found":
            yield f"Ingress: answers {answer} for an unknown path"
        if any(not rule.get("host") for rule in one["spec"]["rules"]):
            yield "Ingress: answers for every name"


def gateway_keeps_requests(manifests: list[Manifest]) -> Iterator[str]:
    """The gateway is internal, ends TLS, does not change paths, and repeats only requests that no pod has begun."""
    for one in of_kind(manifests, "Gateway"):
        annotations = one["spec"].get("infrastructure", {}).get("annotations", {})
        if annotations.get("service.beta.kubernetes.io/aws-load-balancer-scheme") != "internal":
            yield "Gateway: is public, without a firewall"
        for listener in one["spec"]["listeners"]:
            if listener["protocol"] != "HTTPS" or not listener["tls"].get("certificateRefs"):
                yield f"Gateway: {listener['name']} is without TLS"
            if listener["allowedRoutes"]["namespaces"]["from"] != "Same":
                yield "Gateway: other namespaces can add routes"
        names = {(each["kind"], each["metadata"]["name"]) for each in manifests}
        policies = {
            each["kind"]: each["spec"] for each in of_kind(manifests, "ClientTrafficPolicy", "BackendTrafficPolicy")
        }
        for kind, spec in policies.items():
            for target in spec["targetRefs"]:
                if (target["kind"], target["name"]) not in names:
                    yield f"{kind}: is of {target['kind']} {target['name']}, which does not exist"
        for route in of_kind(manifests, "HTTPRoute"):
            if [parent["name"] for parent in route["spec"]["parentRefs"]] != [one["metadata"]["name"]]:
                yield f"HTTPRoute {route['metadata']['name']}: is of another gateway"
            if set(route["spec"]["hostnames"]) != {listener["hostname"] for listener in one["spec"]["listeners"]}:
                yield f"HTTPRoute {route['metadata']['name']}: its names are not the listener's"
        path = policies["ClientTrafficPolicy"].get("path", {})
        if path != {"escapedSlashesAction": "KeepUnchanged", "disableMergeSlashes": True}:
            yield f"ClientTrafficPolicy: changes paths ({path})"
        if policies["ClientTrafficPolicy"].get("tls", {}).get("minVersion") not in {"1.2", "1.3"}:
            yield "ClientTrafficPolicy: accepts old TLS"
        if policies["ClientTrafficPolicy"].get("headers", {}).get("withUnderscoresAction") != "Allow":
            yield "ClientTrafficPolicy: drops or refuses headers that the handler accepts"
        if not policies["ClientTrafficPolicy"].get("timeout", {}).get("http", {}).get("requestReceivedTimeout"):
            yield "ClientTrafficPolicy: a slow client has no end"
        if not set(policies["BackendTrafficPolicy"]["retry"]["retryOn"]["triggers"]) <= {
            "connect-failure",
            "refused-stream",
        }:
            yield "BackendTrafficPolicy: repeats a request that a pod has begun"
        kept = policies["BackendTrafficPolicy"]["timeout"]["http"]["connectionIdleTimeout"]
        if int(kept.removesuffix("s")) >= IDLE_SECONDS:
            yield "BackendTrafficPolicy: sends requests to connections that the server has closed"
        limit = policies["BackendTrafficPolicy"]["timeout"]["http"]["requestTimeout"]
        if int(limit.removesuffix("s")) <= max(LONGEST_REQUEST.values()):
            yield f"BackendTrafficPolicy: ends a request after {limit}, before score does"


RULES: tuple[Rule, ...] = (
    selectors_find_their_pods,
    namespaces_are_one,
    pods_are_confined,
    resources_are_stated,
    probes_ask_the_server,
    no_request_is_lost,
    pods_are_several,
    network_is_closed,
    settings_are_the_servers,
    routes_lead_to_services,
    door_shows_only_the_api,
    load_balancer_is_guarded,
    gateway_keeps_requests,
)


def check(manifests: list[Manifest]) -> list[str]:
    """Return every fault that a rule finds, with its name; if a rule does not find what it checks, that is a fault."""
    found = []
    for rule in RULES:
        try:
            found += [f"{rule.__name__}: {fault}" for fault in rule(manifests)]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            found.append(f"{rule.__name__}: cannot find what it checks: {error!r}")
    return found


def _list_backends(manifests: list[Manifest]) -> Iterator[tuple[str, str, Any]]:
    for one in manifests:
        owner = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Ingress":
            for rule in one["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    service = path["backend"]["service"]
                    if service["port"].get("name") != "use-annotation":
                        yield owner, service["name"], service["port"].get("name", service["port"].get("number"))
        elif one["kind"] == "HTTPRoute":
            for rule in one["spec"]["rules"]:
                for target in rule["backendRefs"]:
                    yield owner, target["name"], target["port"]
        elif one["kind"] == "TargetGroupBinding":
            yield owner, one["spec"]["serviceRef"]["name"], one["spec"]["serviceRef"]["port"]


def _list_paths(manifests: list[Manifest]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield (kind of match, path) with the service that answers; `not-found` if none does."""
    for one in of_kind(manifests, "Ingress"):
        for rule in one["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                yield (path["pathType"], path["path"]), path["backend"]["service"]["name"]
    for one in of_kind(manifests, "HTTPRoute"):
        for rule in one["spec"]["rules"]:
            rewritten = [each["urlRewrite"]["path"] for each in rule.get("filters", [])]
            unknown = rewritten == [{"type": "ReplaceFullPath", "replaceFullPath": "/"}]
            for match in rule["matches"]:
                kind = match["path"]["type"].removeprefix("Path")
                yield (kind, match["path"]["value"]), "not-found" if unknown else rule["backendRefs"][0]["name"]


def _can_leave(spec: Manifest, address: str, port: int) -> bool:
    for rule in spec["egress"]:
        ports = {one.get("port") for one in rule.get("ports", [])}
        if ports and port not in ports:
            continue
        if not rule.get("to"):
            return True
        for peer in rule["to"]:
            block = peer.get("ipBlock", {"cidr": "0.0.0.0/32"})
            if _holds(block["cidr"], address) and not any(_holds(one, address) for one in block.get("except", [])):
                return True
    return False


def _holds(cidr: str, address: str) -> bool:
    network, one = ip_network(cidr), ip_address(address)
    return network.version == one.version and one in network


def _mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]

"""Deploy infra/template.yaml, the template for AWS, to the stand-in for AWS.

The template's condition OnAws omits what the stand-in does not support. What the stand-in accepts but ignores (the
table's TTL) is set here, with the template's values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.bundle import FUNCTIONS, Bundle, build, find_used, has_models
from infra.environments import build_digest
from infra.translate import Template, read_template, translate

ARTIFACTS = "larder-artifacts"
Clients = Callable[[str], Any]  # a service's name -> its boto3 client


class DeployError(Exception):
    """The stack could not be created; the message names the resources and the reasons."""


@dataclass(frozen=True)
class Stack:
    """A deployed stack: its name, its outputs by the names of the template, and the URL of its API."""

    name: str
    outputs: Mapping[str, str]
    base_url: str  # ends in /v1

    def __getitem__(self, output: str) -> str:
        """Return one output's value."""
        return self.outputs[output]


def deploy(
    client: Clients,
    endpoint: str,
    *,
    name: str = "larder",
    parameters: Mapping[str, str] | None = None,
    template: Template | None = None,
    bundles: Mapping[str, Bundle] | None = None,
    timeout: float = 60,
) -> Stack:
    """Create the stack, or update it in place, and wait until it is complete.

    Args:
        client: creates the clients, e.g. `functools.partial(boto3.client, endpoint_url=...)`.
        endpoint: the stand-in's URL, through which the API is reached.
        name: name of the stack.
        parameters: parameters of the template; `Platform` is always `laptop`.
        template: a template as returned by `read_template`; None: infra/template.yaml.
        bundles: built bundles by name; missing ones are built (or taken from the cache).
        timeout: seconds until the stack must be complete.

    Raises:
        DeployError: a resource failed, or the stack is not complete in time.
    """
    given = {**(parameters or {}), "Platform": "laptop"}
    if has_models():
        given.setdefault("Models", "true")
    template = template or read_template()
    # Bundles of models have large libraries: a stack without models does not build them.
    code = _upload(client("s3"), bundles or {}, find_used(models=given.get("Models") == "true"))
    for digest, function in (("ServeDigest", "ServeFunction"), ("ScoreDigest", "ScoreFunction")):
        given.setdefault(digest, build_digest(json.dumps(template), code[function]["Key"], given))
    translated = translate(template, code, given)
    cloudformation = client("cloudformation")
    _start(client("s3"), cloudformation, name, translated, given)
    outputs = _wait(cloudformation, name, time.monotonic() + timeout)
    _enable_ttl(client("dynamodb"), outputs["TableName"], template)
    return Stack(name, outputs, f"{endpoint}/_aws/execute-api/{outputs['ApiId']}/live/v1")


def destroy(client: Clients, stack: Stack, *, timeout: float = 60) -> None:
    """Delete the stack; retained resources stay.

    Raises:
        DeployError: the deletion failed, or is not complete in time.
    """
    cloudformation = client("cloudformation")
    cloudformation.delete_stack(StackName=stack.outputs.get("StackId", stack.name))
    deadline = time.monotonic() + timeout
    while (found := _status(cloudformation, stack.name)) not in ("", "DELETE_COMPLETE"):
        if "FAILED" in found or time.monotonic() > deadline:
            raise DeployError(f"stack {stack.name} is {found}:\n{_failures(cloudformation, stack.name)}")
        time.sleep(0.05)


def _upload(s3: Any, bundles: Mapping[str, Bundle], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Upload the named bundles under their digests, unless they exist already; the others have only a name."""
    s3.create_bucket(Bucket=ARTIFACTS)

    def upload(name: str) -> dict[str, str]:
        bundle = bundles.get(name) or build(name)
        object_key = f"{name}-{bundle.digest}.zip"
        if s3.list_objects_v2(Bucket=ARTIFACTS, Prefix=object_key).get("KeyCount", 0) == 0:
            s3.put_object(Bucket=ARTIFACTS, Key=object_key, Body=bundle.path.read_bytes())
        return {"Bucket": ARTIFACTS, "Key": object_key}

    with ThreadPoolExecutor() as pool:  # building mostly waits for pip
        uploaded = dict(zip(names, pool.map(upload, names), strict=True))
    nothing = {"Bucket": ARTIFACTS, "Key": "unused.zip"}
    return {function: uploaded.get(name, nothing) for function, name in FUNCTIONS.items()}


def _start(s3: Any, cloudformation: Any, name: str, template: Template, parameters: Mapping[str, str]) -> None:
    """Start to create or update; a template over 51,200 bytes must be on S3."""
    object_key = f"{name}.template.json"
    s3.put_object(Bucket=ARTIFACTS, Key=object_key, Body=json.dumps(template).encode())
    arguments = {
        "StackName": name,
        "TemplateURL": f"{s3.meta.endpoint_url}/{ARTIFACTS}/{object_key}",
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
    }
    if _status(cloudformation, name) in ("", "DELETE_COMPLETE"):
        cloudformation.create_stack(**arguments)
        return
    try:
        cloudformation.update_stack(**arguments)
    except cloudformation.exceptions.ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise


def _wait(cloudformation: Any, name: str, deadline: float) -> dict[str, str]:
    while (status := _status(cloudformation, name)) not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        if "FAILED" in status or "ROLLBACK" in status or time.monotonic() > deadline:
            raise DeployError(f"stack {name} is {status or 'deleted'}:\n{_failures(cloudformation, name)}")
        time.sleep(0.05)
    outputs = cloudformation.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", [])
    return {output["OutputKey"]: output["OutputValue"] for output in outputs}


def _status(cloudformation: Any, name: str) -> str:
    """Return the stack's status; empty if the stack does not exist."""
    try:
        status: str = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
    except cloudformation.exceptions.ClientError as error:
        if "does not exist" not in str(error):
            raise
        return ""
    return status


def _failures(cloudformation: Any, name: str) -> str:
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    failed = [event for event in events if "FAILED" in event["ResourceStatus"]]
    lines = [f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}" for event in reversed(failed)]
    return "\n".join(lines) or "  (no resource gives a reason)"


def _enable_ttl(dynamodb: Any, table: str, template: Template) -> None:
    wanted = template["Resources"]["Table"]["Properties"]["TimeToLiveSpecification"]
    if dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]["TimeToLiveStatus"] != "ENABLED":
        dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)

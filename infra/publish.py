"""Publish the stack's discovery files when it is deployed: a CloudFormation custom resource.

An event, reduced to the members that are read:

    {"RequestType": "Create", "ResponseURL": "https://...", "StackId": "...", "RequestId": "...",
     "LogicalResourceId": "Discovery", "ResourceProperties": {"Bucket": "...", "Service": "predictions",
     "Environment": "dev", "Release": "1.2.0", "BaseUrl": "https://...", "Keys": "..."}}
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.discovery import CATALOG_PATH, build_files

FOLDER = Path(__file__).parent  # where the bundle has both documents as JSON


def handler(event: Mapping[str, Any], _context: Any) -> None:
    """Write or remove the files, and report success or failure to CloudFormation in any case."""
    import boto3

    environment = event["ResourceProperties"]["Environment"]
    try:
        publish(boto3.client("s3"), event)
        answer = {"Status": "SUCCESS"}
    except Exception as error:  # noqa: BLE001 - without a response the stack waits for an hour
        answer = {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    answer["PhysicalResourceId"] = f"discovery-{environment}"
    _answer(event, answer)


def publish(s3: Any, event: Mapping[str, Any]) -> None:
    """Write this environment's files and the catalog; on deletion, remove the files and keep the catalog."""
    given = event["ResourceProperties"]
    environments = {**json.loads((FOLDER / "environments.json").read_text()), "service": given["Service"]}
    openapi = json.loads((FOLDER / "openapi.json").read_text())
    service = {"release": given["Release"], "base_url": given["BaseUrl"], "keys": given["Keys"]}
    files = build_files(environments, openapi, given["Environment"], **service)
    for object_key, (content_type, text) in files.items():
        if event["RequestType"] != "Delete":
            s3.put_object(Bucket=given["Bucket"], Key=object_key, Body=text.encode(), ContentType=content_type)
        elif object_key != CATALOG_PATH:
            s3.delete_object(Bucket=given["Bucket"], Key=object_key)


def _answer(event: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    same = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    body = json.dumps({**same, **answer}).encode()
    # CloudFormation's presigned URL is signed without a content type.
    request = urllib.request.Request(event["ResponseURL"], body, {"Content-Type": ""}, method="PUT")  # noqa: S310
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - the URL is CloudFormation's own
        pass

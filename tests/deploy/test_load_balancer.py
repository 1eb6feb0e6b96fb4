"""The door `load-balancer` on the stand-in: its stack beside Larder's, and requests to the function behind it.

The stand-in has no TLS and drops the targets of a template, so this test registers them; it does not
simulate firewall, records and accelerators, which only rules and linters check (tests/unit/infra/test_doors.py).
"""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra.translate import DOORS
from tests.integration.infra.deployed import deploy_larder, find_resource, object_key, parquet, run_stand_in

pytestmark = pytest.mark.slow
DOMAIN = "predictions.example.com"
CERTIFICATE = "arn:aws:acm:us-east-1:000000000000:certificate/00000000-0000-4000-8000-000000000000"


def test_requests_through_the_door(tmp_path: Path) -> None:
    """With a token its items are read, without one nothing is; other names and paths are not found."""
    with run_stand_in(tmp_path / "ministack.log") as (client, endpoint):
        larder = deploy_larder(client, endpoint, "larder")
        key = larder.put(object_key(), parquet(2))
        assert larder.run(key) == ""
        ec2 = client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"us-east-1{zone}")["Subnet"]
            for number, zone in enumerate("ab")
        ]
        parameters = {
            "Platform": "laptop",
            "Name": "door",
            "VpcId": vpc,
            "SubnetIds": ",".join(one["SubnetId"] for one in subnets),
            "DomainName": DOMAIN,
            "CertificateArn": CERTIFICATE,
            **{name: larder.stack[name] for name in ("ServeAliasArn", "PagesArn", "TicketsArn")},
        }
        cloudformation = client("cloudformation")
        cloudformation.create_stack(
            StackName="door",
            TemplateBody=(DOORS / "load-balancer.yaml").read_text(),
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        )
        assert wait(cloudformation, "door") == "CREATE_COMPLETE"
        elb = client("elbv2")
        group = find_resource(client, "door", "ServeTargets")
        assert attributes(elb, group)["lambda.multi_value_headers.enabled"] == "true"
        elb.register_targets(TargetGroupArn=group, Targets=[{"Id": larder.stack["ServeAliasArn"]}])

        def ask(path: str, host: str = DOMAIN, carrier: str | None = "B6") -> tuple[int, str]:
            """Send a GET to the load balancer with a name of the API in its header."""
            connection = http.client.HTTPConnection(str(urlsplit(endpoint).netloc), timeout=30)
            token = {"Authorization": f"Bearer {larder.issuer.sign(carrier, time.time())}"} if carrier else {}
            connection.request("GET", f"/_alb/door{path}", headers={"Host": host, **token})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        status, text = ask("/v1/flight-delays")
        assert (status, "JetBlue" in text) == (200, True)
        assert ask("/v1/flight-delays", carrier="AA")[1].count("JetBlue") == 0
        assert ask("/v1/flight-delays", carrier=None)[0] == 401
        assert ask("/v1/health", carrier=None)[0] == 200
        assert ask("/livez")[0] == 404
        assert ask("/v1/flight-delays", host="other.example.com") == (
            404,
            '{"type":"urn:larder:problem:not_found","title":"Not found","status":404,"code":"not_found"}',
        )
        cloudformation.delete_stack(StackName="door")
        assert wait(cloudformation, "door") == "DELETE_COMPLETE"
        assert elb.describe_load_balancers()["LoadBalancers"] == []


def attributes(elb: Any, group: str) -> dict[str, str]:
    """Return the attributes of a target group."""
    found = elb.describe_target_group_attributes(TargetGroupArn=group)["Attributes"]
    return {one["Key"]: one["Value"] for one in found}


def wait(cloudformation: Any, name: str) -> str:
    """Wait until a stack is complete or has failed; return its status, or the reasons of a failure."""
    for _ in range(600):
        found = [one for one in cloudformation.list_stacks()["StackSummaries"] if one["StackName"] == name]
        status = str(found[0]["StackStatus"])
        if "ROLLBACK" in status or "FAILED" in status:
            events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
            return "\n".join(
                str(one.get("ResourceStatusReason")) for one in events if "FAILED" in one["ResourceStatus"]
            )
        if status.endswith("_COMPLETE"):
            return status
        time.sleep(0.1)
    return "no end"

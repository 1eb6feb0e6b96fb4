"""The synthetic check in a deployed stack: it is answered when all is well, and its alarm pages when it is not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from examples.flights.tokens import Issuer, open_issuer
from infra.translate import read_template
from tests.integration.infra.deployed import AUDIENCE, ISSUER, Deployed, deploy_larder, find_resource, run_stand_in

pytestmark = pytest.mark.slow  # it waits for a schedule

SECRET = "larder/dev/synthetic"
_ALLOW = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}
_ANYBODY_SENDS = json.dumps({"Version": "2012-10-17", "Statement": [_ALLOW]})


class Check:
    """The check of a deployed stack: its credentials, its calls, its lines and its alarm."""

    def __init__(self, larder: Deployed, token_url: str) -> None:
        """Point the check to where the stand-in answers, and let mail of its topic come into a queue."""
        self.larder, self.token_url = larder, token_url
        self.function = self.find("SyntheticFunction")
        self._point_to_the_stand_in()
        self.mail = larder.client("sqs").create_queue(QueueName="pages", Attributes={"Policy": _ANYBODY_SENDS})[
            "QueueUrl"
        ]
        queue = larder.client("sqs").get_queue_attributes(QueueUrl=self.mail, AttributeNames=["QueueArn"])
        larder.client("sns").subscribe(
            TopicArn=self.find("Pages"), Protocol="sqs", Endpoint=queue["Attributes"]["QueueArn"]
        )

    def find(self, logical_id: str) -> str:
        return find_resource(self.larder.client, self.larder.stack.name, logical_id)

    def _point_to_the_stand_in(self) -> None:
        """Change the host of the address, since no DNS knows the stand-in's; the rest is as the template has it."""
        functions, stack = self.larder.client("lambda"), self.larder.stack
        variables = functions.get_function_configuration(FunctionName=self.function)["Environment"]["Variables"]
        path = read_template()["Parameters"]["SyntheticPath"]["Default"]
        assert variables["LARDER_URL"] == stack["BaseUrl"] + path
        variables["LARDER_URL"] = stack.base_url + path
        functions.update_function_configuration(FunctionName=self.function, Environment={"Variables": variables})

    def give(self, **credentials: str) -> None:
        """Put credentials into the secret."""
        secrets = self.larder.client("secretsmanager")
        try:
            secrets.put_secret_value(SecretId=SECRET, SecretString=json.dumps(credentials))
        except secrets.exceptions.ResourceNotFoundException:
            secrets.create_secret(Name=SECRET, SecretString=json.dumps(credentials))

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of metrics that the check has logged."""
        group = self.find("SyntheticLogs")
        events = self.larder.client("logs").filter_log_events(logGroupName=group, limit=10_000)["events"]
        return [json.loads(one["message"]) for one in events if one["message"].startswith('{"_aws"')]

    def run(self) -> dict[str, Any]:
        """Call the function as its schedule does; return its new line, of which CloudWatch has made metrics."""
        before = len(self.lines())
        answer = self.larder.client("lambda").invoke(FunctionName=self.function, Payload=b"{}")
        assert "FunctionError" not in answer, answer["Payload"].read()
        return self.measured(before)

    def measured(self, before: int, seconds: float = 30) -> dict[str, Any]:
        """Wait for the line after so many; do with it what CloudWatch does and the stand-in does not."""
        deadline = time.monotonic() + seconds
        while len(lines := self.lines()) <= before:
            assert time.monotonic() < deadline, "the check said nothing"
            time.sleep(0.2)
        (directive,) = lines[-1]["_aws"]["CloudWatchMetrics"]
        (names,) = directive["Dimensions"]
        dimensions = [{"Name": name, "Value": lines[-1][name]} for name in names]
        data = [
            {"MetricName": one["Name"], "Value": lines[-1][one["Name"]], "Dimensions": dimensions}
            for one in directive["Metrics"]
        ]
        self.larder.client("cloudwatch").put_metric_data(Namespace=directive["Namespace"], MetricData=data)
        return lines[-1]

    def alarm(self) -> dict[str, Any]:
        """Return the alarm."""
        found = self.larder.client("cloudwatch").describe_alarms(AlarmNames=[self.find("SyntheticFails")])
        alarm: dict[str, Any] = found["MetricAlarms"][0]
        return alarm


@pytest.fixture(scope="module")
def token_url() -> Iterator[tuple[str, list[bytes]]]:
    """An issuer's token endpoint; a test puts there what it gives out."""
    tokens: list[bytes] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"]))
            known = b"client_id=larder&client_secret=s3cret" in form
            self.send_response(200 if known and tokens else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"access_token": tokens[-1].decode() if tokens else ""}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token", tokens
    server.shutdown()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory, token_url: tuple[str, list[bytes]]) -> Iterator[Check]:
    """A stack with the check, under a stand-in that enforces the roles."""
    log: Path = tmp_path_factory.mktemp("synthetic") / "ministack.log"
    with run_stand_in(log, auth=True) as stand_in:
        larder = deploy_larder(*stand_in, "watched", parameters={"SyntheticSecret": SECRET})
        yield Check(larder, token_url[0])


@contextmanager
def broken_serve(check: Check) -> Iterator[None]:
    """Take serve's permissions away for a while, so that it answers with an error of its own."""
    iam, role = check.larder.client("iam"), check.find("ServeRole")
    policy = iam.get_role_policy(RoleName=role, PolicyName="serve")["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName="serve")
    yield
    iam.put_role_policy(RoleName=role, PolicyName="serve", PolicyDocument=json.dumps(policy))


@pytest.fixture
def good(check: Check, token_url: tuple[str, list[bytes]]) -> Issuer:
    """Credentials with which the issuer gives a token that serve trusts."""
    token_url[1][:] = [check.larder.issuer.sign("B6", time.time()).encode()]
    check.give(token_url=check.token_url, client_id="larder", client_secret="s3cret")
    return check.larder.issuer


def test_schedule_wakes_the_check_and_it_is_answered(check: Check, good: Issuer) -> None:
    """What the schedule calls reads from the API with a token of the issuer's, and the alarm is content."""
    scheduler = check.larder.client("scheduler")
    schedule = scheduler.get_schedule(Name=check.find("SyntheticSchedule"))
    assert (schedule["ScheduleExpression"], schedule["State"]) == ("rate(5 minutes)", "ENABLED")
    once = {"Name": "now", "ActionAfterCompletion": "DELETE", "FlexibleTimeWindow": {"Mode": "OFF"}}
    at = datetime.now(UTC) + timedelta(seconds=1)
    before = len(check.lines())
    scheduler.create_schedule(**once, Target=schedule["Target"], ScheduleExpression=f"at({at:%Y-%m-%dT%H:%M:%S})")
    line = check.measured(before)
    assert (line["faults"], line["SyntheticFailures"]) == ([], 0)
    assert line["SyntheticLatency"] > 0
    assert check.alarm()["StateValue"] == "OK"


def test_alarm_looks_at_the_very_metric_that_the_check_tells(check: Check, good: Issuer) -> None:
    """Namespace, name, and each dimension with its value."""
    line, alarm = check.run(), check.alarm()
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert alarm["Namespace"] == directive["Namespace"]
    assert alarm["MetricName"] in {one["Name"] for one in directive["Metrics"]}
    assert {one["Name"]: one["Value"] for one in alarm["Dimensions"]} == {
        name: line[name] for name in directive["Dimensions"][0]
    }


def test_open_door_and_broken_answers_are_told(check: Check, good: Issuer, token_url: tuple[str, list[bytes]]) -> None:
    """A refused token, an issuer that gives none, a broken serve: each is a failure in words; the alarm pages."""
    ssm = check.larder.client("ssm")
    stranger = open_issuer(ssm, "/elsewhere/", ISSUER, AUDIENCE)
    token_url[1][:] = [stranger.sign("B6", time.time()).encode()]
    assert check.run()["faults"] == ["with a token the answer is 401, not 200"]
    token_url[1].clear()
    assert check.run()["faults"] == ["the issuer gave no token"]
    token_url[1][:] = [check.larder.issuer.sign("B6", time.time()).encode()]
    with broken_serve(check):
        assert check.run()["faults"] == ["with a token the answer is 500, not 200"]
    assert check.run()["SyntheticFailures"] == 0
    assert check.alarm()["StateValue"] == "ALARM"
    told = check.larder.client("sqs").receive_message(QueueUrl=check.mail, MaxNumberOfMessages=10, WaitTimeSeconds=5)
    assert any(check.find("SyntheticFails") in one["Body"] for one in told.get("Messages", []))


def test_check_without_credentials_fails_aloud(check: Check) -> None:
    """A secret that is gone ends the call with an error and no line; the alarm takes silence for a fault."""
    check.larder.client("secretsmanager").delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True)
    before = len(check.lines())
    answer = check.larder.client("lambda").invoke(FunctionName=check.function, Payload=b"{}")
    assert "GetSecretValue" in answer["Payload"].read().decode()
    assert len(check.lines()) == before
    assert check.alarm()["TreatMissingData"] == "breaching"

"""The synthetic check in a deployed stack: it passes while the API works, and its alarm pages when the API does not."""

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

pytestmark = pytest.mark.slow  # waits for a schedule

SECRET = "larder/dev/synthetic"
_ALLOW = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}
_ALL_SEND = json.dumps({"Version": "2012-10-17", "Statement": [_ALLOW]})


class Check:
    """The check of a deployed stack: its credentials, invocations, log lines and alarm."""

    def __init__(self, larder: Deployed, token_url: str) -> None:
        """Point the check to the stand-in, and subscribe a queue to its topic."""
        self.larder, self.token_url = larder, token_url
        self.function = self.find("SyntheticFunction")
        self._point_to_the_stand_in()
        self.mail = larder.client("sqs").create_queue(QueueName="pages", Attributes={"Policy": _ALL_SEND})["QueueUrl"]
        queue = larder.client("sqs").get_queue_attributes(QueueUrl=self.mail, AttributeNames=["QueueArn"])
        larder.client("sns").subscribe(
            TopicArn=self.find("Pages"), Protocol="sqs", Endpoint=queue["Attributes"]["QueueArn"]
        )

    def find(self, logical_id: str) -> str:
        return find_resource(self.larder.client, self.larder.stack.name, logical_id)

    def _point_to_the_stand_in(self) -> None:
        """Change the host of the URL, which no DNS resolves, to the stand-in's; the rest is the template's."""
        functions, stack = self.larder.client("lambda"), self.larder.stack
        variables = functions.get_function_configuration(FunctionName=self.function)["Environment"]["Variables"]
        path = read_template()["Parameters"]["SyntheticPath"]["Default"]
        assert (path, variables["LARDER_PATH"], variables["LARDER_URL"]) == ("", "", stack["BaseUrl"])
        variables["LARDER_URL"] = stack.base_url
        functions.update_function_configuration(FunctionName=self.function, Environment={"Variables": variables})

    def give(self, **credentials: str) -> None:
        """Store credentials in the secret."""
        secrets = self.larder.client("secretsmanager")
        try:
            secrets.put_secret_value(SecretId=SECRET, SecretString=json.dumps(credentials))
        except secrets.exceptions.ResourceNotFoundException:
            secrets.create_secret(Name=SECRET, SecretString=json.dumps(credentials))

    def lines(self) -> list[dict[str, Any]]:
        """Return the log lines with metrics."""
        group = self.find("SyntheticLogs")
        events = self.larder.client("logs").filter_log_events(logGroupName=group, limit=10_000)["events"]
        return [json.loads(one["message"]) for one in events if one["message"].startswith('{"_aws"')]

    def run(self) -> dict[str, Any]:
        """Invoke the function as its schedule does; return its new line, with its metrics in CloudWatch."""
        before = len(self.lines())
        answer = self.larder.client("lambda").invoke(FunctionName=self.function, Payload=b"{}")
        assert "FunctionError" not in answer, answer["Payload"].read()
        return self.measured(before)

    def measured(self, before: int, seconds: float = 120) -> dict[str, Any]:
        """Wait for a line after the first `before`; store its metrics, which the stand-in does not do."""
        deadline = time.monotonic() + seconds
        while len(lines := self.lines()) <= before:
            assert time.monotonic() < deadline, "the check logged nothing"
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
    """An issuer's token endpoint; a test sets the tokens that it returns."""
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
    server.server_close()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory, token_url: tuple[str, list[bytes]]) -> Iterator[Check]:
    """A stack with the check, on a stand-in that enforces IAM."""
    log: Path = tmp_path_factory.mktemp("synthetic") / "ministack.log"
    with run_stand_in(log, auth=True) as stand_in:
        larder = deploy_larder(*stand_in, "watched", parameters={"SyntheticSecret": SECRET})
        yield Check(larder, token_url[0])


@contextmanager
def broken_serve(check: Check) -> Iterator[None]:
    """Remove serve's permissions until the block ends, so that serve fails."""
    iam, role = check.larder.client("iam"), check.find("ServeRole")
    policy = iam.get_role_policy(RoleName=role, PolicyName="serve")["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName="serve")
    yield
    iam.put_role_policy(RoleName=role, PolicyName="serve", PolicyDocument=json.dumps(policy))


@pytest.fixture
def good(check: Check, token_url: tuple[str, list[bytes]]) -> Issuer:
    """Credentials for which the issuer returns a token that serve trusts."""
    token_url[1][:] = [check.larder.issuer.sign("B6", time.time()).encode()]
    check.give(token_url=check.token_url, client_id="larder", client_secret="s3cret")
    return check.larder.issuer


def test_schedule_invokes_the_check_which_passes(check: Check, good: Issuer) -> None:
    """The schedule's target reads from the API with a token of the issuer, and the alarm is OK."""
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


def test_alarm_watches_the_metric_of_the_check(check: Check, good: Issuer) -> None:
    """Namespace, name and dimensions are equal."""
    line, alarm = check.run(), check.alarm()
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert alarm["Namespace"] == directive["Namespace"]
    assert alarm["MetricName"] in {one["Name"] for one in directive["Metrics"]}
    assert {one["Name"]: one["Value"] for one in alarm["Dimensions"]} == {
        name: line[name] for name in directive["Dimensions"][0]
    }


def test_failures_are_logged_and_page(check: Check, good: Issuer, token_url: tuple[str, list[bytes]]) -> None:
    """A refused token, an issuer without a token, a broken serve: each is logged as a fault, and the alarm pages."""
    ssm = check.larder.client("ssm")
    untrusted = open_issuer(ssm, "/elsewhere/", ISSUER, AUDIENCE)
    token_url[1][:] = [untrusted.sign("B6", time.time()).encode()]
    assert check.run()["faults"] == ["with a token the status is 401, not 200"]
    token_url[1].clear()
    assert check.run()["faults"] == ["the issuer returned no token"]
    token_url[1][:] = [check.larder.issuer.sign("B6", time.time()).encode()]
    with broken_serve(check):
        assert check.run()["faults"] == ["with a token the status is 503, not 200"]
    assert check.run()["SyntheticFailures"] == 0
    assert check.alarm()["StateValue"] == "ALARM"
    received = check.larder.client("sqs").receive_message(
        QueueUrl=check.mail, MaxNumberOfMessages=10, WaitTimeSeconds=5
    )
    assert any(check.find("SyntheticFails") in one["Body"] for one in received.get("Messages", []))


def test_check_without_credentials_fails(check: Check) -> None:
    """Without its secret the check fails and logs no line; the alarm treats missing data as breaching."""
    check.larder.client("secretsmanager").delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True)
    before = len(check.lines())
    answer = check.larder.client("lambda").invoke(FunctionName=check.function, Payload=b"{}")
    assert "GetSecretValue" in answer["Payload"].read().decode()
    assert len(check.lines()) == before
    assert check.alarm()["TreatMissingData"] == "breaching"

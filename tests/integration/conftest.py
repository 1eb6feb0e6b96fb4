"""The stand-in for AWS that integration tests share: one ministack per session, with names that no other test uses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from infra.local.ministack import ACCOUNT, REGION, run_ministack
from serve.item import EXPIRES_AT, PK, RANK, RANKED, SK

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Aws:
    """A running stand-in: its endpoint, the environment of its clients, and new resources in it."""

    endpoint: str
    env: Mapping[str, str]
    account: str = ACCOUNT
    region: str = REGION
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client; without options, the same one per service each time."""
        if options:
            return self._make(service, **options)
        if service not in self._clients:
            self._clients[service] = self._make(service)
        return self._clients[service]

    def _make(self, service: str, **options: Any) -> Any:
        make: Any = boto3.client  # its overloads want literals
        return make(
            service,
            region_name=self.region,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            **{
                "endpoint_url": self.endpoint,
                **options,
                "config": Config(retries={"max_attempts": 1}).merge(options.get("config", Config())),
            },
        )

    def name(self, prefix: str = "t") -> str:
        """Return a name that is new in this session, valid for buckets, tables, queues, and databases."""
        return f"{prefix}-{next(_numbers):04d}"

    def bucket(self, *, versioned: bool = False) -> str:
        """Create an empty bucket and return its name."""
        name = self.name("bucket")
        self.client("s3").create_bucket(Bucket=name)
        if versioned:
            self.client("s3").put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def table(self, *, ttl: bool = True) -> str:
        """Create an empty table of items, keyed as in the template, and return its name."""
        name = self.name("items")
        self._make_table(name, indexed=(RANK,))
        if ttl:
            self.client("dynamodb").update_time_to_live(
                TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES_AT}
            )
        return name

    def ledger(self) -> str:
        """Create an empty ledger table and return its name."""
        name = self.name("ledger")
        self._make_table(name)
        return name

    def queue(self) -> str:
        """Create an empty queue and return its URL."""
        url: str = self.client("sqs").create_queue(QueueName=self.name("queue"))["QueueUrl"]
        return url

    def _make_table(self, name: str, indexed: tuple[str, ...] = ()) -> None:
        keys = [{"AttributeName": PK, "KeyType": "HASH"}, *({"AttributeName": a, "KeyType": "RANGE"} for a in indexed)]
        index = {"IndexName": RANKED, "KeySchema": keys, "Projection": {"ProjectionType": "ALL"}}
        self.client("dynamodb").create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": a, "AttributeType": "S"} for a in (PK, SK, *indexed)],
            KeySchema=[{"AttributeName": PK, "KeyType": "HASH"}, {"AttributeName": SK, "KeyType": "RANGE"}],
            **({"GlobalSecondaryIndexes": [index]} if indexed else {}),
        )


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """A stand-in for AWS that lives as long as the session."""
    log: Path = tmp_path_factory.mktemp("aws") / "ministack.log"
    with run_ministack(log) as ministack:
        yield Aws(ministack.endpoint, ministack.env)


@pytest.fixture
def aws_env(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """The same stand-in, with its variables in `os.environ`, for code that creates its own clients."""
    for name, value in aws.env.items():
        monkeypatch.setenv(name, value)
    return aws

"""The discovery bucket: each environment's publishing role can write its own files, and no other role can."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from infra.discovery import CATALOG_PATH, build_files
from infra.discovery_bucket import PATH, build_bucket, find_account, render
from infra.environments import build_parameters, read_environments
from infra.translate import read_template
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.template import listed, statements

DOCUMENT = read_environments()
FULL: dict[str, Any] = {  # these tests need several environments with discovery, whatever the user's file has
    "service": "forecasts",
    "version": "v1",
    "discovery": {"base_url": "https://d.example.com", "bucket": "their-discovery"},
    "environments": {
        name: {"stack": f"their-{name}", "region": "eu-west-1", "account": account, "issuer": "https://i.example.com/",
               "audience": "a", "domain": f"{name}.example.com",
               "certificate": f"arn:aws:acm:eu-west-1:{account}:certificate/1"}
        for name, account in (("dev", "111111111111"), ("pre-prod", "222222222222"), ("prod", "222222222222"))
    },
}  # fmt: skip


def list_allowed(document: Any, caller: str, account: str, **parameters: str) -> Iterator[tuple[str, str]]:
    """List (action, resource) that the bucket's policy allows a role, or a service for one of its resources."""
    template = build_bucket(document)
    policy = Stack(template, parameters).value(template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"])
    for one in policy["Statement"]:
        given = one.get("Condition", {})
        role = one["Principal"] == {"AWS": f"arn:aws:iam::{account}:root"} and fnmatchcase(
            caller, given["ArnLike"]["aws:PrincipalArn"]
        )
        service = one["Principal"] == {"Service": "cloudfront.amazonaws.com"} and given == {
            "StringEquals": {"AWS:SourceArn": caller}
        }
        if one["Effect"] == "Allow" and (role or service):
            for action in listed(one["Action"]):
                yield from ((action, resource) for resource in listed(one["Resource"]))


def allows(allowed: list[tuple[str, str]], action: str, object_key: str) -> bool:
    return any(
        action == one and fnmatchcase(f"arn:aws:s3:::their-discovery/{object_key}", place) for one, place in allowed
    )


@pytest.mark.parametrize("name", FULL["environments"])
def test_environment_writes_its_own_files(name: str) -> None:
    """Its stack's publishing role can write what it publishes and remove its own two files, and touch no other's."""
    account = find_account(FULL["environments"][name], name)
    allowed = list(list_allowed(FULL, f"arn:aws:iam::{account}:role/their-{name}-PublishRole-1A2B3C", account))
    files = set(build_files(FULL, {"paths": {}}, name, release="1"))
    assert len(files) == 3
    assert all(allows(allowed, "s3:PutObject", one) for one in files)
    assert {one for one in files if allows(allowed, "s3:DeleteObject", one)} == files - {CATALOG_PATH}
    others = {
        one
        for each in FULL["environments"]
        if each != name
        for one in build_files(FULL, {"paths": {}}, each, release="1")
    }
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not [one for one in {*others, "index.html"} - {CATALOG_PATH} if allows(allowed, action, one)]
    assert {action for action, _ in allowed} == {"s3:PutObject", "s3:DeleteObject"}


@pytest.mark.parametrize(
    ("role", "account"),
    [
        ("arn:aws:iam::222222222222:role/their-prod-EnrichRole-1", "222222222222"),
        ("arn:aws:iam::222222222222:role/admin", "222222222222"),
        ("arn:aws:iam::333333333333:role/their-prod-PublishRole-1", "333333333333"),
        ("arn:aws:iam::111111111111:role/their-prod-PublishRole-1", "111111111111"),
        ("arn:aws:iam::222222222222:role/their-prod-2-PublishRole-1", "222222222222"),
    ],
)
def test_nobody_else_writes(role: str, account: str) -> None:
    """Other roles, other accounts and other stacks have no permission."""
    assert list(list_allowed(FULL, role, account)) == []


def test_only_the_distribution_reads() -> None:
    """Consumers read through one distribution, if there is one."""
    arn = "arn:aws:cloudfront::222222222222:distribution/E1"
    assert list(list_allowed(FULL, arn, "", DistributionArn=arn)) == [
        ("s3:GetObject", "arn:aws:s3:::their-discovery/*")
    ]
    assert list(list_allowed(FULL, f"{arn}X", "", DistributionArn=arn)) == []
    assert list(list_allowed(FULL, "", "")) == []
    assert re.fullmatch(build_bucket(FULL)["Parameters"]["DistributionArn"]["AllowedPattern"], arn)


def test_policy_covers_what_the_stack_grants() -> None:
    """The bucket of another account allows everything that infra/template.yaml grants to the publishing role."""
    for name in FULL["environments"]:
        account = find_account(FULL["environments"][name], name)
        stack = Stack(template := read_template(), build_parameters(FULL, name))
        granted = {
            (action, resource)
            for role, one in statements(template)
            if role == "PublishRole"
            for action in listed(one["Action"])
            for resource in listed(stack.value(one["Resource"]))
            if action.startswith("s3:")
        }
        assert granted
        role = f"arn:aws:iam::{account}:role/their-{name}-PublishRole-1"
        assert set(list_allowed(FULL, role, account)) == granted


def test_bucket_is_configured_like_the_others() -> None:
    """It outlives its stack, is private, versioned, encrypted as the stack's own buckets, and requires TLS."""
    ours, other = build_bucket(FULL)["Resources"], read_template()["Resources"]["Bucket"]
    bucket = ours["Bucket"]
    assert [bucket[one] for one in ("DeletionPolicy", "UpdateReplacePolicy")] == ["RetainExceptOnCreate", "Retain"]
    for one in ("BucketEncryption", "VersioningConfiguration", "PublicAccessBlockConfiguration", "OwnershipControls"):
        assert bucket["Properties"][one] == other["Properties"][one]
    assert bucket["Properties"]["BucketName"] == "their-discovery"
    rules = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    assert not [one for one in rules if "ExpirationInDays" in one]
    denied = Stack(build_bucket(FULL), {}).value(ours["BucketPolicy"]["Properties"]["PolicyDocument"])["Statement"][0]
    assert denied["Effect"] == "Deny"
    assert (denied["Principal"], denied["Action"]) == ("*", "s3:*")
    assert denied["Resource"] == ["arn:aws:s3:::their-discovery", "arn:aws:s3:::their-discovery/*"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_template_is_up_to_date() -> None:
    """The committed template is that of infra/environments.yaml."""
    assert PATH.read_text() == render(DOCUMENT), (
        "stale: run `./larder environments` and commit infra/discovery-bucket.yaml"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"account": "333333333333"}, "is of account 111111111111, but account is 333333333333"),
        (
            {"account": None, "certificate": None, "domain": None},
            'environments.dev: write its account, e.g. account: "',
        ),
        ({"stack": "s" * 40}, "environments.dev: stack must have at most 39 characters"),
    ],
    ids=["another account", "no account", "a long name"],
)
def test_bucket_without_a_known_publisher_is_refused(change: dict[str, Any], message: str) -> None:
    """A policy that would name the wrong role is not written."""
    document = copy.deepcopy(FULL)
    dev = {**document["environments"]["dev"], **change}
    document["environments"]["dev"] = {member: value for member, value in dev.items() if value is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        build_bucket(document)

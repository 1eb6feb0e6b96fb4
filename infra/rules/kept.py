"""Rules on what is kept: tables, buckets, logs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from infra.rules.look import Rule, by_type, default, functions, get
from infra.translate import Template
from serve.item import EXPIRES_AT, PK, SK

ALWAYS = {"Bucket": "OnAws", "OutputsBucket": "CreatesOutputsBucketOnAws"}  # the stand-in speaks plain HTTP
RETAINED = {"Bucket", "OutputsBucket", "Table", "Ledger"}


def table_is_the_items(template: Template) -> Iterator[str]:
    """Keys and the TTL attribute are those of serve/item.py; what a mistake could lose can be had back."""
    tables = by_type(template, "AWS::DynamoDB::Table")
    if get(tables["Table"], "TimeToLiveSpecification") != {"AttributeName": EXPIRES_AT, "Enabled": True}:
        yield f"the TTL attribute of the table is {EXPIRES_AT!r}, enabled"
    if "TimeToLiveSpecification" in tables["Ledger"]:
        yield "ledger records outlive every item; the ledger has no TTL"
    for name, table in tables.items():
        keys = [(one["AttributeName"], one["KeyType"]) for one in table["KeySchema"]]
        if keys != [(PK, "HASH"), (SK, "RANGE")]:
            yield f"{name}: its keys are {keys}"
        if not get(table, "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"):
            yield f"{name}: cannot be restored to a point in time"
        if not get(table, "SSESpecification", "SSEEnabled"):
            yield f"{name}: is not encrypted with a KMS key"
        if table.get("DeletionProtectionEnabled") != {"Fn::If": ["IsProd", True, False]}:
            yield f"{name}: is not protected from deletion in prod"
        if default(template, table.get("BillingMode")) != "PAY_PER_REQUEST":
            yield f"{name}: is not on demand by default"


def provisioned_capacity_scales(template: Template) -> Iterator[str]:
    """In provisioned mode reads and writes each have a target, a policy, and the bounds of their own parameters."""
    for what in ("Read", "Write"):
        target = template["Resources"][f"{what}Scaling"]["Properties"]
        bounds = (target.get("MinCapacity"), target.get("MaxCapacity"))
        if bounds != ({"Ref": f"Min{what}Units"}, {"Ref": f"Max{what}Units"}):
            yield f"{what}Scaling: its bounds are {bounds}"
        if target.get("ScalableDimension") != f"dynamodb:table:{what}CapacityUnits":
            yield f"{what}Scaling: scales {target.get('ScalableDimension')}"
        policy = template["Resources"][f"{what}ScalingPolicy"]["Properties"]
        tracked = get(policy, "TargetTrackingScalingPolicyConfiguration", "PredefinedMetricSpecification")
        if tracked != {"PredefinedMetricType": f"DynamoDB{what}CapacityUtilization"}:
            yield f"{what}ScalingPolicy: follows {tracked}"
        if get(policy, "ScalingTargetId", "Ref") != f"{what}Scaling":
            yield f"{what}ScalingPolicy: scales another target"


def data_outlives_the_stack(template: Template) -> Iterator[str]:
    """What a teardown leaves is declared, on deletion and on replacement."""
    for name, one in template["Resources"].items():
        keeps = (one.get("DeletionPolicy"), one.get("UpdateReplacePolicy")) == ("RetainExceptOnCreate", "Retain")
        if keeps != (name in RETAINED):
            yield f"{name}: {'would be kept' if keeps else 'would be lost'} with the stack"


def buckets_are_shut(template: Template) -> Iterator[str]:
    """Versioned, encrypted, private, TLS only."""
    shut = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    policies = {one["Bucket"]["Ref"]: one for one in by_type(template, "AWS::S3::BucketPolicy").values()}
    for name, bucket in by_type(template, "AWS::S3::Bucket").items():
        if get(bucket, "VersioningConfiguration", "Status") != "Enabled":
            yield f"{name}: keeps no versions"
        if not get(bucket, "BucketEncryption", "ServerSideEncryptionConfiguration"):
            yield f"{name}: is not encrypted"
        if not all(get(bucket, "PublicAccessBlockConfiguration", one) for one in shut):
            yield f"{name}: can be opened to the public"
        if get(bucket, "OwnershipControls", "Rules") != [{"ObjectOwnership": "BucketOwnerEnforced"}]:
            yield f"{name}: objects can have access lists and owners of their own"
        denied = get(policies.get(name), "PolicyDocument", "Statement") or []
        tls = [one for one in denied if one["Effect"] == "Deny" and one["Action"] == "s3:*" and one["Principal"] == "*"]
        if template["Resources"].get(f"{name}Policy", {}).get("Condition") != ALWAYS[name]:
            yield f"{name}Policy: is not always there"
        conditions = [get(one, "Condition", "Bool", "aws:SecureTransport") for one in tls]
        covered = [{"Fn::GetAtt": [name, "Arn"]}, {"Fn::Sub": f"${{{name}.Arn}}/*"}]
        if conditions != ["false"] or tls[0]["Resource"] != covered:
            yield f"{name}: takes requests without TLS"
    outputs = template["Resources"]["OutputsBucket"]["Properties"]
    if not get(outputs, "NotificationConfiguration", "EventBridgeConfiguration", "EventBridgeEnabled"):
        yield "OutputsBucket: sends no events"


def logs_end(template: Template) -> Iterator[str]:
    """Each function writes to a log group of the template's, which forgets."""
    groups = by_type(template, "AWS::Logs::LogGroup")
    for name, group in groups.items():
        if not default(template, group.get("RetentionInDays")):
            yield f"{name}: keeps lines forever"
    for name, function in functions(template).items():
        if get(function, "LoggingConfig", "LogGroup", "Ref") not in groups:
            yield f"{name}: writes to a log group that nobody declared"


def lifecycle_keeps_what_is_needed(template: Template) -> Iterator[str]:
    """Fingerprints never expire, rejects not for a quarter, and nothing of a model's bucket is ours to expire."""
    for name, bucket in by_type(template, "AWS::S3::Bucket").items():
        for rule in get(bucket, "LifecycleConfiguration", "Rules") or []:
            days, prefix = rule.get("ExpirationInDays"), rule.get("Prefix", "")
            if days is None:
                continue
            if name == "OutputsBucket" or not prefix or "fingerprints/".startswith(prefix) or "fingerprints" in prefix:
                yield f"{name}: {rule['Id']} expires what has to stay"
            if days < {"rejects/": 90, "metadata/": 8, "work/": 8}.get(prefix, 1):
                yield f"{name}: {rule['Id']} expires {prefix} after {days} days"


RULES: tuple[Rule, ...] = (
    table_is_the_items,
    provisioned_capacity_scales,
    data_outlives_the_stack,
    buckets_are_shut,
    logs_end,
    lifecycle_keeps_what_is_needed,
)

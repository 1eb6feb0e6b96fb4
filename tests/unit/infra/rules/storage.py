"""Rules on stored data: tables, buckets, logs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from infra.translate import Template
from serve.item import EXPIRES_AT, PK, RANK, RANKED, SK
from tests.unit.infra.rules.template import Rule, by_type, default, functions, get

RETAINED = {"Bucket", "OutputsBucket", "Table", "Ledger"}
SHARED = {"ApiGatewayLogRole", "ApiGatewayLogging"}  # used by all other APIs of the account and region
# A run can be stopped for a week and then continue; one can be withdrawn as long as its items live.
SHORTEST_DAYS = {"rejects/": 90, "metadata/": 8, "parts/": 365, "work/": 8}


def table_has_the_items_attributes(template: Template) -> Iterator[str]:
    """Keys and the TTL attribute are those of serve/item.py; the ledger has the same keys and no TTL."""
    tables = by_type(template, "AWS::DynamoDB::Table")
    if get(tables["Table"], "TimeToLiveSpecification") != {"AttributeName": EXPIRES_AT, "Enabled": True}:
        yield f"the TTL attribute of the table is not {EXPIRES_AT!r}, or not enabled"
    if "TimeToLiveSpecification" in tables["Ledger"]:
        yield "ledger records outlive every item, so the ledger has no TTL"
    for name, table in tables.items():
        keys = [(one["AttributeName"], one["KeyType"]) for one in table["KeySchema"]]
        if keys != [(PK, "HASH"), (SK, "RANGE")]:
            yield f"{name}: its keys are {keys}"
        indexes = {
            one["IndexName"]: ([key["AttributeName"] for key in one["KeySchema"]], one["Projection"]["ProjectionType"])
            for one in table.get("GlobalSecondaryIndexes", [])
        }
        if indexes != ({RANKED: ([PK, RANK], "ALL")} if name == "Table" else {}):
            yield f"{name}: its indexes are {indexes}"


def data_outlives_the_stack(template: Template) -> Iterator[str]:
    """Tables and buckets outlive the stack and a replacement, nothing else does; tables are protected by default."""
    for name, one in template["Resources"].items():
        found = (one.get("DeletionPolicy", "Delete"), one.get("UpdateReplacePolicy", "Delete"))
        kept = name in RETAINED | SHARED
        if found != (("RetainExceptOnCreate", "Retain") if kept else ("Delete", "Delete")):
            yield f"{name}: {found}, and it should be {'retained' if kept else 'deleted'} with the stack"
    for name, table in by_type(template, "AWS::DynamoDB::Table").items():
        if table.get("DeletionProtectionEnabled") != {"Fn::If": ["IsProtected", True, False]}:
            yield f"{name}: DeletionProtection does not decide whether it is protected"
    if template["Parameters"]["DeletionProtection"]["Default"] != "true":
        yield "DeletionProtection: by default the tables can be deleted"


def provisioned_capacity_scales(template: Template) -> Iterator[str]:
    """In provisioned mode reads and writes of table and index have a target each, and a policy on its metric."""
    places = {"": ("table", "table/${Table}"), "Ranked": ("index", f"table/${{Table}}/index/{RANKED}")}
    for (of, (kind, place)), metric_of in product(places.items(), ("Read", "Write")):
        what = f"{of}{metric_of}"
        target = template["Resources"][f"{what}Scaling"]["Properties"]
        if target.get("ScalableDimension") != f"dynamodb:{kind}:{metric_of}CapacityUnits":
            yield f"{what}Scaling: scales {target.get('ScalableDimension')}"
        if target.get("ResourceId") != {"Fn::Sub": place}:
            yield f"{what}Scaling: scales {target.get('ResourceId')}"
        policy = template["Resources"][f"{what}ScalingPolicy"]["Properties"]
        metric = get(policy, "TargetTrackingScalingPolicyConfiguration", "PredefinedMetricSpecification")
        if metric != {"PredefinedMetricType": f"DynamoDB{metric_of}CapacityUtilization"}:
            yield f"{what}ScalingPolicy: follows {metric}"
        if get(policy, "ScalingTargetId", "Ref") != f"{what}Scaling":
            yield f"{what}ScalingPolicy: scales another target"


def buckets_require_tls(template: Template) -> Iterator[str]:
    """Each bucket has a policy, present on AWS whenever the bucket is, that denies every request without TLS."""
    policies = {one["Bucket"]["Ref"]: one for one in by_type(template, "AWS::S3::BucketPolicy").values()}
    for name in by_type(template, "AWS::S3::Bucket"):
        condition = template["Resources"][name].get("Condition")
        wanted = "OnAws" if condition is None else f"{condition}OnAws"
        if template["Resources"].get(f"{name}Policy", {}).get("Condition") != wanted:
            yield f"{name}Policy: does not have the condition {wanted}"
        denied = get(policies.get(name), "PolicyDocument", "Statement") or []
        tls = [one for one in denied if one["Effect"] == "Deny" and one["Action"] == "s3:*" and one["Principal"] == "*"]
        covered = [{"Fn::GetAtt": [name, "Arn"]}, {"Fn::Sub": f"${{{name}.Arn}}/*"}]
        conditions = [get(one, "Condition", "Bool", "aws:SecureTransport") for one in tls]
        if conditions != ["false"] or tls[0]["Resource"] != covered:
            yield f"{name}: accepts requests without TLS"


def functions_log_to_declared_groups(template: Template) -> Iterator[str]:
    """Each function writes to a log group of the template, so its lines expire."""
    groups = by_type(template, "AWS::Logs::LogGroup")
    for name, function in functions(template).items():
        if get(function, "LoggingConfig", "LogGroup", "Ref") not in groups:
            yield f"{name}: writes to a log group that the template does not declare"


def lifecycle_keeps_what_is_needed(template: Template) -> Iterator[str]:
    """Fingerprints never expire, rejects live for 90 days or more; no rule expires objects of the model's bucket."""
    for name, bucket in by_type(template, "AWS::S3::Bucket").items():
        for rule in get(bucket, "LifecycleConfiguration", "Rules") or []:
            days, prefix = default(template, rule.get("ExpirationInDays")), rule.get("Prefix", "")
            if days is None:
                continue
            if name == "OutputsBucket" or not prefix or "fingerprints/".startswith(prefix) or "fingerprints" in prefix:
                yield f"{name}: {rule['Id']} expires objects that must stay"
            if days < SHORTEST_DAYS.get(prefix, 1):
                yield f"{name}: {rule['Id']} expires {prefix} after {days} days"


def replaced_versions_are_bounded(template: Template) -> Iterator[str]:
    """Each bucket with versions deletes all replaced ones in the end, and the markers of deleted objects."""
    for name, bucket in by_type(template, "AWS::S3::Bucket").items():
        rules = get(bucket, "LifecycleConfiguration", "Rules") or []
        whole = [one for one in rules if one["Status"] == "Enabled" and not one.get("Prefix")]
        if get(bucket, "VersioningConfiguration", "Status") != "Enabled":
            yield f"{name}: keeps no versions"
        if not any("NoncurrentVersionExpiration" in one for one in whole):
            yield f"{name}: keeps replaced versions for ever"
        if not any(one.get("ExpiredObjectDeleteMarker") for one in whole):
            yield f"{name}: keeps the markers of deleted objects for ever"


RULES: tuple[Rule, ...] = (
    table_has_the_items_attributes,
    data_outlives_the_stack,
    provisioned_capacity_scales,
    buckets_require_tls,
    functions_log_to_declared_groups,
    lifecycle_keeps_what_is_needed,
    replaced_versions_are_bounded,
)

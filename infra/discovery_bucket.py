"""Build infra/discovery-bucket.yaml, the template of the bucket to which all environments publish discovery files.

`./larder environments` writes it. Each environment's stack can write its own files and the catalog, but not the files
of other environments, in any account.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.discovery import CATALOG_PATH
from infra.gateway import PlainDumper

PATH = Path(__file__).with_name("discovery-bucket.yaml")
MAX_STACK = 39  # characters of a stack's name: CloudFormation cuts role names, which contain it, to 64 characters
_HEAD = """\
# Written by `./larder environments` from infra/environments.yaml; change that one. A test compares them.
"""


def find_account(environment: Mapping[str, Any], name: str) -> str:
    """Return the account that an environment is deployed to: `account`, or the account of its certificate.

    Raises:
        ValueError: neither is given, or they differ.
    """
    certificate = environment.get("certificate", "::::").split(":")[4]
    account: str = environment.get("account") or certificate
    if not account:
        raise ValueError(
            f'environments.{name}: write its account, e.g. account: "111122223333", for the discovery bucket'
        )
    if certificate and certificate != account:
        raise ValueError(
            f"environments.{name}: the certificate is of account {certificate}, but account is {account}: API Gateway "
            "takes only certificates of its own account"
        )
    return account


def build_bucket(document: Mapping[str, Any]) -> dict[str, Any]:
    """Build the template.

    Raises:
        ValueError: an environment has no account, or a stack whose roles have a shortened name.
    """
    bucket = "arn:${AWS::Partition}:s3:::" + document["discovery"]["bucket"]
    statements = [
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [_sub(bucket), _sub(f"{bucket}/*")],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ]
    for name, environment in document["environments"].items():
        if len(environment["stack"]) > MAX_STACK:
            raise ValueError(
                f"environments.{name}: stack must have at most {MAX_STACK} characters if there is `discovery`"
            )
        account = find_account(environment, name)
        own = f"{bucket}/{document['service']}/{name}/*"
        publisher = {
            "Effect": "Allow",
            "Principal": {"AWS": _sub("arn:${AWS::Partition}:iam::" + account + ":root")},
            "Condition": {
                "ArnLike": {
                    "aws:PrincipalArn": _sub(
                        "arn:${AWS::Partition}:iam::" + account + f":role/{environment['stack']}-PublishRole-*"
                    )
                }
            },
        }
        sid = "".join(word.capitalize() for word in name.split("-"))
        put = [_sub(f"{bucket}/{CATALOG_PATH}"), _sub(own)]
        statements.append({"Sid": f"Publish{sid}", **publisher, "Action": "s3:PutObject", "Resource": put})
        statements.append({"Sid": f"Remove{sid}", **publisher, "Action": "s3:DeleteObject", "Resource": _sub(own)})
    reader = {
        "Sid": "ServeToConsumers",
        "Effect": "Allow",
        "Principal": {"Service": "cloudfront.amazonaws.com"},
        "Action": "s3:GetObject",
        "Resource": _sub(f"{bucket}/*"),
        "Condition": {"StringEquals": {"AWS:SourceArn": {"Ref": "DistributionArn"}}},
    }
    statements.append({"Fn::If": ["HasDistribution", reader, {"Ref": "AWS::NoValue"}]})
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Larder's discovery files: the api-catalog, and two files of each environment",
        "Parameters": {
            "DistributionArn": {
                "Type": "String",
                "Description": "CloudFront distribution (origin access control) that consumers read; empty for none",
                "AllowedPattern": r"^(arn:aws[a-z-]*:cloudfront::\d{12}:distribution/[A-Z0-9]+)?$",
                "Default": "",
            }
        },
        "Conditions": {"HasDistribution": {"Fn::Not": [{"Fn::Equals": [{"Ref": "DistributionArn"}, ""]}]}},
        "Resources": {
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DeletionPolicy": "RetainExceptOnCreate",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "BucketName": document["discovery"]["bucket"],
                    "BucketEncryption": {
                        "ServerSideEncryptionConfiguration": [
                            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                        ]
                    },
                    "VersioningConfiguration": {"Status": "Enabled"},
                    "PublicAccessBlockConfiguration": dict.fromkeys(
                        ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True
                    ),
                    "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                    "LifecycleConfiguration": {
                        "Rules": [
                            {
                                "Id": "old-versions",
                                "Status": "Enabled",
                                "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
                            }
                        ]
                    },
                },
            },
            "BucketPolicy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {
                    "Bucket": {"Ref": "Bucket"},
                    "PolicyDocument": {"Version": "2012-10-17", "Statement": statements},
                },
            },
        },
    }


def write(document: Mapping[str, Any]) -> None:
    """Write the file."""
    PATH.write_text(render(document))


def render(document: Mapping[str, Any]) -> str:
    """Render the file. Without discovery it has no template, but it exists: git can't merge a deleted file."""
    if "discovery" not in document:
        return f"{_HEAD}# There is no `discovery`, so there is no bucket to deploy.\n"
    template = build_bucket(document)
    return _HEAD + yaml.dump(template, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=120)


def _sub(text: str) -> dict[str, str]:
    return {"Fn::Sub": text}

"""Rules on parameters: the template accepts what the code accepts, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase

from infra.environments import DIGESTS, SCHEMA, find_mismatch
from infra.translate import Template
from serve.settings import parse_settings
from serve.tokens.key_sources import open_source
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.grants import list_grants
from tests.unit.infra.rules.template import Rule, functions

KEY, CERTIFICATE = "arn:aws:kms:eu-west-1:111122223333:key/1", "arn:aws:acm:eu-west-1:111122223333:certificate/1"
KINDS = {  # end of a parameter's name -> a valid value, and invalid ones
    "Account": ("111122223333", ["1111", "their-account"]),
    "KmsKeyArn": (KEY, ["alias/larder", CERTIFICATE]),
    "CertificateArn": (CERTIFICATE, ["1", KEY]),
    "BucketName": ("their-bucket", ["arn:aws:s3:::their-bucket", "Their Bucket", "s3://their-bucket"]),
    "Email": ("them@example.com", ["them"]),
}
NAMES = {
    "Name",
    "BucketName",
    "DashboardName",
    "FunctionName",
    "LogGroupName",
    "QueueName",
    "RoleName",
    "TableName",
    "TopicName",
}
HAVE_RELATIVE_NAMES = {"AWS::Lambda::Permission", "AWS::Lambda::EventSourceMapping", "AWS::Logs::MetricFilter"}
VALUES = {  # possible values; serve decides which of them are valid
    "CorsOrigins": (
        "https://a.example.com", "https://a.example.com,http://localhost:3000", "*", "null", "https://a.example.com/x",
        "https://*.example.com", "a.example.com", "ftp://a.example.com",
    ),
    "Issuers": (
        '[{"issuer":"https://a.example.com/","audience":"b","keys":"https://a.example.com/k"}]', "x", "{}", '"a"', "[]",
        '{"issuer":"https://a.example.com/","audience":"b","keys":"https://a.example.com/k"}',
    ),
    "KeyStore": (
        "https://a.example.com/k", "s3://keys/dev", "http://a.example.com/k", "a.example.com", "file:///etc/k", "s3://keys",
        "https://name:password@a.example.com/k", 'https://a.example.com/"k', "https://a.example.com/k ",
    ),
    "Issuer": ("https://a.example.com/", "b", 'b"', "b c", "b\\", "", " b"),
    "Audience": ("larder", 'b"', "b\\", "", " "),
}  # fmt: skip


def parameters_take_what_serve_takes(template: Template) -> Iterator[str]:
    """A value that serve refuses is refused by the template, so no version is deployed that cannot start."""
    variables = functions(template)["ServeFunction"]["Environment"]["Variables"]
    for name, values in VALUES.items():
        for value in values:
            taken = not find_mismatch(template["Parameters"][name], value)
            try:
                for one in parse_settings(Stack(template, {name: value}).value(variables), {}).issuers:
                    open_source(one.keys, {})
                refused = ""
            except ValueError as error:
                refused = str(error)
            if taken and refused:
                yield f"{name}: the template accepts {value!r}, but serve refuses it: {refused}"
        if find_mismatch(template["Parameters"][name], values[0]):
            yield f"{name}: the template refuses {values[0]!r}"


def names_are_those_of_the_schema(template: Template) -> Iterator[str]:
    """Names of environments and services, which are parts of paths, have the same pattern in environments.yaml."""
    schema = json.loads(SCHEMA.read_text())["properties"]
    (environment,) = schema["environments"]["patternProperties"]
    for name, pattern in (("Environment", environment), ("Service", schema["service"]["pattern"])):
        if (found := template["Parameters"][name].get("AllowedPattern")) != pattern:
            yield f"{name}: the template accepts {found}, the schema {pattern}"


def each_database_is_granted(template: Template) -> Iterator[str]:
    """Enrich can read as many Glue databases as `LakeDatabase` accepts, each with its tables, and the catalog."""
    names = [f"database{number}" for number in range(12)]
    most = max(
        n for n in range(13) if not n or not find_mismatch(template["Parameters"]["LakeDatabase"], ",".join(names[:n]))
    )
    granted = [
        resource
        for _, _, action, resource in list_grants(template, {"LakeDatabase": ",".join(names[:most])})
        if action == "glue:GetTable"
    ]
    for name in names[:most]:
        for wanted in (f"arn:aws:glue:*:database/{name}", f"arn:aws:glue:*:table/{name}/*"):
            if not any(fnmatchcase(one, wanted) for one in granted):
                yield f"LakeDatabase: takes {most} databases, and enrich is not allowed to read {wanted}"


def values_have_the_form_of_their_kind(template: Template) -> Iterator[str]:
    """Accounts, ARNs, buckets and addresses are checked before a deploy; a numeric parameter has type Number."""
    for name, parameter in template["Parameters"].items():
        if isinstance(parameter["Default"], int) and parameter["Type"] != "Number":
            yield f"{name}: is a number, and its type is {parameter['Type']}"
        for kind, (right, wrong) in KINDS.items():
            if name.endswith(kind) and "AllowedValues" not in parameter:
                yield from (f"{name}: refuses {one!r}" for one in ("", right) if find_mismatch(parameter, one))
                yield from (f"{name}: takes {one!r}" for one in wrong if not find_mismatch(parameter, one))


def each_parameter_changes_the_stack(template: Template) -> Iterator[str]:
    """The value of each parameter is used somewhere in the stack, and not replaced by a fixed value."""
    switches = {name for name, one in template["Parameters"].items() if "true" in one.get("AllowedValues", [])}
    given = {name: f"<{name}>" for name in template["Parameters"]} | dict.fromkeys(switches, "true")
    given |= {"Platform": "aws", "ApiKeys": "required", "BillingMode": "PROVISIONED"}
    found = ""
    for empty in (
        {},
        {"OutputsBucketName": "", "Issuers": ""},
        {"Issuers": "", "KeyStore": ""},
    ):  # these replace others
        stack = Stack(template, given | empty)
        resources = [
            stack.value(one["Properties"]) for name, one in template["Resources"].items() if stack.exists(name)
        ]
        found += json.dumps([resources, stack.value(template["Outputs"])])
    for name, value in given.items():
        # The switches are in conditions (test_environments.py); the transform reads the digest.
        if value == f"<{name}>" and value not in found and name not in DIGESTS:
            yield f"{name}: is nowhere in the stack"


def names_are_of_the_stack(template: Template) -> Iterator[str]:
    """Two stacks of an account do not use the same name."""
    stacks = [
        Stack(template, {"AWS::StackName": name, "Environment": name, "DomainName": f"{name}.example.com"})
        for name in "ab"
    ]
    for resource, one in template["Resources"].items():
        for member in NAMES & set(one.get("Properties", {})):
            if one["Type"] != "AWS::Serverless::Api" or member == "Name":
                found = [str(stack.value(one["Properties"][member])) for stack in stacks]
                if found[0] == found[1] and one["Type"] not in HAVE_RELATIVE_NAMES:
                    yield f"{resource}: {member} is {found[0]} in every stack"


RULES: tuple[Rule, ...] = (
    parameters_take_what_serve_takes,
    names_are_those_of_the_schema,
    each_database_is_granted,
    values_have_the_form_of_their_kind,
    each_parameter_changes_the_stack,
    names_are_of_the_stack,
)

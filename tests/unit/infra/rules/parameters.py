"""Rules on parameters: the template takes what the code takes, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase

from infra.environments import SCHEMA, find_mismatch
from infra.translate import Template
from serve.settings import parse_settings
from serve.tokens.key_sources import open_source
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.grants import list_grants
from tests.unit.infra.rules.template import Rule, functions

VALUES = {  # what somebody could write; serve decides which of them are right
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
    """A value that serve refuses is refused by the template: no version is deployed that cannot start."""
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
                yield f"{name}: the template takes {value!r}, and serve refuses it: {refused}"
        if find_mismatch(template["Parameters"][name], values[0]):
            yield f"{name}: the template refuses {values[0]!r}"


def names_are_those_of_the_schema(template: Template) -> Iterator[str]:
    """Names of environments and services, which are parts of paths, are those that environments.yaml can have."""
    schema = json.loads(SCHEMA.read_text())["properties"]
    (environment,) = schema["environments"]["patternProperties"]
    for name, pattern in (("Environment", environment), ("Service", schema["service"]["pattern"])):
        if (found := template["Parameters"][name].get("AllowedPattern")) != pattern:
            yield f"{name}: the template takes {found}, and the schema {pattern}"


def each_database_is_granted(template: Template) -> Iterator[str]:
    """Enrich can read as many Glue databases as `LakeDatabase` takes, each with its tables, and the catalog."""
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


RULES: tuple[Rule, ...] = (parameters_take_what_serve_takes, names_are_those_of_the_schema, each_database_is_granted)

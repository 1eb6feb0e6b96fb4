"""Evaluate a template's conditions and values with some parameters, as CloudFormation does when a stack is created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from infra.translate import Template

REGION, ACCOUNT = "eu-central-1", "111122223333"
HERE = f"{REGION}:{ACCOUNT}"
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::StackName": "larder",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::NoValue": None,
}
ARNS = {  # type -> the ARN of a resource whose physical name is its logical id
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
    "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{HERE}:table/{{}}",
    "AWS::Events::EventBus": f"arn:aws:events:{HERE}:event-bus/{{}}",
    "AWS::SQS::Queue": f"arn:aws:sqs:{HERE}:{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{HERE}:log-group:{{}}:*",
    "AWS::Serverless::Function": f"arn:aws:lambda:{HERE}:function:{{}}",
}


class Stack:
    """A template with the values of its parameters; a resource's name is its logical id."""

    def __init__(self, template: Template, given: Mapping[str, str]) -> None:
        self._template = template
        defaults = {name: str(one["Default"]) for name, one in template["Parameters"].items()}
        self._values: dict[str, Any] = {**defaults, **PSEUDO, **given}

    def holds(self, condition: Any) -> bool:
        """Evaluate a condition, given by its name or in full."""
        if isinstance(condition, str):
            condition = self._template["Conditions"][condition]
        ((intrinsic, given),) = condition.items()
        if intrinsic == "Condition":
            return self.holds(given)
        if intrinsic == "Fn::Equals":
            one, other = map(self.value, given)
            return str(one) == str(other)
        each = [self.holds(part) for part in given]
        return {"Fn::Not": not each[0], "Fn::And": all(each), "Fn::Or": any(each)}[intrinsic]

    def find_conditions(self) -> set[str]:
        """Return the conditions that hold."""
        return {name for name in self._template["Conditions"] if self.holds(name)}

    def exists(self, resource: str) -> bool:
        """Return whether a resource is created."""
        condition = self._template["Resources"][resource].get("Condition")
        return condition is None or self.holds(condition)

    def value(self, node: Any) -> Any:
        """Evaluate a value; `AWS::NoValue` is omitted from lists and objects."""
        if isinstance(node, list):
            return [one for one in map(self.value, node) if one is not None]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, given),) = node.items()
            if name == "Ref":
                return self._values.get(given, given)
            if name == "Fn::GetAtt":
                return self._attribute(*given)
            if name == "Fn::If":
                return self.value(given[1] if self.holds(given[0]) else given[2])
            if name == "Fn::Sub":
                return self._substitute(*(given if isinstance(given, list) else [given, {}]))
            if name == "Fn::Split":
                return str(self.value(given[1])).split(given[0])
            if name == "Fn::Select":
                return self.value(given[1])[int(given[0])]
        found = {name: self.value(one) for name, one in node.items()}
        return {name: one for name, one in found.items() if one is not None}

    def _attribute(self, resource: str, attribute: str) -> Any:
        one = self._template["Resources"][resource]
        if attribute == "Arn":
            return ARNS.get(one["Type"], "{}.Arn").format(resource)
        if attribute in one["Properties"]:
            return self.value(one["Properties"][attribute])
        return f"{resource}.{attribute}"

    def _substitute(self, text: str, given: Mapping[str, Any]) -> str:
        def replace(found: re.Match[str]) -> str:
            name = found[1]
            if name in given:
                return str(self.value(given[name]))
            if "." in name and name not in self._values:
                return str(self._attribute(*name.split(".", 1)))
            return str(self._values.get(name, name))

        return re.sub(r"\$\{([\w:.]+)\}", replace, text)

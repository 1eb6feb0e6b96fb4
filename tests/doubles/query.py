"""A model of a Query as the reader sends it, over the items of a table or of its index.

`test_fidelity.py` compares it with moto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from serve.item import BODY, EXPIRES_AT, PK, RANK, RANKED, SK


def answer_query(rows: Iterable[Mapping[str, Any]], request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a Query over stored items, as DynamoDB's JSON."""
    index, values = request.get("IndexName"), request["ExpressionAttributeValues"]
    assert index in {None, RANKED}, "DynamoDB: the table does not have the specified index"
    sort = RANK if index else SK
    pk, prefix = values[":p"], values.get(":prefix", {"S": ""})["S"]
    condition = f"pk = :p and begins_with({sort}, :prefix)" if prefix else "pk = :p"
    assert request["KeyConditionExpression"] == condition
    assert request["FilterExpression"] == "#e > :now and attribute_exists(#b)"

    def place(row: Mapping[str, Any]) -> tuple[str, str]:
        return row[sort]["S"], row[SK]["S"]

    def name(row: Mapping[str, Any]) -> dict[str, Any]:
        return {attribute: row[attribute] for attribute in {PK, SK, sort}}

    found = [row for row in rows if row[PK] == pk and sort in row and row[sort]["S"].startswith(prefix)]
    found.sort(key=place)
    start = request.get("ExclusiveStartKey")
    if start:
        assert start == name(start), "DynamoDB: the provided starting key is invalid"
        assert start[PK] == pk
        assert start[sort]["S"].startswith(prefix), "DynamoDB: the provided starting key is outside query boundaries"
        found = [row for row in found if place(row) > place(start)]
    seen = found[: request["Limit"]]
    live = [row for row in seen if int(row[EXPIRES_AT]["N"]) > int(values[":now"]["N"]) and BODY in row]
    answer: dict[str, Any] = {"Items": [dict(row) for row in live], "Count": len(live)}
    if len(seen) == request["Limit"]:
        answer["LastEvaluatedKey"] = name(seen[-1])
    return answer

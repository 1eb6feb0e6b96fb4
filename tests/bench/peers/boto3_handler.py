# mypy: ignore-errors
"""A thin handler: the boto3 client, PyJWT, a body stored as text."""

import json
import os
import time

import boto3
import jwt

client = boto3.client("dynamodb")
with open(os.environ["BENCH_JWKS"]) as file:
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.load(file)).keys}


def handler(event, context):
    token = event["headers"]["Authorization"].removeprefix("Bearer ")
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="larder", issuer="https://issuer.example.com/")
    if "flight-delays:read" not in claims["scope"].split():
        return {"statusCode": 403}
    name = event["path"].rpartition("/")[2]
    item_key = {"pk": {"S": f"flight-delays#{claims['carrier']}"}, "sk": {"S": name}}
    found = client.get_item(TableName="ready", Key=item_key).get("Item")
    if found is None or int(found["e"]["N"]) <= time.time():
        return {"statusCode": 404}
    print(json.dumps({"status": 200}))
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": found["b"]["S"]}

# mypy: ignore-errors
"""A typical handler: Powertools, the boto3 resource, PyJWT; typed attributes, rendered at each read."""

import json
import os
import time
from decimal import Decimal

import boto3
import jwt
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.metrics import MetricUnit

logger = Logger(service="serve")
metrics = Metrics(namespace="Larder", service="serve")
app = APIGatewayRestResolver()
table = boto3.resource("dynamodb").Table("typed")
with open(os.environ["BENCH_JWKS"]) as file:
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.load(file)).keys}


def _number(value):
    return float(value) if isinstance(value, Decimal) else str(value)


@app.get("/v1/flight-delays/<prediction_id>")
def get_item(prediction_id: str):
    token = app.current_event.headers["Authorization"].removeprefix("Bearer ")
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="larder", issuer="https://issuer.example.com/")
    if "flight-delays:read" not in claims["scope"].split():
        return Response(403)
    found = table.get_item(Key={"pk": f"flight-delays#{claims['carrier']}", "sk": prediction_id}).get("Item")
    if found is None or found["e"] <= time.time():
        return Response(404)
    metrics.add_metric("Requests", MetricUnit.Count, 1)
    logger.info("get_item", extra={"status": 200})
    return Response(200, "application/json", json.dumps(found["body"], default=_number))


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event, context):
    return app.resolve(event, context)

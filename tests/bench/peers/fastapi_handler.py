# mypy: ignore-errors
"""FastAPI and the boto3 client under Mangum, with PyJWT."""

import json
import os
import time
from typing import Annotated

import boto3
import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from mangum import Mangum

app = FastAPI()
client = boto3.client("dynamodb")
with open(os.environ["BENCH_JWKS"]) as file:
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.load(file)).keys}


def verified(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> dict:
    key = keys[jwt.get_unverified_header(credentials.credentials)["kid"]]
    return jwt.decode(
        credentials.credentials, key, algorithms=["RS256"], audience="larder", issuer="https://issuer.example.com/"
    )


@app.get("/v1/flight-delays/{prediction_id}")
def get_item(prediction_id: str, claims: Annotated[dict, Depends(verified)]) -> Response:
    if "flight-delays:read" not in claims["scope"].split():
        raise HTTPException(403)
    item_key = {"pk": {"S": f"flight-delays#{claims['carrier']}"}, "sk": {"S": prediction_id}}
    found = client.get_item(TableName="ready", Key=item_key).get("Item")
    if found is None or int(found["e"]["N"]) <= time.time():
        raise HTTPException(404)
    print(json.dumps({"status": 200}))
    return Response(found["b"]["S"], media_type="application/json")


handler = Mangum(app, lifespan="off")

# mypy: ignore-errors
"""A thin handler as in many tutorials: boto3 fetches a pickle of scikit-learn from S3, joblib loads it."""

import io
import json
import os

import boto3
import joblib
from score_model import LABELS, NAMES

bucket, key = os.environ["BENCH_BUCKET"], os.environ["BENCH_PICKLE_KEY"]
pipeline = joblib.load(io.BytesIO(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()))


def handler(event, context):
    body = json.loads(event["body"])
    found = pipeline.predict_proba([[float(body[each]) for each in NAMES]])[0]
    best = int(found.argmax())
    prediction = {"label": LABELS[best], "probability": round(float(found[best]), 4)}
    return {"statusCode": 200, "body": json.dumps({"prediction": prediction})}

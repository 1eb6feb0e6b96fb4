# mypy: ignore-errors
"""A thin handler: boto3 fetches the ONNX file from S3, onnxruntime's Python API runs it."""

import json
import os

import boto3
import numpy
import onnxruntime
from score_model import LABELS, NAMES

bucket, key = os.environ["BENCH_BUCKET"], os.environ["BENCH_MODEL_KEY"]
name, kind, output = json.loads(os.environ["BENCH_TENSORS"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
model = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
dtype = {"float": numpy.float32, "double": numpy.float64}[kind]


def handler(event, context):
    body = json.loads(event["body"])
    row = numpy.array([[float(body[each]) for each in NAMES]], dtype)
    found = session.run([output], {name: row})[0][0]
    best = int(found.argmax())
    prediction = {"label": LABELS[best], "probability": round(float(found[best]), 4)}
    return {"statusCode": 200, "body": json.dumps({"prediction": prediction})}

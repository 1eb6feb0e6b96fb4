# mypy: ignore-errors
"""FastAPI with a checked body, behind uvicorn."""

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from score_model import load

app = FastAPI()
predict = load()


class Iris(BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


@app.post("/score")
async def score(iris: Iris) -> object:
    return {"prediction": predict(iris.model_dump())}


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), log_level="warning")

"""Run an example on a stack on this machine: deploy, publish, and send requests as a consumer does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.flights import stages
from examples.flights.http import get, post
from examples.flights.outputs import build_output
from examples.flights.show import Show
from examples.flights.site import Site
from examples.flights.tokens import Issuer, open_issuer
from examples.score.pretrained import VIRGINICA
from infra.local.stand_in import AUDIENCE, ISSUER, build_variables, run_stand_in
from serve.datasets import Served

CARRIER = "UA"
WINE = {
    "alcohol": 13.2, "malic_acid": 1.78, "ash": 2.14, "alcalinity_of_ash": 11.2, "magnesium": 100,
    "total_phenols": 2.65, "flavanoids": 2.76, "nonflavanoid_phenols": 0.26, "proanthocyanins": 1.28,
    "color_intensity": 4.38, "hue": 1.05, "od280/od315_of_diluted_wines": 3.4, "proline": 1050,
}  # fmt: skip
TEXTS = ["The shuttle left its orbit after eight days.", "He scored twice in the last period of the game."]
BODIES: dict[str, list[Any]] = {  # requests of each example; {flight_id} is replaced by a stored prediction's id
    "iris": [VIRGINICA, {"instances": [VIRGINICA, {**VIRGINICA, "petal_width": None}]}],
    "wine": [{"values": WINE}, {"instance": WINE}],
    "newsgroups": [TEXTS, {"instance": {"text": TEXTS[0]}}],
    "flight-late": [
        {"instance": {"departure_delay": delay, "origin": "EWR", "flight_id": "{flight_id}"}} for delay in (0, 25, 60)
    ],
}


def run_local(name: str, publish: Callable[[list[str]], int], log: Path) -> int:
    """Deploy the examples' project on the stand-in for AWS, publish a model, and send its requests.

    Args:
        name: name of the example.
        publish: publishes the model with some additional arguments, and returns the exit code.
        log: file for the stand-in's output.

    Returns:
        The exit code: 0 if each request had a prediction.
    """
    show = Show()
    with run_stand_in(log) as (ministack, athena):
        site = stages.deploy_stack(show, ministack, {})
        os.environ |= build_variables(site.client, site.stack, ministack, athena)
        issuer = open_issuer(site.client("ssm"), site.stack["KeyStorePath"], ISSUER, AUDIENCE)
        flight_id = _store_predictions(show, site, issuer) if name == "flight-late" else ""
        if code := publish(["--bucket", site.stack["BucketName"], "--promote"]):
            return code
        scope = f"{name}:score flight-delays:read"
        token = issuer.sign_for(Served(name, ("carrier",), scope), {"carrier": CARRIER}, time.time())
        for body in BODIES[name]:
            text = json.dumps(body).replace("{flight_id}", flight_id)
            answer = post(f"{site.stack.base_url}/models/{name}/score", token, text)
            show.say(f"POST /models/{name}/score {text} -> {answer.status}\n{answer.body.decode()}")
            if answer.status != 200:
                return 1
        return _invoke(show, site) if name == "wine" else 0


def _invoke(show: Show, site: Site) -> int:
    """Send the wine by `lambda.invoke`, without a token."""
    payload = json.dumps({"model": "wine", "values": WINE})
    done = site.client("lambda").invoke(FunctionName=site.stack["ScoreFunctionName"], Payload=payload.encode())
    answer = done["Payload"].read().decode()
    show.say(f"lambda.invoke {payload}\n{answer}")
    return int("prediction" not in json.loads(answer))


def _store_predictions(show: Show, site: Site, issuer: Issuer) -> str:
    """Let the batch model score the next days and enrich store the items; return the prediction_id of one."""
    today = datetime.now(UTC).date()
    model = stages.train(show)
    stages.load_lake(show, site, stages.Plan(today, None, CARRIER, CARRIER))
    # Of today: by the afternoon, an output of yesterday is older than the model's `max_age`.
    stages.write_output(show, site, today, build_output(model, today))
    page = get(f"{site.stack.base_url}/flight-delays?limit=1", issuer.sign(CARRIER, time.time()))
    name: str = page.json()["items"][0]["prediction_id"]
    return name
